// The directions in which the real states of one layer vary: z = (P (h - mu)) / s.
// P has orthonormal rows, so a move within the subspace costs the same in z as in h:
// h + P^T c has the coordinates z + c / s, and |P^T c| = |c|.
#pragma once

#include "weights.h"

#include <cstdint>
#include <vector>

namespace edge_eds {

class subspace {
public:
    // mu (n_embd), p (rank, n_embd) row-major with orthonormal rows, s (rank) > 0.
    // Throws std::invalid_argument where that does not hold.
    subspace(std::vector<float> mu, std::vector<float> p, std::vector<float> s);

    int64_t n_embd() const { return (int64_t) mu_.size(); }
    int64_t rank() const { return (int64_t) s_.size(); }

    const float * s() const { return s_.data(); }

    // z[r] (rank) of h[r] (n_embd) for n_rows <= max_rows_at_once; centred[r] is scratch (n_embd).
    void project(const float * const * h, int n_rows, float * const * z, float * const * centred) const;

    // h[r] (n_embd) += P^T c[r] (rank) for n_rows <= max_rows_at_once
    void lift(const float * const * c, int n_rows, float * const * h) const;

private:
    std::vector<float> mu_;
    std::vector<float> s_;
    weights p_;
};

} // namespace edge_eds
