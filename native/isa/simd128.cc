#define ARGOSY_ISA simd128
#define ARGOSY_ISA_NS simd128
#include "table.h"

const argosy::Kernels* argosy::kernels_simd128() {
  static constexpr Kernels kernels = simd128::table("simd128");
  return &kernels;
}
