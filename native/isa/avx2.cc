#define ARGOSY_ISA avx2
#define ARGOSY_ISA_NS avx2
#include "table.h"

const argosy::Kernels* argosy::kernels_avx2() {
  static constexpr Kernels kernels = avx2::table("avx2");
  return &kernels;
}
