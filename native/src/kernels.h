// The few loops that everything else is made of, in float32, each in one of several forms for one CPU or another.
// The best form that the machine has is taken at run time, so that one build runs everywhere; `plain` is C++
// without intrinsics, the reference that the others are tested against. No form reorders sums by -ffast-math, so
// NaN stays NaN, and what a row gives does not depend on the rows that are computed beside it, nor on how many threads
// share a large matrix (workers.h). The environment variable EDGE_EDS_KERNELS names another form; the first use throws
// std::invalid_argument where it cannot run.
#pragma once

#include "half.h"

#include <cstdint>
#include <string>
#include <vector>

namespace edge_eds {

// Rows that share one reading of the weights; callers with more come in pieces.
const int max_rows_at_once = 4;

// W (n_out, n_in), row-major: in float32, in half precision, or in 8 bits with W[o][i] = scale[o] * codes[o][i]. Halves
// give the bits that the same values in float32 give. What is multiplied with codes is rounded to 16 bits by all forms
// but `plain` (kernels_coded.h).
struct matrix {
    int64_t n_out        = 0;
    int64_t n_in         = 0;
    const float * values = nullptr; // one of these three
    const half * halves  = nullptr;
    const int8_t * codes = nullptr;
    const float * scale  = nullptr; // with codes
    int64_t stride        = 0; // from row to row, where W is some columns of a wider matrix; 0: n_in
    int64_t step() const { return stride ? stride : n_in; }
};

// Weights from which on a matrix is shared among threads; below, handing over would take as long as the work.
const int64_t shared_matrix = 1 << 18;

// sum_i a[i] * b[i]
float dot(const float * a, const float * b, int64_t n);

// y[i] += alpha * x[i]
void add_scaled(float alpha, const float * x, float * y, int64_t n);

// y[r] = W x[r] + bias for n_rows <= max_rows_at_once rows; bias (n_out) may be null. W has all its columns.
void affine(const matrix & w, const float * bias, const float * const * x, float * const * y, int n_rows);

// x[r] += W^T y[r], y[r] (n_out), x[r] (n_in), for n_rows <= max_rows_at_once rows
void add_transposed(const matrix & w, const float * const * y, float * const * x, int n_rows);

// Euclidean length; sums in double, so that neither tiny gradients nor huge states leave the range of float.
double norm(const float * x, int64_t n);

// True if no element is NaN or infinite.
bool all_finite(const float * x, int64_t n);

// SiLU and its derivative: activation = a s, slope = s (1 + a (1 - s)), s = 1 / (1 + exp(-a)).
// `slope` may be `a` itself.
void silu(const float * a, float * activation, float * slope, int64_t n);

// a <- gamma * normed + beta, normed = (a - mean) / sqrt(var + 1e-5), biased variance. Returns 1 / that root.
float layer_norm(float * a, float * normed, const float * gamma, const float * beta, int64_t n);

// g <- dE/d(input of LayerNorm) where g is dE/d(its output):
// with u = gamma * g: (u - mean(u) - normed * mean(u * normed)) * inv_std
void layer_norm_gradient(float * g, const float * normed, const float * gamma, float inv_std, int64_t n);

// Whether the form in use takes less time for halves than for twice the bytes in float32: where it makes floats of them
// one by one, it does not.
bool halves_pay();

// Forms of these loops that this machine can run, the best one first; the last is always "plain".
std::vector<std::string> available_kernels();

// The form in use.
const char * kernels_in_use();

// Use this form from now on, everywhere; nothing may be computing meanwhile. Throws std::invalid_argument for a
// name that is not among the available ones.
void use_kernels(const std::string & name);

} // namespace edge_eds
