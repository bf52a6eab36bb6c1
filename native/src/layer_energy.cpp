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
    work_size_ = (size_t) (4 * whole_lines(n_inner()) + whole_lines(n_embd)) + net_work;
}

bool layer_energy::is_large() const {
    for (const std::unique_ptr<energy_net> & head : heads_) {
        if (head && head->is_large()) {
            return true;
        }
    }
    return false;
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

// One row on its way. Its work: z_0, z, c and the gradient (n_inner each), a centred row (n_embd), the net's own.
struct layer_energy::descent {
    descent_result * result;
    float * h;
    float * z_0;
    float * z;
    float * c;
    float * g;
    float * centred;
    float * net_work;
    double h_norm;
    double length; // of a step
    float e;       // at z

    void lay_out(float * work, int64_t n_inner, int64_t n_embd) {
        z_0      = work;
        z        = z_0 + whole_lines(n_inner);
        c        = z + whole_lines(n_inner);
        g        = c + whole_lines(n_inner);
        centred  = g + whole_lines(n_inner);
        net_work = centred + whole_lines(n_embd);
    }
};

void layer_energy::energy(int head, const float * const * h, int n_rows, float * energies, float * work) const {
    float * z[max_rows_at_once];
    float * centred[max_rows_at_once];
    float * net_work[max_rows_at_once];
    for (int r = 0; r < n_rows; ++r) {
        z[r]        = work + (size_t) r * work_size_;
        centred[r]  = z[r] + whole_lines(n_inner());
        net_work[r] = centred[r] + whole_lines(n_embd_);
    }
    if (space_) {
        space_->project(h, n_rows, z, centred);
    }
    heads_[head]->energy(space_ ? z : h, n_rows, net_work, energies);
}

void layer_energy::energy_and_gradient(int head, const float * const * h, int n_rows, float * energies,
                                       float * const * gradients, float * work) const {
    const int64_t n = n_inner();
    float * g[max_rows_at_once];
    float * net_work[max_rows_at_once];
    energy(head, h, n_rows, energies, work);
    for (int r = 0; r < n_rows; ++r) {
        g[r]        = space_ ? work + (size_t) r * work_size_ : gradients[r];
        net_work[r] = work + (size_t) r * work_size_ + whole_lines(n) + whole_lines(n_embd_); // where energy() left it
    }
    heads_[head]->gradient(n_rows, net_work, g);
    if (space_) {
        for (int r = 0; r < n_rows; ++r) {
            for (int64_t i = 0; i < n; ++i) {
                g[r][i] /= space_->s()[i];
            }
            std::fill(gradients[r], gradients[r] + n_embd_, 0.0f);
        }
        space_->lift(g, n_rows, gradients);
    }
}

// c and z after a step of row.length along g, which is dE/dz; false where there is no direction to go.
bool layer_energy::step(descent & row, bool covariance) const {
    const int64_t n = n_inner();
    const float * s = space_ ? space_->s() : nullptr;
    if (s) {
        for (int64_t i = 0; i < n; ++i) {
            row.g[i] = covariance ? row.g[i] * s[i] : row.g[i] / s[i];
        }
    }
    const double g_norm = norm(row.g, n);
    if (!std::isfinite(g_norm)) {
        row.result->finite = false;
        return false;
    }
    if (g_norm < min_gradient) {
        return false;
    }
    const double factor = row.length / g_norm;
    for (int64_t i = 0; i < n; ++i) {
        row.c[i] -= (float) (factor * row.g[i]);
    }
    place(row);
    row.result->steps += 1;
    return true;
}

// z where c leads
void layer_energy::place(descent & row) const {
    const float * s = space_ ? space_->s() : nullptr;
    for (int64_t i = 0; i < n_inner(); ++i) {
        row.z[i] = row.z_0[i] + (s ? row.c[i] / s[i] : row.c[i]);
    }
}

// e of these rows at their z
void layer_energy::read_energies(int head, descent * const * rows, int n_rows) const {
    float * z[max_rows_at_once] = {};
    float * net_work[max_rows_at_once] = {};
    float energies[max_rows_at_once];
    for (int r = 0; r < n_rows; ++r) {
        z[r]        = rows[r]->z;
        net_work[r] = rows[r]->net_work;
    }
    heads_[head]->energy(z, n_rows, net_work, energies);
    for (int r = 0; r < n_rows; ++r) {
        rows[r]->e = energies[r];
    }
}

void layer_energy::descend(int head, float * const * h, int n_rows, const descent_rule & rule,
                           const float * step_sizes, float threshold, float target, descent_result * results,
                           float * work) const {
    const int64_t n = n_inner();
    descent rows[max_rows_at_once];
    float * z[max_rows_at_once] = {};
    float * buffer[max_rows_at_once] = {};
    float * net_work[max_rows_at_once] = {};

    descent * read[max_rows_at_once];
    for (int r = 0; r < n_rows; ++r) {
        results[r]     = descent_result();
        rows[r].result = &results[r];
        rows[r].h      = h[r];
        rows[r].lay_out(work + (size_t) r * work_size_, n, n_embd_);
        z[r]      = rows[r].z;
        buffer[r] = rows[r].centred;
        read[r]   = &rows[r];
    }
    if (space_) {
        space_->project(h, n_rows, z, buffer);
    } else {
        for (int r = 0; r < n_rows; ++r) {
            std::copy(h[r], h[r] + n, z[r]);
        }
    }
    read_energies(head, read, n_rows);

    // which rows move at all
    descent * moving[max_rows_at_once];
    int n_moving = 0;
    for (int r = 0; r < n_rows; ++r) {
        descent & row             = rows[r];
        row.result->energy_before = row.e;
        row.result->energy_after  = row.e;
        if (!std::isfinite(row.e)) {
            row.result->finite = false;
            continue;
        }
        if (row.e <= threshold) {
            continue;
        }
        row.h_norm = norm(row.h, n_embd_);
        row.length = rule.relative ? step_sizes[r] * row.h_norm : step_sizes[r];
        if (!(row.length > 0.0)) {
            row.result->finite = std::isfinite(row.h_norm);
            continue;
        }
        std::copy(row.z, row.z + n, row.z_0);
        std::fill(row.c, row.c + n, 0.0f);
        moving[n_moving++] = &row;
    }

    // up to K steps each; those that arrive, or cannot go on, leave
    descent * going[max_rows_at_once];
    int n_going = n_moving;
    std::copy(moving, moving + n_moving, going);
    for (int k = 0; k < rule.steps && n_going > 0; ++k) {
        int n_left = 0;
        for (int r = 0; r < n_going; ++r) {
            if (!(going[r]->e <= target)) {
                going[n_left++] = going[r];
            }
        }
        for (int r = 0; r < n_left; ++r) {
            net_work[r] = going[r]->net_work;
            buffer[r]   = going[r]->g;
        }
        heads_[head]->gradient(n_left, net_work, buffer);
        n_going = 0;
        for (int r = 0; r < n_left; ++r) {
            if (step(*going[r], rule.covariance)) {
                going[n_going++] = going[r];
            }
        }
        read_energies(head, going, n_going);
    }

    // the rows that moved, those beyond the cap taken back to it
    descent * moved[max_rows_at_once];
    descent * capped[max_rows_at_once];
    int n_moved  = 0;
    int n_capped = 0;
    for (int r = 0; r < n_moving; ++r) {
        descent & row = *moving[r];
        if (!row.result->finite || row.result->steps == 0) {
            continue;
        }
        double shift = norm(row.c, n);
        if (rule.max_shift > 0.0f && shift > rule.max_shift * row.h_norm) {
            const double scale = rule.max_shift * row.h_norm / shift;
            for (int64_t i = 0; i < n; ++i) {
                row.c[i] = (float) (row.c[i] * scale);
            }
            place(row);
            capped[n_capped++] = &row;
            shift *= scale;
        }
        row.result->shift = row.h_norm > 0.0 ? (float) (shift / row.h_norm) : 0.0f;
        moved[n_moved++]  = &row;
    }
    read_energies(head, capped, n_capped);

    for (int r = 0; r < n_moved; ++r) {
        buffer[r] = moved[r]->c;
        z[r]      = moved[r]->h;
    }
    if (space_) {
        space_->lift(buffer, n_moved, z);
    }
    for (int r = 0; r < n_moved; ++r) {
        descent & row = *moved[r];
        if (!space_) {
            add_scaled(1.0f, row.c, row.h, n);
        }
        row.result->energy_after = row.e;
        row.result->changed      = true;
        row.result->finite       = std::isfinite(row.e) && all_finite(row.h, n_embd_);
    }
}

} // namespace edge_eds
