#include "subspace.h"

#include <cmath>
#include <stdexcept>
#include <string>

namespace edge_eds {

// float32 principal directions are orthonormal to about 1e-6; a thousand times that is a mistake, not
// rounding
static const float max_overlap = 1e-3f;

// P, if it makes a subspace with the others
static const std::vector<float> & checked(const std::vector<float> & p, const std::vector<float> & mu,
                                          const std::vector<float> & s) {
    const int64_t d = (int64_t) mu.size();
    const int64_t r = (int64_t) s.size();
    if (d == 0 || r == 0) {
        throw std::invalid_argument("a subspace needs at least one dimension (n_embd " + std::to_string(d) +
                                    ", rank " + std::to_string(r) + ")");
    }
    if ((int64_t) p.size() != r * d) {
        throw std::invalid_argument("subspace: P has " + std::to_string(p.size()) +
                                    " values, expected rank x n_embd = " + std::to_string(r) + " x " +
                                    std::to_string(d));
    }
    if (!all_finite(mu.data(), d) || !all_finite(p.data(), r * d) || !all_finite(s.data(), r)) {
        throw std::invalid_argument("subspace: mu, P or s holds NaN or infinite values");
    }
    for (int64_t i = 0; i < r; ++i) {
        if (!(s[i] > 0.0f)) {
            throw std::invalid_argument("subspace: s[" + std::to_string(i) + "] = " + std::to_string(s[i]) +
                                        ", every scale must be > 0");
        }
        for (int64_t j = 0; j <= i; ++j) {
            const float overlap = dot(p.data() + i * d, p.data() + j * d, d) - (i == j ? 1.0f : 0.0f);
            if (!(std::fabs(overlap) <= max_overlap)) {
                throw std::invalid_argument("subspace: the rows of P are not orthonormal (rows " +
                                            std::to_string(j) + " and " + std::to_string(i) + ")");
            }
        }
    }
    return p;
}

subspace::subspace(std::vector<float> mu, std::vector<float> p, std::vector<float> s)
    : mu_(std::move(mu)), s_(std::move(s)), p_(checked(p, mu_, s_), rank(), n_embd(), false) {}

void subspace::project(const float * const * h, int n_rows, float * const * z, float * const * centred) const {
    for (int r = 0; r < n_rows; ++r) {
        for (int64_t i = 0; i < n_embd(); ++i) {
            centred[r][i] = h[r][i] - mu_[i];
        }
    }
    affine(p_.view(), nullptr, centred, z, n_rows);
    for (int r = 0; r < n_rows; ++r) {
        for (int64_t i = 0; i < rank(); ++i) {
            z[r][i] /= s_[i];
        }
    }
}

void subspace::lift(const float * const * c, int n_rows, float * const * h) const {
    add_transposed(p_.view(), c, h, n_rows);
}

} // namespace edge_eds
