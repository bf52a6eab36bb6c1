// The eval callback of one llama.cpp context, and what it knows about the decode that is running.
//
// Life of a decode:  begin(rows) -> llama_decode -> end()   (or abort() if llama_decode failed).
// Outside of that the callback answers false at once, so the context computes as if there were no hook.
// Inside llama_decode nothing is allocated, nothing is thrown, and Python runs only in host functions.
// An error is latched; the decode goes on unsteered, because stopping it from here would corrupt the logits
// silently; end() then throws. The hook is used by one thread at a time and must outlive its context:
// llama.cpp keeps its address.
#pragma once

#include "ggml_api.h"
#include "program.h"
#include "trace.h"
#include "workers.h"

#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace edge_eds {

// Steering or capture was asked for and did not happen as asked.
class hook_error : public std::runtime_error {
public:
    hook_error(const std::string & message, int32_t layer) : std::runtime_error(message), layer_(layer) {}
    int32_t layer() const { return layer_; } // -1: not of one layer
private:
    int32_t layer_;
};

// One node named l_out-<il> as it was met while probing.
struct probe_record {
    int32_t layer;
    int64_t n_embd; // 0 if it has no rows
    int64_t n_rows;
    int64_t n_bytes;
};

enum gate_decision { DECIDED_NONE = 0, DECIDED_FR = 1, DECIDED_JB = 2, DECIDED_MERGED = 3 };

struct gate_state {
    bool read        = false;
    double score     = 0.0;
    int32_t decision = DECIDED_NONE;
};

class hook {
public:
    // n_layer > 0, n_embd > 0, all functions given; else std::invalid_argument.
    hook(const ggml_api & api, int32_t n_layer, int64_t n_embd);
    hook(const hook &)             = delete;
    hook & operator=(const hook &) = delete;

    // What llama.cpp calls, with the hook as user_data: bool (*)(ggml_tensor *, bool ask, void * user_data)
    static bool eval_callback(ggml_tensor * tensor, bool ask, void * user_data) noexcept;

    // How many threads compute large energies, the one that decodes among them, and whose they are (workers.h); 1 to begin
    // with. Between decodes only.
    void set_threads(int n, openmp_parallel openmp = nullptr);

    // Takes a copy; null: nothing is done. Between decodes only (std::logic_error). Throws
    // std::invalid_argument if it does not fit. Gate decisions of the slots stay.
    void set_program(const program * p);

    // Slots 0..n-1, all forgotten. One slot to begin with.
    void set_slots(int32_t n);
    void reset_slot(int32_t slot);

    // While a slot is held, the energies of its rows are read and traced, and no row is descended. Not held to begin
    // with, nor after reset_slot. Between decodes only.
    void hold_slot(int32_t slot, bool held);

    gate_state get_gate_state(int32_t slot) const;

    // Arms the hook for ONE llama_decode of n_rows rows. rows (m): ascending batch rows that are planned;
    // slots (m): the answer each belongs to; offsets (m): its token index relative to the prompt's end (0 =
    // the prompt's last token). Negative offsets are the message that the answer is to: the gate reads them too,
    // all since reset_slot. Rows not listed are prompt rows. An offset of 0 starts a new answer: the slot's gate is
    // read again. Throws std::invalid_argument for lists that make no sense, hook_error where an answer would go on
    // without its gate.
    void begin(int64_t n_rows, const std::vector<int32_t> & rows, const std::vector<int32_t> & slots,
               const std::vector<int32_t> & offsets);

    // Disarms. Throws the latched error, or hook_error for a layer that did not fire for all rows.
    void end();
    void abort();

    // Between the two every decode is recorded and nothing is read or changed.
    void begin_probe();
    std::vector<probe_record> end_probe();

    std::vector<trace_record> take_trace();

    // rows of the last decode that were written at any layer; and the first of them, or -1
    int64_t rows_written() const { return rows_written_; }
    int64_t first_row_written() const { return first_row_written_; }

    int32_t n_layer() const { return n_layer_; }
    int64_t n_embd() const { return n_embd_; }

private:
    struct planned_row {
        int32_t row;
        int32_t slot;
        int32_t offset;
        float step_size; // 0: not descended
        int32_t rank;    // among the rows of its scope in this decode
        row_scope scope() const { return offset < 0 ? MESSAGE_ROWS : PLANNED_ROWS; }
    };

