// The energies of one layer: heads (MLPs) over a shared subspace, or over the hidden state itself.
// Knows energy, gradient and descent of one row h (n_embd); knows nothing of llama.cpp.
#pragma once

#include "energy_net.h"
#include "heads.h"
#include "subspace.h"

#include <cstddef>
#include <cstdint>
#include <memory>

namespace edge_eds {

// How a descent moves, the same for every row. Formulas at layer_energy::descend.
struct descent_rule {
    float step_size = 0.0f; // eta; times |h| if relative
    int32_t steps   = 0;    // K
    bool relative   = true;
    bool covariance = true; // false: euclidean metric
    float max_shift = 0.0f; // cap of |shift| / |h|; 0 = none
};

struct descent_result {
    bool finite = true; // false: an energy, a gradient or the new row is NaN or infinite; h is then undefined
    bool changed        = false;
    int32_t steps       = 0;
    float energy_before = 0.0f;
    float energy_after  = 0.0f;
    float shift         = 0.0f; // |new h - h| / |h|
};

class layer_energy {
public:
    // `space` may be null: then the heads read the hidden state itself.
    // Throws std::invalid_argument if there is no head or a head's input does not fit.
    layer_energy(int64_t n_embd, std::shared_ptr<const subspace> space,
                 std::unique_ptr<energy_net> (&&heads)[n_heads]);

    int64_t n_embd() const { return n_embd_; }
    bool has_subspace() const { return space_ != nullptr; }
    bool has_head(int head) const { return heads_[head] != nullptr; }
    bool is_large() const; // one of its heads is

    // floats that `work` must hold for each row in the functions below, which take up to max_rows_at_once rows
    size_t work_size() const { return work_size_; }

    // energies[r] = E_head(h[r])
    void energy(int head, const float * const * h, int n_rows, float * energies, float * work) const;

    // energies[r] = E_head(h[r]), and dE/dh = P^T ((dE/dz) / s) into gradients[r] (n_embd)
    void energy_and_gradient(int head, const float * const * h, int n_rows, float * energies,
                             float * const * gradients, float * work) const;

    // Throws std::invalid_argument for what is not finite or negative, and for the covariance metric without
    // a subspace.
    void check_rule(const descent_rule & rule) const;

    // Moves each h[r] down the energy, in place, with a step size of its own (the rule's is not used). Nothing is
    // written if E(h) <= threshold.
    // With c = shift in the coordinates of the subspace (h + P^T c), z = z_0 + c / s, g = dE/dz and L =
    // step_size (* |h|):
    //   covariance metric  c <- c - L * (s*g) / |s*g|     (that is z <- z - L * g / |s*g|)
    //   euclidean metric   c <- c - L * (g/s) / |g/s|     (|g/s| = |dE/dh|)
    // up to K times; ends early where E <= target or the gradient vanishes. One lift at the end writes h.
    void descend(int head, float * const * h, int n_rows, const descent_rule & rule, const float * step_sizes,
                 float threshold, float target, descent_result * results, float * work) const;

private:
    struct descent; // one row on its way

    int64_t n_embd_;
    std::shared_ptr<const subspace> space_;
    std::unique_ptr<energy_net> heads_[n_heads];
    size_t work_size_;

    bool step(descent & row, bool covariance) const;
    void place(descent & row) const;
    void read_energies(int head, descent * const * rows, int n_rows) const;

    int64_t n_inner() const { return space_ ? space_->rank() : n_embd_; }
};

} // namespace edge_eds
