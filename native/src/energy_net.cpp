#include "energy_net.h"

#include "kernels.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

namespace edge_eds {

static const double layer_norm_eps = 1e-5;

// `work`, block after block: [normed (n_out)] [pre-activation (n_out)] [activation (n_out)] [1 / std (1)],
// then two buffers of the greatest width for the way back.
static size_t block_work_size(const hidden_block & block) {
    return 3 * (size_t) block.n_out + 1;
}

static void check_size(const std::vector<float> & values, int64_t n, const std::string & what) {
    if ((int64_t) values.size() != n) {
        throw std::invalid_argument(what + " has " + std::to_string(values.size()) + " values, expected " +
                                    std::to_string(n));
    }
    if (!all_finite(values.data(), n)) {
        throw std::invalid_argument(what + " holds NaN or infinite values");
    }
}

energy_net::energy_net(std::vector<hidden_block> blocks, std::vector<float> last_weight, float last_bias)
    : blocks_(std::move(blocks)), last_weight_(std::move(last_weight)), last_bias_(last_bias) {
    int64_t width = blocks_.empty() ? (int64_t) last_weight_.size() : blocks_[0].n_in;
    if (width <= 0) {
        throw std::invalid_argument("an energy needs at least one input");
    }
    n_in_      = width;
    max_width_ = width;
    work_size_ = 0;
    for (size_t i = 0; i < blocks_.size(); ++i) {
        const hidden_block & block = blocks_[i];
        const std::string name     = "hidden block " + std::to_string(i);
        if (block.n_in != width) {
            throw std::invalid_argument(name + " takes " + std::to_string(block.n_in) + " inputs, but gets " +
                                        std::to_string(width));
        }
        if (block.n_out <= 0) {
            throw std::invalid_argument(name + " has no outputs");
        }
        check_size(block.weight, block.n_out * block.n_in, name + ": weight");
        check_size(block.bias, block.n_out, name + ": bias");
        if (block.gamma.empty() != block.beta.empty()) {
            throw std::invalid_argument(name + ": gamma and beta of LayerNorm go together");
        }
        if (!block.gamma.empty()) {
            check_size(block.gamma, block.n_out, name + ": gamma");
            check_size(block.beta, block.n_out, name + ": beta");
        }
        width      = block.n_out;
        max_width_ = std::max(max_width_, width);
        work_size_ += block_work_size(block);
    }
    check_size(last_weight_, width, "the last weight");
    check_size({last_bias_}, 1, "the last bias");
    work_size_ += 2 * (size_t) max_width_;
}

float energy_net::energy(const float * x, float * work) const {
    for (const hidden_block & block : blocks_) {
        const int64_t n    = block.n_out;
        float * normed     = work;
        float * activation = work + 2 * n;
        float * inv_std    = work + 3 * n;
        float * pre        = work + n;

        affine(block.weight.data(), block.bias.data(), x, pre, n, block.n_in);
        if (!block.gamma.empty()) {
            double mean = 0.0;
            for (int64_t i = 0; i < n; ++i) {
                mean += pre[i];
            }
            mean /= (double) n;
            double var = 0.0;
            for (int64_t i = 0; i < n; ++i) {
                var += (pre[i] - mean) * (pre[i] - mean);
            }
            var /= (double) n;
            *inv_std = (float) (1.0 / std::sqrt(var + layer_norm_eps));
            for (int64_t i = 0; i < n; ++i) {
                normed[i] = ((float) (pre[i] - mean)) * *inv_std;
                pre[i]    = block.gamma[i] * normed[i] + block.beta[i];
            }
        }
        for (int64_t i = 0; i < n; ++i) {
            activation[i] = pre[i] * sigmoid(pre[i]);
        }
        x = activation;
        work += block_work_size(block);
    }
    return dot(last_weight_.data(), x, (int64_t) last_weight_.size()) + last_bias_;
}

void energy_net::gradient(float * work, float * gradient_out) const {
    float * here = work + work_size_ - 2 * (size_t) max_width_; // dE/d(output of the block)
    float * next = here + max_width_;                           // dE/d(input of the block)
    std::copy(last_weight_.begin(), last_weight_.end(), here);

    const float * block_work = work + work_size_ - 2 * (size_t) max_width_;
    for (size_t b = blocks_.size(); b-- > 0;) {
        const hidden_block & block = blocks_[b];
        const int64_t n            = block.n_out;
        block_work -= block_work_size(block);
        const float * normed  = block_work;
        const float * pre     = block_work + n;
        const float * inv_std = block_work + 3 * n;

        // SiLU'(a) = s + a s (1 - s), s = sigmoid(a)
        for (int64_t i = 0; i < n; ++i) {
            const float s = sigmoid(pre[i]);
            here[i] *= s * (1.0f + pre[i] * (1.0f - s));
        }
        if (!block.gamma.empty()) {
            // u = gamma * dE/da; dE/d(W x + b) = (u - mean(u) - normed * mean(u * normed)) / std
            double mean_u        = 0.0;
            double mean_u_normed = 0.0;
            for (int64_t i = 0; i < n; ++i) {
                here[i] *= block.gamma[i];
                mean_u += here[i];
                mean_u_normed += (double) here[i] * normed[i];
            }
            mean_u /= (double) n;
            mean_u_normed /= (double) n;
            for (int64_t i = 0; i < n; ++i) {
                here[i] = (float) (here[i] - mean_u - normed[i] * mean_u_normed) * *inv_std;
            }
        }
        transposed_product(block.weight.data(), here, next, n, block.n_in);
        std::swap(here, next);
    }
    std::copy(here, here + n_in_, gradient_out);
}

} // namespace edge_eds
