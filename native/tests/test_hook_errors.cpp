// What goes wrong inside a decode is latched and thrown by end(); the graph always runs to its end; the hook
// stays usable.
#include "check.h"
#include "fake_llama.h"
#include "random_energy.h"

#include <limits>

using namespace edge_eds;

static const int64_t n_embd      = 24;
static const float inf           = std::numeric_limits<float>::infinity();
static const float none[n_heads] = {-inf, -inf, -inf, -inf, -inf};

static std::vector<float> input_rows(int64_t n) {
    random_source random(45);
    return random.values(n * n_embd);
}

static program adding(int32_t layer) {
    program p;
    p.add_vector(layer, std::vector<float>((size_t) n_embd, 1.0f), ALL_ROWS);
    return p;
}

static int32_t layer_of_end(hook & h, const std::string & text) {
    try {
        h.end();
    } catch (const hook_error & e) {
        if (std::string(e.what()).find(text) == std::string::npos) {
            std::fprintf(stderr, "message is: %s\n", e.what());
            n_failures += 1;
        }
        return e.layer();
    }
    std::fprintf(stderr, "end() did not throw: %s\n", text.c_str());
    n_failures += 1;
    return -2;
}

static void usable_again(hook & h) {
    fake::llama model;
    const program p = adding(1);
    h.set_program(&p);
    h.begin(3, {}, {}, {});
    model.decode(h, input_rows(3));
    h.end();
    CHECK(h.rows_written() == 3);
}

static void decode(fake::llama & model, hook & h, int64_t n) {
    fake::sets.clear();
    model.decode(h, input_rows(n));
    CHECK(!model.stopped);
    CHECK(model.n_allocations_in_callback == 0);
}

static void faults_of_the_graph() {
    struct {
        int32_t fake::llama::* fault;
        const char * text;
    } cases[] = {
        {&fake::llama::missing_layer, "layer 2: l_out-2 was computed for 0 of the decode's 5 rows"},
        {&fake::llama::wide_layer, "layer 2: l_out-2 has rows of 48 values, expected n_embd = 24"},
        {&fake::llama::half_layer, "layer 2: l_out-2 is not a contiguous float32 tensor"},
        {&fake::llama::strided_layer, "layer 2: l_out-2 is not a contiguous float32 tensor"},
        {&fake::llama::repeated_layer, "layer 2: l_out-2 was computed for"},
    };
    for (const auto & c : cases) {
        for (int64_t n_ubatch : {2, 512}) {
            fake::llama model;
            model.n_ubatch   = n_ubatch;
            model.*(c.fault) = 2;
            hook h(fake::api(), model.n_layer, n_embd);
            const program p = adding(2);
            h.set_program(&p);
            h.begin(5, {}, {}, {});
            decode(model, h, 5);
            CHECK(layer_of_end(h, c.text) == 2);
            usable_again(h);
        }
    }
}

static void fewer_or_more_rows_than_announced() {
    fake::llama model;
    hook h(fake::api(), model.n_layer, n_embd);
    const program p = adding(2);
    h.set_program(&p);
    h.begin(5, {}, {}, {});
    decode(model, h, 4);
    CHECK(layer_of_end(h, "was computed for 4 of the decode's 5 rows") == 2);
    h.begin(5, {}, {}, {});
    decode(model, h, 6);
    CHECK(layer_of_end(h, "was computed for 6 rows, but the decode has 5") == 2);
    CHECK(h.rows_written() == 0);
    h.begin(5, {}, {}, {}); // no decode at all
    CHECK(layer_of_end(h, "0 of the decode's 5 rows") == 2);
    usable_again(h);
}

static void a_row_that_is_not_finite_is_not_written() {
    for (float value : {std::numeric_limits<float>::max(), -std::numeric_limits<float>::max()}) {
        fake::llama model;
        hook h(fake::api(), model.n_layer, n_embd);
        program p;
        for (int i = 0; i < 2; ++i) { // twice the greatest float is infinite
            p.add_vector(2, std::vector<float>((size_t) n_embd, value), PLANNED_ROWS);
        }
        p.add_vector(3, std::vector<float>((size_t) n_embd, 1.0f), ALL_ROWS);
        h.set_program(&p);
        h.begin(5, {3}, {0}, {0});
        decode(model, h, 5);
        CHECK(fake::sets.empty()); // nor is anything above that layer
        CHECK(layer_of_end(h, "layer 2: the edited row 3 holds NaN or infinite values") == 2);
        CHECK(h.rows_written() == 0);
        usable_again(h);
    }
}

static void energies_that_are_not_finite() {
    // a state so large that the energy of it overflows
    std::vector<float> rows = input_rows(2);
    for (int64_t j = 0; j < n_embd; ++j) {
        rows[n_embd + j] = 3e38f;
    }
    for (bool gate : {true, false}) {
        fake::llama model;
        hook h(fake::api(), model.n_layer, n_embd);
        program p;
        descent_schedule schedule;
        schedule.rule.step_size = 0.1f;
        schedule.rule.steps     = 1;
        p.set_descent(schedule);
        if (gate) {
            p.gate_read(1, random_layer_energy(1, n_embd, {HEAD_HARM}), 1.0);
        } else {
            p.energy_descent(1, random_layer_energy(1, n_embd, {HEAD_MERGED}), none, none);
        }
        h.set_program(&p);
        h.begin(2, {1}, {0}, {0});
        fake::sets.clear();
        model.decode(h, rows);
        CHECK(!model.stopped && fake::sets.empty());
        CHECK(layer_of_end(h, gate ? "layer 1: the energy harm of row 1 is not finite"
                                   : "layer 1: descending the energy merged of row 1") == 1);
        CHECK(!h.get_gate_state(0).read);
        usable_again(h);
    }
}

