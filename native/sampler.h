// From a row of logits to a token: the fast twin of runtime/reference/sampling.py.
//
// The same fp32 operations in the same order, or sums that are exact in any order, so the two agree
// bit for bit. The draw is argmax over the allowed ids of y + gumbel(key, id), y = logit /
// temperature, ties to the smaller id. What makes it fast:
//   * One pass finds the largest logit of each block of 64 ids. The k best ids lie in the k best
//     blocks; a candidate is one 64-bit key, smaller is better: falling value above, id below.
//   * Noise over the whole vocabulary: what an id would need to beat the best so far is a bound on
//     its hash (math.h: noise falls as the hash rises), so logarithms are for the few below it.
//   * top_p: weights are whole multiples of 2^-34 of the best one's. Up to 2^19 ids their sums are
//     exact in double, so the shortest run of best ids can be found by partitioning, not sorting.
//
// Compiled once per ISA like a kernel (ARGOSY_ISA_NS); no allocation, no library.
#pragma once

#include <cstdint>

#include "math.h"
#include "sample.h"

namespace argosy {

constexpr int32_t kBlockIds = 64;

inline namespace ARGOSY_ISA_NS {

// Memory one thread needs to sample rows of up to `vocab` ids: bytes, to be aligned to 64.
constexpr uint64_t sample_scratch_bytes(int32_t vocab) {
  const uint64_t ids = static_cast<uint64_t>(vocab);
  return (8 + 4) * (ids + (ids + kBlockIds - 1) / kBlockIds);
}

namespace sampler {

constexpr int32_t kPartIds = 4096;
constexpr int32_t kSampleLanes = 16;
constexpr float kLargest = 3.4028234663852886e38f;
constexpr float kMostNoise = 22.2f;

static inline int32_t blocks_of(int32_t vocab) { return (vocab + kBlockIds - 1) / kBlockIds; }

static inline float infinity() { return __builtin_huge_valf(); }

// ---- keys: candidates as integers, smaller is better -------------------------------------------

static inline uint64_t key_of(float y, int32_t id) {
  const uint32_t bits = bits_as<uint32_t>(y + 0.0f);  // -0 and 0 tie
  const uint32_t falling = (bits >> 31) != 0 ? bits : 0x7fffffffu - bits;
  return static_cast<uint64_t>(falling) << 32 | static_cast<uint32_t>(id);
}

static inline int32_t id_of(uint64_t key) { return static_cast<int32_t>(key & 0xffffffffu); }

static inline float value_of(uint64_t key) {
  const uint32_t falling = static_cast<uint32_t>(key >> 32);
  return bits_as<float>((falling >> 31) != 0 ? falling : 0x7fffffffu - falling);
}

static inline void sort_few(uint64_t* keys, int32_t count) {
  for (int32_t i = 1; i < count; ++i) {
    const uint64_t key = keys[i];
    int32_t j = i;
    for (; j > 0 && keys[j - 1] > key; --j) keys[j] = keys[j - 1];
    keys[j] = key;
  }
}

// Reorders keys (all different) so that the first k are the k smallest. Pivots follow a fixed
// pseudo-random walk, so that no order of logits is slow; the set found does not depend on them.
// The partition has no branch that depends on a key.
static inline void select(uint64_t* keys, int32_t count, int32_t k) {
  int32_t low = 0, high = count;  // keys[low:high) still need ordering around k
  uint64_t walk = static_cast<uint64_t>(count);
  while (high - low > 24) {
    walk = mix64(walk + 1);
    const int32_t at = low + static_cast<int32_t>(walk % static_cast<uint64_t>(high - low));
    const uint64_t pivot = keys[at];
    keys[at] = keys[low];
    int32_t last = low;  // of the keys below the pivot
    for (int32_t i = low + 1; i < high; ++i) {
      const uint64_t key = keys[i];
      keys[i] = keys[last + 1];
      keys[last + 1] = key;
      last += key < pivot ? 1 : 0;
    }
    keys[low] = keys[last];
    keys[last] = pivot;
    if (k <= last)
      high = last;
    else
      low = last + 1;
  }
  sort_few(keys + low, high - low);
}

// ---- passes over a row -------------------------------------------------------------------------

static inline float largest_of(const float* x, int32_t count) {
  float lanes[kSampleLanes];
  for (float& lane : lanes) lane = -infinity();
  int32_t i = 0;
  for (; i + kSampleLanes <= count; i += kSampleLanes)
    for (int32_t l = 0; l < kSampleLanes; ++l) lanes[l] = x[i + l] > lanes[l] ? x[i + l] : lanes[l];
  for (int32_t l = 0; i + l < count; ++l) lanes[l] = x[i + l] > lanes[l] ? x[i + l] : lanes[l];
  for (int32_t half = kSampleLanes / 2; half > 0; half /= 2)
    for (int32_t l = 0; l < half; ++l)
      lanes[l] = lanes[l + half] > lanes[l] ? lanes[l + half] : lanes[l];
  return lanes[0];
}

static inline bool all_finite(const float* x, int32_t count) {
  uint32_t bad = 0;
  for (int32_t i = 0; i < count; ++i)
    bad |= (bits_as<uint32_t>(x[i]) & 0x7f800000u) == 0x7f800000u ? 1u : 0u;
  return bad == 0;
}

// x / temperature; what overflows becomes the largest number, what was banned stays -inf.
static inline float tempered(float x, float temperature) {
  float y = x / temperature;
  y = y > kLargest ? kLargest : y;
  y = y < -kLargest ? -kLargest : y;
  return x == -infinity() ? x : y;
}

// Sum of exp(x[i] - shift): lane i % 16 adds ascending, then halves are added until one is left.
static inline float sum_exp(const float* x, int32_t count, float shift) {
  float lanes[kSampleLanes] = {};
  int32_t i = 0;
  for (; i + kSampleLanes <= count; i += kSampleLanes)
    for (int32_t l = 0; l < kSampleLanes; ++l) lanes[l] += exp_f32(x[i + l] - shift);
  for (int32_t l = 0; i + l < count; ++l) lanes[l] += exp_f32(x[i + l] - shift);
  for (int32_t half = kSampleLanes / 2; half > 0; half /= 2)
    for (int32_t l = 0; l < half; ++l) lanes[l] += lanes[l + half];
  return lanes[0];
}

// exp(y) in whole multiples of 2^-34: adding 1.5 * 2^18 in double rounds it there.
static inline double weight_of(float y) {
  const double magic = 393216.0;
  return (static_cast<double>(exp_f32(y)) + magic) - magic;
}

static inline double sum_weights(const float* x, int32_t count, float temperature, float top,
                                 float floor) {
  double lanes[kSampleLanes] = {};
  int32_t i = 0;
  for (; i + kSampleLanes <= count; i += kSampleLanes)
    for (int32_t l = 0; l < kSampleLanes; ++l) {
      const float y = tempered(x[i + l], temperature);
      lanes[l] += weight_of(y >= floor ? y - top : -infinity());
    }
  double sum = 0;
  for (; i < count; ++i) {
    const float y = tempered(x[i], temperature);
    sum += weight_of(y >= floor ? y - top : -infinity());
  }
  for (double lane : lanes) sum += lane;
  return sum;
}

static inline int32_t rank_of(const float* x, int32_t vocab, int32_t token) {
  const float own = x[token];
  int32_t better = 0, before = 0;
  for (int32_t i = 0; i < vocab; ++i) better += x[i] > own ? 1 : 0;
  for (int32_t i = 0; i < token; ++i) before += x[i] == own ? 1 : 0;
  return 1 + better + before;
}

// ---- a row with the largest logit of each of its blocks ----------------------------------------

// Candidates that are kept, first among the row's keys.
struct Row {
  const float* x;  // (vocab)
  int32_t vocab;
  float temperature;
  float* largest;        // (blocks)
  uint64_t* block_keys;  // (blocks)
  uint64_t* keys;        // (vocab), candidates

  int32_t length(int32_t block) const {
    const int32_t left = vocab - block * kBlockIds;
    return left < kBlockIds ? left : kBlockIds;
  }
  void scan(int32_t block) const {
    largest[block] = largest_of(x + block * kBlockIds, length(block));
  }
  void scan_all() const {
    for (int32_t b = 0; b < blocks_of(vocab); ++b) scan(b);
  }
  float y(int32_t id) const { return tempered(x[id], temperature); }

  int32_t best() const {
    int32_t block = 0;
    for (int32_t b = 1; b < blocks_of(vocab); ++b)
      if (largest[b] > largest[block]) block = b;
    int32_t id = block * kBlockIds;
    while (x[id] < largest[block]) ++id;
    return id;
  }

  // Appends the ids of a block with y >= floor to the keys.
  int32_t gather(int32_t block, float floor, int32_t count) const {
    const int32_t start = block * kBlockIds, size = length(block);
    float values[kBlockIds];
    for (int32_t i = 0; i < size; ++i) values[i] = y(start + i);
    for (int32_t i = 0; i < size; ++i) {
      keys[count] = key_of(values[i], start + i);
      count += values[i] >= floor ? 1 : 0;
    }
    return count;
  }

  // Puts the k best ids with y >= floor first among the keys; returns how many there are. They lie
  // in the k best blocks: each of those holds an id better than all of any other block.
  int32_t select_best(int32_t k, float floor) const {
    const int32_t blocks = blocks_of(vocab);
    for (int32_t b = 0; b < blocks; ++b)
      block_keys[b] = key_of(tempered(largest[b], temperature), b);
    const int32_t used = k < blocks ? k : blocks;
    if (used < blocks) select(block_keys, blocks, used);
    float level = infinity();
    for (int32_t i = 0; i < used; ++i) {
      const float value = value_of(block_keys[i]);
      level = value < level ? value : level;
    }
    if (k > blocks || level < floor) level = floor;
    int32_t count = 0;
    for (int32_t i = 0; i < used; ++i)
      if (value_of(block_keys[i]) >= level) count = gather(id_of(block_keys[i]), level, count);
    if (count <= k) return count;
    select(keys, count, k);
    return k;
  }

  // Sum of the weights of all ids with y >= floor.
  double total_weight(float top, float floor) const {
    double total = 0;
    for (int32_t b = 0; b < blocks_of(vocab); ++b)
      if (tempered(largest[b], temperature) >= floor)
        total += sum_weights(x + b * kBlockIds, length(b), temperature, top, floor);
    return total;
  }
};

static inline double weight_of_keys(const uint64_t* keys, int32_t count, float top) {
  double lanes[kSampleLanes] = {};
  int32_t i = 0;
  for (; i + kSampleLanes <= count; i += kSampleLanes)
    for (int32_t l = 0; l < kSampleLanes; ++l) lanes[l] += weight_of(value_of(keys[i + l]) - top);
  double sum = 0;
  for (; i < count; ++i) sum += weight_of(value_of(keys[i]) - top);
  for (double lane : lanes) sum += lane;
  return sum;
}

// Reorders keys so that the shortest run of best ones that weighs `need` comes first; returns its
// length. All of them weigh at least that.
static inline int32_t cut_nucleus(uint64_t* keys, int32_t count, float top, double need) {
  int32_t low = 0, high = count;
  double before = 0;  // weight of keys[0:low]
  while (high - low > 24) {
    const int32_t half = (high - low) / 2;
    select(keys + low, high - low, half);
    const double weight = weight_of_keys(keys + low, half, top);
    if (before + weight >= need) {
      high = low + half;
    } else {
      before += weight;
      low += half;
    }
  }
  sort_few(keys + low, high - low);
  for (; low + 1 < high; ++low) {
    before += weight_of(value_of(keys[low]) - top);
    if (before >= need) break;
  }
  return low + 1;
}

// The ids that hold `top_p` of the probability, first among the keys.
static inline int32_t nucleus(const Row& row, float top, int32_t top_k, float top_p, float floor) {
  if (top_k > 0) {
    const int32_t count = row.select_best(top_k, floor);
    const double need = static_cast<double>(top_p) * weight_of_keys(row.keys, count, top);
    return cut_nucleus(row.keys, count, top, need);
  }
  const double need = static_cast<double>(top_p) * row.total_weight(top, floor);
  for (int32_t k = 64; k <= 1024; k *= 16) {  // few ids hold it, as a rule
    const int32_t count = row.select_best(k, floor);
    if (weight_of_keys(row.keys, count, top) >= need)
      return cut_nucleus(row.keys, count, top, need);
  }
  return cut_nucleus(row.keys, row.select_best(row.vocab, floor), top, need);
}

// ---- draws -------------------------------------------------------------------------------------

struct Best {
  float score = -infinity();
  int32_t id = 0x7fffffff;
  void offer(float other, int32_t other_id) {
    if (other > score || (other == score && other_id < id)) {
      score = other;
      id = other_id;
    }
  }
};

static inline int32_t draw_among(const uint64_t* keys, int32_t count, uint64_t noise_key) {
  Best best;
  float scores[kBlockIds];
  for (int32_t start = 0; start < count; start += kBlockIds) {
    const int32_t length = count - start < kBlockIds ? count - start : kBlockIds;
    for (int32_t i = 0; i < length; ++i) {
      const uint64_t key = keys[start + i];
      scores[i] = value_of(key) + gumbel(noise_key, static_cast<uint32_t>(key));
    }
    for (int32_t i = 0; i < length; ++i) best.offer(scores[i], id_of(keys[start + i]));
  }
  return best.id;
}

// The highest hash with which an id of value `y` or less may still reach `score`. Noise of at least
// g needs w <= exp(-g); the margin is many times what rounding may shift.
static inline uint32_t highest_hash(float y, float score) {
  const float size = score < 0 ? -score : score;
  const float g = (score - y) - (0.001f + size * 0x1p-20f);
  const float bound = exp_f32(-g) * 0x1p32f;
  return bound < 0x1.fffffep31f ? static_cast<uint32_t>(bound) + 2u : 0xffffffffu;
}

static inline int32_t draw_from_all(const Row& row, float floor, uint64_t noise_key) {
  Best best;
  const int32_t first = row.best();
  best.offer(row.y(first) + gumbel(noise_key, static_cast<uint32_t>(first)), first);
  uint32_t hashes[kBlockIds];
  for (int32_t b = 0; b < blocks_of(row.vocab); ++b) {
    const float y = tempered(row.largest[b], row.temperature);
    if (!(y >= floor) || y + kMostNoise < best.score) continue;
    const uint32_t bound = highest_hash(y, best.score);
    const uint32_t start = static_cast<uint32_t>(b * kBlockIds);
    for (uint32_t i = 0; i < kBlockIds; ++i) hashes[i] = gumbel_hash(noise_key, start + i);
    uint32_t least = hashes[0];
    for (uint32_t i = 1; i < kBlockIds; ++i) least = hashes[i] < least ? hashes[i] : least;
    if (least > bound) continue;
    for (int32_t i = 0; i < row.length(b); ++i) {
      const int32_t id = b * kBlockIds + i;
      if (hashes[i] <= bound && row.y(id) >= floor)
        best.offer(row.y(id) + gumbel_of_hash(hashes[i]), id);
    }
  }
  return best.id;
}

static inline int32_t draw(const Row& row, const SampleRow& want) {
  if (want.temperature == 0) return row.best();
  const float top = row.y(row.best());
  float floor = -kLargest;
  if (want.min_p > 0) {
    const float least = top + log_f32(want.min_p);
    floor = least > floor ? least : floor;
  }
  const uint64_t noise_key = gumbel_key(want.seed, static_cast<uint32_t>(want.position));
  if (want.top_p < 1) {
    const int32_t count = nucleus(row, top, want.top_k, want.top_p, floor);
    return draw_among(row.keys, count, noise_key);
  }
  if (want.top_k > 0 && want.top_k < row.vocab)
    return draw_among(row.keys, row.select_best(want.top_k, floor), noise_key);
  return draw_from_all(row, floor, noise_key);
}

// ---- log probabilities, edits ------------------------------------------------------------------

// logprob of x: (x - largest) - log_total, of the raw logits.
struct Normaliser {
  float largest, log_total;
  float logprob(float x) const { return (x - largest) - log_total; }
};

static inline Normaliser normalise(const Row& row) {
  const int32_t blocks = blocks_of(row.vocab), each = kPartIds / kBlockIds;
  const float largest = largest_of(row.largest, blocks);
  double total = 0;
  for (int32_t b = 0; b < blocks; b += each) {
    const int32_t start = b * kBlockIds, left = row.vocab - start;
    const float own = largest_of(row.largest + b, blocks - b < each ? blocks - b : each);
    const float sum = sum_exp(row.x + start, left < kPartIds ? left : kPartIds, own);
    total += static_cast<double>(sum) * static_cast<double>(exp_f32(own - largest));
  }
  return {largest, log_f32(static_cast<float>(total))};
}

static inline void report_top(const Row& row, const Normaliser& n, int32_t wanted, Sampled& out) {
  if (wanted <= 0) return;
  const int32_t count = row.select_best(wanted, -kLargest);
  sort_few(row.keys, count);
  for (int32_t i = 0; i < count; ++i) {
    out.top_ids[i] = id_of(row.keys[i]);
    out.top_logprobs[i] = n.logprob(row.x[out.top_ids[i]]);
  }
}

static inline float edited(float x, float bias, float repetition, float penalty) {
  float y = x + bias;
  y = y > 0 ? y / repetition : y * repetition;
  y = y - penalty;
  return y != y ? -infinity() : y;
}

static inline void apply_edits(const SampleRow& want, const Row& row) {
  for (int32_t e = 0; e < want.num_edits; ++e) {
    float& x = want.logits[want.edit_ids[e]];
    x = edited(x, want.edit_bias[e], want.edit_repetition[e], want.edit_penalty[e]);
  }
  if (want.mask != nullptr) {
    for (int32_t i = 0; i < want.vocab; ++i)
      want.logits[i] = ((want.mask[i >> 5] >> (i & 31)) & 1u) != 0 ? want.logits[i] : -infinity();
    row.scan_all();
  } else {
    for (int32_t e = 0; e < want.num_edits; ++e) row.scan(want.edit_ids[e] / kBlockIds);
  }
}

}  // namespace sampler

// Writes to `out` and its arrays; `scratch`: see sample_scratch_bytes.
static inline void sample_row(const SampleRow& want, void* scratch, Sampled& out) {
  using namespace sampler;
  const int32_t blocks = blocks_of(want.vocab);
  uint64_t* keys = static_cast<uint64_t*>(scratch);
  float* raw = reinterpret_cast<float*>(keys + want.vocab + blocks);
  Row row{want.logits, want.vocab, 1.0f, raw + want.vocab, keys + want.vocab, keys};
  out.token = want.target;
  out.logprob = 0;
  out.rank = 0;
  out.error = SampleError::kNone;
  if (!all_finite(want.logits, want.vocab)) {
    out.error = SampleError::kNonfinite;
    return;
  }
  row.scan_all();
  const bool edits = want.draw && (want.num_edits > 0 || want.mask != nullptr);
  Normaliser normaliser{};
  if (want.want_logprobs) {
    normaliser = normalise(row);
    report_top(row, normaliser, want.num_top, out);
    if (edits)
      __builtin_memcpy(raw, want.logits, sizeof(float) * static_cast<uint64_t>(want.vocab));
  }
  if (want.draw) {
    if (edits) apply_edits(want, row);
    if (largest_of(row.largest, blocks) == -infinity()) {
      out.error = SampleError::kNoToken;
      return;
    }
    row.temperature = want.temperature;
    out.token = draw(row, want);
  }
  if (want.want_logprobs) {
    const float* x = edits ? raw : want.logits;
    out.logprob = normaliser.logprob(x[out.token]);
    out.rank = rank_of(x, want.vocab, out.token);
  }
}

}  // namespace ARGOSY_ISA_NS
}  // namespace argosy
