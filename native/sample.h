// What the sampler takes and gives: plain data, shared by every ISA's translation unit.
#pragma once
#include <cstdint>

namespace argosy {

enum class SampleError : uint8_t { kNone = 0, kNonfinite = 1, kNoToken = 2 };

// What is wanted of one row; the fields of HeadRows (types.py).
struct SampleRow {
  float* logits;   // (vocab), raw; edited in place
  int32_t vocab;   // at least 1
  bool draw;       // false: score `target`
  int32_t target;  // in [0, vocab)
  bool want_logprobs;
  int32_t num_top;    // alternatives wanted; only read where want_logprobs
  float temperature;  // 0: greedy
  int32_t top_k;      // 0: off
  float top_p;        // 1: off
  float min_p;        // 0: off
  uint64_t seed;
  int32_t position;
  int32_t num_edits;
  const int32_t* edit_ids;  // (num_edits), in [0, vocab), each at most once
  const float* edit_bias;
  const float* edit_repetition;
  const float* edit_penalty;
  const uint32_t* mask;  // (ceil(vocab / 32)), bit set = allowed; null: all
};

struct Sampled {
  int32_t token;
  float logprob;        // of the raw logits; 0 where not wanted
  int32_t rank;         // 1 is best; 0 where not wanted
  int32_t* top_ids;     // (num_top), written best first, at most `vocab` of them
  float* top_logprobs;  // (num_top)
  SampleError error;    // if not kNone, nothing else counts
};

}  // namespace argosy
