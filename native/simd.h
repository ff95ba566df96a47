// Sixteen fp32 or int32 lanes, the same arithmetic on every ISA.
//
// Each ISA's translation unit includes this inside its own namespace (ARGOSY_ISA), so that code
// compiled for one processor is never linked into another's. A lane's result is the same on all of
// them: fma is a true fused multiply-add everywhere, horizontal sums have one order.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__) && !defined(ARGOSY_PLAIN)
#include <arm_neon.h>
#endif

#ifndef ARGOSY_ISA
#error "define ARGOSY_ISA before including a kernel header"
#endif

namespace argosy::ARGOSY_ISA {

constexpr int kLanes = 16;

inline float half_to_float(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16, mag = h & 0x7fff;
  uint32_t bits = (mag << 13) + ((127 - 15) << 23);
  if (mag >= 0x7c00) bits = (mag << 13) | 0x7f800000;  // infinity and NaN
  float f;
  if (mag < 0x0400) {  // subnormal: mag * 2^-24 is exact
    f = static_cast<float>(mag) * 0x1p-24f;
    std::memcpy(&bits, &f, 4);
  }
  bits |= sign;
  std::memcpy(&f, &bits, 4);
  return f;
}

inline float bf16_to_float(uint16_t b) {
  const uint32_t bits = static_cast<uint32_t>(b) << 16;
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}

// Nearest even; a NaN stays one.
inline uint16_t float_to_bf16(float f) {
  uint32_t u;
  std::memcpy(&u, &f, 4);
  if ((u & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>((u >> 16) | 0x40);
  return static_cast<uint16_t>((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

#if defined(__AVX512F__)

struct I32x16 {
  __m512i v;
  static I32x16 set1(int32_t x) { return {_mm512_set1_epi32(x)}; }
  static I32x16 load(const void* p) { return {_mm512_loadu_si512(p)}; }
  friend I32x16 operator+(I32x16 x, I32x16 y) { return {_mm512_add_epi32(x.v, y.v)}; }
};
struct F32x16 {
  __m512 v;
  static F32x16 set1(float x) { return {_mm512_set1_ps(x)}; }
  static F32x16 load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static F32x16 load_half(const void* p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p)))};
  }
  static F32x16 from(I32x16 i) { return {_mm512_cvtepi32_ps(i.v)}; }
  // Lanes of a bf16 pair cell: the first (even) and second (odd) of each 32-bit lane.
  static F32x16 even_bf16(const void* p) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(p), 16))};
  }
  static F32x16 odd_bf16(const void* p) {
    return {
        _mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(p), _mm512_set1_epi32(~0xffff)))};
  }
  void store(float* p) const { _mm512_storeu_ps(p, v); }
  friend F32x16 operator+(F32x16 a, F32x16 b) { return {_mm512_add_ps(a.v, b.v)}; }
  friend F32x16 operator-(F32x16 a, F32x16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
  friend F32x16 operator*(F32x16 a, F32x16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
  friend F32x16 operator/(F32x16 a, F32x16 b) { return {_mm512_div_ps(a.v, b.v)}; }
};
inline F32x16 fma(F32x16 a, F32x16 b, F32x16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
// Lane by lane a > b ? a : b, which passes a NaN in `a` over.
inline F32x16 max(F32x16 a, F32x16 b) { return {_mm512_max_ps(a.v, b.v)}; }
// x * 2^n, n + 127 in the lowest bits of the pattern of `shifted`.
inline F32x16 times_power(F32x16 x, F32x16 shifted) {
  const __m512i bits = _mm512_slli_epi32(_mm512_castps_si512(shifted.v), 23);
  return {_mm512_mul_ps(x.v, _mm512_castsi512_ps(bits))};
}
// 0 where x < limit, else y.
inline F32x16 zero_below(F32x16 x, F32x16 limit, F32x16 y) {
  return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x.v, limit.v, _CMP_NLT_UQ), y.v)};
}
// Of bit patterns without sign: a NaN is larger than any number.
inline I32x16 max_abs(I32x16 m, F32x16 x) {
  const __m512i a = _mm512_and_si512(_mm512_castps_si512(x.v), _mm512_set1_epi32(0x7fffffff));
  return {_mm512_max_epi32(m.v, a)};
}
// To the nearest, ties to even; |x| is at most 2^22.
inline I32x16 round(F32x16 x) { return {_mm512_cvtps_epi32(x.v)}; }
inline void store_s8(I32x16 x, int8_t* out) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm512_cvtepi32_epi8(x.v));
}
inline void store_s16(I32x16 x, int16_t* out) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm512_cvtepi32_epi16(x.v));
}
inline int32_t sum(I32x16 x) { return _mm512_reduce_add_epi32(x.v); }
// One order for every ISA: lane i + lane i+8, then +4, +2, +1.
inline float sum(F32x16 x) {
  const __m256d high = _mm512_extractf64x4_pd(_mm512_castps_pd(x.v), 1);
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(x.v), _mm256_castpd_ps(high));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline int32_t max_lane(I32x16 x) { return _mm512_reduce_max_epi32(x.v); }
inline float max_lane(F32x16 x) { return _mm512_reduce_max_ps(x.v); }

