#define ARGOSY_ISA neon
#define ARGOSY_ISA_NS neon
#include "table.h"

const argosy::Kernels* argosy::kernels_neon() {
  static constexpr Kernels kernels = neon::table("neon");
  return &kernels;
}
