// Integer dots on sixteen lanes, exact in int32: four products of 8 bits a lane, or two of 16.
#pragma once
#include <cstdint>

#include "../simd.h"
#if defined(__wasm_simd128__)
#include <wasm_simd128.h>
#endif

namespace argosy::ARGOSY_ISA {

// W: weights, four k of sixteen columns. Quad: the same four s8 inputs for every column.
// W16: two k of sixteen columns in 16 bits. Pair: the same two s16 inputs for every column.
// dot(acc, w, x): acc += sum over k of w[column][k] * x[k].

#if defined(__AVX512VNNI__)

// In assembly: GCC 12 takes broadcasts through general registers and copies the sums.
struct W {
  __m512i v;
};
struct Quad {
  __m512i v;
};
inline Quad load_quad(const void* a) {
  Quad x;
  __asm__("vpbroadcastd %1, %0" : "=v"(x.v) : "m"(*static_cast<const int32_t*>(a)));
  return x;
}
inline void dot(I32x16& acc, W w, Quad x) {
  __asm__("vpdpbusd %2, %1, %0" : "+v"(acc.v) : "v"(w.v), "v"(x.v));
}
// The broadcast within the instruction costs nothing while loads are few.
inline void dot(I32x16& acc, W w, const int8_t* a) {
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

using W16 = W;
using Pair = Quad;
inline W16 load_w16(const int8_t* p) {
  return {_mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
inline Pair load_pair(const int16_t* a) { return load_quad(a); }
inline void dot16(I32x16& acc, W16 w, Pair x) {
  __asm__("vpdpwssd %2, %1, %0" : "+v"(acc.v) : "v"(w.v), "v"(x.v));
}

#elif defined(__AVX2__)

struct W {
  __m256i a, b;
};
struct Quad {
  __m256i v;
};
inline Quad load_quad(const void* a) {
  int32_t four;
  std::memcpy(&four, a, 4);
  return {_mm256_set1_epi32(four)};
}
inline __m256i dot8(__m256i acc, __m256i w, __m256i x) {
  // vpmaddubsw wants one unsigned side: |w| * sign(x, w); at most 2*127*127, so nothing saturates.
  const __m256i p = _mm256_maddubs_epi16(_mm256_sign_epi8(w, w), _mm256_sign_epi8(x, w));
  return _mm256_add_epi32(acc, _mm256_madd_epi16(p, _mm256_set1_epi16(1)));
}
inline void dot(I32x16& acc, W w, Quad x) { acc = {dot8(acc.a, w.a, x.v), dot8(acc.b, w.b, x.v)}; }
inline void dot(I32x16& acc, W w, const int8_t* a) { dot(acc, w, load_quad(a)); }
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

using W16 = W;
using Pair = Quad;
inline W16 load_w16(const int8_t* p) {
  const auto* q = reinterpret_cast<const __m128i*>(p);
  return {_mm256_cvtepi8_epi16(_mm_loadu_si128(q)), _mm256_cvtepi8_epi16(_mm_loadu_si128(q + 1))};
}
inline Pair load_pair(const int16_t* a) { return load_quad(a); }
inline void dot16(I32x16& acc, W16 w, Pair x) {
  acc = {_mm256_add_epi32(acc.a, _mm256_madd_epi16(w.a, x.v)),
         _mm256_add_epi32(acc.b, _mm256_madd_epi16(w.b, x.v))};
}

#elif defined(__aarch64__) && !defined(ARGOSY_PLAIN)

// Four vectors of four columns each. Integers are signed here: w8 is re-signed on load, and sums
// start at 0.
struct W {
  int8x16_t v[4];
};
struct Quad {
  int8x16_t v;
};
inline Quad load_quad(const void* a) {
  int32_t four;
  std::memcpy(&four, a, 4);
  return {vreinterpretq_s8_s32(vdupq_n_s32(four))};
}
inline void dot(I32x16& acc, W w, Quad x) {
  for (int i = 0; i < 4; ++i) {
#if defined(__ARM_FEATURE_DOTPROD)
    acc.v[i] = vdotq_s32(acc.v[i], w.v[i], x.v);
#else
    const int16x8_t low = vmull_s8(vget_low_s8(w.v[i]), vget_low_s8(x.v));
    const int16x8_t high = vmull_high_s8(w.v[i], x.v);
    acc.v[i] = vaddq_s32(acc.v[i], vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)));
#endif
  }
}
inline W load_w8(const uint8_t* p) {
  W w;
  for (int i = 0; i < 4; ++i)
    w.v[i] = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(p + 16 * i), vdupq_n_u8(128)));
  return w;
}
inline void load_w4(const uint8_t* p, W& lo, W& hi) {
  for (int i = 0; i < 4; ++i) {
    const uint8x16_t v = vld1q_u8(p + 16 * i);
    lo.v[i] = vreinterpretq_s8_u8(vandq_u8(v, vdupq_n_u8(15)));
    hi.v[i] = vreinterpretq_s8_u8(vshrq_n_u8(v, 4));
  }
}
constexpr bool kSignedW8 = true;