#elif defined(__AVX2__)

struct I32x16 {
  __m256i a, b;
  static I32x16 set1(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
  static I32x16 load(const void* p) {
    const auto* q = static_cast<const __m256i*>(p);
    return {_mm256_loadu_si256(q), _mm256_loadu_si256(q + 1)};
  }
  friend I32x16 operator+(I32x16 x, I32x16 y) {
    return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)};
  }
};
struct F32x16 {
  __m256 a, b;
  static F32x16 set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static F32x16 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static F32x16 load_half(const void* p) {
    const auto* q = static_cast<const __m128i*>(p);
    return {_mm256_cvtph_ps(_mm_loadu_si128(q)), _mm256_cvtph_ps(_mm_loadu_si128(q + 1))};
  }
  static F32x16 from(I32x16 i) { return {_mm256_cvtepi32_ps(i.a), _mm256_cvtepi32_ps(i.b)}; }
  static F32x16 even_bf16(const void* p) {
    const I32x16 i = I32x16::load(p);
    return {_mm256_castsi256_ps(_mm256_slli_epi32(i.a, 16)),
            _mm256_castsi256_ps(_mm256_slli_epi32(i.b, 16))};
  }
  static F32x16 odd_bf16(const void* p) {
    const I32x16 i = I32x16::load(p);
    const __m256i mask = _mm256_set1_epi32(~0xffff);
    return {_mm256_castsi256_ps(_mm256_and_si256(i.a, mask)),
            _mm256_castsi256_ps(_mm256_and_si256(i.b, mask))};
  }
  void store(float* p) const {
    _mm256_storeu_ps(p, a);
    _mm256_storeu_ps(p + 8, b);
  }
  friend F32x16 operator+(F32x16 x, F32x16 y) {
    return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)};
  }
  friend F32x16 operator-(F32x16 x, F32x16 y) {
    return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)};
  }
  friend F32x16 operator*(F32x16 x, F32x16 y) {
    return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)};
  }
  friend F32x16 operator/(F32x16 x, F32x16 y) {
    return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)};
  }
};
inline F32x16 fma(F32x16 x, F32x16 y, F32x16 z) {
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
inline F32x16 max(F32x16 x, F32x16 y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
inline __m256 power(__m256 shifted) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(shifted), 23));
}
inline F32x16 times_power(F32x16 x, F32x16 shifted) {
  return {_mm256_mul_ps(x.a, power(shifted.a)), _mm256_mul_ps(x.b, power(shifted.b))};
}
inline F32x16 zero_below(F32x16 x, F32x16 limit, F32x16 y) {
  return {_mm256_andnot_ps(_mm256_cmp_ps(x.a, limit.a, _CMP_LT_OQ), y.a),
          _mm256_andnot_ps(_mm256_cmp_ps(x.b, limit.b, _CMP_LT_OQ), y.b)};
}
inline I32x16 max_abs(I32x16 m, F32x16 x) {
  const __m256i mask = _mm256_set1_epi32(0x7fffffff);
  return {_mm256_max_epi32(m.a, _mm256_and_si256(_mm256_castps_si256(x.a), mask)),
          _mm256_max_epi32(m.b, _mm256_and_si256(_mm256_castps_si256(x.b), mask))};
}
inline I32x16 round(F32x16 x) { return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }
inline __m256i to_s16(I32x16 x) {
  return _mm256_permute4x64_epi64(_mm256_packs_epi32(x.a, x.b), 0xd8);
}
inline void store_s8(I32x16 x, int8_t* out) {
  const __m256i y = to_s16(x);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out),
                   _mm_packs_epi16(_mm256_castsi256_si128(y), _mm256_extracti128_si256(y, 1)));
}
inline void store_s16(I32x16 x, int16_t* out) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), to_s16(x));
}

#elif defined(__aarch64__) && !defined(ARGOSY_PLAIN)

