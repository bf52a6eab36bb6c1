// One form of the loops in kernels.h, as a table of functions; only kernels.cpp and the forms themselves see it.
#pragma once

#include "kernels.h"

namespace edge_eds {

const float layer_norm_eps = 1e-5f;

struct kernel_set {
    const char * name;
    bool halves_pay;
    float (*dot)(const float * a, const float * b, int64_t n);
    void (*add_scaled)(float alpha, const float * x, float * y, int64_t n);
    void (*affine)(const matrix & w, const float * bias, const float * const * x, float * const * y, int n_rows);
    void (*add_transposed)(const matrix & w, const float * const * y, float * const * x, int n_rows);
    // the same for codes
    void (*coded_affine)(const matrix & w, const float * bias, const float * const * x, float * const * y, int n_rows);
    void (*coded_add_transposed)(const matrix & w, const float * const * y, float * const * x, int n_rows);
    double (*norm)(const float * x, int64_t n);
    bool (*all_finite)(const float * x, int64_t n);
    void (*silu)(const float * a, float * activation, float * slope, int64_t n);
    float (*layer_norm)(float * a, float * normed, const float * gamma, const float * beta, int64_t n);
    void (*layer_norm_gradient)(float * g, const float * normed, const float * gamma, float inv_std, int64_t n);
};

extern const kernel_set plain_kernels;

// Which forms are compiled in depends on the target alone; whether a machine can run them is asked at run time.
// MSVC gets the plain form: its intrinsics are not tied to functions, and none of this was tried there.
#if defined(__GNUC__) && (defined(__x86_64__) || defined(__i386__))
#define EDGE_EDS_X86 1
extern const kernel_set avx2_kernels;   // AVX2, FMA and F16C
extern const kernel_set avx512_kernels; // AVX-512 F, BW, DQ and VL
#elif defined(__GNUC__) && defined(__aarch64__)
#define EDGE_EDS_NEON 1
extern const kernel_set neon_kernels; // every 64-bit Arm has it
#endif

} // namespace edge_eds
