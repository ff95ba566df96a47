// Paged attention, one arithmetic for prompt and decode.
//
// Keys go in tiles of 64 and splits of 512 counted from position 0, always. Within a split a row
// keeps a running maximum m, a sum l and an output o, rescaled when a tile raises m; splits are
// merged in ascending order. A row's tiles, and which keys of a tile it sees, depend on its own
// position alone. Slots past a row's position are never multiplied: they may hold another owner's
// leavings. Source: Milakov and Gimelshein 2018, arXiv:1805.02867; Dao 2023, arXiv:2307.08691.
#pragma once
#include "../kernels.h"
#include "../math.h"
#include "../simd.h"
#include "dots.h"
#include "quantize.h"

namespace argosy::ARGOSY_ISA {

constexpr int kTileKeys = 64;
constexpr int kSplitKeys = 512;
constexpr int kTilePages = kTileKeys / kPageTokens;
constexpr int kMaxValueBlocks = kMaxHeadDim / kColumns;

#if defined(__AVX512F__)
constexpr int kScoreRows = 4;
#elif defined(__AVX2__)
constexpr int kScoreRows = 1;
#else
constexpr int kScoreRows = 1;
#endif

struct Running {
  float m, l;
  float o[kMaxValueBlocks * 16];
};

// A query as keys of a kind meet it: its numbers, over int8 rounded as a head's keys are.
struct Query {
  const float* values;
  float scale;    // of a product of query and key
  int32_t start;  // of an integer sum: keys are stored 128 larger
  alignas(64) int8_t integers[kMaxHeadDim];
};

template <CacheKind kKind>
inline void open_query(const AttentionArgs& a, const float* values, Query& q) {
  q.values = values;
  q.scale = a.scale;
  if constexpr (kKind == CacheKind::kInt8) {
    const Quantized head = quantize_head(values, a.cache.head_dim, q.integers);
    q.scale = a.scale * head.scale;
    q.start = kSignedW8 ? 0 : -128 * head.total;
  }
}

// scores[row][64] of one tile for kRows query rows, keys in int8: exact sums, then the scales.
template <int kRows>
inline void tile_scores_int8(const Cache& c, const uint8_t* const* keys, const Query* q,
                             float* scores) {
  I32x16 acc[kRows * kTilePages];
#pragma GCC unroll 16
  for (int i = 0; i < kRows * kTilePages; ++i) acc[i] = I32x16::set1(q[i % kRows].start);
#pragma GCC unroll 1
  for (int d = 0; d < c.head_dim; d += 4) {
    Quad x[kRows];
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) x[r] = load_quad(q[r].integers + d);
#pragma GCC unroll 4
    for (int page = 0; page < kTilePages; ++page) {
      const W k = load_w8(keys[page] + d * kPageTokens);
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) dot(acc[page * kRows + r], k, x[r]);
    }
  }
  for (int page = 0; page < kTilePages; ++page) {
    const F32x16 scale = F32x16::load(key_scales(c, keys[page]));
    for (int r = 0; r < kRows; ++r)
      (F32x16::from(acc[page * kRows + r]) * (scale * F32x16::set1(q[r].scale)))
          .store(scores + r * kTileKeys + page * kPageTokens);
  }
}

// The same of floating-point keys: sums over d in ascending order.
template <CacheKind kKind, int kRows>
inline void tile_scores(const uint8_t* const* keys, int dim, const Query* q, float* scores) {
  F32x16 acc[kRows * kTilePages];
  for (F32x16& a : acc) a = F32x16::set1(0);
  constexpr int kStep = kKind == CacheKind::kFp32 ? 1 : 2;
#pragma GCC unroll 1
  for (int d = 0; d < dim; d += kStep) {
#pragma GCC unroll 4
    for (int page = 0; page < kTilePages; ++page) {
      const uint8_t* cell = keys[page] + d / kStep * 64;
      F32x16* sum_of = acc + page * kRows;
      if constexpr (kKind == CacheKind::kFp32) {
        const F32x16 k = F32x16::load(reinterpret_cast<const float*>(cell));
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) sum_of[r] = fma(k, F32x16::set1(q[r].values[d]), sum_of[r]);
      } else {
        const F32x16 even = F32x16::even_bf16(cell), odd = F32x16::odd_bf16(cell);
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) {
          sum_of[r] = fma(even, F32x16::set1(q[r].values[d]), sum_of[r]);
          if (d + 1 < dim) sum_of[r] = fma(odd, F32x16::set1(q[r].values[d + 1]), sum_of[r]);
        }
      }
    }
  }
  for (int page = 0; page < kTilePages; ++page)
    for (int r = 0; r < kRows; ++r)
      (acc[page * kRows + r] * F32x16::set1(q[r].scale))
          .store(scores + r * kTileKeys + page * kPageTokens);
}