struct I32x16 {
  int32x4_t v[4];
  template <class Fn>
  static I32x16 make(Fn fn) {
    return {{fn(0), fn(1), fn(2), fn(3)}};
  }
  static I32x16 set1(int32_t x) {
    return make([=](int) { return vdupq_n_s32(x); });
  }
  static I32x16 load(const void* p) {
    return make([=](int i) { return vld1q_s32(static_cast<const int32_t*>(p) + 4 * i); });
  }
  friend I32x16 operator+(I32x16 x, I32x16 y) {
    return make([&](int i) { return vaddq_s32(x.v[i], y.v[i]); });
  }
};
struct F32x16 {
  float32x4_t v[4];
  template <class Fn>
  static F32x16 make(Fn fn) {
    return {{fn(0), fn(1), fn(2), fn(3)}};
  }
  static F32x16 set1(float x) {
    return make([=](int) { return vdupq_n_f32(x); });
  }
  static F32x16 load(const float* p) {
    return make([=](int i) { return vld1q_f32(p + 4 * i); });
  }
  static F32x16 load_half(const void* p) {
    return make([=](int i) {
      return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(static_cast<const uint16_t*>(p) + 4 * i)));
    });
  }
  static F32x16 from(I32x16 x) {
    return make([&](int i) { return vcvtq_f32_s32(x.v[i]); });
  }
  static F32x16 even_bf16(const void* p) {
    return make([=](int i) {
      return vreinterpretq_f32_u32(
          vshlq_n_u32(vld1q_u32(static_cast<const uint32_t*>(p) + 4 * i), 16));
    });
  }
  static F32x16 odd_bf16(const void* p) {
    return make([=](int i) {
      return vreinterpretq_f32_u32(
          vandq_u32(vld1q_u32(static_cast<const uint32_t*>(p) + 4 * i), vdupq_n_u32(~0xffffu)));
    });
  }
  void store(float* p) const {
    for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, v[i]);
  }
  friend F32x16 operator+(F32x16 a, F32x16 b) {
    return make([&](int i) { return vaddq_f32(a.v[i], b.v[i]); });
  }
  friend F32x16 operator-(F32x16 a, F32x16 b) {
    return make([&](int i) { return vsubq_f32(a.v[i], b.v[i]); });
  }
  friend F32x16 operator*(F32x16 a, F32x16 b) {
    return make([&](int i) { return vmulq_f32(a.v[i], b.v[i]); });
  }
  friend F32x16 operator/(F32x16 a, F32x16 b) {
    return make([&](int i) { return vdivq_f32(a.v[i], b.v[i]); });
  }
};
inline F32x16 fma(F32x16 a, F32x16 b, F32x16 c) {
  return F32x16::make([&](int i) { return vfmaq_f32(c.v[i], a.v[i], b.v[i]); });
}
inline F32x16 max(F32x16 a, F32x16 b) {
  return F32x16::make([&](int i) { return vbslq_f32(vcgtq_f32(a.v[i], b.v[i]), a.v[i], b.v[i]); });
}
inline F32x16 times_power(F32x16 x, F32x16 shifted) {
  return F32x16::make([&](int i) {
    const int32x4_t bits = vshlq_n_s32(vreinterpretq_s32_f32(shifted.v[i]), 23);
    return vmulq_f32(x.v[i], vreinterpretq_f32_s32(bits));
  });
}
inline F32x16 zero_below(F32x16 x, F32x16 limit, F32x16 y) {
  return F32x16::make([&](int i) {
    const uint32x4_t below = vcltq_f32(x.v[i], limit.v[i]);
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(y.v[i]), below));
  });
}
inline I32x16 max_abs(I32x16 m, F32x16 x) {
  return I32x16::make(
      [&](int i) { return vmaxq_s32(m.v[i], vreinterpretq_s32_f32(vabsq_f32(x.v[i]))); });
}
inline I32x16 round(F32x16 x) {
  return I32x16::make([&](int i) { return vcvtnq_s32_f32(x.v[i]); });
}
inline int16x8_t to_s16(I32x16 x, int half) {
  return vcombine_s16(vmovn_s32(x.v[2 * half]), vmovn_s32(x.v[2 * half + 1]));
}
inline void store_s8(I32x16 x, int8_t* out) {
  vst1q_s8(out, vcombine_s8(vmovn_s16(to_s16(x, 0)), vmovn_s16(to_s16(x, 1))));
}
inline void store_s16(I32x16 x, int16_t* out) {
  vst1q_s16(out, to_s16(x, 0));
  vst1q_s16(out + 8, to_s16(x, 1));
}

#else  // plain C++: the twin of those above, and what other processors run

