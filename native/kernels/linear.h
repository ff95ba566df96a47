// A linear unit: one or two blocks of columns (gate and up when gated), all rows, and the epilogue.
#pragma once
#include "../kernels.h"
#include "../math.h"
#include "matmul.h"

namespace argosy::ARGOSY_ISA {

// silu(x) = x / (1 + exp(-x)).
inline float silu(float x) { return x / (1.0f + exp_f32(-x)); }

inline void add_bias(float* tile, int rows, const float* bias) {
  if (!bias) return;
  const F32x16 b = F32x16::load(bias);
  for (int m = 0; m < rows; ++m) (F32x16::load(tile + 16 * m) + b).store(tile + 16 * m);
}

// y rows of one block of outputs, `out` at their first.
inline void put(const LinearArgs& a, const float* tile, int rows, float* out) {
  for (int m = 0; m < rows; ++m) {
    float* y = out + m * a.out_stride;
    const F32x16 v = F32x16::load(tile + kColumns * m);
    (a.residual ? F32x16::load(y) + v : v).store(y);
  }
}

inline void linear(const LinearArgs& a, int unit) {
  alignas(64) float tile[2][kTileRows * kColumns];
  float* const out_of[] = {tile[0], tile[1]};
  const int first = unit * a.unit_blocks;
  const int blocks = a.w.blocks - first < a.unit_blocks ? a.w.blocks - first : a.unit_blocks;
  for (int row = 0; row < a.rows; row += kTileRows) {
    const int rows = a.rows - row < kTileRows ? a.rows - row : kTileRows;
    matmul(a.w, first, blocks, a.in, row, rows, out_of);
    for (int b = 0; b < blocks; ++b)
      add_bias(tile[b], rows, a.bias ? a.bias + (first + b) * kColumns : nullptr);
    float* out = a.out + row * a.out_stride;
    if (a.gated) {
      for (int i = 0; i < rows * kColumns; ++i) tile[0][i] = silu(tile[0][i]) * tile[1][i];
      put(a, tile[0], rows, out + unit * kColumns);
    } else {
      for (int b = 0; b < blocks; ++b) put(a, tile[b], rows, out + (first + b) * kColumns);
    }
  }
}

}  // namespace argosy::ARGOSY_ISA
