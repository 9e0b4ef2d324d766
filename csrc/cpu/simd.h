// Sixteen floats at once, the same text for every instruction set. A file that includes this defines AVATAR_LANES_ISA as
// 512, 256 or 0 and is compiled with the matching flags (setup.py). Everything lives in an anonymous namespace and only
// intrinsics headers are included, so that no wide code leaks into files compiled for plain processors.
#pragma once

#include <cstdint>

#if AVATAR_LANES_ISA != 0
#include <immintrin.h>
#endif

#define AVATAR_INLINE inline __attribute__((always_inline))

namespace avatar {
namespace {

constexpr int LANES = 16;

#if AVATAR_LANES_ISA == 512

struct Mask { __mmask16 v; };
struct F16 {
  __m512 v;
  AVATAR_INLINE F16() {}
  AVATAR_INLINE F16(__m512 x) : v(x) {}
  AVATAR_INLINE F16(float x) : v(_mm512_set1_ps(x)) {}
};
AVATAR_INLINE F16 load(const float* p) { return _mm512_loadu_ps(p); }
AVATAR_INLINE void store(float* p, F16 a) { _mm512_storeu_ps(p, a.v); }
AVATAR_INLINE F16 operator+(F16 a, F16 b) { return _mm512_add_ps(a.v, b.v); }
AVATAR_INLINE F16 operator-(F16 a, F16 b) { return _mm512_sub_ps(a.v, b.v); }
AVATAR_INLINE F16 operator*(F16 a, F16 b) { return _mm512_mul_ps(a.v, b.v); }
AVATAR_INLINE F16 operator/(F16 a, F16 b) { return _mm512_div_ps(a.v, b.v); }
AVATAR_INLINE F16 fma(F16 a, F16 b, F16 c) { return _mm512_fmadd_ps(a.v, b.v, c.v); }    // a b + c
AVATAR_INLINE F16 fnma(F16 a, F16 b, F16 c) { return _mm512_fnmadd_ps(a.v, b.v, c.v); }  // c - a b
AVATAR_INLINE F16 min(F16 a, F16 b) { return _mm512_min_ps(a.v, b.v); }
AVATAR_INLINE F16 max(F16 a, F16 b) { return _mm512_max_ps(a.v, b.v); }
AVATAR_INLINE F16 sqrt(F16 a) { return _mm512_sqrt_ps(a.v); }
AVATAR_INLINE Mask operator<(F16 a, F16 b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
AVATAR_INLINE Mask operator<=(F16 a, F16 b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LE_OQ)}; }
AVATAR_INLINE Mask operator>(F16 a, F16 b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ)}; }
AVATAR_INLINE Mask operator>=(F16 a, F16 b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ)}; }
AVATAR_INLINE Mask operator&(Mask a, Mask b) { return {static_cast<__mmask16>(a.v & b.v)}; }
AVATAR_INLINE F16 select(Mask m, F16 a, F16 b) { return _mm512_mask_mov_ps(b.v, m.v, a.v); }
AVATAR_INLINE F16 keep(Mask m, F16 a) { return _mm512_maskz_mov_ps(m.v, a.v); }  // zero elsewhere
AVATAR_INLINE uint32_t bits(Mask m) { return m.v; }
AVATAR_INLINE F16 reciprocal(F16 a) {  // 14 bits and one Newton step
  const __m512 r = _mm512_rcp14_ps(a.v);
  return _mm512_mul_ps(r, _mm512_fnmadd_ps(a.v, r, _mm512_set1_ps(2.0f)));
}
AVATAR_INLINE F16 round_to_int(F16 a) {
  return _mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
AVATAR_INLINE F16 scale_by_power(F16 a, F16 n) { return _mm512_scalef_ps(a.v, n.v); }  // a 2^n
AVATAR_INLINE F16 split_exponent(F16 a, F16& mantissa) {  // a = mantissa 2^exponent, mantissa in [1, 2)
  mantissa = _mm512_getmant_ps(a.v, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_src);
  return _mm512_getexp_ps(a.v);
}
AVATAR_INLINE F16 merge_adjacent(F16 a, F16 b) {
  return _mm512_add_ps(_mm512_unpacklo_ps(a.v, b.v), _mm512_unpackhi_ps(a.v, b.v));
}
AVATAR_INLINE F16 merge_pairs(F16 a, F16 b) {
  const __m512d x = _mm512_castps_pd(a.v), y = _mm512_castps_pd(b.v);
  return _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)), _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)));
}
AVATAR_INLINE F16 merge_even_quarters(F16 a, F16 b) {
  return _mm512_add_ps(_mm512_shuffle_f32x4(a.v, b.v, 0x88), _mm512_shuffle_f32x4(a.v, b.v, 0xDD));
}

