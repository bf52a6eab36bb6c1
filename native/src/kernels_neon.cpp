// The loops for NEON on 64-bit Arm: four floats at a time.
#include "kernel_set.h"

#ifdef EDGE_EDS_NEON

#include <arm_neon.h>

#include <cfloat>
#include <cmath>
#include <cstring>

namespace edge_eds {
namespace {

#define SIMD_TARGET
#define SIMD static inline __attribute__((always_inline))

typedef float32x4_t vec;
const int64_t n_lanes = 4;

struct sums {
    float64x2_t low, high;
};

SIMD vec splat(float x) {
    return vdupq_n_f32(x);
}
SIMD vec load(const float * p) {
    return vld1q_f32(p);
}
SIMD vec load_part(const float * p, int64_t n) { // the lanes from n on are 0
    float part[n_lanes] = {0.0f};
    std::memcpy(part, p, (size_t) (n < n_lanes ? n : n_lanes) * sizeof(float));
    return load(part);
}
SIMD vec load(const half * p) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(&p->bits)));
}
SIMD vec load_part(const half * p, int64_t n) {
    half part[n_lanes] = {};
    std::memcpy(part, p, (size_t) (n < n_lanes ? n : n_lanes) * sizeof(half));
    return load(part);
}
SIMD void store(float * p, vec a) {
    vst1q_f32(p, a);
}
SIMD void store_part(float * p, vec a, int64_t n) {
    float part[n_lanes];
    store(part, a);
    std::memcpy(p, part, (size_t) n * sizeof(float));
}
SIMD vec add(vec a, vec b) {
    return vaddq_f32(a, b);
}
SIMD vec subtract(vec a, vec b) {
    return vsubq_f32(a, b);
}
SIMD vec multiply(vec a, vec b) {
    return vmulq_f32(a, b);
}
SIMD vec divide(vec a, vec b) {
    return vdivq_f32(a, b);
}
SIMD vec multiply_add(vec a, vec b, vec c) { // a * b + c
    return vfmaq_f32(c, a, b);
}
SIMD float total(vec a) {
    return vaddvq_f32(a);
}
SIMD vec at_least(float low, vec a) { // NaN if a is
    return vmaxq_f32(splat(low), a);
}
SIMD vec negative_size(vec a) { // -|a|
    return vnegq_f32(vabsq_f32(a));
}
SIMD vec where_negative(vec a, vec b, vec c) { // a < 0 ? b : c
    return vbslq_f32(vcltzq_f32(a), b, c);
}
SIMD vec nearest(vec a) {
    return vrndnq_f32(a);
}
SIMD vec times_power_of_2(vec a, vec n) { // a * 2^n for -126 <= n <= 127
    const int32x4_t exponent = vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127));
    return multiply(a, vreinterpretq_f32_s32(vshlq_n_s32(exponent, 23)));
}
SIMD bool is_finite(vec a) {
    return vminvq_u32(vcleq_f32(vabsq_f32(a), splat(FLT_MAX))) != 0;
}
SIMD sums no_sums() {
    return {vdupq_n_f64(0.0), vdupq_n_f64(0.0)};
}
SIMD sums add_squares(sums s, vec a) {
    const float64x2_t low  = vcvt_f64_f32(vget_low_f32(a));
    const float64x2_t high = vcvt_high_f64_f32(a);
    return {vfmaq_f64(s.low, low, low), vfmaq_f64(s.high, high, high)};
}
SIMD double total(sums s) {
    return vaddvq_f64(vaddq_f64(s.low, s.high));
}

typedef int16x8_t short_vec;
typedef int32x4_t long_vec;

SIMD short_vec load_codes(const int8_t * p) {
    return vmovl_s8(vld1_s8(p));
}
SIMD short_vec load_codes_part(const int8_t * p, int64_t n) {
    int8_t part[2 * n_lanes] = {0};
    std::memcpy(part, p, (size_t) n);
    return load_codes(part);
}
SIMD short_vec load_shorts(const int16_t * p) {
    return vld1q_s16(p);
}
SIMD void store_shorts(int16_t * p, short_vec a) {
    vst1q_s16(p, a);
}
SIMD short_vec rounded(vec a, vec b) {
    return vcombine_s16(vqmovn_s32(vcvtnq_s32_f32(a)), vqmovn_s32(vcvtnq_s32_f32(b)));
}
SIMD long_vec zero_longs() {
    return vdupq_n_s32(0);
}
SIMD long_vec add_products(long_vec sum, short_vec a, short_vec b) {
    return vmlal_high_s16(vmlal_s16(sum, vget_low_s16(a), vget_low_s16(b)), a, b);
}
SIMD void add_two_rows(long_vec (&sum)[2], short_vec a, short_vec b, const int16_t * factors) {
    sum[0] = vmlal_n_s16(sum[0], vget_low_s16(a), factors[0]);
    sum[0] = vmlal_n_s16(sum[0], vget_low_s16(b), factors[1]);
    sum[1] = vmlal_high_n_s16(sum[1], a, factors[0]);
    sum[1] = vmlal_high_n_s16(sum[1], b, factors[1]);
}
SIMD void lanes_in_order(long_vec (&)[2]) {} // they are
SIMD vec to_float(long_vec a) {
    return vcvtq_f32_s32(a);
}

#include "kernels_simd.h"

#include "kernels_coded.h"

} // namespace

const kernel_set neon_kernels = simd_kernels("neon", coded_affine, coded_add_transposed);

} // namespace edge_eds

#endif
