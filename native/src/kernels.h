// The few float32 loops that everything else is made of.
// Plain loops with sixteen independent accumulators: the compiler turns them into SIMD code on any target
// without being allowed to reorder sums (-ffast-math), so a result does not depend on the row it stands in.
#pragma once

#include <cstdint>

namespace edge_eds {

// sum_i a[i] * b[i]
float dot(const float * a, const float * b, int64_t n);

// y[i] += alpha * x[i]
void add_scaled(float alpha, const float * x, float * y, int64_t n);

// y = W x + b, with W (n_out, n_in) row-major
void affine(const float * weight, const float * bias, const float * x, float * y, int64_t n_out,
            int64_t n_in);

// x = W^T y, with W (n_out, n_in) row-major, y (n_out), x (n_in)
void transposed_product(const float * weight, const float * y, float * x, int64_t n_out, int64_t n_in);

// Euclidean length; sums in double, so that neither tiny gradients nor huge states leave the range of float.
double norm(const float * x, int64_t n);

// True if no element is NaN or infinite.
bool all_finite(const float * x, int64_t n);

// 1 / (1 + exp(-x)); exact limits 0 and 1 at both ends.
float sigmoid(float x);

} // namespace edge_eds
