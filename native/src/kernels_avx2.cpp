// The loops for AVX2 with FMA and F16C: eight floats at a time.
#include "kernel_set.h"

#ifdef EDGE_EDS_X86

#include <immintrin.h>

#include <cfloat>
#include <cmath>
#include <cstring>

namespace edge_eds {
namespace {

// Per function, not per file: what the standard library's headers define must run on every machine.
#define SIMD_TARGET __attribute__((target("avx2,fma,f16c")))
#define SIMD SIMD_TARGET static inline __attribute__((always_inline))

typedef __m256 vec;
const int64_t n_lanes = 8;

struct sums {
    __m256d low, high;
};

SIMD __m256i first(int64_t n) { // all bits of the lanes below n
    const int32_t count = (int32_t) (n < n_lanes ? n : n_lanes);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
SIMD vec splat(float x) {
    return _mm256_set1_ps(x);
}
SIMD vec load(const float * p) {
    return _mm256_loadu_ps(p);
}
SIMD vec load_part(const float * p, int64_t n) { // the lanes from n on are 0
    return _mm256_maskload_ps(p, first(n));
}
SIMD vec load(const half * p) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) p));
}
SIMD vec load_part(const half * p, int64_t n) {
    half part[n_lanes] = {};
    std::memcpy(part, p, (size_t) (n < n_lanes ? n : n_lanes) * sizeof(half));
    return load(part);
}
SIMD void store(float * p, vec a) {
    _mm256_storeu_ps(p, a);
}
SIMD void store_part(float * p, vec a, int64_t n) {
    _mm256_maskstore_ps(p, first(n), a);
}
SIMD vec add(vec a, vec b) {
    return _mm256_add_ps(a, b);
}
SIMD vec subtract(vec a, vec b) {
    return _mm256_sub_ps(a, b);
}
SIMD vec multiply(vec a, vec b) {
    return _mm256_mul_ps(a, b);
}
SIMD vec divide(vec a, vec b) {
    return _mm256_div_ps(a, b);
}
SIMD vec multiply_add(vec a, vec b, vec c) { // a * b + c
    return _mm256_fmadd_ps(a, b, c);
}
SIMD float total(vec a) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    half        = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}
SIMD vec at_least(float low, vec a) { // the second operand is what comes out if one is NaN
    return _mm256_max_ps(splat(low), a);
}
SIMD vec negative_size(vec a) { // -|a|
    return _mm256_or_ps(a, splat(-0.0f));
}
SIMD vec where_negative(vec a, vec b, vec c) { // a < 0 ? b : c
    return _mm256_blendv_ps(c, b, _mm256_cmp_ps(a, _mm256_setzero_ps(), _CMP_LT_OQ));
}
SIMD vec nearest(vec a) {
    return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
SIMD vec times_power_of_2(vec a, vec n) { // a * 2^n for -126 <= n <= 127
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return multiply(a, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
}
SIMD bool is_finite(vec a) {
    const vec size = _mm256_andnot_ps(splat(-0.0f), a);
    return _mm256_movemask_ps(_mm256_cmp_ps(size, splat(FLT_MAX), _CMP_NLE_UQ)) == 0;
}
SIMD sums no_sums() {
    return {_mm256_setzero_pd(), _mm256_setzero_pd()};
}
SIMD sums add_squares(sums s, vec a) {
    const __m256d low  = _mm256_cvtps_pd(_mm256_castps256_ps128(a));
    const __m256d high = _mm256_cvtps_pd(_mm256_extractf128_ps(a, 1));
    return {_mm256_fmadd_pd(low, low, s.low), _mm256_fmadd_pd(high, high, s.high)};
}
SIMD double total(sums s) {
    const __m256d both = _mm256_add_pd(s.low, s.high);
    const __m128d half = _mm_add_pd(_mm256_castpd256_pd128(both), _mm256_extractf128_pd(both, 1));
    return _mm_cvtsd_f64(_mm_add_sd(half, _mm_unpackhi_pd(half, half)));
}

typedef __m256i short_vec;
typedef __m256i long_vec;

SIMD short_vec load_codes(const int8_t * p) {
    return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *) p));
}
SIMD short_vec load_codes_part(const int8_t * p, int64_t n) {
    int8_t part[2 * n_lanes] = {0};
    std::memcpy(part, p, (size_t) n);
    return load_codes(part);
}
SIMD short_vec load_shorts(const int16_t * p) {
    return _mm256_loadu_si256((const __m256i *) p);
}
SIMD void store_shorts(int16_t * p, short_vec a) {
    _mm256_storeu_si256((__m256i *) p, a);
}
SIMD short_vec rounded(vec a, vec b) { // packing goes by halves: low of a, low of b, high of a, high of b
    const __m256i halves = _mm256_packs_epi32(_mm256_cvtps_epi32(a), _mm256_cvtps_epi32(b));
    return _mm256_permute4x64_epi64(halves, _MM_SHUFFLE(3, 1, 2, 0));
}
SIMD long_vec zero_longs() {
    return _mm256_setzero_si256();
}
SIMD long_vec add_products(long_vec sum, short_vec a, short_vec b) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
}
SIMD void add_two_rows(long_vec (&sum)[2], short_vec a, short_vec b, const int16_t * factors) {
    int32_t both;
    std::memcpy(&both, factors, sizeof(both));
    const __m256i pair = _mm256_set1_epi32(both);
    sum[0]             = add_products(sum[0], _mm256_unpacklo_epi16(a, b), pair);
    sum[1]             = add_products(sum[1], _mm256_unpackhi_epi16(a, b), pair);
}
SIMD void lanes_in_order(long_vec (&sum)[2]) { // unpacking goes by halves, too
    const __m256i low = _mm256_permute2x128_si256(sum[0], sum[1], 0x20);
    sum[1]            = _mm256_permute2x128_si256(sum[0], sum[1], 0x31);
    sum[0]            = low;
}
SIMD vec to_float(long_vec a) {
    return _mm256_cvtepi32_ps(a);
}

#include "kernels_simd.h"

#include "kernels_coded.h"

} // namespace

const kernel_set avx2_kernels = simd_kernels("avx2", coded_affine, coded_add_transposed);

} // namespace edge_eds

#endif
