// The gate, the descent and the trace, as they run over prompts, answers and several answers at once.
#include "each_form.h"
#include "fake_llama.h"
#include "one_row.h"
#include "random_energy.h"

#include <limits>

using namespace edge_eds;

static const int64_t n_embd      = 24;
static const float inf           = std::numeric_limits<float>::infinity();
static const float none[n_heads] = {-inf, -inf, -inf, -inf, -inf};

static std::vector<float> input_rows(int64_t n, uint64_t seed = 44) {
    random_source random(seed);
    return random.values(n * n_embd);
}

static descent_schedule schedule_of(float step_size, int32_t steps, int32_t n_tokens, float decay = 1.0f) {
    descent_schedule schedule;
    schedule.rule.step_size = step_size;
    schedule.rule.steps     = steps;
    schedule.n_tokens       = n_tokens;
    schedule.decay          = decay;
    return schedule;
}

static void decode(fake::llama & model, hook & h, const std::vector<float> & rows,
                   const std::vector<int32_t> & planned, const std::vector<int32_t> & slots,
                   const std::vector<int32_t> & offsets) {
    fake::gets.clear();
    fake::sets.clear();
    h.begin((int64_t) rows.size() / n_embd, planned, slots, offsets);
    model.decode(h, rows);
    h.end();
    CHECK(model.n_allocations_in_callback == 0);
    CHECK(!model.stopped);
}

static std::vector<float> row_of(const std::vector<float> & rows, int64_t i) {
    return std::vector<float>(rows.begin() + i * n_embd, rows.begin() + (i + 1) * n_embd);
}

static bool contains(const std::vector<std::string> & names, const std::string & name) {
    for (const std::string & n : names) {
        if (n == name) {
            return true;
        }
    }
    return false;
}

// A gate on layer 1 whose score is `score` for every prompt, then descents in layers 2 and 3.
static program gated(float score, const std::shared_ptr<layer_energy> & energy,
                     const descent_schedule & schedule) {
    program p;
    p.set_gate({0.0, -1.0, 1.0});
    p.gate_read(1, constant_layer_energy(n_embd, {{HEAD_HARM, score}}), 1.0);
    p.set_descent(schedule);
    p.energy_descent(2, energy, none, none);
    p.energy_descent(3, energy, none, none);
    return p;
}

static void the_gate_decides_which_head_is_descended() {
    const std::shared_ptr<layer_energy> both    = random_layer_energy(1, n_embd, {HEAD_FR, HEAD_JB});
    const std::shared_ptr<layer_energy> only_fr = random_layer_energy(1, n_embd, {HEAD_FR});
    const std::shared_ptr<layer_energy> only_jb = random_layer_energy(1, n_embd, {HEAD_JB});
    struct {
        float score;
        std::shared_ptr<layer_energy> energy;
        int32_t decision;
        int head;
    } cases[] = {
        {-2.0f, both, DECIDED_FR, HEAD_FR}, {-1.0f, both, DECIDED_FR, HEAD_FR},
        {0.0f, both, DECIDED_NONE, -1},     {1.0f, both, DECIDED_JB, HEAD_JB},
        {2.0f, both, DECIDED_JB, HEAD_JB},  {-2.0f, only_jb, DECIDED_NONE, -1},
        {2.0f, only_fr, DECIDED_NONE, -1},  {2.0f, only_jb, DECIDED_JB, HEAD_JB},
    };
    for (const auto & c : cases) {
        fake::llama model;
        hook h(fake::api(), model.n_layer, n_embd);
        const program p = gated(c.score, c.energy, schedule_of(0.01f, 2, 0));
        h.set_program(&p);
        CHECK(!h.get_gate_state(0).read);
        decode(model, h, input_rows(5), {4}, {0}, {0});
        const gate_state state = h.get_gate_state(0);
        CHECK(state.read && state.decision == c.decision);
        CHECK_NEAR(state.score, c.score, 1e-6);

        const std::vector<trace_record> trace = h.take_trace();
        CHECK(trace.size() == (c.head < 0 ? 1 : 3));
        CHECK(trace[0].layer == 1 && trace[0].head == HEAD_HARM && trace[0].offset == 0 &&
              trace[0].steps == 0 && trace[0].shift == 0.0f);
        CHECK(trace[0].energy_before == c.score && trace[0].energy_after == c.score);
        for (size_t i = 1; i < trace.size(); ++i) {
            CHECK(trace[i].layer == (int32_t) i + 1 && trace[i].head == c.head && trace[i].steps == 2);
            CHECK(trace[i].energy_after < trace[i].energy_before);
            CHECK(trace[i].shift > 0.0f && trace[i].shift <= 0.0201f);
        }
        CHECK(h.take_trace().empty());
        CHECK(h.rows_written() == (c.head < 0 ? 0 : 1));
        CHECK(h.first_row_written() == (c.head < 0 ? -1 : 4));

        // the decision stays for the answer: the gate is not read again, and an undecided answer costs
        // nothing
        decode(model, h, input_rows(1), {0}, {0}, {1});
        CHECK(!contains(model.wanted, "l_out-1"));
        CHECK(contains(model.wanted, "l_out-2") == (c.head >= 0));
        CHECK(h.take_trace().size() == (c.head < 0 ? 0 : 2));
    }
}

