// Properties of the descent of one row.
#include "each_form.h"
#include "one_row.h"
#include "random_energy.h"

#include <limits>

using namespace edge_eds;

static const float inf = std::numeric_limits<float>::infinity();

static const int64_t n_embd = 40;

static descent_rule rule_of(float step_size, int32_t steps) {
    descent_rule rule;
    rule.step_size = step_size;
    rule.steps     = steps;
    return rule;
}

static float distance(const std::vector<float> & a, const std::vector<float> & b) {
    std::vector<float> d = a;
    add_scaled(-1.0f, b.data(), d.data(), (int64_t) d.size());
    return (float) norm(d.data(), (int64_t) d.size());
}

static void lowers_the_energy() {
    for (uint64_t seed = 1; seed <= 20; ++seed) {
        const std::shared_ptr<layer_energy> energy = random_layer_energy(seed, n_embd, {HEAD_FR});
        random_source random(100 + seed);
        const std::vector<float> h = random.values(n_embd, 3.0f);
        for (bool covariance : {true, false}) {
            descent_rule rule        = rule_of(0.002f, 3);
            rule.covariance          = covariance;
            std::vector<float> moved = h;
            const descent_result result =
                descend(*energy, HEAD_FR, moved.data(), rule, -inf, -inf);
            CHECK(result.finite && result.changed && result.steps == 3);
            CHECK(result.energy_after < result.energy_before);
            CHECK(result.energy_before == energy_of(*energy, HEAD_FR, h));
            CHECK_NEAR(result.energy_after, energy_of(*energy, HEAD_FR, moved),
                       1e-4 * (1.0 + std::fabs(result.energy_after)));
            CHECK_NEAR(result.shift, distance(moved, h) / norm(h.data(), n_embd), 1e-5);
        }
    }
}

static void one_step_has_the_length_asked_for() {
    const std::shared_ptr<layer_energy> energy = random_layer_energy(7, n_embd, {HEAD_FR});
    random_source random(8);
    const std::vector<float> h = random.values(n_embd, 3.0f);
    for (bool covariance : {true, false}) {
        for (bool relative : {true, false}) {
            descent_rule rule        = rule_of(0.25f, 1);
            rule.covariance          = covariance;
            rule.relative            = relative;
            std::vector<float> moved = h;
            const descent_result result =
                descend(*energy, HEAD_FR, moved.data(), rule, -inf, -inf);
            const double expected = relative ? 0.25 * norm(h.data(), n_embd) : 0.25;
            CHECK(result.steps == 1);
            CHECK_NEAR(distance(moved, h), expected, 1e-5 * expected);
        }
    }
}

static void euclidean_step_is_the_normalised_gradient() {
    const std::shared_ptr<layer_energy> energy = random_layer_energy(9, n_embd, {HEAD_JB});
    random_source random(10);
    const std::vector<float> h = random.values(n_embd, 3.0f);
    const std::vector<float> g  = gradient_of(*energy, HEAD_JB, h);
    std::vector<float> expected = h;
    add_scaled((float) (-0.5 / norm(g.data(), n_embd)), g.data(), expected.data(), n_embd);

    descent_rule rule        = rule_of(0.5f, 1);
    rule.covariance          = false;
    rule.relative            = false;
    std::vector<float> moved = h;
    descend(*energy, HEAD_JB, moved.data(), rule, -inf, -inf);
    CHECK(distance(moved, expected) < 1e-5f);
}

static void stays_where_it_should() {
    const std::shared_ptr<layer_energy> energy = random_layer_energy(11, n_embd, {HEAD_FR});
    random_source random(12);
    const std::vector<float> h = random.values(n_embd, 3.0f);
    const float e = energy_of(*energy, HEAD_FR, h);

    struct {
        descent_rule rule;
        float threshold;
        float target;
    } cases[] = {
        {rule_of(0.1f, 3), e, -inf},                                     // at the threshold
        {rule_of(0.1f, 3), e + 1.0f, -inf},                              // below the threshold
        {rule_of(0.1f, 3), inf, -inf},      {rule_of(0.1f, 3), -inf, e}, // at the target
        {rule_of(0.1f, 0), -inf, -inf},                                  // no steps
        {rule_of(0.0f, 3), -inf, -inf},                                  // no length
    };
    for (const auto & c : cases) {
        std::vector<float> moved = h;
        const descent_result result =
            descend(*energy, HEAD_FR, moved.data(), c.rule, c.threshold, c.target);
        CHECK(result.finite && !result.changed && result.steps == 0 && result.shift == 0.0f);
        CHECK(result.energy_after == e);
        CHECK(moved == h); // bit by bit
    }

    // a flat energy gives no direction
    const std::shared_ptr<layer_energy> flat = constant_layer_energy(n_embd, {{HEAD_FR, 1.0f}});
    descent_rule rule                        = rule_of(0.1f, 3);
    rule.covariance                          = false;
    std::vector<float> moved    = h;
    const descent_result result = descend(*flat, HEAD_FR, moved.data(), rule, -inf, -inf);
    CHECK(result.finite && !result.changed && result.steps == 0);
    CHECK(moved == h);

    // a zero row has no length to be relative to
    std::vector<float> zero((size_t) n_embd, 0.0f);
    const descent_result at_zero =
        descend(*energy, HEAD_FR, zero.data(), rule_of(0.1f, 3), -inf, -inf);
    CHECK(at_zero.finite && !at_zero.changed);
}

