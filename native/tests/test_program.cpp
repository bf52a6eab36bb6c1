// Programs that make no sense, or do not fit the model, are refused with the layer named.
#include "check.h"
#include "fake_llama.h"
#include "random_energy.h"

#include <limits>

using namespace edge_eds;

static const int32_t n_layer     = 6;
static const int64_t n_embd      = 24;
static const float nan_f         = std::numeric_limits<float>::quiet_NaN();
static const float inf           = std::numeric_limits<float>::infinity();
static const float none[n_heads] = {-inf, -inf, -inf, -inf, -inf};

static void refuses_arguments() {
    program p;
    const std::vector<float> v((size_t) n_embd, 1.0f);
    std::vector<float> bad = v;
    bad[2]                 = nan_f;
    CHECK_THROWS(p.add_vector(1, {}, ALL_ROWS), std::invalid_argument, "layer 1: the vector to add is empty");
    CHECK_THROWS(p.add_vector(1, bad, ALL_ROWS), std::invalid_argument, "NaN");
    CHECK_THROWS(p.ablate_direction(2, std::vector<float>((size_t) n_embd, 0.0f), 1.0f, ALL_ROWS),
                 std::invalid_argument, "layer 2: the direction to ablate is zero");
    CHECK_THROWS(p.ablate_direction(2, v, inf, ALL_ROWS), std::invalid_argument, "amount");
    CHECK_THROWS(p.add_low_rank(2, v, {}, v, ALL_ROWS), std::invalid_argument, "layer 2: the bias is empty");
    CHECK_THROWS(p.add_low_rank(2, v, {1.0f}, bad, ALL_ROWS), std::invalid_argument, "the matrix up holds NaN");
    CHECK_THROWS(p.add_low_rank(2, v, {1.0f}, std::vector<float>((size_t) (2 * n_embd), 1.0f), ALL_ROWS),
                 std::invalid_argument, "one row of n_embd values for each bias");
    CHECK_THROWS(p.host_function(2, nullptr, ALL_ROWS), std::invalid_argument, "no function");
    CHECK_THROWS(p.gate_read(1, random_layer_energy(1, n_embd, {HEAD_FR}), 1.0), std::invalid_argument,
                 "head harm");
    CHECK_THROWS(p.message_read(1, random_layer_energy(1, n_embd, {HEAD_HARM}), 1.0), std::invalid_argument,
                 "head harm_message");
    CHECK_THROWS(p.gate_read(1, random_layer_energy(1, n_embd, {HEAD_HARM}), nan_f), std::invalid_argument,
                 "weight");
    CHECK_THROWS(p.energy_descent(1, random_layer_energy(1, n_embd, {HEAD_HARM}), none, none),
                 std::invalid_argument, "nothing to descend");
    float with_nan[n_heads] = {-inf, -inf, -inf, -inf, -inf};
    with_nan[HEAD_FR]        = nan_f;
    CHECK_THROWS(p.energy_descent(1, random_layer_energy(1, n_embd, {HEAD_FR}), with_nan, none),
                 std::invalid_argument, "head fr is NaN");
    CHECK_THROWS(p.capture(1, nullptr, 3, n_embd, ALL_ROWS), std::invalid_argument, "no memory");
    CHECK_THROWS(p.set_gate({0.0, 1.0, 0.0}), std::invalid_argument, "gate_benign <= gate_harmful");
    CHECK_THROWS(p.set_gate({0.0, nan_f, 0.0}), std::invalid_argument, "gate_benign <= gate_harmful");
    CHECK_THROWS(p.set_gate({inf, 0.0, 0.0}), std::invalid_argument, "bias");
    descent_schedule schedule;
    schedule.n_tokens = -1;
    CHECK_THROWS(p.set_descent(schedule), std::invalid_argument, "n_tokens");
    schedule.n_tokens = 1;
    schedule.decay    = nan_f;
    CHECK_THROWS(p.set_descent(schedule), std::invalid_argument, "decay");
    CHECK(p.interventions().empty());
}