// A gate that reads the message in layers 1 and 2 and its end in layer 1, and descents above them.
static program gated_by_message(const std::shared_ptr<layer_energy> & energy) {
    program p;
    p.set_gate({0.25, inf, inf});
    p.gate_read(1, energy, 2.0);
    p.message_read(1, energy, 0.5);
    p.message_read(2, energy, -1.0);
    p.set_descent(schedule_of(0.01f, 2, 0));
    p.energy_descent(3, energy, none, none);
    return p;
}

static double message_score(const fake::llama & model, const layer_energy & energy, int64_t first, int64_t last,
                            int64_t end) {
    double score = 0.25 + 2.0 * energy_of(energy, HEAD_HARM, row_of(model.outputs[1], end));
    for (int64_t i = first; i <= last; ++i) {
        const double share = 1.0 / (double) (last - first + 1);
        score += 0.5 * share * energy_of(energy, HEAD_HARM_MESSAGE, row_of(model.outputs[1], i));
        score -= share * energy_of(energy, HEAD_HARM_MESSAGE, row_of(model.outputs[2], i));
    }
    return score;
}

static void the_gate_reads_the_mean_over_the_message() {
    const std::shared_ptr<layer_energy> energy =
        random_layer_energy(4, n_embd, {HEAD_HARM, HEAD_HARM_MESSAGE, HEAD_FR});
    const program p = gated_by_message(energy);
    for (int64_t n_ubatch : {1, 2, 3, 512}) {
        fake::llama model;
        model.n_ubatch = n_ubatch;
        hook h(fake::api(), model.n_layer, n_embd);
        h.set_program(&p);
        decode(model, h, input_rows(7), {2, 3, 4, 6}, {0, 0, 0, 0}, {-4, -3, -2, 0});
        CHECK(h.get_gate_state(0).read && h.get_gate_state(0).decision == DECIDED_FR);
        CHECK_NEAR(h.get_gate_state(0).score, message_score(model, *energy, 2, 4, 6), 1e-5);
        CHECK(h.rows_written() == 1 && h.first_row_written() == 6); // the message is read and keeps its bits
        const std::vector<trace_record> trace = h.take_trace();
        CHECK(trace.size() == 4 && trace[1].head == HEAD_HARM_MESSAGE && trace[1].offset == 0 &&
              trace[1].layer == 1 && trace[2].layer == 2 && trace[3].head == HEAD_FR);

        // an answer that goes on reads nothing more; a message of no tokens is the prompt's end
        decode(model, h, input_rows(1), {0}, {0}, {1});
        CHECK(!contains(model.wanted, "l_out-1"));
        h.reset_slot(0);
        decode(model, h, input_rows(3), {2}, {0}, {0});
        CHECK_NEAR(h.get_gate_state(0).score, message_score(model, *energy, 2, 2, 2), 1e-5);
    }
}

