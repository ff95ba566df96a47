// Numbers become integers with one scale: inputs of matrices, queries, and the cache in int8.
#pragma once
#include "../kernels.h"
#include "../simd.h"

namespace argosy::ARGOSY_ISA {

// x is about scale * q.  total: the sum of q.
struct Quantized {
  float scale;
  int32_t total;
};

// What the largest magnitude `top` of some numbers comes to. Below 2^-100 all are zero: the
// reciprocal would overflow. A not-a-number or infinity makes the scale one, and with it every sum.
struct Steps {
  float scale, inverse;
};
inline Steps steps(float top, float levels) {
  if (top < 0x1p-100f) return {0.0f, 0.0f};
  return {top / levels, top < __builtin_inff() ? levels / top : 0.0f};
}

// The largest magnitude; count is a multiple of 16 here and below.
inline float largest(const float* x, int count) {
  I32x16 bits = I32x16::set1(0);
  for (int i = 0; i < count; i += 16) bits = max_abs(bits, F32x16::load(x + i));
  return max_value(bits);
}

// q[0:count] = x / scale to the nearest, ties to even; zeros where the scale is no number. Their
// sum.
inline int32_t to_integers(const float* x, int count, Steps s, int8_t* q) {
  const bool finite = s.scale < __builtin_inff();
  const F32x16 inverse = F32x16::set1(s.inverse);
  I32x16 total = I32x16::set1(0);
  for (int i = 0; i < count; i += 16) {
    const I32x16 rounded = round(finite ? F32x16::load(x + i) * inverse : F32x16::set1(0));
    store_s8(rounded, q + i);
    total = total + rounded;
  }
  return sum(total);
}

// k [from, to) of a row of inputs, from the numbers there; an input scale begins at `from`.
inline void prepare_part(const Inputs& in, Format f, int row, int from, int to, const float* x) {
  uint8_t* values = in.values + row * in.value_stride;
  switch (f.kind) {
    case Kind::kFp32:
    case Kind::kFp16:
      std::memcpy(values + 4 * static_cast<size_t>(from), x, 4 * static_cast<size_t>(to - from));
      return;
    case Kind::kBf16:
      for (int k = from; k < to; ++k)
        reinterpret_cast<uint16_t*>(values)[k] = float_to_bf16(x[k - from]);
      return;
    default:
      break;
  }
  const int zero_point = f.asymmetric ? 0 : f.kind == Kind::kW4 ? 8 : 128;
  float* scales = in.scales + row * in.scale_stride + from / in.scale_group;
  int32_t* starts = in.starts + row * in.group_stride + from / f.group;
  float* sums = in.sums + row * in.group_stride + from / f.group;
  auto* q = reinterpret_cast<int8_t*>(values) + from;
  for (int left = to - from; left > 0; left -= in.scale_group) {
    const int count = left < in.scale_group ? left : in.scale_group;
    const Steps s = steps(largest(x, count), 127.0f);
    *scales++ = s.scale;
    for (int g = 0; g < count; g += f.group, x += f.group, q += f.group) {
      const int32_t total = to_integers(x, f.group, s, q);
      *starts++ = -zero_point * total;
      if (f.asymmetric) *sums++ = -static_cast<float>(total);
    }
  }
}

// One head, with a scale of its own; q has room for dim up to a multiple of 16, zeros there.
inline Quantized quantize_head(const float* x, int dim, int8_t* q) {
  const int padded = (dim + 15) / 16 * 16;
  float t[kMaxHeadDim];
  if (dim != padded) {
    std::memcpy(t, x, 4 * static_cast<size_t>(dim));
    for (int i = dim; i < padded; ++i) t[i] = 0.0f;
    x = t;
  }
  const Steps s = steps(largest(x, padded), 127.0f);
  return {s.scale, to_integers(x, padded, s, q)};
}

// Scales of a record's sixteen keys, and of its values.
inline float* scales_before(uint8_t* end) { return reinterpret_cast<float*>(end) - kPageTokens; }
inline const float* scales_before(const uint8_t* end) {
  return reinterpret_cast<const float*>(end) - kPageTokens;
}
template <class Byte>
inline auto* key_scales(const Cache& c, Byte* record) {
  return scales_before(record + c.value_offset);
}
template <class Byte>
inline auto* value_scales(const Cache& c, Byte* record) {
  return scales_before(record + c.record_bytes);
}

}  // namespace argosy::ARGOSY_ISA
