// Included by each isa/*.cc after it defined ARGOSY_ISA: every kernel, compiled for that ISA.
#include "../kernels/attention.h"
#include "../kernels/linear.h"
#include "../kernels/rows.h"

namespace argosy::ARGOSY_ISA {
constexpr Kernels table(const char* name) {
  return {name, embed, norm, prepare, linear, rotations, qkv, attention};
}
}  // namespace argosy::ARGOSY_ISA