static void a_message_may_come_in_several_decodes() {
    const std::shared_ptr<layer_energy> energy =
        random_layer_energy(4, n_embd, {HEAD_HARM, HEAD_HARM_MESSAGE, HEAD_FR});
    const program p                = gated_by_message(energy);
    const std::vector<float> whole = input_rows(6);
    const auto part                = [&](int64_t first, int64_t last) {
        return std::vector<float>(whole.begin() + first * n_embd, whole.begin() + last * n_embd);
    };
    fake::llama at_once, in_parts;
    hook one(fake::api(), at_once.n_layer, n_embd), two(fake::api(), in_parts.n_layer, n_embd);
    one.set_program(&p);
    two.set_program(&p);
    two.set_slots(2);
    decode(at_once, one, whole, {1, 2, 3, 5}, {0, 0, 0, 0}, {-4, -3, -2, 0});

    // of two answers; the other one's rows, and a decode that failed and was run again, change nothing
    std::vector<float> mixed = part(0, 3);
    mixed.insert(mixed.end(), whole.begin() + 4 * n_embd, whole.end());
    decode(in_parts, two, mixed, {1, 2, 3}, {1, 1, 0}, {-4, -3, -7});
    two.begin(1, {0}, {1}, {-2});
    in_parts.decode(two, part(3, 4));
    two.abort();
    decode(in_parts, two, part(3, 4), {0}, {1}, {-2});
    decode(in_parts, two, part(4, 6), {1}, {1}, {0});
    CHECK_NEAR(two.get_gate_state(1).score, one.get_gate_state(0).score, 1e-9);
    CHECK(!two.get_gate_state(0).read);
}

static void the_score_is_the_weighted_sum_over_layers() {
    const std::shared_ptr<layer_energy> a = random_layer_energy(2, n_embd, {HEAD_HARM});
    const std::shared_ptr<layer_energy> b = random_layer_energy(3, n_embd, {HEAD_HARM, HEAD_FR});
    program p;
    p.set_gate({0.25, -inf, inf});
    p.gate_read(1, a, 0.5);
    p.gate_read(3, b, -2.0);
    p.set_descent(schedule_of(0.01f, 2, 0));
    p.energy_descent(3, b, none, none); // the same layer: the gate is read before the edit
    for (int64_t n_ubatch : {2, 512}) {
        fake::llama model;
        model.n_ubatch = n_ubatch;
        hook h(fake::api(), model.n_layer, n_embd);
        h.set_program(&p);
        decode(model, h, input_rows(5), {4}, {0}, {0});
        const double expected = 0.25 + 0.5 * energy_of(*a, HEAD_HARM, row_of(model.outputs[1], 4)) -
                                2.0 * energy_of(*b, HEAD_HARM, row_of(model.outputs[3], 4));
        CHECK(h.get_gate_state(0).read);
        CHECK_NEAR(h.get_gate_state(0).score, expected, 1e-5);
        CHECK(h.get_gate_state(0).decision == DECIDED_NONE);
    }
    program on_one_layer;
    on_one_layer.set_gate({0.0, inf, inf});
    on_one_layer.gate_read(3, b, 1.0);
    on_one_layer.set_descent(schedule_of(0.01f, 2, 0));
    on_one_layer.energy_descent(3, b, none, none);
    fake::llama model;
    hook h(fake::api(), model.n_layer, n_embd);
    h.set_program(&on_one_layer);
    decode(model, h, input_rows(5), {4}, {0}, {0});
    const std::vector<trace_record> trace = h.take_trace();
    CHECK(trace.size() == 2 && trace[0].head == HEAD_HARM && trace[1].head == HEAD_FR && trace[1].steps == 2);
}

