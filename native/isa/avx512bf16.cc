#define ARGOSY_ISA avx512bf16
#define ARGOSY_ISA_NS avx512bf16
#include "table.h"

const argosy::Kernels* argosy::kernels_avx512bf16() {
  static constexpr Kernels kernels = avx512bf16::table("avx512bf16");
  return &kernels;
}
