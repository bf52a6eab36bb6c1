#include "kernels.h"

#include <cfloat>
#include <cmath>

namespace edge_eds {

static const int64_t n_lanes = 16;

float dot(const float * a, const float * b, int64_t n) {
    float lanes[n_lanes] = {0.0f};
    int64_t i            = 0;
    for (; i + n_lanes <= n; i += n_lanes) {
        for (int64_t j = 0; j < n_lanes; ++j) {
            lanes[j] += a[i + j] * b[i + j];
        }
    }
    for (int64_t j = 0; i < n; ++i, ++j) {
        lanes[j] += a[i] * b[i];
    }
    // pairwise, so that rounding stays small
    for (int64_t width = n_lanes / 2; width > 0; width /= 2) {
        for (int64_t j = 0; j < width; ++j) {
            lanes[j] += lanes[j + width];
        }
    }
    return lanes[0];
}

void add_scaled(float alpha, const float * x, float * y, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
        y[i] += alpha * x[i];
    }
}

void affine(const float * weight, const float * bias, const float * x, float * y, int64_t n_out,
            int64_t n_in) {
    for (int64_t o = 0; o < n_out; ++o) {
        y[o] = dot(weight + o * n_in, x, n_in) + bias[o];
    }
}

void transposed_product(const float * weight, const float * y, float * x, int64_t n_out, int64_t n_in) {
    for (int64_t i = 0; i < n_in; ++i) {
        x[i] = 0.0f;
    }
    for (int64_t o = 0; o < n_out; ++o) {
        add_scaled(y[o], weight + o * n_in, x, n_in);
    }
}

double norm(const float * x, int64_t n) {
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

bool all_finite(const float * x, int64_t n) {
    int bad = 0;
    for (int64_t i = 0; i < n; ++i) {
        bad |= !(std::fabs(x[i]) <= FLT_MAX);
    }
    return bad == 0;
}

float sigmoid(float x) {
    return 1.0f / (1.0f + std::exp(-x));
}

} // namespace edge_eds