static void the_hook_descends_as_layer_energy_does() {
    const std::shared_ptr<layer_energy> energy = random_layer_energy(4, n_embd, {HEAD_MERGED});
    const std::vector<float> rows              = input_rows(6);
    fake::llama plain;
    hook idle(fake::api(), plain.n_layer, n_embd);
    plain.decode(idle, rows);
    for (int64_t n_ubatch : {1, 2, 4, 512}) {
        fake::llama model;
        model.n_ubatch = n_ubatch;
        hook h(fake::api(), model.n_layer, n_embd);
        h.set_slots(3);
        program p;
        const descent_schedule schedule = schedule_of(0.02f, 3, 0, 0.5f);
        p.set_descent(schedule);
        p.energy_descent(2, energy, none, none);
        h.set_program(&p);
        CHECK(h.get_gate_state(1).decision == DECIDED_MERGED && !h.get_gate_state(1).read);
        decode(model, h, rows, {1, 2, 5}, {0, 1, 2}, {0, 3, 1});
        const std::vector<trace_record> trace = h.take_trace();
        CHECK(trace.size() == 3);
        const int32_t offsets[3]    = {0, 3, 1};
        const int64_t planned[3]    = {1, 2, 5};
        std::vector<float> expected = plain.outputs[2];
        for (int i = 0; i < 3; ++i) {
            descent_rule rule           = schedule.rule;
            rule.step_size              = (float) (0.02f * std::pow(0.5, offsets[i]));
            const descent_result result = descend(*energy, HEAD_MERGED, expected.data() + planned[i] * n_embd,
                                                  rule, -inf, -inf);
            CHECK(trace[i].slot == i && trace[i].offset == offsets[i] && trace[i].layer == 2 &&
                  trace[i].head == HEAD_MERGED);
            CHECK(trace[i].energy_before == result.energy_before &&
                  trace[i].energy_after == result.energy_after);
            CHECK(trace[i].steps == 3 && trace[i].shift == result.shift);
        }
        CHECK(model.outputs[2] == expected); // the same bits in every micro-batch, and no other row touched
    }
}

static void only_the_first_tokens_are_steered() {
    const std::shared_ptr<layer_energy> energy = random_layer_energy(5, n_embd, {HEAD_FR});
    fake::llama model;
    hook h(fake::api(), model.n_layer, n_embd);
    const program p = gated(-2.0f, energy, schedule_of(0.01f, 2, 2));
    h.set_program(&p);
    decode(model, h, input_rows(3), {2}, {0}, {0});
    CHECK(h.rows_written() == 1);
    decode(model, h, input_rows(1), {0}, {0}, {1});
    CHECK(h.rows_written() == 1);
    decode(model, h, input_rows(1), {0}, {0}, {2});
    CHECK(h.rows_written() == 0);
    CHECK(model.wanted.empty()); // the rest of the answer costs nothing
    CHECK(h.take_trace().size() == 1 + 2 + 2);
}

static void thresholds_keep_the_bits() {
    const std::shared_ptr<layer_energy> energy = random_layer_energy(6, n_embd, {HEAD_FR});
    const std::vector<float> rows              = input_rows(3);
    fake::llama plain;
    hook idle(fake::api(), plain.n_layer, n_embd);
    plain.decode(idle, rows);

    fake::llama model;
    hook h(fake::api(), model.n_layer, n_embd);
    program p;
    p.set_gate({0.0, inf, inf});
    p.gate_read(1, random_layer_energy(7, n_embd, {HEAD_HARM}), 1.0);
    p.set_descent(schedule_of(0.05f, 2, 0));
    float high[n_heads] = {-inf, -inf, -inf, -inf, -inf};
    high[HEAD_FR]       = inf;
    p.energy_descent(2, energy, high, none);
    h.set_program(&p);
    decode(model, h, rows, {2}, {0}, {0});
    CHECK(model.outputs == plain.outputs);
    CHECK(fake::sets.empty());
    CHECK(h.rows_written() == 0);
    const std::vector<trace_record> trace = h.take_trace();
    CHECK(trace.size() == 2 && trace[1].steps == 0 && trace[1].shift == 0.0f &&
          trace[1].energy_after == trace[1].energy_before);
}

