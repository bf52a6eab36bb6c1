#include "subspace.h"

#include "kernels.h"

#include <cmath>
#include <stdexcept>
#include <string>

namespace edge_eds {

// float32 principal directions are orthonormal to about 1e-6; a thousand times that is a mistake, not
// rounding
static const float max_overlap = 1e-3f;

subspace::subspace(std::vector<float> mu, std::vector<float> p, std::vector<float> s)
    : mu_(std::move(mu)), p_(std::move(p)), s_(std::move(s)) {
    const int64_t d = n_embd();
    const int64_t r = rank();
    if (d == 0 || r == 0) {
        throw std::invalid_argument("a subspace needs at least one dimension (n_embd " + std::to_string(d) +
                                    ", rank " + std::to_string(r) + ")");
    }
    if ((int64_t) p_.size() != r * d) {
        throw std::invalid_argument("subspace: P has " + std::to_string(p_.size()) +
                                    " values, expected rank x n_embd = " + std::to_string(r) + " x " +
                                    std::to_string(d));
    }
    if (!all_finite(mu_.data(), d) || !all_finite(p_.data(), r * d) || !all_finite(s_.data(), r)) {
        throw std::invalid_argument("subspace: mu, P or s holds NaN or infinite values");
    }
    for (int64_t i = 0; i < r; ++i) {
        if (!(s_[i] > 0.0f)) {
            throw std::invalid_argument("subspace: s[" + std::to_string(i) + "] = " + std::to_string(s_[i]) +
                                        ", every scale must be > 0");
        }
        for (int64_t j = 0; j <= i; ++j) {
            const float overlap = dot(p_.data() + i * d, p_.data() + j * d, d) - (i == j ? 1.0f : 0.0f);
            if (!(std::fabs(overlap) <= max_overlap)) {
                throw std::invalid_argument("subspace: the rows of P are not orthonormal (rows " +
                                            std::to_string(j) + " and " + std::to_string(i) + ")");
            }
        }
    }
}

void subspace::project(const float * h, float * z, float * centred) const {
    const int64_t d = n_embd();
    for (int64_t i = 0; i < d; ++i) {
        centred[i] = h[i] - mu_[i];
    }
    for (int64_t i = 0; i < rank(); ++i) {
        z[i] = dot(p_.data() + i * d, centred, d) / s_[i];
    }
}

void subspace::lift(const float * c, float * h) const {
    const int64_t d = n_embd();
    for (int64_t i = 0; i < rank(); ++i) {
        add_scaled(c[i], p_.data() + i * d, h, d);
    }
}

} // namespace edge_eds
