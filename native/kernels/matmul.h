// y[rows, 16 columns] = x @ one block of a packed matrix, for every format.
//
// The numeric contract (docs/explanation/numeric-contract.md): a row's sum is the same whatever
// other rows share the tile. Quantized: integer dots exact within a group, groups added by fma in
// ascending order. fp32, fp16, bf16: chunks of kChunk k, four chains per chunk (element, or pair
// for bf16, number i goes to chain i % 4), added as (c0+c1)+(c2+c3), chunks in ascending order.
#pragma once
#include "../formats.h"
#include "../simd.h"

namespace argosy::ARGOSY_ISA {

constexpr int kChunk = 512;
constexpr int kChains = 4;
constexpr int kPrefetch = 4096;  // bytes ahead of the stream of cells

#if defined(__AVX512F__)
constexpr int kIntRows = 8, kFloatRows = 4;
#elif defined(__AVX2__)
constexpr int kIntRows = 2, kFloatRows = 1;
#else
constexpr int kIntRows = 4, kFloatRows = 2;
#endif

// ---- integer dots: acc += sum over 4 k of w[col][k] * a[k], for 16 columns ----------------------

#if defined(__AVX512VNNI__)
struct W {
  __m512i v;
};
inline void dot(I32x16& acc, W w, const int8_t* a) {
  // GCC 12 folds no broadcast intrinsic into the instruction; the memory operand costs nothing.
  __asm__("vpdpbusd %2%{1to16%}, %1, %0"
          : "+v"(acc.v)
          : "v"(w.v), "m"(*reinterpret_cast<const int32_t*>(a)));
}
inline W load_w8(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }
inline void load_w4(const uint8_t* p, W& lo, W& hi) {
  const __m512i v = _mm512_loadu_si512(p), mask = _mm512_set1_epi8(15);
  lo = {_mm512_and_si512(v, mask)};
  hi = {_mm512_and_si512(_mm512_srli_epi16(v, 4), mask)};
}
constexpr bool kSignedW8 = false;
#elif defined(__AVX2__)
struct W {
  __m256i a, b;
};
inline __m256i dot8(__m256i acc, __m256i w, __m256i x) {
  // vpmaddubsw wants one unsigned side: |w| * sign(x, w); at most 2*127*127, so nothing saturates.
  const __m256i p = _mm256_maddubs_epi16(_mm256_sign_epi8(w, w), _mm256_sign_epi8(x, w));
  return _mm256_add_epi32(acc, _mm256_madd_epi16(p, _mm256_set1_epi16(1)));
}
inline void dot(I32x16& acc, W w, const int8_t* a) {
  int32_t four;
  std::memcpy(&four, a, 4);
  const __m256i x = _mm256_set1_epi32(four);
  acc = {dot8(acc.a, w.a, x), dot8(acc.b, w.b, x)};
}
inline W load_w8(const uint8_t* p) {
  const I32x16 i = I32x16::load(p);
  const __m256i flip = _mm256_set1_epi8(-128);
  return {_mm256_xor_si256(i.a, flip), _mm256_xor_si256(i.b, flip)};
}
inline void load_w4(const uint8_t* p, W& lo, W& hi) {
  const I32x16 i = I32x16::load(p);
  const __m256i mask = _mm256_set1_epi8(15);
  lo = {_mm256_and_si256(i.a, mask), _mm256_and_si256(i.b, mask)};
  hi = {_mm256_and_si256(_mm256_srli_epi16(i.a, 4), mask),
        _mm256_and_si256(_mm256_srli_epi16(i.b, 4), mask)};
}
constexpr bool kSignedW8 = true;  // weights are re-signed on load: sums start at 0
#else
struct W {
  uint8_t v[64];
};
inline void dot(I32x16& acc, const W& w, const int8_t* a) {
  for (int c = 0; c < 16; ++c)
    acc.v[c] +=
        w.v[4 * c] * a[0] + w.v[4 * c + 1] * a[1] + w.v[4 * c + 2] * a[2] + w.v[4 * c + 3] * a[3];
}
inline W load_w8(const uint8_t* p) {
  W w;
  std::memcpy(w.v, p, 64);
  return w;
}
inline void load_w4(const uint8_t* p, W& lo, W& hi) {
  for (int i = 0; i < 64; ++i) {
    lo.v[i] = p[i] & 15;
    hi.v[i] = p[i] >> 4;
  }
}
constexpr bool kSignedW8 = false;
#endif

template <Kind kKind, int kRows>
inline void dot_group(const uint8_t* cells, int group, const uint8_t* const* a, I32x16* acc) {
#pragma GCC unroll 1
  for (int k = 0; k < group; k += kKind == Kind::kW4 ? 8 : 4, cells += kCellBytes) {
    __builtin_prefetch(cells + kPrefetch);
    W lo, hi;
    if constexpr (kKind == Kind::kW4)
      load_w4(cells, lo, hi);
    else
      lo = load_w8(cells);
#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m) {
      const auto* x = reinterpret_cast<const int8_t*>(a[m]) + k;
      dot(acc[m], lo, x);
      if constexpr (kKind == Kind::kW4) dot(acc[m], hi, x + 4);
    }
  }
}