static void strength_zero_is_no_steering() {
    const std::shared_ptr<layer_energy> energy = random_layer_energy(8, n_embd, {HEAD_MERGED});
    for (const descent_schedule & schedule : {schedule_of(0.0f, 3, 0), schedule_of(0.1f, 0, 0)}) {
        fake::llama model;
        hook h(fake::api(), model.n_layer, n_embd);
        program p;
        p.set_descent(schedule);
        p.energy_descent(2, energy, none, none);
        h.set_program(&p);
        decode(model, h, input_rows(3), {2}, {0}, {0});
        CHECK(model.wanted.empty());
    }
}

static void answers_in_one_batch_are_apart() {
    // the gate reads the first value of the row: slot 0 is benign, slot 1 harmful, slot 2 between
    const std::shared_ptr<layer_energy> energy = random_layer_energy(9, n_embd, {HEAD_FR, HEAD_JB});
    program p;
    p.set_gate({0.0, -1.0, 1.0});
    p.gate_read(0, constant_layer_energy(n_embd, {{HEAD_HARM, 0.0f}}, 1.0f), 1.0);
    p.set_descent(schedule_of(0.01f, 1, 0));
    p.energy_descent(2, energy, none, none);
    std::vector<float> rows = input_rows(7);
    const float first[3]    = {-5.0f, 5.0f, 0.0f};
    const int64_t ends[3]   = {1, 4, 6};
    for (int i = 0; i < 3; ++i) {
        rows[ends[i] * n_embd + 1] = first[i]; // the fake layer turns the row by one
    }
    for (int64_t n_ubatch : {1, 3, 512}) {
        fake::llama model;
        model.n_ubatch = n_ubatch;
        hook h(fake::api(), model.n_layer, n_embd);
        h.set_slots(3);
        h.set_program(&p);
        decode(model, h, rows, {1, 4, 6}, {0, 1, 2}, {0, 0, 0});
        CHECK(h.get_gate_state(0).decision == DECIDED_FR);
        CHECK(h.get_gate_state(1).decision == DECIDED_JB);
        CHECK(h.get_gate_state(2).decision == DECIDED_NONE);
        CHECK(h.rows_written() == 2 && h.first_row_written() == 1);
        h.take_trace();

        decode(model, h, input_rows(3), {0, 1, 2}, {2, 1, 0}, {1, 1, 1});
        const std::vector<trace_record> trace = h.take_trace();
        CHECK(trace.size() == 2);
        CHECK(trace[0].slot == 1 && trace[0].head == HEAD_JB);
        CHECK(trace[1].slot == 0 && trace[1].head == HEAD_FR);
        CHECK(h.rows_written() == 2 && h.first_row_written() == 1);
    }
}

static void an_answer_may_follow_its_prompt_in_one_decode() {
    // prompt end and forced answer tokens together: the gate is read at the lower layer, then all of them are
    // descended
    const std::shared_ptr<layer_energy> energy = random_layer_energy(10, n_embd, {HEAD_FR});
    for (int64_t n_ubatch : {1, 2, 512}) {
        fake::llama model;
        model.n_ubatch = n_ubatch;
        hook h(fake::api(), model.n_layer, n_embd);
        const program p = gated(-2.0f, energy, schedule_of(0.01f, 1, 0));
        h.set_program(&p);
        decode(model, h, input_rows(5), {2, 3, 4}, {0, 0, 0}, {0, 1, 2});
        CHECK(h.rows_written() == 3);
        CHECK(h.take_trace().size() == 1 + 3 * 2);
    }
}

