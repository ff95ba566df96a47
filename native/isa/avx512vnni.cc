#define ARGOSY_ISA avx512vnni
#define ARGOSY_ISA_NS avx512vnni
#include "table.h"

const argosy::Kernels* argosy::kernels_avx512vnni() {
  static constexpr Kernels kernels = avx512vnni::table("avx512vnni");
  return &kernels;
}
