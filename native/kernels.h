// What the executor asks of an ISA: one table of functions, and the plain structs they take.
#pragma once
#include "formats.h"
#include "sample.h"

namespace argosy {

// y = act(x @ w + bias), or y += x @ w + bias. Gated: blocks alternate gate, up; y is half as wide.
struct LinearArgs {
  Matrix w;
  Inputs in;
  int rows;
  const float* bias;  // per stored column, or null
  float* out;
  size_t out_stride;  // floats
  bool residual, gated;
  int unit_blocks;  // 1 or 2; 2 when gated; 2 * kInputGroup / kColumns when gated goes into inputs
  // Gated, and `into` has values: y becomes inputs of the next matrix at once, `out` is not
  // written.
  Inputs into{};
  Format into_format{};
  int into_k = 0;  // padded
};

struct NormArgs {
  const float* x;
  size_t x_stride;
  float* out;
  size_t out_stride;
  const float* weight;
  int width;
  float eps;
};

struct PrepareArgs {
  const float* x;
  size_t x_stride;
  const int32_t* gather;  // row i of `in` is row gather[i] of x; null: itself
  Format format;
  int k, k_pad;
  Inputs in;
};

enum class CacheKind : int { kFp32, kBf16, kInt8 };

// Keys and values of one layer. One record per (page, kv head): keys, then values.
//   fp32  keys [dim4][16 tokens]               values [dim16/16][16 tokens][16 dims]
//   bf16  keys [dim4/2][16 tokens][2 dims]     values [dim16/16][8][16 dims][2 tokens]
//   int8  keys [dim4/4][16 tokens][4 dims]     values [dim16/16][8][16 dims][2 tokens]
//         u8, 128 is 0                         s8
// with head_dim padded by zeros to dim4 (a multiple of 4) and dim16 (of 16). In int8 keys and
// values are each followed by 16 fp32 scales, of the tokens.
struct Cache {
  uint8_t* base;
  CacheKind kind;
  int head_dim, kv_heads;
  size_t value_offset, record_bytes, page_bytes;  // page_bytes: of this layer
};

struct QkvArgs {
  const float* qkv;  // rows of q, k, v, each padded to 16 columns
  size_t qkv_stride;
  int k_at, v_at;
  const float *q_norm, *k_norm;  // (head_dim) or null
  float eps;
  const float *cosine, *sine;  // (rows, rope_half)
  int rope_half;
  const int32_t* slots;  // (rows)
  float* q;
  size_t q_stride;
  int heads;
  Cache cache;
  uint8_t* nonfinite;  // (rows), set to 1 where a key or value is not finite as stored
};

struct AttentionArgs {
  const float* q;
  float* out;
  size_t q_stride, out_stride;
  int heads;
  float scale;
  int window;                 // 0: none
  const int32_t* positions;   // (rows)
  const int32_t* page_table;  // of this sequence
  Cache cache;
};

struct Kernels {
  const char* name;
  void (*embed)(const Matrix& w, int32_t token, float* out);
  void (*norm)(const NormArgs& a, int row);
  void (*prepare)(const PrepareArgs& a, int row);
  void (*linear)(const LinearArgs& a, int unit);  // a unit is a.unit_blocks blocks
  void (*rotations)(const float* inv_freq, int half, float scale, int32_t position, float* cosine,
                    float* sine);
  void (*qkv)(const QkvArgs& a, int row, int head);  // head < heads: a query; else a key and value
  // Rows [row, row + rows) of one sequence, all query heads of one kv head.
  void (*attention)(const AttentionArgs& a, int row, int rows, int kv_head);
  void (*sample)(const SampleRow& want, void* scratch, Sampled& out);
  uint64_t (*sample_scratch_bytes)(int32_t vocab);
  void (*exp)(const float* x, float* y, size_t count);  // for tests: the elementary functions
  void (*log)(const float* x, float* y, size_t count);
};

const Kernels* kernels_avx512bf16();
const Kernels* kernels_avx512vnni();
const Kernels* kernels_avx2();
const Kernels* kernels_dotprod();
const Kernels* kernels_neon();
const Kernels* kernels_simd128();
const Kernels* kernels_portable();

}  // namespace argosy