template <Kind kKind, int kRows>
void tile_int(const Matrix& w, int block, const Inputs& in, int row, float* out) {
  const int group = w.format.group, groups = w.k_pad / group;
  const bool asym = w.format.asymmetric;
  constexpr int kCellK = kKind == Kind::kW4 ? 8 : 4;
  const size_t group_cells = static_cast<size_t>(group / kCellK) * kCellBytes;
  const uint8_t* p = w.data + block * w.block_bytes;
  F32x16 f[kRows];
  const uint8_t* a[kRows];
  for (int m = 0; m < kRows; ++m) {
    f[m] = F32x16::set1(0);
    a[m] = in.values + (row + m) * in.value_stride;
  }
  for (int g = 0; g < groups; ++g) {
    const bool second = !asym && (g & 1);
    // The line of scales follows two groups (symmetric) or each group (asymmetric).
    const bool pair = !asym && !second && g + 1 < groups;
    const uint8_t* line = p + (pair ? 2 : 1) * group_cells;
    const F32x16 sw = F32x16::load_half(line + (second ? 32 : 0));
    I32x16 acc[kRows];
#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m)
      acc[m] = kKind == Kind::kW8 && kSignedW8
                   ? I32x16::set1(0)
                   : I32x16::set1(in.starts[(row + m) * in.group_stride + g]);
    dot_group<kKind, kRows>(p, group, a, acc);
#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m) {
      const size_t at = (row + m) * in.group_stride + g;
      f[m] = fma(F32x16::from(acc[m]), sw * F32x16::set1(in.scales[at]), f[m]);
      a[m] += group;
    }
    if (asym) {
      const F32x16 low = F32x16::load_half(line + 32);
      for (int m = 0; m < kRows; ++m)
        f[m] = fma(low, F32x16::set1(-in.sums[(row + m) * in.group_stride + g]), f[m]);
    }
    p += group_cells + (pair ? 0 : kCellBytes);
  }
#pragma GCC unroll 8
  for (int m = 0; m < kRows; ++m) f[m].store(out + m * kColumns);
}

// ---- two blocks at once -------------------------------------------------------------------------

#if defined(__AVX512VNNI__)
constexpr int kPairTile = 6;  // rows: 24 sums, 4 cells of weights and an input fill the registers

// acc += dots of four inputs with four k of two cells. In assembly since GCC 12 takes the inputs
// through general registers and copies the sums.
inline void dot_pair(__m512i& acc0, __m512i& acc1, W w0, W w1, const uint8_t* a) {
  __m512i x;
  __asm__("vpbroadcastd %1, %0" : "=v"(x) : "m"(*reinterpret_cast<const int32_t*>(a)));
  __asm__("vpdpbusd %2, %1, %0" : "+v"(acc0) : "v"(w0.v), "v"(x));
  __asm__("vpdpbusd %2, %1, %0" : "+v"(acc1) : "v"(w1.v), "v"(x));
}