    // the program's items of one layer, in the order in which they run
    struct layer_plan {
        std::vector<const intervention *> items;
        bool any_all     = false; // an item with every row in scope
        bool any_planned = false; // an item with the answers' rows in scope (gate and descent not counted)
        bool any_gate    = false; // a reading of the row at offset 0
        bool any_message = false; // an item with the messages' rows in scope, the gate's reading of them counted
        bool any_descent = false;
        bool any_large   = false; // an item with an energy that is worth sharing among threads
        // of the running decode
        bool wanted     = false;
        int64_t n_seen  = 0; // rows of the decode that this layer has computed
        size_t n_passed = 0; // planned rows among them
    };

    // What a layer's MESSAGE_READ has found so far.
    struct message_sum {
        double sum   = 0.0;
        int64_t n    = 0;
    };

    struct slot_state {
        gate_state gate;
        int32_t n_read = 0; // gate readings finished so far
        bool held      = false;
    };

    ggml_api api_;
    int32_t n_layer_;
    int64_t n_embd_;

    program program_;
    std::vector<layer_plan> layers_;
    int32_t n_gate_items_    = 0;
    int32_t n_descent_items_ = 0;
    bool model_has_fr_       = false;
    bool model_has_jb_       = false;
    std::vector<slot_state> slots_;
    std::vector<message_sum> messages_;       // (n_slots, n_layer)
    std::vector<message_sum> messages_before_; // the same before the running decode, for one that fails

    // the running decode
    bool armed_       = false;
    bool any_wanted_  = false;
    bool probing_     = false;
    bool in_function_ = false; // a host function is running
    int64_t n_rows_   = 0;
    std::vector<planned_row> plan_;
    std::vector<uint8_t> row_written_; // (n_rows)
    int64_t rows_written_      = 0;
    int64_t first_row_written_ = -1;

    // scratch, sized in set_program() and begin()
    std::vector<float, line_allocator<float>> rows_; // (capacity, n_embd) rows read from the tensor
    std::vector<float> gathered_;     // (capacity, n_embd) rows for a host function
    std::vector<int64_t> row_index_;  // (capacity) row in the tensor
    std::vector<int64_t> plan_index_; // (capacity) index into plan_, or -1
    std::vector<uint8_t> changed_;    // (capacity)
    std::vector<float, line_allocator<float>> work_; // of max_rows_at_once rows

    int n_threads_          = 1;
    openmp_parallel openmp_ = nullptr;
    std::unique_ptr<workers> helpers_; // as long as a program has large energies, and there is more than one thread

    std::vector<trace_record> trace_;
    std::vector<probe_record> probe_;
    bool probe_full_ = false;

    // the latched error
    bool failed_          = false;
    int32_t failed_layer_ = -1;
    char failed_message_[256];
    std::exception_ptr failed_cause_;

    void hire();
    bool on_ask(ggml_tensor * tensor);
    void on_computed(ggml_tensor * tensor);
    void record_probe(const ggml_tensor * tensor, int32_t layer);

    bool descends(const layer_plan & layer, const planned_row & row) const;
    bool descends_with(const intervention & item, const planned_row & row, int * head) const;
    bool in_scope(const intervention & item, int64_t planned) const;
    bool needs(const layer_plan & layer, int64_t n) const;
    bool needs_planned(const layer_plan & layer, const planned_row & row) const;

    bool run_item(const intervention & item, int64_t n);
    bool read_gate(const intervention & item, int64_t n);
    bool read_message(const intervention & item, int64_t n);
    bool read_energies(const intervention & item, int head, const int64_t * picked, int n_picked, float * energies);
    void add_reading(const intervention & item, int head, const planned_row & row, double energy);
    bool run_descent(const intervention & item, int64_t n);
    bool run_low_rank(const intervention & item, int64_t n);
    bool run_host_function(const intervention & item, int64_t n);
    void decide(slot_state & slot) const;
    void check_slot(int32_t slot) const;

    void disarm();
    void fail(int32_t layer, const char * format, ...) noexcept;
};

} // namespace edge_eds
