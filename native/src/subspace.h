// The directions in which the real states of one layer vary: z = (P (h - mu)) / s.
// P has orthonormal rows, so a move within the subspace costs the same in z as in h:
// h + P^T c has the coordinates z + c / s, and |P^T c| = |c|.
#pragma once

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

    // z (rank) of h (n_embd); `centred` is scratch (n_embd).
    void project(const float * h, float * z, float * centred) const;

    // h (n_embd) += P^T c (rank)
    void lift(const float * c, float * h) const;

private:
    std::vector<float> mu_;
    std::vector<float> p_;
    std::vector<float> s_;
};

} // namespace edge_eds
