// The part of the hook that runs between decodes: setting up, arming, and telling what happened.
#include "hook.h"

#include <algorithm>
#include <cmath>

namespace edge_eds {

// enough for every l_out of a deep model in some decodes of many micro-batches
static const size_t max_probe_records = 65536;

hook::hook(const ggml_api & api, int32_t n_layer, int64_t n_embd)
    : api_(api), n_layer_(n_layer), n_embd_(n_embd), slots_(1), messages_((size_t) std::max(n_layer, 0)) {
    if (!api.get_name || !api.nelements || !api.nrows || !api.nbytes || !api.is_contiguous ||
        !api.tensor_get || !api.tensor_set) {
        throw std::invalid_argument("hook: the address of a ggml function is missing");
    }
    if (n_layer <= 0 || n_embd <= 0) {
        throw std::invalid_argument("hook: n_layer and n_embd must be > 0, got " + std::to_string(n_layer) +
                                    " and " + std::to_string(n_embd));
    }
    kernels_in_use(); // throws here rather than inside llama_decode
    layers_.resize((size_t) n_layer);
    failed_message_[0] = '\0';
}

void hook::set_program(const program * p) {
    if (armed_ || probing_) {
        throw std::logic_error("set_program: a decode is under way (end() or abort() comes first)");
    }
    if (p) {
        p->check(n_layer_, n_embd_);
    }
    program_ = p ? *p : program();

    layers_.assign((size_t) n_layer_, layer_plan());
    n_gate_items_    = 0;
    n_descent_items_ = 0;
    model_has_fr_    = false;
    model_has_jb_    = false;
    size_t n_work    = 0;

    // three passes give the order on a layer: gate, edits as added, captures
    for (int pass = 0; pass < 3; ++pass) {
        for (const intervention & item : program_.interventions()) {
            const bool is_reading = item.kind == GATE_READ || item.kind == MESSAGE_READ;
            const int item_pass   = is_reading ? 0 : item.kind == CAPTURE ? 2 : 1;
            if (item_pass != pass) {
                continue;
            }
            layer_plan & layer = layers_[(size_t) item.layer];
            layer.items.push_back(&item);
            if (is_reading) {
                layer.any_gate    = true;
                layer.any_message = layer.any_message || item.kind == MESSAGE_READ;
                n_gate_items_ += 1;
            } else if (item.kind == DESCEND) {
                layer.any_descent = true;
                n_descent_items_ += 1;
                model_has_fr_ = model_has_fr_ || item.energy->has_head(HEAD_FR);
                model_has_jb_ = model_has_jb_ || item.energy->has_head(HEAD_JB);
            } else if (item.scope == ALL_ROWS) {
                layer.any_all = true;
            } else if (item.scope == MESSAGE_ROWS) {
                layer.any_message = true;
            } else {
                layer.any_planned = true;
            }
            if (item.energy) {
                n_work          = std::max(n_work, item.energy->work_size());
                layer.any_large = layer.any_large || item.energy->is_large();
            }
            n_work = std::max(n_work, item.bias.size());
        }
    }
    if (work_.size() < n_work * max_rows_at_once) {
        work_.resize(n_work * max_rows_at_once);
    }
    hire();
}

void hook::set_threads(int n, openmp_parallel openmp) {
    if (armed_ || probing_) {
        throw std::logic_error("set_threads: a decode is under way (end() or abort() comes first)");
    }
    if (n <= 0) {
        throw std::invalid_argument("set_threads: the number of threads must be > 0");
    }
    n_threads_ = n;
    openmp_    = openmp;
    helpers_.reset();
    hire();
}

// As many helpers as the program is worth.
void hook::hire() {
    bool any_large = false;
    for (const layer_plan & layer : layers_) {
        any_large = any_large || layer.any_large;
    }
    const int n_helpers = any_large ? n_threads_ - 1 : 0;
    if (n_helpers != (helpers_ ? helpers_->n_helpers() : 0)) {
        helpers_.reset(); // first, so that no more threads are there than were asked for
        helpers_ = n_helpers > 0 ? std::make_unique<workers>(n_helpers, openmp_) : nullptr;
    }
}

void hook::set_slots(int32_t n) {
    if (armed_) {
        throw std::logic_error("set_slots: a decode is under way (end() or abort() comes first)");
    }
    if (n <= 0) {
        throw std::invalid_argument("set_slots: the number of slots must be > 0");
    }
    slots_.assign((size_t) n, slot_state());
    messages_.assign((size_t) n * (size_t) n_layer_, message_sum());
}

void hook::check_slot(int32_t slot) const {
    if (slot < 0 || slot >= (int32_t) slots_.size()) {
        throw std::out_of_range("slot " + std::to_string(slot) + " of " + std::to_string(slots_.size()));
    }
}

void hook::reset_slot(int32_t slot) {
    check_slot(slot);
    slots_[(size_t) slot] = slot_state();
    std::fill_n(messages_.begin() + (std::ptrdiff_t) slot * n_layer_, n_layer_, message_sum());
}

void hook::hold_slot(int32_t slot, bool held) {
    if (armed_) {
        throw std::logic_error("hold_slot: a decode is under way (end() or abort() comes first)");
    }
    check_slot(slot);
    slots_[(size_t) slot].held = held;
}

gate_state hook::get_gate_state(int32_t slot) const {
    check_slot(slot);
    gate_state state = slots_[(size_t) slot].gate;
    if (n_gate_items_ == 0 && n_descent_items_ > 0) {
        state          = gate_state();
        state.decision = DECIDED_MERGED;
    }
    return state;
}

void hook::begin(int64_t n_rows, const std::vector<int32_t> & rows, const std::vector<int32_t> & slots,
                 const std::vector<int32_t> & offsets) {
    if (armed_ || probing_) {
        throw std::logic_error("begin: a decode is under way (end() or abort() comes first)");
    }
    if (n_rows <= 0) {
        throw std::invalid_argument("begin: n_rows must be > 0");
    }
    if (rows.size() != slots.size() || rows.size() != offsets.size()) {
        throw std::invalid_argument("begin: rows, slots and offsets must have the same length");
    }
    const descent_schedule & schedule = program_.schedule();
    const bool gated                  = n_gate_items_ > 0;

    for (size_t i = 0; i < rows.size(); ++i) {
        const std::string which = "begin: planned row " + std::to_string(i);
        if (rows[i] < 0 || rows[i] >= n_rows) {
            throw std::invalid_argument(which + " is batch row " + std::to_string(rows[i]) + " of " +
                                        std::to_string(n_rows));
        }
        if (i > 0 && rows[i] <= rows[i - 1]) {
            throw std::invalid_argument(which + ": the rows must be strictly ascending");
        }
        if (slots[i] < 0 || slots[i] >= (int32_t) slots_.size()) {
            throw std::invalid_argument(which + " is of slot " + std::to_string(slots[i]) +
                                        ", but there are " + std::to_string(slots_.size()) + " (set_slots)");
        }
    }
    for (const intervention & item : program_.interventions()) {
        if (item.kind != CAPTURE) {
            continue;
        }
        const int64_t n_message = std::count_if(offsets.begin(), offsets.end(), [](int32_t k) { return k < 0; });
        const int64_t n_needed  = item.scope == ALL_ROWS       ? n_rows
                                  : item.scope == MESSAGE_ROWS ? n_message
                                                               : (int64_t) rows.size() - n_message;
        if (item.n_out_rows < n_needed) {
            throw std::invalid_argument(
                "begin: layer " + std::to_string(item.layer) + ": the memory to capture into holds " +
                std::to_string(item.n_out_rows) + " rows, this decode has " + std::to_string(n_needed));
        }
    }

    plan_.clear();
    bool any_offset_0 = false;
    int32_t n_message = 0;
    for (size_t i = 0; i < rows.size(); ++i) {
        const bool message = offsets[i] < 0;
        planned_row row    = {rows[i], slots[i], offsets[i], 0.0f, message ? n_message : (int32_t) i - n_message};
        n_message += message ? 1 : 0;
        const bool steered = offsets[i] >= 0 && n_descent_items_ > 0 && schedule.rule.steps > 0 &&
                             (schedule.n_tokens == 0 || offsets[i] < schedule.n_tokens);
        if (steered) {
            row.step_size =
                (float) (schedule.rule.step_size * std::pow((double) schedule.decay, (double) offsets[i]));
        }
        slot_state & slot = slots_[(size_t) slots[i]];
        if (gated && offsets[i] == 0) {
            slot.gate       = gate_state();
            slot.gate.score = program_.gate().bias;
            slot.n_read     = 0;
            any_offset_0    = true;
        } else if (gated && row.step_size > 0.0f && !slot.gate.read) {
            // pending only if its offset 0 comes earlier in this very decode
            bool pending = false;
            for (size_t j = 0; j < i; ++j) {
                pending = pending || (slots[j] == slots[i] && offsets[j] == 0);
            }
            if (!pending) {
                throw hook_error("slot " + std::to_string(slots[i]) + " goes on at offset " +
                                     std::to_string(offsets[i]) +
                                     ", but its gate was never read: decode the prompt's last token under "
                                     "this program first",
                                 -1);
            }
        }
        plan_.push_back(row);
    }

    int64_t capacity  = (int64_t) rows.size();
    any_wanted_       = false;
    bool any_function = false;
    for (layer_plan & layer : layers_) {
        layer.n_seen   = 0;
        layer.n_passed = 0;
        layer.wanted = layer.any_all || (layer.any_planned && (size_t) n_message < plan_.size()) ||
                       (layer.any_gate && any_offset_0) || (layer.any_message && n_message > 0);
        for (const planned_row & row : plan_) {
            layer.wanted = layer.wanted || descends(layer, row);
        }
        if (layer.any_all) {
            capacity = n_rows;
        }
        for (const intervention * item : layer.items) {
            any_function = any_function || item->kind == HOST_FUNCTION;
        }
        any_wanted_ = any_wanted_ || layer.wanted;
    }
    if ((int64_t) row_index_.size() < capacity) {
        rows_.resize((size_t) (capacity * n_embd_));
        row_index_.resize((size_t) capacity);
        plan_index_.resize((size_t) capacity);
        changed_.resize((size_t) capacity);
    }
    if (any_function && gathered_.size() < rows_.size()) {
        gathered_.resize(rows_.size());
    }
    row_written_.assign((size_t) n_rows, 0);

    const size_t n_trace = trace_.size() + plan_.size() * (size_t) (n_gate_items_ + n_descent_items_);
    if (trace_.capacity() < n_trace) {
        trace_.reserve(std::max(n_trace, 2 * trace_.capacity()));
    }

    messages_before_   = messages_; // of one size, so that nothing is allocated after the first decode
    n_rows_            = n_rows;
    rows_written_      = 0;
    first_row_written_ = -1;
    failed_            = false;
    failed_layer_      = -1;
    failed_cause_      = nullptr;
    armed_             = true;
}

void hook::disarm() {
    armed_      = false;
    any_wanted_ = false;
    for (int64_t i = 0; i < (int64_t) row_written_.size(); ++i) {
        if (row_written_[(size_t) i]) {
            rows_written_ += 1;
            first_row_written_ = first_row_written_ < 0 ? i : first_row_written_;
        }
    }
    row_written_.clear();
}

void hook::end() {
    if (!armed_) {
        throw std::logic_error("end: no decode is under way (begin() comes first)");
    }
    if (in_function_) {
        throw std::logic_error("end: called by a function that runs inside the decode");
    }
    disarm();
    if (failed_) {
        messages_ = messages_before_;
        if (failed_cause_) {
            std::exception_ptr cause = failed_cause_;
            failed_cause_            = nullptr;
            std::rethrow_exception(cause);
        }
        throw hook_error(failed_message_, failed_layer_);
    }
    for (int32_t il = 0; il < n_layer_; ++il) {
        const layer_plan & layer = layers_[(size_t) il];
        if (layer.wanted && layer.n_seen != n_rows_) {
            throw hook_error("layer " + std::to_string(il) + ": l_out-" + std::to_string(il) +
                                 " was computed for " + std::to_string(layer.n_seen) + " of the decode's " +
                                 std::to_string(n_rows_) + " rows",
                             il);
        }
    }
}

void hook::abort() {
    if (in_function_) {
        throw std::logic_error("abort: called by a function that runs inside the decode");
    }
    if (armed_) {
        messages_ = messages_before_;
        disarm();
    }
    failed_cause_ = nullptr;
}

void hook::begin_probe() {
    if (armed_ || probing_) {
        throw std::logic_error("begin_probe: a decode or a probe is under way");
    }
    probe_.clear();
    probe_.reserve(max_probe_records);
    probe_full_ = false;
    probing_    = true;
}

std::vector<probe_record> hook::end_probe() {
    if (!probing_) {
        throw std::logic_error("end_probe: begin_probe() comes first");
    }
    probing_ = false;
    std::vector<probe_record> records(probe_.begin(), probe_.end());
    std::vector<probe_record>().swap(probe_);
    if (probe_full_) {
        throw hook_error("the probe met more than " + std::to_string(max_probe_records) + " block outputs",
                         -1);
    }
    return records;
}

std::vector<trace_record> hook::take_trace() {
    if (armed_) {
        throw std::logic_error("take_trace: a decode is under way (end() or abort() comes first)");
    }
    std::vector<trace_record> records(trace_.begin(), trace_.end());
    trace_.clear(); // keeps its memory for the next decode
    return records;
}

} // namespace edge_eds
