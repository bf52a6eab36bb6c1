// One energy: a small MLP from x (n_in) to a number, with its gradient written out by hand.
// Hidden block: a = W x + b; with LayerNorm a = gamma * (a - mean) / sqrt(var + 1e-5) + beta (biased
// variance); x = SiLU(a) = a * sigmoid(a). Last: E = w . x + c. Low energy is good. No dropout: it belongs to
// training. Weights are frozen when made; the caller brings the scratch memory, so one net serves many
// threads. Up to max_rows_at_once rows share one reading of the weights; what a row gives does not depend on it.
#pragma once

#include "weights.h"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace edge_eds {

struct hidden_block {
    int64_t n_in  = 0;
    int64_t n_out = 0;
    std::vector<float> weight; // (n_out, n_in) row-major
    std::vector<float> bias;   // (n_out)
    std::vector<float> gamma;  // (n_out), or empty: no LayerNorm
    std::vector<float> beta;   // (n_out), or empty: no LayerNorm
};

// Weights beyond which a net waits for memory rather than for arithmetic: 4 MB in float32, more than a core's cache.
const int64_t large_net = 1 << 20;

class energy_net {
public:
    // `blocks` may be empty: then E = w . x + c is linear. eight_bits: whether the matrices of the blocks are kept
    // in 8 bits; energy and gradient are then those of the rounded net, and still belong together. By default those
    // of large nets are.
    // Throws std::invalid_argument where shapes do not chain or a weight is not finite.
    energy_net(std::vector<hidden_block> blocks, std::vector<float> last_weight, float last_bias,
               std::optional<bool> eight_bits = std::nullopt);

    int64_t n_in() const { return n_in_; }

    // floats that the `work` of each row must hold in the two functions below
    size_t work_size() const { return work_size_; }

    bool eight_bits() const { return eight_bits_; }
    bool is_large() const { return n_weights_ > large_net; }

    // energies[r] = E(x[r]) for n_rows <= max_rows_at_once; leaves in work[r] what gradient() needs.
    void energy(const float * const * x, int n_rows, float * const * work, float * energies) const;

    // gradients[r] (n_in) = dE/dx at the x of the last energy() with the same work[r]
    void gradient(int n_rows, float * const * work, float * const * gradients) const;

private:
    struct block {
        weights weight;
        std::vector<float> bias, gamma, beta;
        int64_t part() const { return whole_lines((int64_t) bias.size()); } // of the work
        size_t work_size() const { return (size_t) (3 * part() + whole_lines(1)); }
    };

    std::vector<block> blocks_;
    std::vector<float> last_weight_; // (n_out of the last block, or n_in)
    float last_bias_;
    int64_t n_weights_; // of the blocks
    bool eight_bits_;
    int64_t n_in_;
    int64_t max_width_;
    size_t work_size_;
};

} // namespace edge_eds
