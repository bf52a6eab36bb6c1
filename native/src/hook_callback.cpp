// The part of the hook that runs inside llama_decode: no allocation, no exception, no lock but to wake helpers.
// Scratch memory was sized by set_program() and begin() in hook.cpp; errors are latched for end().
#include "hook.h"

#include "kernels.h"
#include "layer_name.h"

#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <limits>

namespace edge_eds {

bool hook::eval_callback(ggml_tensor * tensor, bool ask, void * user_data) noexcept {
    hook * self = static_cast<hook *>(user_data);
    if (ask) {
        return (self->any_wanted_ || self->probing_) && self->on_ask(tensor);
    }
    self->on_computed(tensor);
    return true; // false would make llama.cpp skip the rest of the graph and return garbage as logits
}

void hook::fail(int32_t layer, const char * format, ...) noexcept {
    if (failed_) {
        return; // the first error is the cause
    }
    va_list args;
    va_start(args, format);
    std::vsnprintf(failed_message_, sizeof(failed_message_), format, args);
    va_end(args);
    failed_       = true;
    failed_layer_ = layer;
}

void hook::record_probe(const ggml_tensor * tensor, int32_t layer) {
    if (probe_.size() == probe_.capacity()) {
        probe_full_ = true;
        return;
    }
    const int64_t n_rows = api_.nrows(tensor);
    probe_.push_back(
        {layer, n_rows > 0 ? api_.nelements(tensor) / n_rows : 0, n_rows, (int64_t) api_.nbytes(tensor)});
}

bool hook::on_ask(ggml_tensor * tensor) {
    const int32_t il = layer_of_name(api_.get_name(tensor));
    if (il < 0) {
        return false;
    }
    if (probing_) {
        record_probe(tensor, il);
        return false;
    }
    if (il >= n_layer_ || failed_) {
        return false;
    }
    layer_plan & layer = layers_[(size_t) il];
    if (!layer.wanted) {
        return false;
    }
    const int64_t n          = api_.nrows(tensor);
    const int64_t n_elements = api_.nelements(tensor);
    const size_t n_bytes     = api_.nbytes(tensor);
    if (n == 0) {
        return false; // end() reports the rows that are missing
    }
    if (n_elements != n * n_embd_) {
        fail(il, "layer %d: l_out-%d has rows of %lld values, expected n_embd = %lld", (int) il, (int) il,
             (long long) (n_elements / n), (long long) n_embd_);
        return false;
    }
    if (n_bytes != (size_t) n_elements * sizeof(float) || !api_.is_contiguous(tensor)) {
        fail(il, "layer %d: l_out-%d is not a contiguous float32 tensor (%lld values in %lld bytes)",
             (int) il, (int) il, (long long) n_elements, (long long) n_bytes);
        return false;
    }
    if (layer.n_seen + n > n_rows_) {
        fail(il, "layer %d: l_out-%d was computed for %lld rows, but the decode has %lld", (int) il, (int) il,
             (long long) (layer.n_seen + n), (long long) n_rows_);
        return false;
    }
    if (needs(layer, n)) {
        return true;
    }
    // nothing to do in this micro-batch: count its rows and let the backend go on without a stop
    layer.n_seen += n;
    while (layer.n_passed < plan_.size() && plan_[layer.n_passed].row < layer.n_seen) {
        layer.n_passed += 1;
    }
    return false;
}

// The head that this item descends for the row, if any. Undecided answers have none.
bool hook::descends_with(const intervention & item, const planned_row & row, int * head) const {
    if (!(row.step_size > 0.0f)) {
        return false;
    }
    if (n_gate_items_ == 0) {
        *head = HEAD_MERGED;
    } else {
        const slot_state & slot = slots_[(size_t) row.slot];
        if (!slot.gate.read || slot.gate.decision == DECIDED_NONE) {
            return false;
        }
        *head = slot.gate.decision == DECIDED_FR ? HEAD_FR : HEAD_JB;
    }
    return item.energy->has_head(*head);
}

// Whether a descent of this layer may concern the row: true also while the answer's gate is not read yet.
bool hook::descends(const layer_plan & layer, const planned_row & row) const {
    if (!layer.any_descent || !(row.step_size > 0.0f)) {
        return false;
    }
    if (n_gate_items_ > 0 && !slots_[(size_t) row.slot].gate.read) {
        return true;
    }
    for (const intervention * item : layer.items) {
        int head = 0;
        if (item->kind == DESCEND && descends_with(*item, row, &head)) {
            return true;
        }
    }
    return false;
}

// Whether the item is about a row: one that is not listed (planned < 0), or plan_[planned].
bool hook::in_scope(const intervention & item, int64_t planned) const {
    return item.scope == ALL_ROWS || (planned >= 0 && plan_[(size_t) planned].scope() == item.scope);
}

bool hook::needs_planned(const layer_plan & layer, const planned_row & row) const {
    if (row.offset < 0) {
        return layer.any_message;
    }
    return layer.any_planned || (layer.any_gate && row.offset == 0) || descends(layer, row);
}

// Whether anything is to be done at this layer with the next n rows of the decode.
bool hook::needs(const layer_plan & layer, int64_t n) const {
    if (layer.any_all) {
        return true;
    }
    for (size_t p = layer.n_passed; p < plan_.size() && plan_[p].row < layer.n_seen + n; ++p) {
        if (needs_planned(layer, plan_[p])) {
            return true;
        }
    }
    return false;
}

void hook::on_computed(ggml_tensor * tensor) {
    // only reached for a tensor that on_ask accepted just before
    const int32_t il = layer_of_name(api_.get_name(tensor));
    if (!armed_ || failed_ || il < 0 || il >= n_layer_ || !layers_[(size_t) il].wanted) {
        return;
    }
    layer_plan & layer      = layers_[(size_t) il];
    const int64_t n         = api_.nrows(tensor);
    const int64_t first_row = layer.n_seen;
    const size_t row_bytes  = (size_t) n_embd_ * sizeof(float);
    if (first_row + n > n_rows_) {
        return;
    }
    size_t plan_end = layer.n_passed;
    while (plan_end < plan_.size() && plan_[plan_end].row < first_row + n) {
        plan_end += 1;
    }

    // choose the rows
    int64_t n_chosen = 0;
    size_t p         = layer.n_passed;
    for (int64_t i = 0; i < n && (layer.any_all || p < plan_end); ++i) {
        int64_t planned = -1;
        if (p < plan_end && plan_[p].row == first_row + i) {
            planned = (int64_t) p;
            p += 1;
        }
        if (layer.any_all || (planned >= 0 && needs_planned(layer, plan_[(size_t) planned]))) {
            row_index_[(size_t) n_chosen]  = i;
            plan_index_[(size_t) n_chosen] = planned;
            changed_[(size_t) n_chosen]    = 0;
            n_chosen += 1;
        }
    }

    // read them, neighbours together: on a GPU every transfer is a synchronisation
    for (int64_t i = 0; i < n_chosen;) {
        int64_t j = i + 1;
        while (j < n_chosen && row_index_[(size_t) j] == row_index_[(size_t) (j - 1)] + 1) {
            j += 1;
        }
        api_.tensor_get(tensor, rows_.data() + i * n_embd_, (size_t) row_index_[(size_t) i] * row_bytes,
                        (size_t) (j - i) * row_bytes);
        i = j;
    }

    {
        const workers::shift shift(layer.any_large && n_chosen > 0 ? helpers_.get() : nullptr);
        for (const intervention * item : layer.items) {
            if (!run_item(*item, n_chosen)) {
                return;
            }
        }
    }

    for (int64_t i = 0; i < n_chosen; ++i) {
        if (changed_[(size_t) i] && !all_finite(rows_.data() + i * n_embd_, n_embd_)) {
            fail(il, "layer %d: the edited row %lld holds NaN or infinite values", (int) il,
                 (long long) (first_row + row_index_[(size_t) i]));
            return;
        }
    }

    // write back what changed
    for (int64_t i = 0; i < n_chosen;) {
        if (!changed_[(size_t) i]) {
            i += 1;
            continue;
        }
        int64_t j = i;
        do {
            row_written_[(size_t) (first_row + row_index_[(size_t) j])] = 1;
            j += 1;
        } while (j < n_chosen && changed_[(size_t) j] &&
                 row_index_[(size_t) j] == row_index_[(size_t) (j - 1)] + 1);
        api_.tensor_set(tensor, rows_.data() + i * n_embd_, (size_t) row_index_[(size_t) i] * row_bytes,
                        (size_t) (j - i) * row_bytes);
        i = j;
    }

    layer.n_seen += n;
    layer.n_passed = plan_end;
}

// The next of the n chosen rows that are wanted, max_rows_at_once or fewer; `next` goes on behind them.
template <typename predicate>
static int pick(int64_t & next, int64_t n, int64_t (&picked)[max_rows_at_once], predicate wanted) {
    int n_picked = 0;
    for (; next < n && n_picked < max_rows_at_once; ++next) {
        if (wanted(next)) {
            picked[n_picked++] = next;
        }
    }
    return n_picked;
}

// All return false after fail(): then nothing of this layer is written.
bool hook::run_item(const intervention & item, int64_t n) {
    if (item.kind == GATE_READ) {
        return read_gate(item, n);
    }
    if (item.kind == MESSAGE_READ) {
        return read_message(item, n);
    }
    if (item.kind == DESCEND) {
        return run_descent(item, n);
    }
    if (item.kind == LOW_RANK) {
        return run_low_rank(item, n);
    }
    if (item.kind == HOST_FUNCTION) {
        return run_host_function(item, n);
    }
    for (int64_t i = 0; i < n; ++i) {
        const int64_t planned = plan_index_[(size_t) i];
        if (!in_scope(item, planned)) {
            continue;
        }
        float * h = rows_.data() + i * n_embd_;
        if (item.kind == ADD_VECTOR) {
            add_scaled(1.0f, item.direction.data(), h, n_embd_);
            changed_[(size_t) i] = 1;
        } else if (item.kind == ABLATE) {
            // h <- h - amount (u . h) u
            add_scaled(-item.amount * dot(item.direction.data(), h, n_embd_), item.direction.data(), h,
                       n_embd_);
            changed_[(size_t) i] = 1;
        } else {
            const layer_plan & layer = layers_[(size_t) item.layer];
            const int64_t out_row    = item.scope == ALL_ROWS ? layer.n_seen + row_index_[(size_t) i]
                                                              : plan_[(size_t) planned].rank;
            std::memcpy(item.out + out_row * n_embd_, h, (size_t) n_embd_ * sizeof(float));
        }
    }
    return true;
}

// The energies of these of the chosen rows. False after fail(): one is not finite.
bool hook::read_energies(const intervention & item, int head, const int64_t * picked, int n_picked,
                         float * energies) {
    const float * h[max_rows_at_once] = {};
    for (int k = 0; k < n_picked; ++k) {
        h[k] = rows_.data() + picked[k] * n_embd_;
    }
    item.energy->energy(head, h, n_picked, energies, work_.data());
    for (int k = 0; k < n_picked; ++k) {
        if (!std::isfinite(energies[k])) {
            fail(item.layer, "layer %d: the energy %s of row %d is not finite", (int) item.layer, head_name(head),
                 (int) plan_[(size_t) plan_index_[(size_t) picked[k]]].row);
            return false;
        }
    }
    return true;
}

// One of the gate's terms is known; the last one decides.
void hook::add_reading(const intervention & item, int head, const planned_row & row, double energy) {
    slot_state & slot = slots_[(size_t) row.slot];
    slot.gate.score += item.weight * energy;
    slot.n_read += 1;
    trace_.push_back({row.slot, row.offset, item.layer, head, (float) energy, (float) energy, 0,
                      0.0f}); // begin() reserved the room
    if (slot.n_read == n_gate_items_) {
        decide(slot);
    }
}

bool hook::read_gate(const intervention & item, int64_t n) {
    const auto wanted = [&](int64_t i) {
        return plan_index_[(size_t) i] >= 0 && plan_[(size_t) plan_index_[(size_t) i]].offset == 0;
    };
    int64_t picked[max_rows_at_once];
    float energies[max_rows_at_once];
    for (int64_t next = 0; int n_picked = pick(next, n, picked, wanted);) {
        if (!read_energies(item, HEAD_HARM, picked, n_picked, energies)) {
            return false;
        }
        for (int k = 0; k < n_picked; ++k) {
            add_reading(item, HEAD_HARM, plan_[(size_t) plan_index_[(size_t) picked[k]]], energies[k]);
        }
    }
    return true;
}

bool hook::read_message(const intervention & item, int64_t n) {
    const auto wanted = [&](int64_t i) {
        return plan_index_[(size_t) i] >= 0 && plan_[(size_t) plan_index_[(size_t) i]].offset <= 0;
    };
    int64_t picked[max_rows_at_once];
    float energies[max_rows_at_once];
    for (int64_t next = 0; int n_picked = pick(next, n, picked, wanted);) {
        if (!read_energies(item, HEAD_HARM_MESSAGE, picked, n_picked, energies)) {
            return false;
        }
        for (int k = 0; k < n_picked; ++k) {
            const planned_row & row = plan_[(size_t) plan_index_[(size_t) picked[k]]];
            message_sum & message   = messages_[(size_t) row.slot * (size_t) n_layer_ + (size_t) item.layer];
            if (row.offset < 0) {
                message.sum += energies[k];
                message.n += 1;
            } else {
                add_reading(item, HEAD_HARM_MESSAGE, row,
                            message.n > 0 ? message.sum / (double) message.n : (double) energies[k]);
            }
        }
    }
    return true;
}

void hook::decide(slot_state & slot) const {
    slot.gate.read     = true;
    slot.gate.decision = DECIDED_NONE;
    if (slot.gate.score <= program_.gate().benign) {
        slot.gate.decision = model_has_fr_ ? DECIDED_FR : DECIDED_NONE;
    } else if (slot.gate.score >= program_.gate().harmful) {
        slot.gate.decision = model_has_jb_ ? DECIDED_JB : DECIDED_NONE;
    }
}

// Neighbours that descend the same head share one reading of its weights. Held ones lie under a threshold of infinity.
bool hook::run_descent(const intervention & item, int64_t n) {
    int64_t next = 0;
    while (next < n) {
        int head  = 0;
        bool held = false;
        int64_t picked[max_rows_at_once];
        float * h[max_rows_at_once];
        float step_sizes[max_rows_at_once];
        descent_result results[max_rows_at_once];
        int n_picked = 0;
        for (; next < n && n_picked < max_rows_at_once; ++next) {
            int own = 0;
            if (plan_index_[(size_t) next] < 0 ||
                !descends_with(item, plan_[(size_t) plan_index_[(size_t) next]], &own)) {
                continue;
            }
            const bool own_held = slots_[(size_t) plan_[(size_t) plan_index_[(size_t) next]].slot].held;
            if (n_picked > 0 && (own != head || own_held != held)) {
                break;
            }
            head                 = own;
            held                 = own_held;
            picked[n_picked]     = next;
            h[n_picked]          = rows_.data() + next * n_embd_;
            step_sizes[n_picked] = plan_[(size_t) plan_index_[(size_t) next]].step_size;
            n_picked += 1;
        }
        if (n_picked == 0) {
            break;
        }
        const float threshold = held ? std::numeric_limits<float>::infinity() : item.thresholds[head];
        item.energy->descend(head, h, n_picked, program_.schedule().rule, step_sizes, threshold, item.targets[head],
                             results, work_.data());
        for (int k = 0; k < n_picked; ++k) {
            const planned_row & row       = plan_[(size_t) plan_index_[(size_t) picked[k]]];
            const descent_result & result = results[k];
            if (!result.finite) {
                fail(item.layer, "layer %d: descending the energy %s of row %d gave NaN or infinite values",
                     (int) item.layer, head_name(head), (int) row.row);
                return false;
            }
            changed_[(size_t) picked[k]] |= (uint8_t) result.changed;
            trace_.push_back({row.slot, row.offset, item.layer, head, result.energy_before, result.energy_after,
                              result.steps, result.shift});
        }
    }
    return true;
}

bool hook::run_low_rank(const intervention & item, int64_t n) {
    const int64_t rank = (int64_t) item.bias.size();
    const matrix down  = {rank, n_embd_, item.down.data(), nullptr, nullptr};
    const matrix up    = {rank, n_embd_, item.up.data(), nullptr, nullptr};
    const auto wanted  = [&](int64_t i) { return in_scope(item, plan_index_[(size_t) i]); };
    int64_t picked[max_rows_at_once];
    for (int64_t next = 0; int n_picked = pick(next, n, picked, wanted);) {
        float * h[max_rows_at_once];
        float * inner[max_rows_at_once];
        for (int k = 0; k < n_picked; ++k) {
            h[k]                         = rows_.data() + picked[k] * n_embd_;
            inner[k]                     = work_.data() + k * rank;
            changed_[(size_t) picked[k]] = 1;
        }
        affine(down, item.bias.data(), h, inner, n_picked); // all of V h + c first: h must not change meanwhile
        add_transposed(up, inner, h, n_picked);
    }
    return true;
}

bool hook::run_host_function(const intervention & item, int64_t n) {
    const size_t row_bytes = (size_t) n_embd_ * sizeof(float);
    int64_t n_given        = 0;
    for (int64_t i = 0; i < n; ++i) {
        if (in_scope(item, plan_index_[(size_t) i])) {
            std::memcpy(gathered_.data() + n_given * n_embd_, rows_.data() + i * n_embd_, row_bytes);
            n_given += 1;
        }
    }
    if (n_given == 0) {
        return true;
    }
    in_function_      = true;
    const bool edited = item.function->edit(gathered_.data(), n_given, n_embd_, failed_cause_);
    in_function_      = false;
    if (!edited) {
        fail(item.layer, "layer %d: a function given by the user failed", (int) item.layer);
        return false;
    }
    n_given = 0;
    for (int64_t i = 0; i < n; ++i) {
        if (in_scope(item, plan_index_[(size_t) i])) {
            std::memcpy(rows_.data() + i * n_embd_, gathered_.data() + n_given * n_embd_, row_bytes);
            changed_[(size_t) i] = 1;
            n_given += 1;
        }
    }
    return true;
}

} // namespace edge_eds
