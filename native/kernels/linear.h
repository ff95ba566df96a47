// A linear unit: one or two blocks of columns (gate and up when gated), all rows, and the epilogue.
#pragma once
#include "../kernels.h"
#include "../math.h"
#include "matmul.h"
#include "quantize.h"

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

// tile[0] = silu(gate) * up of one pair of blocks.
inline void gate(const LinearArgs& a, int block, int row, int rows, float* const* tile) {
  matmul(a.w, block, 2, a.in, row, rows, tile);
  for (int b = 0; b < 2; ++b)
    add_bias(tile[b], rows, a.bias ? a.bias + (block + b) * kColumns : nullptr);
  for (int i = 0; i < rows * kColumns; ++i) tile[0][i] = silu(tile[0][i]) * tile[1][i];
}

// A unit of kInputGroup gated columns, rounded while they are near.
inline void linear_into(const LinearArgs& a, int unit) {
  alignas(64) float tile[2][kTileRows * kColumns], y[kTileRows * kInputGroup];
  float* const out_of[] = {tile[0], tile[1]};
  const int from = unit * kInputGroup;
  const int to = a.into_k - from < kInputGroup ? a.into_k : from + kInputGroup;
  for (int row = 0; row < a.rows; row += kTileRows) {
    const int rows = a.rows - row < kTileRows ? a.rows - row : kTileRows;
    for (int at = 0; at < kInputGroup; at += kColumns) {
      const int block = 2 * (from + at) / kColumns;
      if (block < a.w.blocks) gate(a, block, row, rows, out_of);
      for (int m = 0; m < rows; ++m)
        (block < a.w.blocks ? F32x16::load(tile[0] + kColumns * m) : F32x16::set1(0))
            .store(y + m * kInputGroup + at);
    }
    for (int m = 0; m < rows; ++m)
      prepare_part(a.into, a.into_format, row + m, from, to, y + m * kInputGroup);
  }
}

inline void linear(const LinearArgs& a, int unit) {
  if (a.into.values) return linear_into(a, unit);
  alignas(64) float tile[2][kTileRows * kColumns];
  float* const out_of[] = {tile[0], tile[1]};
  const int first = unit * a.unit_blocks;
  const int blocks = a.w.blocks - first < a.unit_blocks ? a.w.blocks - first : a.unit_blocks;
  for (int row = 0; row < a.rows; row += kTileRows) {
    const int rows = a.rows - row < kTileRows ? a.rows - row : kTileRows;
    float* out = a.out + row * a.out_stride;
    if (a.gated) {
      gate(a, first, row, rows, out_of);
      put(a, tile[0], rows, out + unit * kColumns);
      continue;
    }
    matmul(a.w, first, blocks, a.in, row, rows, out_of);
    for (int b = 0; b < blocks; ++b) {
      add_bias(tile[b], rows, a.bias ? a.bias + (first + b) * kColumns : nullptr);
      put(a, tile[b], rows, out + (first + b) * kColumns);
    }
  }
}

}  // namespace argosy::ARGOSY_ISA
