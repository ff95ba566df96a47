#define ARGOSY_PLAIN  // no instruction set's own code, on any processor
#define ARGOSY_ISA portable
#define ARGOSY_ISA_NS portable
#include "table.h"

const argosy::Kernels* argosy::kernels_portable() {
  static constexpr Kernels kernels = portable::table("portable");
  return &kernels;
}
