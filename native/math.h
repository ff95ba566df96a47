// Elementary functions and the noise of a draw, our own so that every build gives the same bits.
//
// Plain C++17 without libm, branches or fused multiply-adds, compiled with -ffp-contract=off: each
// function is a fixed sequence of IEEE operations, the same on SSE2, AVX2, AVX-512, NEON and WASM,
// and a loop over it vectorizes (GCC 12 below AVX-512 needs -fno-trapping-math for that, which
// changes no result). runtime/reference/elementary.py repeats them operation by operation in NumPy,
// so tokens and logprobs of the two runtimes can be compared exactly.
//
//   exp_f32   Cody-Waite reduction by ln 2, polynomial of degree 6; at most 0.97 ulp.
//             Exactly 0 below -86.99 (exp is 1.7e-38 there: no denormals), +inf above 88.72.
//   log_f32   polynomial of degree 10 on [sqrt(1/2), sqrt(2)); at most 0.86 ulp.
//             -inf for zeros and denormals, NaN below zero.
//   sincos_f64  reduction by pi/2 in three parts for |x| <= 2^20, polynomials of fdlibm; at most
//             0.8 ulp. NaN and infinities give NaN.
//   gumbel    noise of (seed, position, id). A row's key is two splitmix64 finalisers over seed and
//             position; its halves enter a 32-bit finaliser of three multiplications (triple32)
//             over the id, so that the work per id is 32 bits wide on every device:
//               k = mix64(mix64(seed + G) + G * (position + 1))        G = 2^64 / golden ratio
//               h = id ^ lo(k);  h ^= h >> 17;  h *= 0xed5ad4bb;  h += hi(k)
//               h ^= h >> 11;  h *= 0xac4c1b51;  h ^= h >> 15;  h *= 0x31848bab;  h ^= h >> 14
//               w = min((float(h >> 1) + 0.5) * 2^-31, 1 - 2^-24)      in (0, 1)
//               g = -log(-log1p(-w))                                   in [-2.82, 22.19)
//             The large values, which win draws, come from small w and keep 24 bits there.
//
// Sources: Cody and Waite 1980; Steele, Lea and Flood 2014 (splitmix64); C. Wellons, "Prospecting
// for hash functions" (triple32); Gumbel 1954, Maddison et al. 2014, arXiv:1411.0030.
//
// Several translation units include this with different instruction sets: each sets ARGOSY_ISA_NS,
// and everything has internal linkage, so that no linker merges code compiled for another ISA.
#pragma once

#include <cstdint>

#ifdef __FAST_MATH__
#error "the numeric contract forbids -ffast-math"
#endif

#ifndef ARGOSY_ISA_NS
#define ARGOSY_ISA_NS base
#endif

