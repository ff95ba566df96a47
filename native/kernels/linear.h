// A linear unit: one block of columns (a gate and up pair when gated), all rows, and the epilogue.
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

inline void linear(const LinearArgs& a, int unit) {
  alignas(64) float tile[kTileRows * kColumns], up[kTileRows * kColumns];
  const int block = a.gated ? 2 * unit : unit;
  for (int row = 0; row < a.rows; row += kTileRows) {
    const int rows = a.rows - row < kTileRows ? a.rows - row : kTileRows;
    matmul_tile(a.w, block, a.in, row, rows, tile);
    add_bias(tile, rows, a.bias ? a.bias + block * kColumns : nullptr);
    if (a.gated) {
      matmul_tile(a.w, block + 1, a.in, row, rows, up);
      add_bias(up, rows, a.bias ? a.bias + (block + 1) * kColumns : nullptr);
      for (int i = 0; i < rows * kColumns; ++i) tile[i] = silu(tile[i]) * up[i];
    }
    for (int m = 0; m < rows; ++m) {
      float* y = a.out + (row + m) * a.out_stride + unit * kColumns;
      const F32x16 v = F32x16::load(tile + 16 * m);
      (a.residual ? F32x16::load(y) + v : v).store(y);
    }
  }
}

}  // namespace argosy::ARGOSY_ISA