struct told_off : std::runtime_error {
    told_off() : std::runtime_error("told off") {}
};

class failing : public row_function {
public:
    std::exception_ptr cause = std::make_exception_ptr(told_off());
    bool edit(float * rows, int64_t n, int64_t width, std::exception_ptr & error) noexcept override {
        for (int64_t i = 0; i < n * width; ++i) {
            rows[i] = 0.0f;
        }
        error = cause;
        return false;
    }
};

static void a_failing_function_throws_its_own_exception_from_end() {
    fake::llama model;
    hook h(fake::api(), model.n_layer, n_embd);
    program p;
    p.host_function(2, std::make_shared<failing>(), ALL_ROWS);
    p.add_vector(3, std::vector<float>((size_t) n_embd, 1.0f), ALL_ROWS);
    h.set_program(&p);
    h.begin(5, {}, {}, {});
    decode(model, h, 5);
    CHECK(fake::sets.empty());
    CHECK_THROWS(h.end(), told_off, "told off");
    usable_again(h);

    // a decode that failed anyway: abort() forgets the error
    h.set_program(&p);
    h.begin(5, {}, {}, {});
    decode(model, h, 5);
    h.abort();
    usable_again(h);
}

class meddling : public row_function {
public:
    hook * target = nullptr;
    int n_refused = 0;
    bool edit(float *, int64_t, int64_t, std::exception_ptr &) noexcept override {
        for (int i = 0; i < 2; ++i) {
            try {
                i == 0 ? target->end() : target->abort();
            } catch (const std::logic_error &) {
                n_refused += 1;
            }
        }
        return true;
    }
};

static void a_function_cannot_end_the_decode_it_runs_in() {
    fake::llama model;
    hook h(fake::api(), model.n_layer, n_embd);
    const std::shared_ptr<meddling> function = std::make_shared<meddling>();
    function->target                         = &h;
    program p;
    p.host_function(2, function, ALL_ROWS);
    h.set_program(&p);
    h.begin(5, {}, {}, {});
    model.decode(h, input_rows(5));
    h.end();
    CHECK(function->n_refused == 2);
    CHECK(h.rows_written() == 5);
}

static void refused_arguments() {
    ggml_api incomplete      = fake::api();
    incomplete.is_contiguous = nullptr;
    CHECK_THROWS(hook(incomplete, 6, n_embd), std::invalid_argument, "address of a ggml function is missing");
    CHECK_THROWS(hook(fake::api(), 0, n_embd), std::invalid_argument, "must be > 0");
    CHECK_THROWS(hook(fake::api(), 6, 0), std::invalid_argument, "must be > 0");

    hook h(fake::api(), 6, n_embd);
    CHECK_THROWS(h.begin(0, {}, {}, {}), std::invalid_argument, "n_rows must be > 0");
    CHECK_THROWS(h.begin(4, {1}, {}, {0}), std::invalid_argument, "the same length");
    CHECK_THROWS(h.begin(4, {4}, {0}, {0}), std::invalid_argument, "planned row 0 is batch row 4 of 4");
    CHECK_THROWS(h.begin(4, {-1}, {0}, {0}), std::invalid_argument, "batch row -1");
    CHECK_THROWS(h.begin(4, {2, 1}, {0, 0}, {0, 1}), std::invalid_argument, "strictly ascending");
    CHECK_THROWS(h.begin(4, {2, 2}, {0, 0}, {0, 1}), std::invalid_argument, "strictly ascending");
    CHECK_THROWS(h.begin(4, {2}, {1}, {0}), std::invalid_argument, "slot 1, but there are 1");
    CHECK_THROWS(h.set_slots(0), std::invalid_argument, "must be > 0");
    CHECK_THROWS(h.reset_slot(1), std::out_of_range, "slot 1 of 1");
    CHECK_THROWS(h.get_gate_state(-1), std::out_of_range, "slot -1 of 1");

    std::vector<float> out(3 * n_embd);
    program p;
    p.capture(1, out.data(), 3, n_embd, ALL_ROWS);
    h.set_program(&p);
    CHECK_THROWS(h.begin(4, {}, {}, {}), std::invalid_argument,
                 "layer 1: the memory to capture into holds 3 rows, this decode has 4");
    h.begin(3, {}, {}, {});
    h.abort();
    usable_again(h);
}

static void refused_order_of_calls() {
    hook h(fake::api(), 6, n_embd);
    CHECK_THROWS(h.end(), std::logic_error, "begin() comes first");
    CHECK_THROWS(h.end_probe(), std::logic_error, "begin_probe() comes first");
    h.abort(); // harmless
    h.begin(1, {}, {}, {});
    CHECK_THROWS(h.begin(1, {}, {}, {}), std::logic_error, "a decode is under way");
    CHECK_THROWS(h.set_program(nullptr), std::logic_error, "a decode is under way");
    CHECK_THROWS(h.set_slots(2), std::logic_error, "a decode is under way");
    CHECK_THROWS(h.begin_probe(), std::logic_error, "a decode");
    CHECK_THROWS(h.take_trace(), std::logic_error, "a decode is under way");
    h.end();
    h.begin_probe();
    CHECK_THROWS(h.begin(1, {}, {}, {}), std::logic_error, "under way");
    h.end_probe();
    usable_again(h);
}

int main() {
    faults_of_the_graph();
    fewer_or_more_rows_than_announced();
    a_row_that_is_not_finite_is_not_written();
    energies_that_are_not_finite();
    a_failing_function_throws_its_own_exception_from_end();
    a_function_cannot_end_the_decode_it_runs_in();
    refused_arguments();
    refused_order_of_calls();
    return n_failures;
}
