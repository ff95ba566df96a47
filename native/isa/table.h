// Included by each isa/*.cc after it defined ARGOSY_ISA: every kernel, compiled for that ISA.
#include "../kernels/attention.h"
#include "../kernels/linear.h"
#include "../kernels/rows.h"
#include "../sampler.h"

namespace argosy::ARGOSY_ISA {
inline void exp(const float* x, float* y, size_t count) {
  for (size_t i = 0; i < count; ++i) y[i] = exp_f32(x[i]);
}
inline void log(const float* x, float* y, size_t count) {
  for (size_t i = 0; i < count; ++i) y[i] = log_f32(x[i]);
}
constexpr Kernels table(const char* name) {
  return {name,
          embed,
          norm,
          prepare,
          linear,
          rotations,
          qkv,
          attention,
          argosy::sample_row,
          argosy::sample_scratch_bytes,
          exp,
          log};
}
}  // namespace argosy::ARGOSY_ISA