struct W16 {
  int16x8_t v[4];
};
struct Pair {
  int16x8_t v;
};
inline W16 load_w16(const int8_t* p) {
  W16 w;
  for (int i = 0; i < 4; ++i) w.v[i] = vmovl_s8(vld1_s8(p + 8 * i));
  return w;
}
inline Pair load_pair(const int16_t* a) { return {vreinterpretq_s16_s8(load_quad(a).v)}; }
inline void dot16(I32x16& acc, W16 w, Pair x) {
  for (int i = 0; i < 4; ++i) {
    const int32x4_t low = vmull_s16(vget_low_s16(w.v[i]), vget_low_s16(x.v));
    acc.v[i] = vaddq_s32(acc.v[i], vpaddq_s32(low, vmull_high_s16(w.v[i], x.v)));
  }
}

#elif defined(__wasm_simd128__) && !defined(ARGOSY_PLAIN)

// As on Arm: four vectors of four columns, signed.
struct W {
  v128_t v[4];
};
struct Quad {
  v128_t v;
};
inline Quad load_quad(const void* a) { return {wasm_v128_load32_splat(a)}; }
inline void add(I32x16& acc, int i, v128_t x) {
  wasm_v128_store(acc.v + 4 * i, wasm_i32x4_add(wasm_v128_load(acc.v + 4 * i), x));
}
inline void dot(I32x16& acc, const W& w, Quad x) {
  for (int i = 0; i < 4; ++i) {
    const v128_t low = wasm_i32x4_extadd_pairwise_i16x8(wasm_i16x8_extmul_low_i8x16(w.v[i], x.v));
    const v128_t high = wasm_i32x4_extadd_pairwise_i16x8(wasm_i16x8_extmul_high_i8x16(w.v[i], x.v));
    add(acc, i,
        wasm_i32x4_add(wasm_i32x4_shuffle(low, high, 0, 2, 4, 6),
                       wasm_i32x4_shuffle(low, high, 1, 3, 5, 7)));
  }
}
inline W load_w8(const uint8_t* p) {
  W w;
  for (int i = 0; i < 4; ++i)
    w.v[i] = wasm_v128_xor(wasm_v128_load(p + 16 * i), wasm_i8x16_splat(-128));
  return w;
}
inline void load_w4(const uint8_t* p, W& lo, W& hi) {
  for (int i = 0; i < 4; ++i) {
    const v128_t v = wasm_v128_load(p + 16 * i);
    lo.v[i] = wasm_v128_and(v, wasm_i8x16_splat(15));
    hi.v[i] = wasm_u8x16_shr(v, 4);
  }
}
constexpr bool kSignedW8 = true;

using W16 = W;
using Pair = Quad;
inline W16 load_w16(const int8_t* p) {
  W16 w;
  for (int i = 0; i < 4; ++i) w.v[i] = wasm_i16x8_load8x8(p + 8 * i);
  return w;
}
inline Pair load_pair(const int16_t* a) { return load_quad(a); }
inline void dot16(I32x16& acc, const W16& w, Pair x) {
  for (int i = 0; i < 4; ++i) add(acc, i, wasm_i32x4_dot_i16x8(w.v[i], x.v));
}

#else

struct W {
  uint8_t v[64];
};
struct Quad {
  int8_t v[4];
};
inline Quad load_quad(const void* a) {
  Quad x;
  std::memcpy(x.v, a, 4);
  return x;
}
inline void dot(I32x16& acc, const W& w, const int8_t* a) {
  for (int c = 0; c < 16; ++c)
    acc.v[c] +=
        w.v[4 * c] * a[0] + w.v[4 * c + 1] * a[1] + w.v[4 * c + 2] * a[2] + w.v[4 * c + 3] * a[3];
}
inline void dot(I32x16& acc, const W& w, const Quad& x) { dot(acc, w, x.v); }
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

struct W16 {
  int8_t v[32];
};
struct Pair {
  int16_t v[2];
};
inline W16 load_w16(const int8_t* p) {
  W16 w;
  std::memcpy(w.v, p, 32);
  return w;
}
inline Pair load_pair(const int16_t* a) { return {{a[0], a[1]}}; }
inline void dot16(I32x16& acc, const W16& w, const Pair& x) {
  for (int c = 0; c < 16; ++c) acc.v[c] += w.v[2 * c] * x.v[0] + w.v[2 * c + 1] * x.v[1];
}

#endif

}  // namespace argosy::ARGOSY_ISA