static void a_new_answer_reads_the_gate_again() {
    const std::shared_ptr<layer_energy> energy = random_layer_energy(11, n_embd, {HEAD_FR});
    program p;
    p.set_gate({0.0, -1.0, 1.0});
    p.gate_read(0, constant_layer_energy(n_embd, {{HEAD_HARM, 0.0f}}, 1.0f), 1.0);
    p.set_descent(schedule_of(0.01f, 1, 0));
    p.energy_descent(2, energy, none, none);
    fake::llama model;
    hook h(fake::api(), model.n_layer, n_embd);
    h.set_program(&p);
    std::vector<float> rows = input_rows(1);
    rows[1]                 = -5.0f;
    decode(model, h, rows, {0}, {0}, {0});
    CHECK(h.get_gate_state(0).decision == DECIDED_FR);
    rows[1] = 0.0f;
    decode(model, h, rows, {0}, {0}, {0});
    CHECK(h.get_gate_state(0).decision == DECIDED_NONE);
    rows[1] = -5.0f;
    decode(model, h, rows, {0}, {0}, {0});
    h.set_program(nullptr); // decisions stay when the program changes
    h.set_program(&p);
    CHECK(h.get_gate_state(0).decision == DECIDED_FR);
    h.reset_slot(0);
    CHECK(!h.get_gate_state(0).read);
}

static void a_held_slot_is_read_and_not_written() {
    const std::shared_ptr<layer_energy> energy = random_layer_energy(15, n_embd, {HEAD_FR});
    fake::llama model;
    hook h(fake::api(), model.n_layer, n_embd);
    h.set_slots(3);
    const program p = gated(-2.0f, energy, schedule_of(0.01f, 1, 2));
    h.set_program(&p);
    h.hold_slot(1, true);
    decode(model, h, input_rows(3), {0, 1, 2}, {0, 1, 2}, {0, 0, 0});
    CHECK(h.rows_written() == 2 && h.first_row_written() == 0);
    std::vector<float> before(3), after(3);
    std::vector<int32_t> steps(3);
    for (const trace_record & record : h.take_trace()) {
        if (record.head == HEAD_FR) {
            before[(size_t) record.slot] = record.energy_before;
            after[(size_t) record.slot]  = record.energy_after;
            steps[(size_t) record.slot]  = record.steps;
        }
    }
    CHECK(steps[0] == 1 && steps[1] == 0 && steps[2] == 1);
    CHECK(before[1] == after[1] && before[0] != after[0]);
    CHECK(h.get_gate_state(1).decision == DECIDED_FR);
    decode(model, h, input_rows(1), {0}, {1}, {1}); // goes on as it is held
    CHECK(h.rows_written() == 0);
    h.hold_slot(1, false);
    decode(model, h, input_rows(1), {0}, {1}, {0}); // the prompt's last token again
    CHECK(h.rows_written() == 1);
    h.hold_slot(1, true);
    h.reset_slot(1);
    decode(model, h, input_rows(1), {0}, {1}, {0});
    CHECK(h.rows_written() == 1);
    CHECK_THROWS(h.hold_slot(3, true), std::out_of_range, "slot 3 of 3");
}

static void an_answer_without_a_gate_reading_is_refused() {
    const std::shared_ptr<layer_energy> energy = random_layer_energy(12, n_embd, {HEAD_FR});
    fake::llama model;
    hook h(fake::api(), model.n_layer, n_embd);
    const program p = gated(-2.0f, energy, schedule_of(0.01f, 1, 2));
    h.set_program(&p);
    CHECK_THROWS(h.begin(1, {0}, {0}, {1}), hook_error,
                 "slot 0 goes on at offset 1, but its gate was never read");
    decode(model, h, input_rows(1), {0}, {0}, {2}); // past the steered tokens the gate does not matter
    CHECK(model.wanted.empty());
    decode(model, h, input_rows(2), {1}, {0}, {0}); // and the hook is usable
    CHECK(h.rows_written() == 1);
}

