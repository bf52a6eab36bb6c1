#include "program.h"

#include "kernels.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

namespace edge_eds {

intervention::intervention() {
    for (int head = 0; head < n_heads; ++head) {
        thresholds[head] = -std::numeric_limits<float>::infinity();
        targets[head]    = -std::numeric_limits<float>::infinity();
    }
}

static std::string at_layer(int32_t layer) {
    return "layer " + std::to_string(layer) + ": ";
}

static void check_direction(int32_t layer, const std::vector<float> & v, const char * what) {
    if (v.empty()) {
        throw std::invalid_argument(at_layer(layer) + what + " is empty");
    }
    if (!all_finite(v.data(), (int64_t) v.size())) {
        throw std::invalid_argument(at_layer(layer) + what + " holds NaN or infinite values");
    }
}

void program::add_vector(int32_t layer, std::vector<float> v, row_scope scope) {
    check_direction(layer, v, "the vector to add");
    intervention item;
    item.kind      = ADD_VECTOR;
    item.scope     = scope;
    item.layer     = layer;
    item.direction = std::move(v);
    interventions_.push_back(std::move(item));
}

void program::ablate_direction(int32_t layer, std::vector<float> u, float amount, row_scope scope) {
    check_direction(layer, u, "the direction to ablate");
    if (!std::isfinite(amount)) {
        throw std::invalid_argument(at_layer(layer) + "the amount to ablate must be a finite number");
    }
    const double length = norm(u.data(), (int64_t) u.size());
    if (!(length > 0.0)) {
        throw std::invalid_argument(at_layer(layer) + "the direction to ablate is zero");
    }
    for (float & x : u) {
        x = (float) (x / length);
    }
    intervention item;
    item.kind      = ABLATE;
    item.scope     = scope;
    item.layer     = layer;
    item.direction = std::move(u);
    item.amount    = amount;
    interventions_.push_back(std::move(item));
}

void program::add_low_rank(int32_t layer, std::vector<float> down, std::vector<float> bias,
                           std::vector<float> up, row_scope scope) {
    check_direction(layer, down, "the matrix down");
    check_direction(layer, bias, "the bias");
    check_direction(layer, up, "the matrix up");
    if (down.size() != up.size() || down.size() % bias.size() != 0) {
        throw std::invalid_argument(at_layer(layer) +
                                    "down and up must both have one row of n_embd values for each bias");
    }
    intervention item;
    item.kind  = LOW_RANK;
    item.scope = scope;
    item.layer = layer;
    item.down  = std::move(down);
    item.bias  = std::move(bias);
    item.up    = std::move(up);
    interventions_.push_back(std::move(item));
}

void program::host_function(int32_t layer, std::shared_ptr<row_function> function, row_scope scope) {
    if (!function) {
        throw std::invalid_argument(at_layer(layer) + "no function given");
    }
    intervention item;
    item.kind     = HOST_FUNCTION;
    item.scope    = scope;
    item.layer    = layer;
    item.function = std::move(function);
    interventions_.push_back(std::move(item));
}

void program::gate_read(int32_t layer, std::shared_ptr<const layer_energy> energy, double weight) {
    add_reading(GATE_READ, layer, std::move(energy), HEAD_HARM, weight);
}

void program::message_read(int32_t layer, std::shared_ptr<const layer_energy> energy, double weight) {
    add_reading(MESSAGE_READ, layer, std::move(energy), HEAD_HARM_MESSAGE, weight);
}

void program::add_reading(intervention_kind kind, int32_t layer, std::shared_ptr<const layer_energy> energy, int head,
                          double weight) {
    if (!energy || !energy->has_head(head)) {
        throw std::invalid_argument(at_layer(layer) + "the gate reads the head " + head_name(head) +
                                    ", which this layer's energy does not have");
    }
    if (!std::isfinite(weight)) {
        throw std::invalid_argument(at_layer(layer) + "the weight in the gate must be a finite number");
    }
    intervention item;
    item.kind   = kind;
    item.layer  = layer;
    item.energy = std::move(energy);
    item.weight = weight;
    interventions_.push_back(std::move(item));
}

void program::energy_descent(int32_t layer, std::shared_ptr<const layer_energy> energy,
                             const float (&thresholds)[n_heads], const float (&targets)[n_heads]) {
    if (!energy) {
        throw std::invalid_argument(at_layer(layer) + "no energy given");
    }
    if (!energy->has_head(HEAD_FR) && !energy->has_head(HEAD_JB) && !energy->has_head(HEAD_MERGED)) {
        throw std::invalid_argument(at_layer(layer) +
                                    "nothing to descend: the energy has none of the heads fr, jb, merged");
    }
    intervention item;
    item.kind   = DESCEND;
    item.layer  = layer;
    item.energy = std::move(energy);
    for (int head = 0; head < n_heads; ++head) {
        if (std::isnan(thresholds[head]) || std::isnan(targets[head])) {
            throw std::invalid_argument(at_layer(layer) + "threshold or target of head " + head_name(head) +
                                        " is NaN");
        }
        item.thresholds[head] = thresholds[head];
        item.targets[head]    = targets[head];
    }
    interventions_.push_back(std::move(item));
}

void program::capture(int32_t layer, float * out, int64_t n_out_rows, int64_t n_embd, row_scope scope) {
    if (!out && n_out_rows > 0) {
        throw std::invalid_argument(at_layer(layer) + "no memory to capture into");
    }
    if (n_embd <= 0) {
        throw std::invalid_argument(at_layer(layer) + "the rows to capture into have no columns");
    }
    intervention item;
    item.kind       = CAPTURE;
    item.scope      = scope;
    item.layer      = layer;
    item.out        = out;
    item.n_out_rows = n_out_rows;
    item.out_n_embd = n_embd;
    interventions_.push_back(std::move(item));
}

void program::set_descent(const descent_schedule & schedule) {
    if (schedule.n_tokens < 0) {
        throw std::invalid_argument("n_tokens must be >= 0 (0 = every new token)");
    }
    if (!std::isfinite(schedule.decay) || schedule.decay < 0.0f) {
        throw std::invalid_argument("decay must be a finite number >= 0");
    }
    schedule_ = schedule;
}

void program::set_gate(const gate_rule & gate) {
    if (!std::isfinite(gate.bias)) {
        throw std::invalid_argument("the gate's bias must be a finite number");
    }
    if (!(gate.benign <= gate.harmful)) {
        throw std::invalid_argument("the gate's thresholds must satisfy gate_benign <= gate_harmful");
    }
    gate_ = gate;
}

void program::check(int32_t n_layer, int64_t n_embd) const {
    int32_t last_gate  = -1;
    int32_t first_edit = n_layer;
    bool gated         = false;
    for (const intervention & item : interventions_) {
        const std::string where = at_layer(item.layer);
        if (item.layer < 0 || item.layer >= n_layer) {
            throw std::invalid_argument(where + "the model has the layers 0 to " +
                                        std::to_string(n_layer - 1));
        }
        if (item.kind != CAPTURE && item.layer == n_layer - 1) {
            throw std::invalid_argument(where + "the last layer cannot be steered or read: llama.cpp drops "
                                                "the rows whose logits are not asked for");
        }
        int64_t width = n_embd;
        if (item.kind == ADD_VECTOR || item.kind == ABLATE) {
            width = (int64_t) item.direction.size();
        } else if (item.kind == LOW_RANK) {
            width = (int64_t) (item.down.size() / item.bias.size());
        } else if (item.kind == GATE_READ || item.kind == MESSAGE_READ || item.kind == DESCEND) {
            width = item.energy->n_embd();
        } else if (item.kind == CAPTURE) {
            width = item.out_n_embd;
        }
        if (width != n_embd) {
            throw std::invalid_argument(where + "made for rows of " + std::to_string(width) +
                                        " values, but the model has n_embd = " + std::to_string(n_embd));
        }
        if (item.kind == GATE_READ || item.kind == MESSAGE_READ) {
            gated     = true;
            last_gate = std::max(last_gate, item.layer);
        }
        if (item.kind == DESCEND) {
            item.energy->check_rule(schedule_.rule);
            first_edit = std::min(first_edit, item.layer);
        }
    }
    if (last_gate > first_edit) {
        throw std::invalid_argument("the gate reads layer " + std::to_string(last_gate) +
                                    ", above the first steered layer " + std::to_string(first_edit) +
                                    ": its decision would come too late");
    }
    for (const intervention & item : interventions_) {
        if (item.kind != DESCEND) {
            continue;
        }
        if (!gated && !item.energy->has_head(HEAD_MERGED)) {
            throw std::invalid_argument(
                at_layer(item.layer) +
                "without a gate the head merged is descended, which this layer's energy does not have");
        }
        if (gated && !item.energy->has_head(HEAD_FR) && !item.energy->has_head(HEAD_JB)) {
            throw std::invalid_argument(
                at_layer(item.layer) +
                "with a gate the heads fr and jb are descended, and this layer's energy has neither");
        }
    }
}

} // namespace edge_eds