// As tile_int, of `block` and the next: an input is loaded once for both.
template <Kind kKind, bool kAsym, int kRows>
void tile_int_pair(const Matrix& w, int block, const Inputs& in, int row, float* out0,
                   float* out1) {
  const int group = w.format.group, groups = w.k_pad / group;
  constexpr int kCellK = kKind == Kind::kW4 ? 8 : 4;
  const size_t group_cells = static_cast<size_t>(group / kCellK) * kCellBytes;
  const uint8_t* p = w.data + block * w.block_bytes;
  const size_t next = w.block_bytes;
  F32x16 f0[kRows], f1[kRows];
#pragma GCC unroll 8
  for (int m = 0; m < kRows; ++m) f0[m] = f1[m] = F32x16::set1(0);
  const uint8_t* a = in.values + row * in.value_stride;
  const int32_t* starts = in.starts + row * in.group_stride;
  const float* scales = in.scales + row * in.group_stride;
  for (int g = 0; g < groups; ++g, a += group) {
    const bool second = !kAsym && (g & 1);
    const bool pair = !kAsym && !second && g + 1 < groups;
    const uint8_t* line = p + (pair ? 2 : 1) * group_cells + (second ? 32 : 0);
    __m512i acc0[kRows], acc1[kRows];
#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m)
      acc0[m] = acc1[m] = _mm512_set1_epi32(starts[m * in.group_stride + g]);
    const uint8_t* cell = p;
#pragma GCC unroll 1
    for (int k = 0; k < group; k += kCellK, cell += kCellBytes) {
      __builtin_prefetch(cell + kPrefetch);
      __builtin_prefetch(cell + next + kPrefetch);
      W lo0, hi0, lo1, hi1;
      if constexpr (kKind == Kind::kW4)
        load_w4(cell, lo0, hi0), load_w4(cell + next, lo1, hi1);
      else
        lo0 = load_w8(cell), lo1 = load_w8(cell + next);
#pragma GCC unroll 8
      for (int m = 0; m < kRows; ++m) {
        const uint8_t* x = a + m * in.value_stride + k;
        dot_pair(acc0[m], acc1[m], lo0, lo1, x);
        if constexpr (kKind == Kind::kW4) dot_pair(acc0[m], acc1[m], hi0, hi1, x + 4);
      }
    }
    const F32x16 sw0 = F32x16::load_half(line), sw1 = F32x16::load_half(line + next);
#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m) {
      const F32x16 sa = F32x16::set1(scales[m * in.group_stride + g]);
      f0[m] = fma(F32x16::from({acc0[m]}), sw0 * sa, f0[m]);
      f1[m] = fma(F32x16::from({acc1[m]}), sw1 * sa, f1[m]);
    }
    if constexpr (kAsym) {
      const F32x16 low0 = F32x16::load_half(line + 32), low1 = F32x16::load_half(line + next + 32);
      for (int m = 0; m < kRows; ++m) {
        const F32x16 sum = F32x16::set1(-in.sums[(row + m) * in.group_stride + g]);
        f0[m] = fma(low0, sum, f0[m]);
        f1[m] = fma(low1, sum, f1[m]);
      }
    }
    p += group_cells + (pair ? 0 : kCellBytes);
  }
#pragma GCC unroll 8
  for (int m = 0; m < kRows; ++m) {
    f0[m].store(out0 + m * kColumns);
    f1[m].store(out1 + m * kColumns);
  }
}

template <Kind kKind, bool kAsym, int kRows = kPairTile>
void pair_of(const Matrix& w, int block, const Inputs& in, int row, int rows, float* out0,
             float* out1) {
  if (rows == kRows) return tile_int_pair<kKind, kAsym, kRows>(w, block, in, row, out0, out1);
  if constexpr (kRows > 1) pair_of<kKind, kAsym, kRows - 1>(w, block, in, row, rows, out0, out1);
}
#endif

// ---- float dots ---------------------------------------------------------------------------------

// acc[m] += the next step of one chain: one k (fp32, fp16) or one pair of k (bf16).
template <Kind kKind, int kRows>
inline void float_step(const uint8_t* cell, const uint8_t* const* a, int i, F32x16* acc) {
  if constexpr (kKind == Kind::kBf16) {
#if defined(__AVX512BF16__)
    const __m512i w = _mm512_loadu_si512(cell);
#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m)
      __asm__("vdpbf16ps %2%{1to16%}, %1, %0"
              : "+v"(acc[m * kChains].v)
              : "v"(w), "m"(reinterpret_cast<const int32_t*>(a[m])[i]));
#else
    const F32x16 even = F32x16::even_bf16(cell), odd = F32x16::odd_bf16(cell);
    for (int m = 0; m < kRows; ++m) {
      const auto* x = reinterpret_cast<const uint16_t*>(a[m]) + 2 * i;
      F32x16& f = acc[m * kChains];
      f = fma(odd, F32x16::set1(bf16_to_float(x[1])), f);
      f = fma(even, F32x16::set1(bf16_to_float(x[0])), f);
    }
#endif
  } else {
    F32x16 w;
    if constexpr (kKind == Kind::kFp32)
      w = F32x16::load(reinterpret_cast<const float*>(cell));
    else
      w = F32x16::load_half(cell);
#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m)
      acc[m * kChains] =
          fma(w, F32x16::set1(reinterpret_cast<const float*>(a[m])[i]), acc[m * kChains]);
  }
}