// Sixteen dims of token t of a block of values.
template <CacheKind kKind>
inline F32x16 value(const uint8_t* block, int t) {
  if constexpr (kKind == CacheKind::kFp32)
    return F32x16::load(reinterpret_cast<const float*>(block) + t * 16);
  else
    return t % 2 ? F32x16::odd_bf16(block + t / 2 * 64) : F32x16::even_bf16(block + t / 2 * 64);
}

// o[kBlocks][16] += p[t] * values[t] for tokens [low, high) of one page, ascending.
template <CacheKind kKind, int kBlocks>
inline void page_values(const uint8_t* values, const float* p, int low, int high, F32x16* o) {
  constexpr size_t kBlock = kKind == CacheKind::kFp32 ? 1024 : 512;
  for (int t = low; t < high; ++t) {
    const F32x16 weight = F32x16::set1(p[t]);
    for (int b = 0; b < kBlocks; ++b)
      o[b] = fma(value<kKind>(values + b * kBlock, t), weight, o[b]);
  }
}

// exp(x) for x <= 0, at most 2.1 ulp off (measured), 0 below -87; not-a-number stays. Cody-Waite
// reduction by ln 2 and a polynomial of degree 5 fitted for least relative error; exp(0) is 1.
inline F32x16 exp_weight(F32x16 x) {
  const auto c = [](float number) { return F32x16::set1(number); };
  const F32x16 t = max(c(-87.0f), x), magic = c(12582912.0f + 127.0f);
  const F32x16 shifted = fma(t, c(0x1.715476p0f), magic), n = shifted - magic;
  const F32x16 r = fma(n, c(0x1.05c610p-29f), fma(n, c(-0x1.62e430p-1f), t));
  F32x16 p = fma(c(0x1.0fa820p-7f), r, c(0x1.573a6ep-5f));
  p = fma(p, r, c(0x1.555a6cp-3f));
  p = fma(p, r, c(0x1.fffdc6p-2f));
  p = fma(p, r, c(0x1.fffff6p-1f));
  p = fma(p, r, c(1.0f));
  return zero_below(x, c(-87.0f), times_power(p, shifted));
}

// Turns a row's scores [low, high) into exp(score - m), others into 0; updates m and l; shrink is
// what o must be multiplied by. A not-a-number makes l one: the row ends as one, and its sequence
// in an error. Rows go through each stage together, since each stage alone waits for itself.
template <int kRows>
inline void soften(float* scores, const int* low, const int* high, Running* run, float* shrink) {
  alignas(64) float fall[kLanes] = {};
  float top[kRows];
  for (int r = 0; r < kRows; ++r) {
    float* s = scores + r * kTileKeys;
    if (low[r] > 0 || high[r] < kTileKeys)
      for (int t = 0; t < kTileKeys; ++t)
        s[t] = t >= low[r] && t < high[r] ? s[t] : -__builtin_inff();
    F32x16 largest = F32x16::set1(run[r].m);
    for (int t = 0; t < kTileKeys; t += kLanes) largest = max(F32x16::load(s + t), largest);
    top[r] = max_lane(largest);
    fall[r] = run[r].m - top[r];
  }
  F32x16 total[kRows];
  for (int r = 0; r < kRows; ++r) {
    float* s = scores + r * kTileKeys;
#pragma GCC unroll 4
    for (int t = 0; t < kTileKeys; t += kLanes) {
      const F32x16 weight = exp_weight(F32x16::load(s + t) - F32x16::set1(top[r]));
      weight.store(s + t);
      total[r] = t == 0 ? weight : total[r] + weight;
    }
  }
  exp_weight(F32x16::load(fall)).store(fall);
  for (int r = 0; r < kRows; ++r) {
    shrink[r] = 1.0f;
    if (low[r] >= high[r]) continue;
    shrink[r] = fall[r];
    run[r].l = run[r].l * shrink[r] + sum(total[r]);
    run[r].m = top[r];
  }
}

inline int clamp(int x, int low, int high) { return x < low ? low : x > high ? high : x; }

