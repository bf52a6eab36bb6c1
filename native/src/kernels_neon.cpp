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
SIMD vec load(const int8_t * p) {
    int32_t four;
    std::memcpy(&four, p, sizeof(four));
    const int8x8_t codes = vreinterpret_s8_s32(vdup_n_s32(four));
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(codes))));
}
template <typename T> SIMD vec load_part(const T * p, int64_t n) { // the lanes from n on are 0
    T part[n_lanes] = {0};
    std::memcpy(part, p, (size_t) (n < n_lanes ? n : n_lanes) * sizeof(T));
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

#include "kernels_simd.h"

} // namespace

const kernel_set neon_kernels = {
    "neon",    simd_dot,        simd_add_scaled, simd_affine,     simd_add_transposed,
    simd_norm, simd_all_finite, simd_silu,       simd_layer_norm, simd_layer_norm_gradient,
};

} // namespace edge_eds

#endif
