#include "energy_net.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace edge_eds {

// `work` of a row, block after block: [normed (n_out)] [slope of SiLU (n_out)] [activation (n_out)] [1 / std (1)],
// then two buffers of the greatest width for the way back; each of them begins at a cache line where the work does.

static void check_size(const std::vector<float> & values, int64_t n, const std::string & what) {
    if ((int64_t) values.size() != n) {
        throw std::invalid_argument(what + " has " + std::to_string(values.size()) + " values, expected " +
                                    std::to_string(n));
    }
    if (!all_finite(values.data(), n)) {
        throw std::invalid_argument(what + " holds NaN or infinite values");
    }
}

energy_net::energy_net(std::vector<hidden_block> blocks, std::vector<float> last_weight, float last_bias,
                       std::optional<bool> eight_bits)
    : last_weight_(std::move(last_weight)), last_bias_(last_bias) {
    int64_t width = blocks.empty() ? (int64_t) last_weight_.size() : blocks[0].n_in;
    if (width <= 0) {
        throw std::invalid_argument("an energy needs at least one input");
    }
    n_weights_ = 0;
    for (const hidden_block & given : blocks) {
        n_weights_ += (int64_t) given.weight.size();
    }
    eight_bits_ = eight_bits.value_or(is_large());
    n_in_      = width;
    max_width_ = whole_lines(width);
    work_size_ = 0;
    for (size_t i = 0; i < blocks.size(); ++i) {
        hidden_block & given   = blocks[i];
        const std::string name = "hidden block " + std::to_string(i);
        if (given.n_in != width) {
            throw std::invalid_argument(name + " takes " + std::to_string(given.n_in) + " inputs, but gets " +
                                        std::to_string(width));
        }
        if (given.n_out <= 0) {
            throw std::invalid_argument(name + " has no outputs");
        }
        check_size(given.weight, given.n_out * given.n_in, name + ": weight");
        check_size(given.bias, given.n_out, name + ": bias");
        if (given.gamma.empty() != given.beta.empty()) {
            throw std::invalid_argument(name + ": gamma and beta of LayerNorm go together");
        }
        if (!given.gamma.empty()) {
            check_size(given.gamma, given.n_out, name + ": gamma");
            check_size(given.beta, given.n_out, name + ": beta");
        }
        width      = given.n_out;
        max_width_ = std::max(max_width_, whole_lines(width));
        blocks_.push_back({weights(given.weight, given.n_out, given.n_in, eight_bits_), std::move(given.bias),
                           std::move(given.gamma), std::move(given.beta)});
        given.weight = std::vector<float>(); // large ones would be held twice
        work_size_ += blocks_.back().work_size();
    }
    check_size(last_weight_, width, "the last weight");
    check_size({last_bias_}, 1, "the last bias");
    work_size_ += 2 * (size_t) max_width_;
}

void energy_net::energy(const float * const * x, int n_rows, float * const * work, float * energies) const {
    const float * in[max_rows_at_once];
    float * out[max_rows_at_once];
    std::copy(x, x + n_rows, in);
    size_t at = 0; // of the block in each row's work
    for (const block & b : blocks_) {
        const int64_t n = b.weight.n_out();
        for (int r = 0; r < n_rows; ++r) {
            out[r] = work[r] + at + b.part();
        }
        affine(b.weight.view(), b.bias.data(), in, out, n_rows);
        for (int r = 0; r < n_rows; ++r) {
            float * normed     = work[r] + at;
            float * slope      = normed + b.part(); // the value before SiLU until then
            float * activation = slope + b.part();
            if (!b.gamma.empty()) {
                activation[b.part()] = layer_norm(slope, normed, b.gamma.data(), b.beta.data(), n);
            }
            silu(slope, activation, slope, n);
            in[r] = activation;
        }
        at += b.work_size();
    }
    for (int r = 0; r < n_rows; ++r) {
        energies[r] = dot(last_weight_.data(), in[r], (int64_t) last_weight_.size()) + last_bias_;
    }
}

void energy_net::gradient(int n_rows, float * const * work, float * const * gradients) const {
    float * here[max_rows_at_once]; // dE/d(output of the block)
    float * next[max_rows_at_once]; // dE/d(input of the block)
    size_t at = work_size_ - 2 * (size_t) max_width_;
    for (int r = 0; r < n_rows; ++r) {
        here[r] = work[r] + at;
        next[r] = here[r] + max_width_;
        std::copy(last_weight_.begin(), last_weight_.end(), here[r]);
    }
    for (size_t k = blocks_.size(); k-- > 0;) {
        const block & b = blocks_[k];
        const int64_t n = b.weight.n_out();
        at -= b.work_size();
        for (int r = 0; r < n_rows; ++r) {
            const float * normed = work[r] + at;
            const float * slope  = normed + b.part();
            for (int64_t i = 0; i < n; ++i) {
                here[r][i] *= slope[i];
            }
            if (!b.gamma.empty()) {
                layer_norm_gradient(here[r], normed, b.gamma.data(), normed[3 * b.part()], n);
            }
            if (k == 0) {
                next[r] = gradients[r];
            }
            std::fill(next[r], next[r] + b.weight.n_in(), 0.0f);
        }
        add_transposed(b.weight.view(), here, next, n_rows);
        for (int r = 0; r < n_rows; ++r) {
            std::swap(here[r], next[r]);
        }
    }
    if (blocks_.empty()) {
        for (int r = 0; r < n_rows; ++r) {
            std::copy(last_weight_.begin(), last_weight_.end(), gradients[r]);
        }
    }
}

} // namespace edge_eds