template <Kind kKind, int kRows>
void tile_float(const Matrix& w, int block, const Inputs& in, int row, float* out) {
  constexpr int kStepK = kKind == Kind::kBf16 ? 2 : 1;
  constexpr size_t kStepBytes = kKind == Kind::kFp16 ? 32 : 64;
  const int steps = w.k_pad / kStepK;
  const uint8_t* p = w.data + block * w.block_bytes;
  const uint8_t* a[kRows];
  F32x16 total[kRows];
  for (int m = 0; m < kRows; ++m) {
    a[m] = in.values + (row + m) * in.value_stride;
    total[m] = F32x16::set1(0);
  }
  for (int begin = 0; begin < steps; begin += kChunk / kStepK) {
    const int end = begin + kChunk / kStepK < steps ? begin + kChunk / kStepK : steps;
    F32x16 acc[kRows * kChains];
    for (F32x16& x : acc) x = F32x16::set1(0);
    int i = begin;
#pragma GCC unroll 1
    for (; i + kChains <= end; i += kChains) {
      __builtin_prefetch(p + kPrefetch);
#pragma GCC unroll 4
      for (int c = 0; c < kChains; ++c, p += kStepBytes)
        float_step<kKind, kRows>(p, a, i + c, acc + c);
    }
    for (int c = 0; i < end; ++i, ++c, p += kStepBytes)  // tail of the last chunk, same chains
      switch (c) {
        case 0:
          float_step<kKind, kRows>(p, a, i, acc);
          break;
        case 1:
          float_step<kKind, kRows>(p, a, i, acc + 1);
          break;
        default:
          float_step<kKind, kRows>(p, a, i, acc + 2);
      }
    for (int m = 0; m < kRows; ++m) {
      const F32x16* c = acc + m * kChains;
      total[m] = total[m] + ((c[0] + c[1]) + (c[2] + c[3]));
    }
  }
  for (int m = 0; m < kRows; ++m) total[m].store(out + m * kColumns);
}

// ---- any number of rows -------------------------------------------------------------------------

template <Kind kKind, int kRows>
void tile(const Matrix& w, int block, const Inputs& in, int row, float* out) {
  if constexpr (kKind == Kind::kW8 || kKind == Kind::kW4)
    tile_int<kKind, kRows>(w, block, in, row, out);
  else
    tile_float<kKind, kRows>(w, block, in, row, out);
}

template <Kind kKind, int kRows>
void tiles(const Matrix& w, int block, const Inputs& in, int row, int rows, float* out) {
  while (rows >= kRows) {
    tile<kKind, kRows>(w, block, in, row, out);
    row += kRows, rows -= kRows, out += kRows * kColumns;
  }
  if constexpr (kRows > 1)
    if (rows > 0) tiles<kKind, kRows - 1>(w, block, in, row, rows, out);
}

// out: [rows][16].
inline void matmul_tile(const Matrix& w, int block, const Inputs& in, int row, int rows,
                        float* out) {
  switch (w.format.kind) {
    case Kind::kFp32:
      return tiles<Kind::kFp32, kFloatRows>(w, block, in, row, rows, out);
    case Kind::kFp16:
      return tiles<Kind::kFp16, kFloatRows>(w, block, in, row, rows, out);
    case Kind::kBf16:
      return tiles<Kind::kBf16, kFloatRows>(w, block, in, row, rows, out);
    case Kind::kW8:
      return tiles<Kind::kW8, kIntRows>(w, block, in, row, rows, out);
    case Kind::kW4:
      return tiles<Kind::kW4, kIntRows>(w, block, in, row, rows, out);
  }
}

// The same of `block` and the next, at most kTileRows rows.
inline void matmul_pair(const Matrix& w, int block, const Inputs& in, int row, int rows,
                        float* out0, float* out1) {
#if defined(__AVX512VNNI__)
  if (w.format.kind == Kind::kW4 || w.format.kind == Kind::kW8) {
    const int tiles = (rows + kPairTile - 1) / kPairTile;
    for (int t = 0; t < tiles; ++t) {
      const int from = rows * t / tiles, count = rows * (t + 1) / tiles - from;
      float *to0 = out0 + from * kColumns, *to1 = out1 + from * kColumns;
      if (w.format.kind == Kind::kW8)
        pair_of<Kind::kW8, false>(w, block, in, row + from, count, to0, to1);
      else if (w.format.asymmetric)
        pair_of<Kind::kW4, true>(w, block, in, row + from, count, to0, to1);
      else
        pair_of<Kind::kW4, false>(w, block, in, row + from, count, to0, to1);
    }
    return;
  }
#endif
  matmul_tile(w, block, in, row, rows, out0);
  matmul_tile(w, block + 1, in, row, rows, out1);
}

}  // namespace argosy::ARGOSY_ISA