static void a_layer_without_the_decided_head_is_left_out() {
    program p;
    p.set_gate({0.0, -1.0, 1.0});
    p.gate_read(1, constant_layer_energy(n_embd, {{HEAD_HARM, -2.0f}}), 1.0);
    p.set_descent(schedule_of(0.01f, 1, 0));
    p.energy_descent(2, random_layer_energy(13, n_embd, {HEAD_JB}), none, none);
    p.energy_descent(3, random_layer_energy(14, n_embd, {HEAD_FR}), none, none);
    fake::llama model;
    hook h(fake::api(), model.n_layer, n_embd);
    h.set_program(&p);
    decode(model, h, input_rows(2), {1}, {0}, {0});
    CHECK(!contains(model.wanted, "l_out-2") && contains(model.wanted, "l_out-3"));
    const std::vector<trace_record> trace = h.take_trace();
    CHECK(trace.size() == 2 && trace[1].layer == 3 && trace[1].head == HEAD_FR);
}

static void a_long_answer_never_allocates_in_the_callback() {
    const std::shared_ptr<layer_energy> energy = random_layer_energy(15, n_embd, {HEAD_FR});
    fake::llama model;
    hook h(fake::api(), model.n_layer, n_embd);
    const program p = gated(-2.0f, energy, schedule_of(0.01f, 1, 0));
    h.set_program(&p);
    decode(model, h, input_rows(40), {39}, {0}, {0});
    for (int32_t k = 1; k < 200; ++k) {
        decode(model, h, input_rows(1, (uint64_t) k), {0}, {0}, {k}); // checks the count
    }
    CHECK(h.take_trace().size() == 1 + 200 * 2);
}

static void two_hooks_do_not_disturb_each_other() {
    const std::shared_ptr<layer_energy> energy = random_layer_energy(16, n_embd, {HEAD_FR, HEAD_JB});
    fake::llama model;
    hook a(fake::api(), model.n_layer, n_embd);
    hook b(fake::api(), model.n_layer, n_embd);
    const program for_a = gated(-2.0f, energy, schedule_of(0.01f, 1, 0));
    const program for_b = gated(2.0f, energy, schedule_of(0.02f, 2, 0));
    a.set_program(&for_a);
    b.set_program(&for_b);
    a.begin(1, {0}, {0}, {0});
    b.begin(1, {0}, {0}, {0});
    model.decode(a, input_rows(1));
    model.decode(b, input_rows(1));
    b.end();
    a.end();
    CHECK(a.get_gate_state(0).decision == DECIDED_FR && b.get_gate_state(0).decision == DECIDED_JB);
    CHECK(a.take_trace().back().steps == 1);
    CHECK(b.take_trace().back().steps == 2);
}

static void all() {
    the_gate_decides_which_head_is_descended();
    the_score_is_the_weighted_sum_over_layers();
    the_gate_reads_the_mean_over_the_message();
    a_message_may_come_in_several_decodes();
    the_hook_descends_as_layer_energy_does();
    only_the_first_tokens_are_steered();
    thresholds_keep_the_bits();
    strength_zero_is_no_steering();
    answers_in_one_batch_are_apart();
    an_answer_may_follow_its_prompt_in_one_decode();
    a_new_answer_reads_the_gate_again();
    a_held_slot_is_read_and_not_written();
    an_answer_without_a_gate_reading_is_refused();
    a_layer_without_the_decided_head_is_left_out();
    a_long_answer_never_allocates_in_the_callback();
    two_hooks_do_not_disturb_each_other();
}

int main() {
    return with_each_form(all);
}