// run.o[b ..] = run.o[b ..] * shrink + p @ values, keys [low, high) of one tile.
template <CacheKind kKind, int kBlocks>
inline void accumulate(const AttentionArgs& a, const uint8_t* const* keys, const float* p, int low,
                       int high, float shrink, int b, Running& run) {
  constexpr size_t kBlock = kKind == CacheKind::kFp32 ? 1024 : 512;
  F32x16 o[kBlocks];
  for (int i = 0; i < kBlocks; ++i)
    o[i] = F32x16::load(run.o + 16 * (b + i)) * F32x16::set1(shrink);
  for (int page = low / kPageTokens; page * kPageTokens < high; ++page) {
    const int from = clamp(low - page * kPageTokens, 0, kPageTokens);
    const int to = clamp(high - page * kPageTokens, 0, kPageTokens);
    page_values<kKind, kBlocks>(keys[page] + a.cache.value_offset + b * kBlock,
                                p + page * kPageTokens, from, to, o);
  }
  for (int i = 0; i < kBlocks; ++i) o[i].store(run.o + 16 * (b + i));
}

// The same for all rows of a tile that every one of them sees whole: values are read once.
template <CacheKind kKind, int kRows, int kBlocks>
inline void accumulate_rows(const AttentionArgs& a, const uint8_t* const* keys, const float* p,
                            const float* shrink, int b, Running* run) {
  constexpr size_t kBlock = kKind == CacheKind::kFp32 ? 1024 : 512;
  F32x16 o[kRows * kBlocks];
#pragma GCC unroll 16
  for (int i = 0; i < kRows * kBlocks; ++i)
    o[i] = F32x16::load(run[i / kBlocks].o + 16 * (b + i % kBlocks)) *
           F32x16::set1(shrink[i / kBlocks]);
  for (int page = 0; page < kTilePages; ++page) {
    const uint8_t* values = keys[page] + a.cache.value_offset + b * kBlock;
#pragma GCC unroll 2
    for (int t = 0; t < kPageTokens; ++t, ++p)
#pragma GCC unroll 4
      for (int i = 0; i < kBlocks; ++i) {
        const F32x16 v = value<kKind>(values + i * kBlock, t);
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r)
          o[r * kBlocks + i] = fma(v, F32x16::set1(p[r * kTileKeys]), o[r * kBlocks + i]);
      }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows * kBlocks; ++i) o[i].store(run[i / kBlocks].o + 16 * (b + i % kBlocks));
}

// integers[64] * step is about weight * scale of the value, 0 for keys outside [low, high), where
// neither weight nor scale need be numbers.
inline float fold_scales(const Cache& c, const uint8_t* const* keys, const float* weights, int low,
                         int high, int16_t* integers) {
  alignas(64) float folded[kTileKeys];
  I32x16 bits = I32x16::set1(0);
  for (int page = 0; page < kTilePages; ++page) {
    const int t = page * kPageTokens;
    (F32x16::load(weights + t) * F32x16::load(value_scales(c, keys[page]))).store(folded + t);
  }
  if (low > 0 || high < kTileKeys)
    for (int t = 0; t < kTileKeys; ++t) folded[t] = t >= low && t < high ? folded[t] : 0.0f;
  for (int t = 0; t < kTileKeys; t += kLanes) bits = max_abs(bits, F32x16::load(folded + t));
  const Steps s = steps(max_value(bits), 32767.0f);
  const F32x16 inverse = F32x16::set1(s.inverse);
  for (int t = 0; t < kTileKeys; t += kLanes)
    store_s16(round(F32x16::load(folded + t) * inverse), integers + t);
  return s.scale;
}

// run.o = run.o * shrink + step * (integers @ values) of kBlocks blocks, for rows that see a key.
template <int kRows, int kBlocks>
inline void accumulate_int8(const AttentionArgs& a, const uint8_t* const* keys, int first, int last,
                            const int16_t* integers, const float* step, const float* shrink, int b,
                            Running* run) {
  I32x16 acc[kRows * kBlocks];
#pragma GCC unroll 16
  for (int i = 0; i < kRows * kBlocks; ++i) acc[i] = I32x16::set1(0);
  for (int page = first; page < last; ++page) {
    const auto* values =
        reinterpret_cast<const int8_t*>(keys[page] + a.cache.value_offset) + b * 256;
#pragma GCC unroll 1
    for (int t = 0; t < kPageTokens; t += 2) {
      Pair x[kRows];
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r)
        x[r] = load_pair(integers + r * kTileKeys + page * kPageTokens + t);
#pragma GCC unroll 4
      for (int i = 0; i < kBlocks; ++i) {
        const W16 v = load_w16(values + i * 256 + t * 16);
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) dot16(acc[r * kBlocks + i], v, x[r]);
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    if (step[r] < 0.0f) continue;
    for (int i = 0; i < kBlocks; ++i) {
      float* o = run[r].o + 16 * (b + i);
      fma(F32x16::from(acc[r * kBlocks + i]), F32x16::set1(step[r]),
          F32x16::load(o) * F32x16::set1(shrink[r]))
          .store(o);
    }
  }
}

