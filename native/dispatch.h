// Which kernels this processor runs; asked once, at start.
#pragma once
#include <string>
#include <vector>

#include "kernels.h"

namespace argosy {

// Names of the variants this processor runs, best first.
std::vector<std::string> variants();

// The best variant, or the one named. Throws std::invalid_argument if it does not run here.
const Kernels* choose_kernels(const std::string& name);

}  // namespace argosy
