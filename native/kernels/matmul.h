// y[rows, 16 columns] = x @ one block of a packed matrix, for every format.
//
// The numeric contract (docs/explanation/numeric-contract.md): a row's sum is the same whatever
// other rows share the tile. Quantized: integer dots exact within a group; groups added by fma in
// ascending order; w4: first those that share an input scale, then these sums. fp32, fp16, bf16:
// chunks of kChunk k, two chains per chunk (element, or pair for bf16, number i goes to chain i %
// 2), added as c0 + c1, chunks in ascending order.
#pragma once
#include "../formats.h"
#include "../simd.h"
#include "dots.h"

namespace argosy::ARGOSY_ISA {

constexpr int kChunk = 512;
constexpr int kChains = 2;
// How many bytes ahead of the stream of cells to fetch, for a tile that begins at `row`. The first
// tile reads its blocks from memory; the second finds them near, and fetches those that come next
// (1.3 to 1.8 times as fast at 8 to 32 rows); further ones have all they need.
inline size_t prefetch_distance(int row, size_t tile_bytes) {
  return row == 0 ? 4096 : row <= kTileRows / 2 ? tile_bytes : 0;
}

// Rows of a tile: sums, weights and an input fill the registers.
#if defined(__AVX512F__)
constexpr int kIntRows = 8, kFloatRows = 6, kPairTile = 6;
#elif defined(__AVX2__)
constexpr int kIntRows = 2, kFloatRows = 1;
#else
constexpr int kIntRows = 4, kFloatRows = 2;
#endif

// ---- integers -----------------------------------------------------------------------------------

// The cells of one group, and where its line of scales is: a line follows two groups (symmetric) or
// each group (asymmetric); the last may be half used.
struct Group {
  const uint8_t *cells, *scales;
};
template <bool kAsym>
inline Group next_group(const uint8_t*& p, int g, int groups, size_t cells) {
  const bool second = !kAsym && (g & 1), pair = !kAsym && !second && g + 1 < groups;
  const Group found{p, p + (pair ? 2 : 1) * cells + (second ? 32 : 0)};
  p += cells + (pair ? 0 : kCellBytes);
  return found;
}

// kBlocks blocks beside each other: an input is loaded once for all. w8: each group's dots enter
// the sum with both scales. w4: sums over the groups that share an input scale are kept apart, and
// enter `out` with that scale.
template <Kind kKind, bool kAsym, int kRows, int kBlocks>
void tile_int(const Matrix& w, int block, const Inputs& in, int row, float* const* out) {
  constexpr int kCellK = kKind == Kind::kW4 ? 8 : 4;
  const int group = w.format.group, groups = w.k_pad / group;
  const size_t cells = static_cast<size_t>(group / kCellK) * kCellBytes, next = w.block_bytes;
  const size_t ahead = prefetch_distance(row, kBlocks * next);
  const uint8_t* p = w.data + block * w.block_bytes;
  const uint8_t* a = in.values + row * in.value_stride;
  const int32_t* starts = in.starts + row * in.group_stride;
  const float* sums = in.sums + row * in.group_stride;
  const float* scales = in.scales + row * in.scale_stride;
  F32x16 part[kRows * kBlocks];
#pragma GCC unroll 16
  for (int i = 0; i < kRows * kBlocks; ++i) {
    part[i] = F32x16::set1(0);
    part[i].store(out[i / kRows] + i % kRows * kColumns);
  }
  for (int g = 0; g < groups; ++g, a += group) {
    const Group at = next_group<kAsym>(p, g, groups, cells);
    I32x16 acc[kRows * kBlocks];
#pragma GCC unroll 16
    for (int i = 0; i < kRows * kBlocks; ++i)
      acc[i] = kKind == Kind::kW8 && kSignedW8
                   ? I32x16::set1(0)
                   : I32x16::set1(starts[i % kRows * in.group_stride + g]);
    const uint8_t* cell = at.cells;
#pragma GCC unroll 1
    for (int k = 0; k < group; k += kCellK, cell += kCellBytes) {
      W lo[kBlocks], hi[kBlocks];
#pragma GCC unroll 2
      for (int b = 0; b < kBlocks; ++b) {
        __builtin_prefetch(cell + b * next + ahead);
        if constexpr (kKind == Kind::kW4)
          load_w4(cell + b * next, lo[b], hi[b]);
        else
          lo[b] = load_w8(cell + b * next);
      }
#pragma GCC unroll 8
      for (int m = 0; m < kRows; ++m) {
        const uint8_t* x = a + m * in.value_stride + k;
        const Quad low = load_quad(x);
#pragma GCC unroll 2
        for (int b = 0; b < kBlocks; ++b) dot(acc[b * kRows + m], lo[b], low);
        if constexpr (kKind == Kind::kW4) {
          const Quad high = load_quad(x + 4);
#pragma GCC unroll 2
          for (int b = 0; b < kBlocks; ++b) dot(acc[b * kRows + m], hi[b], high);
        }
      }
    }
#pragma GCC unroll 2
    for (int b = 0; b < kBlocks; ++b) {
      const F32x16 scale = F32x16::load_half(at.scales + b * next);
#pragma GCC unroll 8
      for (int m = 0; m < kRows; ++m) {
        F32x16& sum = part[b * kRows + m];
        const F32x16 x = F32x16::from(acc[b * kRows + m]);
        if constexpr (kKind == Kind::kW8)
          sum = fma(x, scale * F32x16::set1(scales[m * in.scale_stride + g]), sum);
        else
          sum = fma(x, scale, sum);
      }
      if constexpr (kAsym) {
        const F32x16 low = F32x16::load_half(at.scales + b * next + 32);
#pragma GCC unroll 8
        for (int m = 0; m < kRows; ++m)
          part[b * kRows + m] =
              fma(low, F32x16::set1(sums[m * in.group_stride + g]), part[b * kRows + m]);
      }
    }
    if constexpr (kKind == Kind::kW4) {
      if ((g + 1) * group % kInputGroup != 0 && g + 1 != groups) continue;
      const float* shared = scales + g * group / kInputGroup;
#pragma GCC unroll 16
      for (int i = 0; i < kRows * kBlocks; ++i) {
        float* to = out[i / kRows] + i % kRows * kColumns;
        fma(part[i], F32x16::set1(shared[i % kRows * in.scale_stride]), F32x16::load(to)).store(to);
        part[i] = F32x16::set1(0);
      }
    }
  }
  if constexpr (kKind == Kind::kW8)
#pragma GCC unroll 16
    for (int i = 0; i < kRows * kBlocks; ++i) part[i].store(out[i / kRows] + i % kRows * kColumns);
}

// ---- floating point -----------------------------------------------------------------------------

// One step of a chain: sixteen columns at one k (fp32, fp16) or a pair of k (bf16), and the input
// there. acc += w * x.
template <Kind kKind>
struct Step {
  F32x16 w;
  explicit Step(const uint8_t* cell)
      : w(kKind == Kind::kFp16 ? F32x16::load_half(cell)
                               : F32x16::load(reinterpret_cast<const float*>(cell))) {}
  F32x16 input(const uint8_t* a, int i) const {
    return F32x16::set1(reinterpret_cast<const float*>(a)[i]);
  }
  void add(F32x16& acc, F32x16 x) const { acc = fma(w, x, acc); }
};
#if defined(__AVX512BF16__)
template <>
struct Step<Kind::kBf16> {
  W w;
  explicit Step(const uint8_t* cell) : w{_mm512_loadu_si512(cell)} {}
  Quad input(const uint8_t* a, int i) const { return load_quad(a + 4 * i); }
  void add(F32x16& acc, Quad x) const {
    __asm__("vdpbf16ps %2, %1, %0" : "+v"(acc.v) : "v"(w.v), "v"(x.v));
  }
};
#else
template <>
struct Step<Kind::kBf16> {
  F32x16 even, odd;
  struct Two {
    F32x16 even, odd;
  };
  explicit Step(const uint8_t* cell) : even(F32x16::even_bf16(cell)), odd(F32x16::odd_bf16(cell)) {}
  Two input(const uint8_t* a, int i) const {
    const auto* x = reinterpret_cast<const uint16_t*>(a) + 2 * i;
    return {F32x16::set1(bf16_to_float(x[0])), F32x16::set1(bf16_to_float(x[1]))};
  }
  void add(F32x16& acc, const Two& x) const {
    acc = fma(odd, x.odd, acc);
    acc = fma(even, x.even, acc);
  }
};
#endif

// kBlocks blocks beside each other: an input is loaded once for all.
template <Kind kKind, int kRows, int kBlocks>
void tile_float(const Matrix& w, int block, const Inputs& in, int row, float* const* out) {
  constexpr int kStepK = kKind == Kind::kBf16 ? 2 : 1;
  constexpr size_t kStepBytes = kKind == Kind::kFp16 ? 32 : 64;
  const int steps = w.k_pad / kStepK;
  const size_t ahead = prefetch_distance(row, kBlocks * w.block_bytes);
  const uint8_t* p = w.data + block * w.block_bytes;
  const uint8_t* a = in.values + row * in.value_stride;
#pragma GCC unroll 16
  for (int i = 0; i < kRows * kBlocks; ++i)
    F32x16::set1(0).store(out[i / kRows] + i % kRows * kColumns);
  for (int begin = 0; begin < steps; begin += kChunk / kStepK) {
    const int end = begin + kChunk / kStepK < steps ? begin + kChunk / kStepK : steps;
    F32x16 acc[kChains * kBlocks * kRows];
#pragma GCC unroll 32
    for (F32x16& x : acc) x = F32x16::set1(0);
    const auto step = [&](int i, int chain) __attribute__((always_inline)) {
      F32x16* to = acc + chain * kBlocks * kRows;
      const Step<kKind> first(p), second(p + (kBlocks - 1) * w.block_bytes);
#pragma GCC unroll 8
      for (int m = 0; m < kRows; ++m) {
        const auto x = first.input(a + m * in.value_stride, i);
        first.add(to[m], x);
        if constexpr (kBlocks == 2) second.add(to[kRows + m], x);
      }
      p += kStepBytes;
    };
    int i = begin;
#pragma GCC unroll 1
    for (; i + kChains <= end; i += kChains) {
      __builtin_prefetch(p + ahead);
      if constexpr (kBlocks == 2) __builtin_prefetch(p + w.block_bytes + ahead);
      step(i, 0);
      step(i + 1, 1);
    }
    if (i < end) step(i, 0);
#pragma GCC unroll 16
    for (int j = 0; j < kRows * kBlocks; ++j) {
      float* to = out[j / kRows] + j % kRows * kColumns;
      (F32x16::load(to) + (acc[j] + acc[kBlocks * kRows + j])).store(to);
    }
  }
}

// ---- any number of rows -------------------------------------------------------------------------

template <Kind kKind, bool kAsym, int kRows, int kBlocks>
inline void tile(const Matrix& w, int block, const Inputs& in, int row, float* const* out) {
  if constexpr (kKind == Kind::kW8 || kKind == Kind::kW4)
    tile_int<kKind, kAsym, kRows, kBlocks>(w, block, in, row, out);
  else
    tile_float<kKind, kRows, kBlocks>(w, block, in, row, out);
}

// Tiles of about equal height, kRows at most.
template <Kind kKind, bool kAsym, int kRows, int kBlocks>
void tiles(const Matrix& w, int block, const Inputs& in, int row, int rows, float* const* out) {
  if (rows == kRows) return tile<kKind, kAsym, kRows, kBlocks>(w, block, in, row, out);
  if (rows > kRows) {
    const int half = rows > 2 * kRows ? kRows : rows / 2;
    float* const rest[] = {out[0] + half * kColumns, out[kBlocks - 1] + half * kColumns};
    tiles<kKind, kAsym, kRows, kBlocks>(w, block, in, row, half, out);
    tiles<kKind, kAsym, kRows, kBlocks>(w, block, in, row + half, rows - half, rest);
  } else if constexpr (kRows > 1) {
    tiles<kKind, kAsym, kRows - 1, kBlocks>(w, block, in, row, rows, out);
  }
}

template <int kBlocks, int kIntTile, int kFloatTile>
inline void matmul_blocks(const Matrix& w, int block, const Inputs& in, int row, int rows,
                          float* const* out) {
  switch (w.format.kind) {
    case Kind::kFp32:
      return tiles<Kind::kFp32, false, kFloatTile, kBlocks>(w, block, in, row, rows, out);
    case Kind::kFp16:
      return tiles<Kind::kFp16, false, kFloatTile, kBlocks>(w, block, in, row, rows, out);
    case Kind::kBf16:
      return tiles<Kind::kBf16, false, kFloatTile, kBlocks>(w, block, in, row, rows, out);
    case Kind::kW8:
      return tiles<Kind::kW8, false, kIntTile, kBlocks>(w, block, in, row, rows, out);
    case Kind::kW4:
      if (w.format.asymmetric)
        return tiles<Kind::kW4, true, kIntTile, kBlocks>(w, block, in, row, rows, out);
      return tiles<Kind::kW4, false, kIntTile, kBlocks>(w, block, in, row, rows, out);
  }
}

// out[b]: [rows][16] of block + b, for one block or two; at most kTileRows rows.
inline void matmul(const Matrix& w, int block, int blocks, const Inputs& in, int row, int rows,
                   float* const* out) {
#if defined(__AVX512F__)
  if (blocks == 2 && rows >= kPairRows)
    return matmul_blocks<2, kPairTile, kPairTile>(w, block, in, row, rows, out);
#endif
  for (int b = 0; b < blocks; ++b)
    matmul_blocks<1, kIntRows, kFloatRows>(w, block + b, in, row, rows, out + b);
}

}  // namespace argosy::ARGOSY_ISA