// Values of a tile in int8. Keys a row does not see weigh 0 there, whatever their values hold.
template <int kRows>
inline void add_values_int8(const AttentionArgs& a, const uint8_t* const* keys,
                            const float* weights, const int* low, const int* high,
                            const float* shrink, Running* run) {
  alignas(64) int16_t integers[kRows * kTileKeys];
  float step[kRows];
  int first = kTilePages, last = 0;
  for (int r = 0; r < kRows; ++r) {
    const float* p = weights + r * kTileKeys;
    step[r] = fold_scales(a.cache, keys, p, low[r], high[r], integers + r * kTileKeys);
    if (low[r] >= high[r]) {
      step[r] = -1.0f;
      continue;
    }
    first = low[r] / kPageTokens < first ? low[r] / kPageTokens : first;
    last = (high[r] + kPageTokens - 1) / kPageTokens > last
               ? (high[r] + kPageTokens - 1) / kPageTokens
               : last;
  }
  const int blocks = (a.cache.head_dim + 15) / 16;
  int b = 0;
  for (; b + 4 <= blocks; b += 4)
    accumulate_int8<kRows, 4>(a, keys, first, last, integers, step, shrink, b, run);
  for (; b < blocks; ++b)
    accumulate_int8<kRows, 1>(a, keys, first, last, integers, step, shrink, b, run);
}

// Values of a tile in fp32 or bf16: read once for all rows where all see all of it.
template <CacheKind kKind, int kRows>
inline void add_values(const AttentionArgs& a, const uint8_t* const* keys, const float* weights,
                       const int* low, const int* high, const float* shrink, Running* run) {
  bool whole = true;
  for (int r = 0; r < kRows; ++r) whole = whole && low[r] == 0 && high[r] == kTileKeys;
  const int blocks = (a.cache.head_dim + 15) / 16;
  int done = 0;
  if (whole)
    for (; done + 4 <= blocks; done += 4)
      accumulate_rows<kKind, kRows, 4>(a, keys, weights, shrink, done, run);
  for (int r = 0; r < kRows; ++r) {
    if (low[r] >= high[r]) continue;
    const float* p = weights + r * kTileKeys;
    int b = done;
    for (; b + 4 <= blocks; b += 4)
      accumulate<kKind, 4>(a, keys, p, low[r], high[r], shrink[r], b, run[r]);
    for (; b < blocks; ++b) accumulate<kKind, 1>(a, keys, p, low[r], high[r], shrink[r], b, run[r]);
  }
}

// One tile of 64 keys for kRows query rows.
template <CacheKind kKind, int kRows>
inline void attend_tile(const AttentionArgs& a, int tile, int kv_head, const Query* q,
                        const int* position, Running* run) {
  const uint8_t* keys[kTilePages];
  alignas(64) float scores[kRows * kTileKeys];
  int last = 0;
  for (int r = 0; r < kRows; ++r) last = position[r] > last ? position[r] : last;
  for (int page = 0; page < kTilePages; ++page) {
    // Pages past the last row's position may not exist: the last one stands in, nobody looks.
    const int first = tile * kTileKeys + page * kPageTokens, at = first > last ? last : first;
    keys[page] = a.cache.base +
                 static_cast<size_t>(a.page_table[at / kPageTokens]) * a.cache.page_bytes +
                 kv_head * a.cache.record_bytes;
  }
  if constexpr (kKind == CacheKind::kInt8)
    tile_scores_int8<kRows>(a.cache, keys, q, scores);
  else
    tile_scores<kKind, kRows>(keys, a.cache.head_dim, q, scores);
  int low[kRows], high[kRows];
  float shrink[kRows];
  for (int r = 0; r < kRows; ++r) {
    const int seen_from = a.window ? position[r] + 1 - a.window : 0;
    low[r] = clamp(seen_from - tile * kTileKeys, 0, kTileKeys);
    high[r] = clamp(position[r] + 1 - tile * kTileKeys, 0, kTileKeys);
  }
  soften<kRows>(scores, low, high, run, shrink);
  if constexpr (kKind == CacheKind::kInt8)
    add_values_int8<kRows>(a, keys, scores, low, high, shrink, run);
  else
    add_values<kKind, kRows>(a, keys, scores, low, high, shrink, run);
}

