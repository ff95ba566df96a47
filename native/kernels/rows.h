// Row-wise operations: embedding gather, norm, preparing inputs, rotations, q/k/v finishing.
#pragma once
#include "../kernels.h"
#include "../math.h"
#include "../simd.h"
#include "quantize.h"

namespace argosy::ARGOSY_ISA {

// ---- embed --------------------------------------------------------------------------------------

inline float weight_in_group(const Matrix& w, const uint8_t* cells, const uint8_t* line,
                             bool second, int col, int k) {
  const auto* scales = reinterpret_cast<const uint16_t*>(line + (second ? 32 : 0));
  const float s = half_to_float(scales[col]);
  if (w.format.kind == Kind::kW8)
    return s * static_cast<float>(cells[k / 4 * kCellBytes + 4 * col + k % 4] - 128);
  const uint8_t byte = cells[k / 8 * kCellBytes + 4 * col + k % 4];
  const int q = k % 8 < 4 ? byte & 15 : byte >> 4;
  if (!w.format.asymmetric) return s * static_cast<float>(q - 8);
  const float low = half_to_float(reinterpret_cast<const uint16_t*>(line + 32)[col]);
  return s * static_cast<float>(q) - low;
}

inline void embed_quantized(const Matrix& w, const uint8_t* p, int col, float* out) {
  const int group = w.format.group, groups = w.k_pad / group;
  const int cell_k = w.format.kind == Kind::kW4 ? 8 : 4;
  const size_t cells = static_cast<size_t>(group / cell_k) * kCellBytes;
  for (int g = 0; g < groups; ++g) {
    const bool second = !w.format.asymmetric && (g & 1);
    const bool pair = !w.format.asymmetric && !second && g + 1 < groups;
    const uint8_t* line = p + (pair ? 2 : 1) * cells;
    for (int k = 0; k < group && g * group + k < w.k; ++k)
      out[g * group + k] = weight_in_group(w, p, line, second, col, k);
    p += cells + (pair ? 0 : kCellBytes);
  }
}

// out[0:k] = column `token` of w, dequantized.
inline void embed(const Matrix& w, int32_t token, float* out) {
  const uint8_t* p = w.data + static_cast<size_t>(token / kColumns) * w.block_bytes;
  const int col = token % kColumns;
  switch (w.format.kind) {
    case Kind::kFp32:
      for (int k = 0; k < w.k; ++k) out[k] = reinterpret_cast<const float*>(p)[k * 16 + col];
      break;
    case Kind::kFp16:
      for (int k = 0; k < w.k; ++k)
        out[k] = half_to_float(reinterpret_cast<const uint16_t*>(p)[k * 16 + col]);
      break;
    case Kind::kBf16:
      for (int k = 0; k < w.k; ++k)
        out[k] = bf16_to_float(reinterpret_cast<const uint16_t*>(p)[k / 2 * 32 + 2 * col + k % 2]);
      break;
    default:
      embed_quantized(w, p, col, out);
  }
}

// ---- norm ---------------------------------------------------------------------------------------

// Sum of squares of `width` numbers, four chains of sixteen lanes; x is padded with zeros.
inline float sum_squares(const float* x, int width) {
  F32x16 c[4];
  for (F32x16& v : c) v = F32x16::set1(0);
  for (int i = 0; i < width; i += 64)
    for (int j = 0; j < 4; ++j) {
      const F32x16 v = F32x16::load(x + i + 16 * j);
      c[j] = fma(v, v, c[j]);
    }
  return sum((c[0] + c[1]) + (c[2] + c[3]));
}

inline void norm(const NormArgs& a, int row) {
  const float* x = a.x + row * a.x_stride;
  float* out = a.out + row * a.out_stride;
  const float mean = sum_squares(x, a.width) / static_cast<float>(a.width);
  const float r = 1.0f / __builtin_sqrtf(mean + a.eps);
  for (int i = 0; i < a.width; ++i) out[i] = x[i] * r * a.weight[i];
}

// ---- prepare ------------------------------------------------------------------------------------

inline void prepare(const PrepareArgs& a, int row) {
  const float* x = a.x + (a.gather ? a.gather[row] : row) * a.x_stride;
  prepare_part(a.in, a.format, row, 0, a.k_pad, x);
}

// ---- rotations ----------------------------------------------------------------------------------

// The angle is an fp32 product, as the models were trained with; its sine and cosine are ours.
inline void rotations(const float* inv_freq, int half, float scale, int32_t position, float* cosine,
                      float* sine) {
  for (int i = 0; i < half; ++i) {
    const float angle = static_cast<float>(position) * inv_freq[i];
    double s, c;
    sincos_f64(static_cast<double>(angle), &s, &c);
    cosine[i] = static_cast<float>(c) * scale;
    sine[i] = static_cast<float>(s) * scale;
  }
}

// ---- q, k, v ------------------------------------------------------------------------------------

// out = turned(normed(x)); lanes from 2 * rope_half on are not turned.
inline void norm_and_turn(const QkvArgs& a, const float* x, const float* weight, int row,
                          float* out) {
  const int dim = a.cache.head_dim;
  float t[kMaxHeadDim];
  if (weight) {
    float square = 0.0f;
    for (int i = 0; i < dim; ++i) square = __builtin_fmaf(x[i], x[i], square);
    const float r = 1.0f / __builtin_sqrtf(square / static_cast<float>(dim) + a.eps);
    for (int i = 0; i < dim; ++i) t[i] = x[i] * r * weight[i];
    x = t;
  }
  const float* c = a.cosine + static_cast<size_t>(row) * a.rope_half;
  const float* s = a.sine + static_cast<size_t>(row) * a.rope_half;
  for (int i = 0; i < a.rope_half; ++i) {
    const float lo = x[i], hi = x[i + a.rope_half];
    out[i] = lo * c[i] - hi * s[i];
    out[i + a.rope_half] = hi * c[i] + lo * s[i];
  }
  for (int i = 2 * a.rope_half; i < dim; ++i) out[i] = x[i];
}

inline bool finite_bits(float f) {
  uint32_t u;
  std::memcpy(&u, &f, 4);
  return (u & 0x7f800000) != 0x7f800000;
}

// A key or value of one token, as a record holds it; returns whether all of it is finite there.
inline bool store_key(const Cache& c, uint8_t* record, int token, const float* k) {
  bool ok = true;
  if (c.kind == CacheKind::kInt8) {
    alignas(64) int8_t q[kMaxHeadDim];
    const float scale = quantize_head(k, c.head_dim, q).scale;
    for (int d = 0; d < c.head_dim; ++d)
      record[d / 4 * 64 + 4 * token + d % 4] = static_cast<uint8_t>(q[d] + 128);
    key_scales(c, record)[token] = scale;
    return finite_bits(scale);
  }
  for (int d = 0; d < c.head_dim; ++d) {
    if (c.kind == CacheKind::kFp32) {
      reinterpret_cast<float*>(record)[d * 16 + token] = k[d];
      ok &= finite_bits(k[d]);
    } else {
      const uint16_t b = float_to_bf16(k[d]);
      reinterpret_cast<uint16_t*>(record)[d / 2 * 32 + 2 * token + d % 2] = b;
      ok &= (b & 0x7f80) != 0x7f80;
    }
  }
  return ok;
}

inline bool store_value(const Cache& c, uint8_t* record, int token, const float* v) {
  bool ok = true;
  uint8_t* base = record + c.value_offset;
  if (c.kind == CacheKind::kInt8) {
    alignas(64) int8_t q[kMaxHeadDim];
    const float scale = quantize_head(v, c.head_dim, q).scale;
    for (int d = 0; d < c.head_dim; ++d)
      base[d / 16 * 256 + token / 2 * 32 + d % 16 * 2 + token % 2] = static_cast<uint8_t>(q[d]);
    value_scales(c, record)[token] = scale;
    return finite_bits(scale);
  }
  for (int d = 0; d < c.head_dim; ++d) {
    if (c.kind == CacheKind::kFp32) {
      reinterpret_cast<float*>(base)[d / 16 * 256 + token * 16 + d % 16] = v[d];
      ok &= finite_bits(v[d]);
    } else {
      const uint16_t b = float_to_bf16(v[d]);
      reinterpret_cast<uint16_t*>(base)[d / 16 * 256 + token / 2 * 32 + d % 16 * 2 + token % 2] = b;
      ok &= (b & 0x7f80) != 0x7f80;
    }
  }
  return ok;
}

inline void qkv(const QkvArgs& a, int row, int head) {
  const float* x = a.qkv + row * a.qkv_stride;
  const int dim = a.cache.head_dim;
  if (head < a.heads)
    return norm_and_turn(a, x + head * dim, a.q_norm, row, a.q + row * a.q_stride + head * dim);
  const int h = head - a.heads, slot = a.slots[row];
  uint8_t* record = a.cache.base + static_cast<size_t>(slot / kPageTokens) * a.cache.page_bytes +
                    h * a.cache.record_bytes;
  float k[kMaxHeadDim];
  norm_and_turn(a, x + a.k_at + h * dim, a.k_norm, row, k);
  const bool key_ok = store_key(a.cache, record, slot % kPageTokens, k);
  const bool value_ok = store_value(a.cache, record, slot % kPageTokens, x + a.v_at + h * dim);
  if (!key_ok || !value_ok) __atomic_store_n(&a.nonfinite[row], uint8_t{1}, __ATOMIC_RELAXED);
}

}  // namespace argosy::ARGOSY_ISA