static void refuses_what_does_not_fit_the_model() {
    const std::vector<float> v((size_t) n_embd, 1.0f);
    for (int32_t il : {-1, n_layer, n_layer + 5}) {
        program p;
        p.add_vector(il, v, ALL_ROWS);
        CHECK_THROWS(p.check(n_layer, n_embd), std::invalid_argument, "the model has the layers 0 to 5");
    }
    {
        program p;
        p.add_vector(n_layer - 1, v, ALL_ROWS);
        CHECK_THROWS(p.check(n_layer, n_embd), std::invalid_argument,
                     "layer 5: the last layer cannot be steered");
    }
    {
        program p;
        p.add_vector(1, std::vector<float>(7, 1.0f), ALL_ROWS);
        CHECK_THROWS(p.check(n_layer, n_embd), std::invalid_argument,
                     "rows of 7 values, but the model has n_embd = 24");
    }
    {
        program p;
        p.add_low_rank(1, std::vector<float>(2 * 7, 1.0f), {0.0f, 1.0f}, std::vector<float>(2 * 7, 1.0f), ALL_ROWS);
        CHECK_THROWS(p.check(n_layer, n_embd), std::invalid_argument,
                     "rows of 7 values, but the model has n_embd = 24");
    }
    {
        program p;
        p.gate_read(1, random_layer_energy(1, n_embd + 1, {HEAD_HARM}), 1.0);
        CHECK_THROWS(p.check(n_layer, n_embd), std::invalid_argument, "rows of 25 values");
    }
    {
        std::vector<float> out(3 * 7);
        program p;
        p.capture(1, out.data(), 3, 7, ALL_ROWS);
        CHECK_THROWS(p.check(n_layer, n_embd), std::invalid_argument, "rows of 7 values");
    }
    {
        std::vector<float> out(3 * n_embd);
        program p;
        p.capture(n_layer - 1, out.data(), 3, n_embd, ALL_ROWS); // only steering is refused there
        p.check(n_layer, n_embd);
    }
}

static void refuses_contradictions() {
    const std::shared_ptr<layer_energy> harm   = random_layer_energy(1, n_embd, {HEAD_HARM});
    const std::shared_ptr<layer_energy> fr     = random_layer_energy(1, n_embd, {HEAD_FR});
    const std::shared_ptr<layer_energy> merged = random_layer_energy(1, n_embd, {HEAD_MERGED});
    {
        program p;
        p.gate_read(3, harm, 1.0);
        p.energy_descent(2, fr, none, none);
        CHECK_THROWS(p.check(n_layer, n_embd), std::invalid_argument,
                     "the gate reads layer 3, above the first steered layer 2");
    }
    {
        program p;
        p.energy_descent(2, fr, none, none);
        p.gate_read(2, harm, 1.0); // the same layer: the gate is read first
        p.check(n_layer, n_embd);
    }
    {
        program p;
        p.energy_descent(2, fr, none, none);
        CHECK_THROWS(p.check(n_layer, n_embd), std::invalid_argument,
                     "layer 2: without a gate the head merged");
    }
    {
        program p;
        p.gate_read(1, harm, 1.0);
        p.energy_descent(2, merged, none, none);
        CHECK_THROWS(p.check(n_layer, n_embd), std::invalid_argument,
                     "layer 2: with a gate the heads fr and jb");
    }
    {
        program p; // covariance is what a schedule starts with
        p.energy_descent(2, constant_layer_energy(n_embd, {{HEAD_MERGED, 1.0f}}), none, none);
        CHECK_THROWS(p.check(n_layer, n_embd), std::invalid_argument, "needs a subspace");
    }
}

static void set_program_keeps_the_old_one_when_it_refuses() {
    hook h(fake::api(), n_layer, n_embd);
    program good;
    good.add_vector(1, std::vector<float>((size_t) n_embd, 1.0f), ALL_ROWS);
    h.set_program(&good);
    program bad;
    bad.add_vector(9, std::vector<float>((size_t) n_embd, 1.0f), ALL_ROWS);
    CHECK_THROWS(h.set_program(&bad), std::invalid_argument, "layer 9");

    fake::llama model;
    h.begin(2, {}, {}, {});
    model.decode(h, std::vector<float>(2 * (size_t) n_embd, 0.5f));
    h.end();
    CHECK(model.wanted == std::vector<std::string>{"l_out-1"});
}

static void the_hook_has_a_copy() {
    hook h(fake::api(), n_layer, n_embd);
    {
        program p;
        p.add_vector(1, std::vector<float>((size_t) n_embd, 1.0f), ALL_ROWS);
        h.set_program(&p);
        p.add_vector(2, std::vector<float>((size_t) n_embd, 1.0f), ALL_ROWS);
    }
    fake::llama model;
    h.begin(2, {}, {}, {});
    model.decode(h, std::vector<float>(2 * (size_t) n_embd, 0.5f));
    h.end();
    CHECK(model.wanted == std::vector<std::string>{"l_out-1"});
}

int main() {
    refuses_arguments();
    refuses_what_does_not_fit_the_model();
    refuses_contradictions();
    set_program_keeps_the_old_one_when_it_refuses();
    the_hook_has_a_copy();
    return n_failures;
}
