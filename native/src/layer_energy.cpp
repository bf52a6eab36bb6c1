#include "layer_energy.h"

#include "kernels.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

namespace edge_eds {

// shorter than this, a gradient has no direction in float32
static const double min_gradient = 1e-30;

layer_energy::layer_energy(int64_t n_embd, std::shared_ptr<const subspace> space,
                           std::unique_ptr<energy_net> (&&heads)[n_heads])
    : n_embd_(n_embd), space_(std::move(space)) {
    if (n_embd <= 0) {
        throw std::invalid_argument("n_embd must be > 0");
    }
    if (space_ && space_->n_embd() != n_embd) {
        throw std::invalid_argument("the subspace is of " + std::to_string(space_->n_embd()) +
                                    " dimensions, the layer of n_embd = " + std::to_string(n_embd));
    }
    size_t net_work = 0;
    bool any        = false;
    for (int head = 0; head < n_heads; ++head) {
        heads_[head] = std::move(heads[head]);
        if (!heads_[head]) {
            continue;
        }
        any = true;
        if (heads_[head]->n_in() != n_inner()) {
            throw std::invalid_argument(std::string("head ") + head_name(head) + " takes " +
                                        std::to_string(heads_[head]->n_in()) + " inputs, but " +
                                        (space_ ? "the subspace has rank " : "n_embd is ") +
                                        std::to_string(n_inner()));
        }
        net_work = std::max(net_work, heads_[head]->work_size());
    }
    if (!any) {
        throw std::invalid_argument("a layer's energy needs at least one head");
    }
    // z_0, z, c and the gradient; a centred row; the net's own
    work_size_ = 4 * (size_t) n_inner() + (size_t) n_embd + net_work;
}

void layer_energy::check_rule(const descent_rule & rule) const {
    if (!std::isfinite(rule.step_size) || rule.step_size < 0.0f) {
        throw std::invalid_argument("step_size must be a finite number >= 0");
    }
    if (rule.steps < 0) {
        throw std::invalid_argument("steps must be >= 0");
    }
    if (!std::isfinite(rule.max_shift) || rule.max_shift < 0.0f) {
        throw std::invalid_argument("max_shift must be a finite number >= 0 (0 = no cap)");
    }
    if (rule.covariance && !space_) {
        throw std::invalid_argument(
            "the covariance metric needs a subspace; this layer has none: use the euclidean metric");
    }
}

float layer_energy::energy(int head, const float * h, float * work) const {
    if (!space_) {
        return heads_[head]->energy(h, work);
    }
    float * z       = work;
    float * centred = z + n_inner();
    space_->project(h, z, centred);
    return heads_[head]->energy(z, centred + n_embd_);
}

float layer_energy::energy_and_gradient(int head, const float * h, float * gradient_out, float * work) const {
    if (!space_) {
        const float e = heads_[head]->energy(h, work);
        heads_[head]->gradient(work, gradient_out);
        return e;
    }
    const int64_t n  = n_inner();
    float * z        = work;
    float * g        = z + n;
    float * centred  = g + n;
    float * net_work = centred + n_embd_;
    space_->project(h, z, centred);
    const float e = heads_[head]->energy(z, net_work);
    heads_[head]->gradient(net_work, g);
    for (int64_t i = 0; i < n; ++i) {
        g[i] /= space_->s()[i];
    }
    std::fill(gradient_out, gradient_out + n_embd_, 0.0f);
    space_->lift(g, gradient_out);
    return e;
}

descent_result layer_energy::descend(int head, float * h, const descent_rule & rule, float threshold,
                                     float target, float * work) const {
    const energy_net & net = *heads_[head];
    const int64_t n        = n_inner();
    const float * s        = space_ ? space_->s() : nullptr;
    float * z_0            = work;
    float * z              = z_0 + n;
    float * c              = z + n;
    float * g              = c + n;
    float * centred        = g + n;
    float * net_work       = centred + n_embd_;

    if (space_) {
        space_->project(h, z_0, centred);
    } else {
        std::copy(h, h + n, z_0);
    }

    descent_result result;
    float e              = net.energy(z_0, net_work);
    result.energy_before = e;
    result.energy_after  = e;
    if (!std::isfinite(e)) {
        result.finite = false;
        return result;
    }
    if (e <= threshold) {
        return result;
    }

    const double h_norm = norm(h, n_embd_);
    const double length = rule.relative ? rule.step_size * h_norm : rule.step_size;
    if (!(length > 0.0)) {
        result.finite = std::isfinite(h_norm);
        return result;
    }

    std::fill(c, c + n, 0.0f);
    while (result.steps < rule.steps && !(e <= target)) {
        net.gradient(net_work, g);
        if (s) {
            for (int64_t i = 0; i < n; ++i) {
                g[i] = rule.covariance ? g[i] * s[i] : g[i] / s[i];
            }
        }
        const double g_norm = norm(g, n);
        if (!std::isfinite(g_norm)) {
            result.finite = false;
            return result;
        }
        if (g_norm < min_gradient) {
            break;
        }
        for (int64_t i = 0; i < n; ++i) {
            c[i] -= (float) (length * (g[i] / g_norm));
            z[i] = z_0[i] + (s ? c[i] / s[i] : c[i]);
        }
        e = net.energy(z, net_work);
        result.steps += 1;
    }
    if (result.steps == 0) {
        return result;
    }

    double shift = norm(c, n);
    if (rule.max_shift > 0.0f && shift > rule.max_shift * h_norm) {
        const double scale = rule.max_shift * h_norm / shift;
        for (int64_t i = 0; i < n; ++i) {
            c[i] = (float) (c[i] * scale);
            z[i] = z_0[i] + (s ? c[i] / s[i] : c[i]);
        }
        e = net.energy(z, net_work);
        shift *= scale;
    }

    if (space_) {
        space_->lift(c, h);
    } else {
        add_scaled(1.0f, c, h, n);
    }
    result.energy_after = e;
    result.shift        = h_norm > 0.0 ? (float) (shift / h_norm) : 0.0f;
    result.changed      = true;
    result.finite       = std::isfinite(e) && all_finite(h, n_embd_);
    return result;
}

} // namespace edge_eds
