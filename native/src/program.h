// What is to be done at which layer: a value, built once and handed to a hook between decodes.
// Order on one layer: gate readings first, then everything else in the order added, captures last.
#pragma once

#include "layer_energy.h"

#include <cstdint>
#include <exception>
#include <memory>
#include <vector>

namespace edge_eds {

// Code of the owner that edits rows: a Python function behind an interface that needs no Python.
class row_function {
public:
    virtual ~row_function() = default;
    // Edits rows (n, n_embd) in place. False: failed, `error` says how. Never throws: it is called inside
    // llama_decode.
    virtual bool edit(float * rows, int64_t n, int64_t n_embd, std::exception_ptr & error) noexcept = 0;
};

enum intervention_kind { GATE_READ, MESSAGE_READ, ADD_VECTOR, ABLATE, LOW_RANK, DESCEND, HOST_FUNCTION, CAPTURE };

// Every row of the decode; or of those listed in hook::begin, the answers' (offset >= 0) or the messages' (below 0).
enum row_scope { ALL_ROWS, PLANNED_ROWS, MESSAGE_ROWS };

struct intervention {
    intervention_kind kind = CAPTURE;
    row_scope scope        = PLANNED_ROWS;
    int32_t layer          = 0;

    std::vector<float> direction; // ADD_VECTOR: v (n_embd); ABLATE: unit u (n_embd)
    float amount  = 0.0f;         // ABLATE: 1 removes the direction
    double weight = 0.0;          // GATE_READ, MESSAGE_READ: weight of this reading in the gate's score

    std::vector<float> down; // LOW_RANK: V (rank, n_embd)
    std::vector<float> bias; // LOW_RANK: c (rank)
    std::vector<float> up;   // LOW_RANK: U^T (rank, n_embd)

    std::shared_ptr<const layer_energy> energy; // GATE_READ, MESSAGE_READ, DESCEND
    float thresholds[n_heads];                  // DESCEND: at or below it nothing is written; -inf = none
    float targets[n_heads];                     // DESCEND: at or below it no further step; -inf = none

    std::shared_ptr<row_function> function; // HOST_FUNCTION

    float * out = nullptr; // CAPTURE: (n_out_rows, n_embd); row i is batch row i, or the i-th row listed in its scope
    int64_t n_out_rows = 0;
    int64_t out_n_embd = 0;

    intervention();
};

struct gate_rule {
    double bias    = 0.0;
    double benign  = 0.0; // score <= benign: the prompt is benign, descend "fr"
    double harmful = 0.0; // score >= harmful: the prompt is harmful, descend "jb"
};

// Which rows are descended, and how the step shrinks along the answer.
struct descent_schedule {
    descent_rule rule;
    int32_t n_tokens = 1;    // rows with offset < n_tokens; 0 = every offset
    float decay      = 1.0f; // step_size * decay^offset
};

class program {
public:
    explicit program() = default;

    // All throw std::invalid_argument, naming the layer, where the arguments make no sense in themselves.
    // Whether they fit the model is checked by hook::set_program.
    void add_vector(int32_t layer, std::vector<float> v, row_scope scope);
    void ablate_direction(int32_t layer, std::vector<float> u, float amount,
                          row_scope scope); // u is normalised here
    // h <- h + U (V h + c), with V = down and U^T = up (rank, n_embd), c = bias (rank)
    void add_low_rank(int32_t layer, std::vector<float> down, std::vector<float> bias, std::vector<float> up,
                      row_scope scope);
    void host_function(int32_t layer, std::shared_ptr<row_function> function, row_scope scope);
    void gate_read(int32_t layer, std::shared_ptr<const layer_energy> energy, double weight);
    // the mean of the head harm_message over the message's rows; over the row at offset 0 where it has none
    void message_read(int32_t layer, std::shared_ptr<const layer_energy> energy, double weight);
    void energy_descent(int32_t layer, std::shared_ptr<const layer_energy> energy,
                        const float (&thresholds)[n_heads], const float (&targets)[n_heads]);
    void capture(int32_t layer, float * out, int64_t n_out_rows, int64_t n_embd, row_scope scope);
    void set_descent(const descent_schedule & schedule);
    void set_gate(const gate_rule & gate);

    const std::vector<intervention> & interventions() const { return interventions_; }
    const descent_schedule & schedule() const { return schedule_; }
    const gate_rule & gate() const { return gate_; }

    // Throws std::invalid_argument where the program does not fit a model of this shape or contradicts
    // itself.
    void check(int32_t n_layer, int64_t n_embd) const;

private:
    void add_reading(intervention_kind kind, int32_t layer, std::shared_ptr<const layer_energy> energy, int head,
                     double weight);

    std::vector<intervention> interventions_;
    descent_schedule schedule_;
    gate_rule gate_;
};

} // namespace edge_eds