inline void start(Running& run, int blocks) {
  run.m = -__builtin_inff();
  run.l = 0.0f;
  for (int i = 0; i < 16 * blocks; i += kLanes) F32x16::set1(0).store(run.o + i);
}

// total = total and part, part later in the sequence.
inline void merge(Running& total, const Running& part, int blocks) {
  if (part.l == 0.0f) return;  // no key of it is seen
  const float top = part.m > total.m ? part.m : total.m;
  const float x = exp_f32(total.m - top), y = exp_f32(part.m - top);
  total.l = total.l * x + part.l * y;
  for (int i = 0; i < 16 * blocks; i += kLanes)
    (F32x16::load(total.o + i) * F32x16::set1(x) + F32x16::load(part.o + i) * F32x16::set1(y))
        .store(total.o + i);
  total.m = top;
}

template <CacheKind kKind, int kRows>
inline void attend_rows(const AttentionArgs& a, const int* row, const int* head, int kv_head) {
  Query q[kRows];
  int position[kRows], last = 0, first = 1 << 30;
  Running total[kRows], part[kRows];
  const int blocks = (a.cache.head_dim + 15) / 16;
  for (int r = 0; r < kRows; ++r) {
    open_query<kKind>(a, a.q + row[r] * a.q_stride + head[r] * a.cache.head_dim, q[r]);
    position[r] = a.positions[row[r]];
    last = position[r] > last ? position[r] : last;
    const int seen_from = a.window ? position[r] + 1 - a.window : 0;
    first = seen_from < first ? seen_from : first;
    start(total[r], blocks);
  }
  first = first < 0 ? 0 : first;
  for (int split = first / kSplitKeys; split <= last / kSplitKeys; ++split) {
    for (Running& p : part) start(p, blocks);
    constexpr int kTiles = kSplitKeys / kTileKeys;
    for (int tile = split * kTiles; tile < (split + 1) * kTiles; ++tile)
      if (tile * kTileKeys <= last && (tile + 1) * kTileKeys > first)
        attend_tile<kKind, kRows>(a, tile, kv_head, q, position, part);
    for (int r = 0; r < kRows; ++r) merge(total[r], part[r], blocks);
  }
  for (int r = 0; r < kRows; ++r) {
    float* out = a.out + row[r] * a.out_stride + head[r] * a.cache.head_dim;
    const F32x16 sum = F32x16::set1(total[r].l);
    int d = 0;
    for (; d + kLanes <= a.cache.head_dim; d += kLanes)
      (F32x16::load(total[r].o + d) / sum).store(out + d);
    for (; d < a.cache.head_dim; ++d) out[d] = total[r].o[d] / total[r].l;
  }
}

template <CacheKind kKind, int kRows>
inline void attend_any(const AttentionArgs& a, const int* row, const int* head, int count,
                       int kv_head) {
  while (count >= kRows) {
    attend_rows<kKind, kRows>(a, row, head, kv_head);
    row += kRows, head += kRows, count -= kRows;
  }
  if constexpr (kRows > 1)
    if (count > 0) attend_any<kKind, kRows - 1>(a, row, head, count, kv_head);
}

// Rows [row, row + rows), at most kTileRows, of one sequence; all query heads of one kv head.
inline void attention(const AttentionArgs& a, int row, int rows, int kv_head) {
  const int group = a.heads / a.cache.kv_heads;
  constexpr int kBatch = 4 * kScoreRows;
  int row_of[kBatch], head_of[kBatch], count = 0;
  const auto flush = [&] {
    switch (a.cache.kind) {
      case CacheKind::kFp32:
        attend_any<CacheKind::kFp32, kScoreRows>(a, row_of, head_of, count, kv_head);
        break;
      case CacheKind::kBf16:
        attend_any<CacheKind::kBf16, kScoreRows>(a, row_of, head_of, count, kv_head);
        break;
      case CacheKind::kInt8:
        attend_any<CacheKind::kInt8, kScoreRows>(a, row_of, head_of, count, kv_head);
    }
    count = 0;
  };
  for (int r = row; r < row + rows; ++r)
    for (int h = 0; h < group; ++h) {
      row_of[count] = r;
      head_of[count++] = kv_head * group + h;
      if (count == kBatch) flush();
    }
  flush();
}

}  // namespace argosy::ARGOSY_ISA