namespace argosy {
inline namespace ARGOSY_ISA_NS {

template <class To, class From>
static inline To bits_as(From value) {
  static_assert(sizeof(To) == sizeof(From));
  return __builtin_bit_cast(To, value);
}

static inline float exp_f32(float x) {
  // Clamped so that n stays in [-126, 128]; both comparisons let NaN through.
  float t = x < -87.5f ? -87.5f : x;
  t = t > 89.0f ? 89.0f : t;
  // Adding 1.5 * 2^23 rounds to a whole number; 126 more leaves the biased exponent of 2^(n-1) in
  // the low bits.
  const float magic = 12582912.0f + 126.0f;
  const float shifted = t * 1.44269504f + magic;
  const float n = shifted - magic;
  const float r = (t - n * 0x1.62e4p-1f) - n * 0x1.7f7d1cp-20f;
  float q = 0x1.6a2430p-10f;
  q = q * r + 0x1.1239e4p-7f;
  q = q * r + 0x1.5558f2p-5f;
  q = q * r + 0x1.555492p-3f;
  q = q * r + 0x1.fffffcp-2f;
  const float p = (r + (r * r) * q) + 1.0f;
  // n = -126 meets the scale zero: what would be nearly denormal is exactly 0.
  const float scale = bits_as<float>(bits_as<uint32_t>(shifted) << 23);
  return (p + p) * scale;
}

static inline float log_f32(float x) {
  const uint32_t bits = bits_as<uint32_t>(x);
  const uint32_t exponent = (bits - 0x3f3504f3u) & 0xff800000u;  // x / 2^e in [sqrt(1/2), sqrt(2))
  const float e = static_cast<float>(static_cast<int32_t>(exponent) >> 23);
  const float f = bits_as<float>(bits - exponent) - 1.0f;
  float q = -0x1.38b4ccp-4f;
  q = q * f + 0x1.055b46p-3f;
  q = q * f - 0x1.0d8552p-3f;
  q = q * f + 0x1.22da22p-3f;
  q = q * f - 0x1.547244p-3f;
  q = q * f + 0x1.99a008p-3f;
  q = q * f - 0x1.000228p-2f;
  q = q * f + 0x1.555554p-2f;
  const float square = f * f;
  const float small = ((f * square) * q + e * 0x1.7f7d1cp-20f) - 0.5f * square;
  float y = (f + small) + e * 0x1.62e4p-1f;
  y = x > 3.4028235e38f ? x : y;                         // +inf
  y = x < 1.17549435e-38f ? -__builtin_huge_valf() : y;  // zeros and denormals
  y = x < 0.0f ? __builtin_nanf("") : y;
  return x != x ? x : y;
}

static inline void sincos_f64(double x, double* sine, double* cosine) {
  const double magic = 6755399441055744.0;  // 1.5 * 2^52: the sum's low bits count quarter turns
  const double shifted = x * 0.63661977236758134308 + magic;
  const double n = shifted - magic;
  const uint64_t quadrant = bits_as<uint64_t>(shifted);
  // pi/2 = 33 bits + 33 bits + the rest; n has 20 bits, so the first two products are exact.
  const double a = x - n * 1.57079632673412561417e+00;
  const double b = n * 6.07710050630396597660e-11;
  const double c = a - b;
  const double rest = ((a - c) - b) - n * 2.02226624879595063154e-21;
  const double r = c + rest;
  const double lo = (c - r) + rest;
  const double z = r * r;
  const double ps = 8.33333333332248946124e-03 +
                    z * (-1.98412698298579493134e-04 +
                         z * (2.75573137070700676789e-06 +
                              z * (-2.50507602534068634195e-08 + z * 1.58969099521155010221e-10)));
  const double s =
      r - ((z * (0.5 * lo - (z * r) * ps) - lo) + (z * r) * 1.66666666666666324348e-01);
  const double pc =
      z * (4.16666666666666019037e-02 +
           z * (-1.38888888888741095749e-03 +
                z * (2.48015872894767294178e-05 +
                     z * (-2.75573143513906633035e-07 +
                          z * (2.08757232129817482790e-09 + z * -1.13596475577881948265e-11)))));
  const double half = 0.5 * z;
  const double top = 1.0 - half;
  const double co = top + (((1.0 - top) - half) + (z * pc - r * lo));
  const bool swapped = (quadrant & 1) != 0;
  const double first = swapped ? co : s;
  const double second = swapped ? s : co;
  *sine = (quadrant & 2) != 0 ? -first : first;
  *cosine = ((quadrant + 1) & 2) != 0 ? -second : second;
}

static inline uint64_t mix64(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

static inline uint64_t gumbel_key(uint64_t seed, uint32_t position) {
  const uint64_t golden = 0x9e3779b97f4a7c15u;
  return mix64(mix64(seed + golden) + golden * (static_cast<uint64_t>(position) + 1));
}

static inline uint32_t gumbel_hash(uint64_t key, uint32_t id) {
  uint32_t h = id ^ static_cast<uint32_t>(key);
  h ^= h >> 17;
  h *= 0xed5ad4bbu;
  h += static_cast<uint32_t>(key >> 32);
  h ^= h >> 11;
  h *= 0xac4c1b51u;
  h ^= h >> 15;
  h *= 0x31848babu;
  return h ^ (h >> 14);
}

// Falls with h: noise above a level means a hash below one.
static inline float gumbel_of_hash(uint32_t h) {
  float w = (static_cast<float>(static_cast<int32_t>(h >> 1)) + 0.5f) * 0x1p-31f;
  w = w > 0x1.fffffep-1f ? 0x1.fffffep-1f : w;
  const float u = 1.0f - w;
  const float lost = (1.0f - u) - w;  // exactly what rounding u lost
  return -log_f32(-(log_f32(u) + lost / u));
}

static inline float gumbel(uint64_t key, uint32_t id) {
  return gumbel_of_hash(gumbel_hash(key, id));
}

}  // namespace ARGOSY_ISA_NS
}  // namespace argosy
