// The loops for AVX-512 (F, BW, DQ, VL): sixteen floats at a time.
#include "kernel_set.h"

#ifdef EDGE_EDS_X86

// gcc 12 warns of its own header: "undefined" registers there are meant
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#include <cmath>
#include <cstring>

namespace edge_eds {
namespace {

// Per function, not per file: what the standard library's headers define must run on every machine.
#define SIMD_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")))
#define SIMD SIMD_TARGET static inline __attribute__((always_inline))

typedef __m512 vec;
const int64_t n_lanes = 16;

struct sums {
    __m512d low, high;
};

SIMD __mmask16 first(int64_t n) {
    return n >= n_lanes ? (__mmask16) 0xffff : (__mmask16) ((1u << n) - 1u);
}
SIMD vec splat(float x) {
    return _mm512_set1_ps(x);
}
SIMD vec load(const float * p) {
    return _mm512_loadu_ps(p);
}
SIMD vec load_part(const float * p, int64_t n) { // the lanes from n on are 0
    return _mm512_maskz_loadu_ps(first(n), p);
}
SIMD vec load(const half * p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *) p));
}
SIMD vec load_part(const half * p, int64_t n) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first(n), p));
}
SIMD void store(float * p, vec a) {
    _mm512_storeu_ps(p, a);
}
SIMD void store_part(float * p, vec a, int64_t n) {
    _mm512_mask_storeu_ps(p, first(n), a);
}
SIMD vec add(vec a, vec b) {
    return _mm512_add_ps(a, b);
}
SIMD vec subtract(vec a, vec b) {
    return _mm512_sub_ps(a, b);
}
SIMD vec multiply(vec a, vec b) {
    return _mm512_mul_ps(a, b);
}
SIMD vec divide(vec a, vec b) {
    return _mm512_div_ps(a, b);
}
SIMD vec multiply_add(vec a, vec b, vec c) { // a * b + c
    return _mm512_fmadd_ps(a, b, c);
}
SIMD float total(vec a) {
    return _mm512_reduce_add_ps(a);
}
SIMD vec at_least(float low, vec a) { // the second operand is what comes out if one is NaN
    return _mm512_max_ps(splat(low), a);
}
SIMD vec negative_size(vec a) { // -|a|
    return _mm512_or_ps(a, splat(-0.0f));
}
SIMD vec where_negative(vec a, vec b, vec c) { // a < 0 ? b : c
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, _mm512_setzero_ps(), _CMP_LT_OQ), c, b);
}
SIMD vec nearest(vec a) {
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
SIMD vec times_power_of_2(vec a, vec n) { // a * 2^n
    return _mm512_scalef_ps(a, n);
}
SIMD bool is_finite(vec a) { // 0x99: quiet or signalling NaN, +inf, -inf
    return _mm512_fpclass_ps_mask(a, 0x99) == 0;
}
SIMD sums no_sums() {
    return {_mm512_setzero_pd(), _mm512_setzero_pd()};
}
SIMD sums add_squares(sums s, vec a) {
    const __m512d low  = _mm512_cvtps_pd(_mm512_castps512_ps256(a));
    const __m512d high = _mm512_cvtps_pd(_mm512_extractf32x8_ps(a, 1));
    return {_mm512_fmadd_pd(low, low, s.low), _mm512_fmadd_pd(high, high, s.high)};
}
SIMD double total(sums s) {
    return _mm512_reduce_add_pd(_mm512_add_pd(s.low, s.high));
}

typedef __m512i short_vec;
typedef __m512i long_vec;

SIMD short_vec load_codes(const int8_t * p) {
    return _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *) p));
}
SIMD short_vec load_codes_part(const int8_t * p, int64_t n) {
    return _mm512_cvtepi8_epi16(_mm256_maskz_loadu_epi8(~(__mmask32) 0 >> (2 * n_lanes - n), p));
}
SIMD short_vec load_shorts(const int16_t * p) {
    return _mm512_loadu_si512(p);
}
SIMD void store_shorts(int16_t * p, short_vec a) {
    _mm512_storeu_si512(p, a);
}
SIMD short_vec rounded(vec a, vec b) {
    const __m256i low  = _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(a));
    const __m256i high = _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(b));
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}
SIMD long_vec zero_longs() {
    return _mm512_setzero_si512();
}
SIMD long_vec add_products(long_vec sum, short_vec a, short_vec b) {
    return _mm512_add_epi32(sum, _mm512_madd_epi16(a, b));
}
SIMD void add_two_rows(long_vec (&sum)[2], short_vec a, short_vec b, const int16_t * factors) {
    int32_t both;
    std::memcpy(&both, factors, sizeof(both));
    const __m512i pair = _mm512_set1_epi32(both);
    sum[0]             = add_products(sum[0], _mm512_unpacklo_epi16(a, b), pair);
    sum[1]             = add_products(sum[1], _mm512_unpackhi_epi16(a, b), pair);
}
SIMD void lanes_in_order(long_vec (&sum)[2]) { // unpacking goes by quarters
    const __m512i low_half  = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
    const __m512i high_half = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
    const __m512i low       = _mm512_permutex2var_epi64(sum[0], low_half, sum[1]);
    sum[1]                  = _mm512_permutex2var_epi64(sum[0], high_half, sum[1]);
    sum[0]                  = low;
}
SIMD vec to_float(long_vec a) {
    return _mm512_cvtepi32_ps(a);
}

#include "kernels_simd.h"

#include "kernels_coded.h"

} // namespace

const kernel_set avx512_kernels = simd_kernels("avx512", coded_affine, coded_add_transposed);

} // namespace edge_eds

#endif