#elif AVATAR_LANES_ISA == 256

struct Mask { __m256 lo, hi; };
struct F16 {
  __m256 lo, hi;
  AVATAR_INLINE F16() {}
  AVATAR_INLINE F16(__m256 l, __m256 h) : lo(l), hi(h) {}
  AVATAR_INLINE F16(float x) : lo(_mm256_set1_ps(x)), hi(lo) {}
};
AVATAR_INLINE F16 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
AVATAR_INLINE void store(float* p, F16 a) { _mm256_storeu_ps(p, a.lo); _mm256_storeu_ps(p + 8, a.hi); }
AVATAR_INLINE F16 operator+(F16 a, F16 b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
AVATAR_INLINE F16 operator-(F16 a, F16 b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
AVATAR_INLINE F16 operator*(F16 a, F16 b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
AVATAR_INLINE F16 operator/(F16 a, F16 b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
AVATAR_INLINE F16 fma(F16 a, F16 b, F16 c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
AVATAR_INLINE F16 fnma(F16 a, F16 b, F16 c) {
  return {_mm256_fnmadd_ps(a.lo, b.lo, c.lo), _mm256_fnmadd_ps(a.hi, b.hi, c.hi)};
}
AVATAR_INLINE F16 min(F16 a, F16 b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
AVATAR_INLINE F16 max(F16 a, F16 b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
AVATAR_INLINE F16 sqrt(F16 a) { return {_mm256_sqrt_ps(a.lo), _mm256_sqrt_ps(a.hi)}; }
#define AVATAR_COMPARE(op, code)                                                                     \
  AVATAR_INLINE Mask operator op(F16 a, F16 b) {                                                     \
    return {_mm256_cmp_ps(a.lo, b.lo, code), _mm256_cmp_ps(a.hi, b.hi, code)};                       \
  }
AVATAR_COMPARE(<, _CMP_LT_OQ)
AVATAR_COMPARE(<=, _CMP_LE_OQ)
AVATAR_COMPARE(>, _CMP_GT_OQ)
AVATAR_COMPARE(>=, _CMP_GE_OQ)
#undef AVATAR_COMPARE
AVATAR_INLINE Mask operator&(Mask a, Mask b) { return {_mm256_and_ps(a.lo, b.lo), _mm256_and_ps(a.hi, b.hi)}; }
AVATAR_INLINE F16 select(Mask m, F16 a, F16 b) {
  return {_mm256_blendv_ps(b.lo, a.lo, m.lo), _mm256_blendv_ps(b.hi, a.hi, m.hi)};
}
AVATAR_INLINE F16 keep(Mask m, F16 a) { return {_mm256_and_ps(m.lo, a.lo), _mm256_and_ps(m.hi, a.hi)}; }
AVATAR_INLINE uint32_t bits(Mask m) {
  return static_cast<uint32_t>(_mm256_movemask_ps(m.lo)) | static_cast<uint32_t>(_mm256_movemask_ps(m.hi)) << 8;
}
AVATAR_INLINE F16 reciprocal(F16 a) {  // 12 bits and one Newton step
  const __m256 two = _mm256_set1_ps(2.0f), l = _mm256_rcp_ps(a.lo), h = _mm256_rcp_ps(a.hi);
  return {_mm256_mul_ps(l, _mm256_fnmadd_ps(a.lo, l, two)), _mm256_mul_ps(h, _mm256_fnmadd_ps(a.hi, h, two))};
}
AVATAR_INLINE F16 round_to_int(F16 a) {
  constexpr int mode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(a.lo, mode), _mm256_round_ps(a.hi, mode)};
}
AVATAR_INLINE __m256 scale_half(__m256 a, __m256 n) {  // below -126 the result is far under every threshold
  const __m256i e = _mm256_slli_epi32(_mm256_cvtps_epi32(_mm256_max_ps(n, _mm256_set1_ps(-126.0f))), 23);
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a), e));
}
AVATAR_INLINE F16 scale_by_power(F16 a, F16 n) { return {scale_half(a.lo, n.lo), scale_half(a.hi, n.hi)}; }
AVATAR_INLINE __m256 split_half(__m256 a, __m256& mantissa) {
  const __m256i word = _mm256_castps_si256(a);
  mantissa = _mm256_castsi256_ps(
      _mm256_or_si256(_mm256_and_si256(word, _mm256_set1_epi32(0x007FFFFF)), _mm256_set1_epi32(0x3F800000)));
  return _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_srli_epi32(word, 23), _mm256_set1_epi32(127)));
}
AVATAR_INLINE F16 split_exponent(F16 a, F16& mantissa) {  // a = mantissa 2^exponent for normal positive a
  return {split_half(a.lo, mantissa.lo), split_half(a.hi, mantissa.hi)};
}
AVATAR_INLINE __m256 merge_adjacent_half(__m256 a, __m256 b) {
  return _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
}
AVATAR_INLINE F16 merge_adjacent(F16 a, F16 b) {
  return {merge_adjacent_half(a.lo, b.lo), merge_adjacent_half(a.hi, b.hi)};
}
AVATAR_INLINE __m256 merge_pairs_half(__m256 a, __m256 b) {
  const __m256d x = _mm256_castps_pd(a), y = _mm256_castps_pd(b);
  return _mm256_add_ps(_mm256_castpd_ps(_mm256_unpacklo_pd(x, y)), _mm256_castpd_ps(_mm256_unpackhi_pd(x, y)));
}
AVATAR_INLINE F16 merge_pairs(F16 a, F16 b) { return {merge_pairs_half(a.lo, b.lo), merge_pairs_half(a.hi, b.hi)}; }
AVATAR_INLINE __m256 merge_quarters_half(F16 a) {
  return _mm256_add_ps(_mm256_permute2f128_ps(a.lo, a.hi, 0x20), _mm256_permute2f128_ps(a.lo, a.hi, 0x31));
}
AVATAR_INLINE F16 merge_even_quarters(F16 a, F16 b) { return {merge_quarters_half(a), merge_quarters_half(b)}; }

#else  // plain C++; -O3 turns the loops into the baseline's four-lane code

struct alignas(64) Mask { int32_t v[LANES]; };
struct alignas(64) F16 {
  float v[LANES];
  AVATAR_INLINE F16() {}
  AVATAR_INLINE F16(float x) { for (int i = 0; i < LANES; ++i) v[i] = x; }
};
#define AVATAR_EACH(type, expression)            \
  type r;                                        \
  for (int i = 0; i < LANES; ++i) r.v[i] = expression; \
  return r;
AVATAR_INLINE F16 load(const float* p) { AVATAR_EACH(F16, p[i]) }
AVATAR_INLINE void store(float* p, const F16& a) { for (int i = 0; i < LANES; ++i) p[i] = a.v[i]; }
AVATAR_INLINE F16 operator+(const F16& a, const F16& b) { AVATAR_EACH(F16, a.v[i] + b.v[i]) }
AVATAR_INLINE F16 operator-(const F16& a, const F16& b) { AVATAR_EACH(F16, a.v[i] - b.v[i]) }
AVATAR_INLINE F16 operator*(const F16& a, const F16& b) { AVATAR_EACH(F16, a.v[i] * b.v[i]) }
AVATAR_INLINE F16 operator/(const F16& a, const F16& b) { AVATAR_EACH(F16, a.v[i] / b.v[i]) }
AVATAR_INLINE F16 fma(const F16& a, const F16& b, const F16& c) { AVATAR_EACH(F16, a.v[i] * b.v[i] + c.v[i]) }
AVATAR_INLINE F16 fnma(const F16& a, const F16& b, const F16& c) { AVATAR_EACH(F16, c.v[i] - a.v[i] * b.v[i]) }
AVATAR_INLINE F16 min(const F16& a, const F16& b) { AVATAR_EACH(F16, a.v[i] < b.v[i] ? a.v[i] : b.v[i]) }
AVATAR_INLINE F16 max(const F16& a, const F16& b) { AVATAR_EACH(F16, a.v[i] > b.v[i] ? a.v[i] : b.v[i]) }
AVATAR_INLINE F16 sqrt(const F16& a) { AVATAR_EACH(F16, __builtin_sqrtf(a.v[i])) }
AVATAR_INLINE Mask operator<(const F16& a, const F16& b) { AVATAR_EACH(Mask, -(a.v[i] < b.v[i])) }
AVATAR_INLINE Mask operator<=(const F16& a, const F16& b) { AVATAR_EACH(Mask, -(a.v[i] <= b.v[i])) }
AVATAR_INLINE Mask operator>(const F16& a, const F16& b) { AVATAR_EACH(Mask, -(a.v[i] > b.v[i])) }
AVATAR_INLINE Mask operator>=(const F16& a, const F16& b) { AVATAR_EACH(Mask, -(a.v[i] >= b.v[i])) }
AVATAR_INLINE Mask operator&(const Mask& a, const Mask& b) { AVATAR_EACH(Mask, a.v[i] & b.v[i]) }
AVATAR_INLINE F16 select(const Mask& m, const F16& a, const F16& b) { AVATAR_EACH(F16, m.v[i] ? a.v[i] : b.v[i]) }
AVATAR_INLINE F16 keep(const Mask& m, const F16& a) { AVATAR_EACH(F16, m.v[i] ? a.v[i] : 0.0f) }
AVATAR_INLINE uint32_t bits(const Mask& m) {
  uint32_t r = 0;
  for (int i = 0; i < LANES; ++i) r |= static_cast<uint32_t>(m.v[i] & 1) << i;
  return r;
}
AVATAR_INLINE F16 reciprocal(const F16& a) { AVATAR_EACH(F16, 1.0f / a.v[i]) }
AVATAR_INLINE F16 round_to_int(const F16& a) {  // adding 1.5 * 2^23 leaves no room for a fraction
  constexpr float magic = 12582912.0f;
  AVATAR_EACH(F16, (a.v[i] + magic) - magic)
}
AVATAR_INLINE F16 scale_by_power(const F16& a, const F16& n) {
  F16 r;
  for (int i = 0; i < LANES; ++i) {
    const float exponent = n.v[i] < -126.0f ? -126.0f : n.v[i];
    int32_t word;
    __builtin_memcpy(&word, &a.v[i], 4);
    word += static_cast<int32_t>(exponent) << 23;
    __builtin_memcpy(&r.v[i], &word, 4);
  }
  return r;
}
AVATAR_INLINE F16 split_exponent(const F16& a, F16& mantissa) {  // a = mantissa 2^exponent for normal positive a
  F16 exponent;
  for (int i = 0; i < LANES; ++i) {
    uint32_t word;
    __builtin_memcpy(&word, &a.v[i], 4);
    exponent.v[i] = static_cast<float>(static_cast<int32_t>(word >> 23) - 127);
    word = (word & 0x007FFFFF) | 0x3F800000;
    __builtin_memcpy(&mantissa.v[i], &word, 4);
  }
  return exponent;
}
AVATAR_INLINE F16 merge_adjacent(const F16& a, const F16& b) {
  F16 r;
  for (int q = 0; q < 16; q += 4)
    for (int i = 0; i < 2; ++i) {
      r.v[q + 2 * i] = a.v[q + i] + a.v[q + i + 2];
      r.v[q + 2 * i + 1] = b.v[q + i] + b.v[q + i + 2];
    }
  return r;
}
AVATAR_INLINE F16 merge_pairs(const F16& a, const F16& b) {
  F16 r;
  for (int q = 0; q < 16; q += 4)
    for (int i = 0; i < 2; ++i) {
      r.v[q + i] = a.v[q + i] + a.v[q + i + 2];
      r.v[q + 2 + i] = b.v[q + i] + b.v[q + i + 2];
    }
  return r;
}
AVATAR_INLINE F16 merge_even_quarters(const F16& a, const F16& b) {
  F16 r;
  for (int i = 0; i < 4; ++i) {
    r.v[i] = a.v[i] + a.v[4 + i];
    r.v[4 + i] = a.v[8 + i] + a.v[12 + i];
    r.v[8 + i] = b.v[i] + b.v[4 + i];
    r.v[12 + i] = b.v[8 + i] + b.v[12 + i];
  }
  return r;
}
#undef AVATAR_EACH

#endif

AVATAR_INLINE F16 operator-(F16 a) { return F16(0.0f) - a; }

// 2^x to 2e-7 relative for x in (-126, 1]; below, zero or something far under every threshold.
AVATAR_INLINE F16 exp2(F16 x) {
  const F16 n = round_to_int(x);
  const F16 f = x - n;  // in [-0.5, 0.5]
  // minimax polynomial of 2^f, degree 5: 7e-8 relative before rounding
  F16 p = fma(F16(0.00132764725f), f, F16(0.00967554189f));
  p = fma(p, f, F16(0.0555071309f));
  p = fma(p, f, F16(0.240221202f));
  p = fma(p, f, F16(0.693146944f));
  p = fma(p, f, F16(1.00000012f));
  return scale_by_power(p, n);
}

// log2 of normal positive numbers to 1e-7 absolute plus half a unit in the last place.
AVATAR_INLINE F16 log2(F16 x) {
  F16 m;
  F16 e = split_exponent(x, m);
  const Mask big = m > F16(1.41421356f);
  m = select(big, m * F16(0.5f), m);
  e = e + keep(big, F16(1.0f));
  const F16 s = (m - F16(1.0f)) / (m + F16(1.0f)), s2 = s * s;  // |s| < 0.172
  F16 p = fma(F16(0.32059889f), s2, F16(0.41219858f));          // 2 / (ln 2 (2k + 1))
  p = fma(p, s2, F16(0.57707802f));
  p = fma(p, s2, F16(0.96179669f));
  p = fma(p, s2, F16(2.88539008f));
  return fma(p, s, e);
}

// Sums over the lanes of up to sixteen vectors at once: lane k of the result is the sum of v[k]; lanes past COUNT repeat
// others. A tree of merges instead of COUNT horizontal sums.
template <int COUNT>
AVATAR_INLINE F16 sum_each(const F16* v) {
  const auto at = [&](int k) { return v[k < COUNT ? k : COUNT - 1]; };
  F16 quad[4];
#pragma GCC unroll 4
  for (int i = 0; i < (COUNT + 3) / 4; ++i) {
    const F16 first = merge_adjacent(at(4 * i), at(4 * i + 1));
    quad[i] = merge_pairs(first, 4 * i + 2 < COUNT ? merge_adjacent(at(4 * i + 2), at(4 * i + 3)) : first);
  }
  const F16 low = merge_even_quarters(quad[0], COUNT > 4 ? quad[1] : quad[0]);
  if constexpr (COUNT <= 8) return merge_even_quarters(low, low);
  return merge_even_quarters(low, merge_even_quarters(quad[2], COUNT > 12 ? quad[3] : quad[2]));
}

}  // namespace
}  // namespace avatar
