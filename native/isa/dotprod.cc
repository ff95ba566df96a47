#define ARGOSY_ISA dotprod
#define ARGOSY_ISA_NS dotprod
#include "table.h"

const argosy::Kernels* argosy::kernels_dotprod() {
  static constexpr Kernels kernels = dotprod::table("dotprod");
  return &kernels;
}