static void stops_at_the_target() {
    const std::shared_ptr<layer_energy> energy = random_layer_energy(13, n_embd, {HEAD_FR});
    random_source random(14);
    const std::vector<float> h = random.values(n_embd, 3.0f);
    std::vector<float> moved = h;
    const descent_result one =
        descend(*energy, HEAD_FR, moved.data(), rule_of(0.01f, 1), -inf, -inf);
    moved = h;
    const descent_result many =
        descend(*energy, HEAD_FR, moved.data(), rule_of(0.01f, 10), -inf, one.energy_after);
    CHECK(many.steps == 1);
    CHECK(many.energy_after == one.energy_after);
}

static void keeps_to_the_cap() {
    const std::shared_ptr<layer_energy> energy = random_layer_energy(15, n_embd, {HEAD_FR});
    random_source random(16);
    const std::vector<float> h = random.values(n_embd, 3.0f);
    for (bool relative : {true, false}) {
        descent_rule rule           = rule_of(relative ? 0.2f : 4.0f, 1);
        rule.relative               = relative;
        rule.max_shift              = 0.05f;
        std::vector<float> moved    = h;
        const descent_result result = descend(*energy, HEAD_FR, moved.data(), rule, -inf, -inf);
        CHECK_NEAR(result.shift, 0.05, 1e-6);
        CHECK_NEAR(distance(moved, h) / norm(h.data(), n_embd), 0.05, 1e-5);
        CHECK_NEAR(result.energy_after, energy_of(*energy, HEAD_FR, moved),
                   1e-4 * (1.0 + std::fabs(result.energy_after)));
    }
}

static void moves_only_within_the_subspace() {
    random_source random(17);
    const subspace_values v = random_subspace_values(random, n_embd, 4);
    std::unique_ptr<energy_net> nets[n_heads];
    nets[HEAD_FR] = random_net(random, {4, 8}, false);
    const layer_energy energy(n_embd, std::make_shared<subspace>(v.mu, v.p, v.s), std::move(nets));
    const std::vector<float> h = random.values(n_embd, 3.0f);
    std::vector<float> moved   = h;
    descend(energy, HEAD_FR, moved.data(), rule_of(0.1f, 4), -inf, -inf);

    std::vector<float> shift = moved;
    add_scaled(-1.0f, h.data(), shift.data(), n_embd);
    std::vector<float> rest = shift;
    for (int64_t i = 0; i < 4; ++i) {
        add_scaled(-dot(v.p.data() + i * n_embd, shift.data(), n_embd), v.p.data() + i * n_embd, rest.data(),
                   n_embd);
    }
    CHECK(norm(shift.data(), n_embd) > 0.1);
    CHECK(norm(rest.data(), n_embd) < 1e-5);
}

static void reports_what_is_not_finite() {
    const std::shared_ptr<layer_energy> energy = random_layer_energy(19, n_embd, {HEAD_FR});
    for (float poison : {std::numeric_limits<float>::quiet_NaN(), inf, -inf}) {
        std::vector<float> h((size_t) n_embd, 1.0f);
        h[3] = poison;
        CHECK(!descend(*energy, HEAD_FR, h.data(), rule_of(0.1f, 2), -inf, -inf).finite);
    }
    // steps that leave the range of float
    const std::shared_ptr<layer_energy> slope = constant_layer_energy(n_embd, {{HEAD_FR, 1.0f}}, 1e-30f);
    std::vector<float> h((size_t) n_embd, 1.0f);
    descent_rule rule = rule_of(3e38f, 2);
    rule.relative     = false;
    rule.covariance   = false;
    CHECK(!descend(*slope, HEAD_FR, h.data(), rule, -inf, -inf).finite);
}

static void checks_the_rule() {
    const std::shared_ptr<layer_energy> with    = random_layer_energy(21, n_embd, {HEAD_FR});
    const std::shared_ptr<layer_energy> without = constant_layer_energy(n_embd, {{HEAD_FR, 1.0f}});
    with->check_rule(rule_of(0.1f, 3));
    CHECK_THROWS(without->check_rule(rule_of(0.1f, 3)), std::invalid_argument, "needs a subspace");
    CHECK_THROWS(with->check_rule(rule_of(-0.1f, 3)), std::invalid_argument, "step_size");
    CHECK_THROWS(with->check_rule(rule_of(inf, 3)), std::invalid_argument, "step_size");
    CHECK_THROWS(with->check_rule(rule_of(0.1f, -1)), std::invalid_argument, "steps");
    descent_rule rule = rule_of(0.1f, 3);
    rule.max_shift    = -1.0f;
    CHECK_THROWS(with->check_rule(rule), std::invalid_argument, "max_shift");
}

static void all() {
    lowers_the_energy();
    one_step_has_the_length_asked_for();
    euclidean_step_is_the_normalised_gradient();
    stays_where_it_should();
    stops_at_the_target();
    keeps_to_the_cap();
    moves_only_within_the_subspace();
    reports_what_is_not_finite();
    checks_the_rule();
}

int main() {
    return with_each_form(all);
}
