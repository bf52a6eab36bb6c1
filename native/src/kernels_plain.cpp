// The loops in plain C++: the reference for the other forms, and what runs where none of them can.
// Sixteen independent sums let the compiler use whatever the target always has, without being allowed to reorder.
#include "kernel_set.h"

#include <cfloat>
#include <cmath>

namespace edge_eds {

static const int64_t n_lanes = 16;

template <typename T> static float product(const T * a, const float * b, int64_t n) {
    float lanes[n_lanes] = {0.0f};
    int64_t i            = 0;
    for (; i + n_lanes <= n; i += n_lanes) {
        for (int64_t j = 0; j < n_lanes; ++j) {
            lanes[j] += (float) a[i + j] * b[i + j];
        }
    }
    for (int64_t j = 0; i < n; ++i, ++j) {
        lanes[j] += (float) a[i] * b[i];
    }
    // pairwise, so that rounding stays small
    for (int64_t width = n_lanes / 2; width > 0; width /= 2) {
        for (int64_t j = 0; j < width; ++j) {
            lanes[j] += lanes[j + width];
        }
    }
    return lanes[0];
}

template <typename T> static void add_times(float alpha, const T * x, float * y, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
        y[i] += alpha * (float) x[i];
    }
}

static float plain_dot(const float * a, const float * b, int64_t n) {
    return product(a, b, n);
}

static void plain_add_scaled(float alpha, const float * x, float * y, int64_t n) {
    add_times(alpha, x, y, n);
}

static void plain_affine(const matrix & w, const float * bias, const float * const * x, float * const * y, int n_rows) {
    for (int64_t o = 0; o < w.n_out; ++o) {
        const int64_t at = o * w.n_in;
        for (int r = 0; r < n_rows; ++r) {
            const float sum = w.values   ? product(w.values + at, x[r], w.n_in)
                              : w.halves ? product(w.halves + at, x[r], w.n_in)
                                         : w.scale[o] * product(w.codes + at, x[r], w.n_in);
            y[r][o]         = bias ? sum + bias[o] : sum;
        }
    }
}

static void plain_add_transposed(const matrix & w, const float * const * y, float * const * x, int n_rows) {
    for (int64_t o = 0; o < w.n_out; ++o) {
        const int64_t at = o * w.step();
        for (int r = 0; r < n_rows; ++r) {
            if (w.values) {
                add_times(y[r][o], w.values + at, x[r], w.n_in);
            } else if (w.halves) {
                add_times(y[r][o], w.halves + at, x[r], w.n_in);
            } else {
                add_times(y[r][o] * w.scale[o], w.codes + at, x[r], w.n_in);
            }
        }
    }
}

static double plain_norm(const float * x, int64_t n) {
    double lanes[4] = {0.0};
    int64_t i       = 0;
    for (; i + 4 <= n; i += 4) {
        for (int64_t j = 0; j < 4; ++j) {
            lanes[j] += (double) x[i + j] * (double) x[i + j];
        }
    }
    for (int64_t j = 0; i < n; ++i, ++j) {
        lanes[j] += (double) x[i] * (double) x[i];
    }
    return std::sqrt((lanes[0] + lanes[1]) + (lanes[2] + lanes[3]));
}

static bool plain_all_finite(const float * x, int64_t n) {
    int bad = 0;
    for (int64_t i = 0; i < n; ++i) {
        bad |= !(std::fabs(x[i]) <= FLT_MAX);
    }
    return bad == 0;
}

static void plain_silu(const float * a, float * activation, float * slope, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
        const float s = 1.0f / (1.0f + std::exp(-a[i]));
        activation[i] = a[i] * s;
        slope[i]      = s * (1.0f + a[i] * (1.0f - s));
    }
}

static float plain_layer_norm(float * a, float * normed, const float * gamma, const float * beta, int64_t n) {
    double mean = 0.0;
    for (int64_t i = 0; i < n; ++i) {
        mean += a[i];
    }
    mean /= (double) n;
    double var = 0.0;
    for (int64_t i = 0; i < n; ++i) {
        var += (a[i] - mean) * (a[i] - mean);
    }
    var /= (double) n;
    const float inv_std = (float) (1.0 / std::sqrt(var + (double) layer_norm_eps));
    for (int64_t i = 0; i < n; ++i) {
        normed[i] = (float) (a[i] - mean) * inv_std;
        a[i]      = gamma[i] * normed[i] + beta[i];
    }
    return inv_std;
}

static void plain_layer_norm_gradient(float * g, const float * normed, const float * gamma, float inv_std, int64_t n) {
    double mean  = 0.0;
    double along = 0.0;
    for (int64_t i = 0; i < n; ++i) {
        g[i] *= gamma[i];
        mean += g[i];
        along += (double) g[i] * normed[i];
    }
    mean /= (double) n;
    along /= (double) n;
    for (int64_t i = 0; i < n; ++i) {
        g[i] = (float) (g[i] - mean - normed[i] * along) * inv_std;
    }
}

const kernel_set plain_kernels = {
    "plain",
    false,
    plain_dot,
    plain_add_scaled,
    plain_affine,
    plain_add_transposed,
    plain_affine, // both take every kind
    plain_add_transposed,
    plain_norm,
    plain_all_finite,
    plain_silu,
    plain_layer_norm,
    plain_layer_norm_gradient,
};

} // namespace edge_eds
