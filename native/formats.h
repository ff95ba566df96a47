// Weights as they lie in a bundle, and inputs as the matrix kernels want them. Plain data only:
// these are shared by translation units compiled for different processors, so no inline functions.
#pragma once
#include <cstddef>
#include <cstdint>

namespace argosy {

enum class Kind : int { kFp32, kFp16, kBf16, kW8, kW4 };

constexpr int kColumns = 16;    // of a cell and of a block
constexpr int kCellBytes = 64;  // docs/reference/bundle-format.md
constexpr int kTileRows = 12;   // rows a linear unit handles between epilogues
constexpr int kPairRows = 7;    // from so many rows on, a linear unit is two blocks
constexpr int kFuseRows = 32;   // from so many rows on, gated products become inputs at once
constexpr int kPageTokens = 16;
constexpr int kHeadTile = 32;  // rows whose logits exist at once
constexpr int kMaxHeadDim = 512;
constexpr int kInputGroup = 128;  // k per scale of inputs of w4, whatever its own groups
constexpr int kWidthPad = 128;    // activations are padded with zeros to this many numbers

struct Format {
  Kind kind;
  int group;        // k per scale; w8 and w4 only
  bool asymmetric;  // w4 only
};

// A packed matrix: `blocks` blocks of 16 columns, `k` rows. `data` belongs to the bundle.
struct Matrix {
  const uint8_t* data;
  Format format;
  int k, k_pad, blocks;
  size_t block_bytes;
};

// Rows of activations in a matrix' own input format; row r starts at r times the stride.
//   fp32, fp16  f32[k_pad]                     bf16  u16[k_pad]
//   w8, w4      s8[k_pad]; a scale f32 per scale_group k, the last of which may be fewer; and per
//               group of the weights where the integer sum starts i32 (-zero_point * sum of the
//               group), or -sum f32 for asymmetric weights
struct Inputs {
  uint8_t* values;
  size_t value_stride;  // bytes
  float* scales;
  int32_t* starts;
  float* sums;
  size_t group_stride;  // elements, of starts and sums
  size_t scale_stride;  // elements, of scales
  int scale_group;      // that of the weights for w8, kInputGroup for w4
};

}  // namespace argosy