struct I32x16 {
  int32_t v[16];
  static I32x16 set1(int32_t x) {
    I32x16 r;
    for (int32_t& e : r.v) e = x;
    return r;
  }
  static I32x16 load(const void* p) {
    I32x16 r;
    std::memcpy(r.v, p, sizeof r.v);
    return r;
  }
  friend I32x16 operator+(I32x16 x, const I32x16& y) {
    for (int i = 0; i < 16; ++i) x.v[i] += y.v[i];
    return x;
  }
};
struct F32x16 {
  float v[16];
  template <class Fn>
  static F32x16 make(Fn fn) {
    F32x16 r;
    for (int i = 0; i < 16; ++i) r.v[i] = fn(i);
    return r;
  }
  static F32x16 set1(float x) {
    return make([=](int) { return x; });
  }
  static F32x16 load(const float* p) {
    return make([=](int i) { return p[i]; });
  }
  static F32x16 load_half(const void* p) {
    uint16_t h[16];
    std::memcpy(h, p, sizeof h);
    return make([&](int i) { return half_to_float(h[i]); });
  }
  static F32x16 from(I32x16 x) {
    return make([&](int i) { return static_cast<float>(x.v[i]); });
  }
  static F32x16 even_bf16(const void* p) {
    uint16_t h[32];
    std::memcpy(h, p, sizeof h);
    return make([&](int i) { return bf16_to_float(h[2 * i]); });
  }
  static F32x16 odd_bf16(const void* p) {
    uint16_t h[32];
    std::memcpy(h, p, sizeof h);
    return make([&](int i) { return bf16_to_float(h[2 * i + 1]); });
  }
  void store(float* p) const { std::memcpy(p, v, sizeof v); }
  friend F32x16 operator+(F32x16 a, F32x16 b) {
    return make([&](int i) { return a.v[i] + b.v[i]; });
  }
  friend F32x16 operator-(F32x16 a, F32x16 b) {
    return make([&](int i) { return a.v[i] - b.v[i]; });
  }
  friend F32x16 operator*(F32x16 a, F32x16 b) {
    return make([&](int i) { return a.v[i] * b.v[i]; });
  }
  friend F32x16 operator/(F32x16 a, F32x16 b) {
    return make([&](int i) { return a.v[i] / b.v[i]; });
  }
};
inline F32x16 fma(F32x16 a, F32x16 b, F32x16 c) {
  return F32x16::make([&](int i) { return __builtin_fmaf(a.v[i], b.v[i], c.v[i]); });
}
inline F32x16 max(F32x16 a, F32x16 b) {
  return F32x16::make([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline F32x16 times_power(F32x16 x, F32x16 shifted) {
  for (int i = 0; i < 16; ++i) {
    uint32_t bits;
    std::memcpy(&bits, &shifted.v[i], 4);
    bits <<= 23;
    float power;
    std::memcpy(&power, &bits, 4);
    x.v[i] *= power;
  }
  return x;
}
inline F32x16 zero_below(F32x16 x, F32x16 limit, F32x16 y) {
  return F32x16::make([&](int i) { return x.v[i] < limit.v[i] ? 0.0f : y.v[i]; });
}
inline I32x16 max_abs(I32x16 m, F32x16 x) {
  for (int i = 0; i < 16; ++i) {
    int32_t b;
    std::memcpy(&b, &x.v[i], 4);
    b &= 0x7fffffff;
    m.v[i] = b > m.v[i] ? b : m.v[i];
  }
  return m;
}
inline I32x16 round(F32x16 x) {  // adding 1.5 * 2^23 rounds in place
  I32x16 r;
  for (int i = 0; i < 16; ++i) {
    const float f = x.v[i] + 12582912.0f;
    std::memcpy(&r.v[i], &f, 4);
    r.v[i] -= 0x4b400000;
  }
  return r;
}
inline void store_s8(I32x16 x, int8_t* out) {
  for (int i = 0; i < 16; ++i) out[i] = static_cast<int8_t>(x.v[i]);
}
inline void store_s16(I32x16 x, int16_t* out) {
  for (int i = 0; i < 16; ++i) out[i] = static_cast<int16_t>(x.v[i]);
}

#endif

inline void store(I32x16 x, int32_t* p) { std::memcpy(p, &x, 64); }

#if !defined(__AVX512F__)
inline float sum(F32x16 x) {
  float t[16];
  x.store(t);
  for (int w = 8; w; w >>= 1)
    for (int i = 0; i < w; ++i) t[i] += t[i + w];
  return t[0];
}
inline int32_t sum(I32x16 x) {
  int32_t t[16], s = 0;
  store(x, t);
  for (const int32_t e : t) s += e;
  return s;
}
inline int32_t max_lane(I32x16 x) {
  int32_t t[16];
  store(x, t);
  int32_t m = t[0];
  for (const int32_t e : t) m = e > m ? e : m;
  return m;
}
inline float max_lane(F32x16 x) {
  float t[16];
  x.store(t);
  float m = t[0];
  for (const float e : t) m = e > m ? e : m;
  return m;
}
#endif

// The largest of the magnitudes whose bit patterns `max_abs` gathered.
inline float max_value(I32x16 bits) {
  const int32_t m = max_lane(bits);
  float f;
  std::memcpy(&f, &m, 4);
  return f;
}

}  // namespace argosy::ARGOSY_ISA
