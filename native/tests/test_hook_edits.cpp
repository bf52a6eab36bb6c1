// AddVector, AblateDirection and host functions: what they write, where, and in which order.
#include "check.h"
#include "fake_llama.h"
#include "kernels.h"
#include "random_energy.h"

#include <functional>

using namespace edge_eds;

static const int64_t n_embd = 24;

static std::vector<float> input_rows(int64_t n) {
    random_source random(43);
    return random.values(n * n_embd);
}

static std::vector<float> random_vector(uint64_t seed) {
    random_source random(seed);
    return random.values(n_embd);
}

// Runs a program over n rows; returns the outputs of every layer.
static std::vector<std::vector<float>> run(hook & h, const program * p, int64_t n_ubatch,
                                           const std::vector<float> & rows,
                                           const std::vector<int32_t> & planned) {
    fake::llama model;
    model.n_ubatch = n_ubatch;
    h.set_slots(16);
    h.set_program(p);
    std::vector<int32_t> slots;
    std::vector<int32_t> offsets;
    for (size_t i = 0; i < planned.size(); ++i) {
        slots.push_back((int32_t) i);
        offsets.push_back(1);
    }
    fake::gets.clear();
    fake::sets.clear();
    h.begin((int64_t) rows.size() / n_embd, planned, slots, offsets);
    model.decode(h, rows);
    h.end();
    CHECK(model.n_allocations_in_callback == 0);
    CHECK(!model.stopped);
    return model.outputs;
}

static bool is_planned(const std::vector<int32_t> & planned, int64_t row) {
    for (int32_t p : planned) {
        if (p == row) {
            return true;
        }
    }
    return false;
}

// At layer 2 of `edited`, the rows in scope are edit(row of `plain`) and the others keep their bits.
static void compare(const std::vector<std::vector<float>> & plain,
                    const std::vector<std::vector<float>> & edited, bool all,
                    const std::vector<int32_t> & planned, const std::function<void(float *)> & edit) {
    CHECK(edited[0] == plain[0] && edited[1] == plain[1]);
    const int64_t n = (int64_t) plain[2].size() / n_embd;
    for (int64_t i = 0; i < n; ++i) {
        std::vector<float> expected(plain[2].begin() + i * n_embd, plain[2].begin() + (i + 1) * n_embd);
        const std::vector<float> found(edited[2].begin() + i * n_embd, edited[2].begin() + (i + 1) * n_embd);
        const std::vector<float> above_plain(plain[4].begin() + i * n_embd,
                                             plain[4].begin() + (i + 1) * n_embd);
        const std::vector<float> above(edited[4].begin() + i * n_embd, edited[4].begin() + (i + 1) * n_embd);
        const bool in_scope = all || is_planned(planned, i);
        if (in_scope) {
            edit(expected.data());
        }
        CHECK(found == expected);
        CHECK((above == above_plain) == !in_scope); // the edit reaches the layers above
    }
}

static void add_vector_adds() {
    const std::vector<float> v         = random_vector(1);
    const std::vector<float> rows      = input_rows(9);
    const std::vector<int32_t> planned = {2, 3, 7};
    for (int64_t n_ubatch : {1, 3, 4, 512}) {
        for (row_scope scope : {ALL_ROWS, PLANNED_ROWS}) {
            hook h(fake::api(), 6, n_embd);
            const std::vector<std::vector<float>> plain = run(h, nullptr, n_ubatch, rows, planned);
            program p;
            p.add_vector(2, v, scope);
            const std::vector<std::vector<float>> edited = run(h, &p, n_ubatch, rows, planned);
            compare(plain, edited, scope == ALL_ROWS, planned, [&](float * row) {
                for (int64_t j = 0; j < n_embd; ++j) {
                    row[j] += v[j];
                }
            });
            CHECK(h.rows_written() == (scope == ALL_ROWS ? 9 : 3));
            CHECK(h.first_row_written() == (scope == ALL_ROWS ? 0 : 2));
        }
    }
}

static void ablation_removes_the_direction() {
    std::vector<float> u               = random_vector(2);
    const std::vector<float> rows      = input_rows(9);
    const std::vector<int32_t> planned = {0, 8};
    std::vector<float> unit            = u;
    const double length                = norm(u.data(), n_embd);
    for (float & x : unit) {
        x = (float) (x / length);
    }
    for (int64_t n_ubatch : {2, 512}) {
        for (row_scope scope : {ALL_ROWS, PLANNED_ROWS}) {
            hook h(fake::api(), 6, n_embd);
            const std::vector<std::vector<float>> plain = run(h, nullptr, n_ubatch, rows, planned);
            program p;
            p.ablate_direction(2, u, 1.0f, scope);
            const std::vector<std::vector<float>> edited = run(h, &p, n_ubatch, rows, planned);
            compare(plain, edited, scope == ALL_ROWS, planned, [&](float * row) {
                add_scaled(-dot(unit.data(), row, n_embd), unit.data(), row, n_embd);
            });
            for (int64_t i = 0; i < 9; ++i) {
                if (scope == ALL_ROWS || is_planned(planned, i)) {
                    CHECK_NEAR(dot(unit.data(), edited[2].data() + i * n_embd, n_embd), 0.0, 1e-6);
                }
            }
            program half;
            half.ablate_direction(2, u, 0.5f, scope);
            const std::vector<std::vector<float>> halved = run(h, &half, n_ubatch, rows, planned);
            CHECK_NEAR(dot(unit.data(), halved[2].data(), n_embd),
                       0.5 * dot(unit.data(), plain[2].data(), n_embd), 1e-6);
        }
    }
}

static void low_rank_map_adds_what_the_row_says() {
    const int64_t rank            = 3;
    const std::vector<float> rows = input_rows(9);
    random_source random(7);
    const std::vector<float> down      = random.values(rank * n_embd);
    const std::vector<float> up        = random.values(rank * n_embd);
    const std::vector<float> bias      = {0.5f, -1.0f, 0.0f};
    const std::vector<int32_t> planned = {1, 2, 8};
    for (int64_t n_ubatch : {2, 512}) {
        for (row_scope scope : {ALL_ROWS, PLANNED_ROWS}) {
            hook h(fake::api(), 6, n_embd);
            const std::vector<std::vector<float>> plain = run(h, nullptr, n_ubatch, rows, planned);
            program p;
            p.add_low_rank(2, down, bias, up, scope);
            const std::vector<std::vector<float>> edited = run(h, &p, n_ubatch, rows, planned);
            compare(plain, edited, scope == ALL_ROWS, planned, [&](float * row) {
                float along[rank];
                for (int64_t k = 0; k < rank; ++k) {
                    along[k] = dot(down.data() + k * n_embd, row, n_embd) + bias[(size_t) k];
                }
                for (int64_t k = 0; k < rank; ++k) {
                    add_scaled(along[k], up.data() + k * n_embd, row, n_embd);
                }
            });
        }
    }
}

class doubling : public row_function {
public:
    std::vector<int64_t> sizes = std::vector<int64_t>(64, 0);
    size_t n_calls             = 0;
    bool edit(float * rows, int64_t n, int64_t width, std::exception_ptr &) noexcept override {
        for (int64_t i = 0; i < n * width; ++i) {
            rows[i] *= 2.0f;
        }
        sizes[n_calls++] = n;
        return true;
    }
};

static void host_functions_get_the_rows_in_scope() {
    const std::vector<float> rows      = input_rows(9);
    const std::vector<int32_t> planned = {1, 2, 8};
    for (row_scope scope : {ALL_ROWS, PLANNED_ROWS}) {
        hook h(fake::api(), 6, n_embd);
        const std::vector<std::vector<float>> plain = run(h, nullptr, 4, rows, planned);
        const std::shared_ptr<doubling> function    = std::make_shared<doubling>();
        program p;
        p.host_function(2, function, scope);
        if (scope == PLANNED_ROWS) {
            p.add_vector(3, std::vector<float>((size_t) n_embd, 0.0f),
                         ALL_ROWS); // another layer that needs every row
        }
        const std::vector<std::vector<float>> edited = run(h, &p, 4, rows, planned);
        compare(plain, edited, scope == ALL_ROWS, planned, [&](float * row) {
            for (int64_t j = 0; j < n_embd; ++j) {
                row[j] *= 2.0f;
            }
        });
        function->sizes.resize(function->n_calls);
        // not called for a micro-batch without rows in scope
        CHECK(function->sizes ==
              (scope == ALL_ROWS ? std::vector<int64_t>{4, 4, 1} : std::vector<int64_t>{2, 1}));
    }
}

static void scopes_mix_on_one_layer() {
    const std::vector<float> v         = random_vector(3);
    const std::vector<float> w         = random_vector(4);
    const std::vector<float> rows      = input_rows(7);
    const std::vector<int32_t> planned = {3, 6};
    hook h(fake::api(), 6, n_embd);
    const std::vector<std::vector<float>> plain = run(h, nullptr, 4, rows, planned);
    const std::shared_ptr<doubling> function    = std::make_shared<doubling>();
    program p;
    p.add_vector(2, v, ALL_ROWS);
    p.host_function(2, function, PLANNED_ROWS);
    p.add_vector(2, w, PLANNED_ROWS);
    const std::vector<std::vector<float>> edited = run(h, &p, 4, rows, planned);
    for (int64_t i = 0; i < 7; ++i) {
        for (int64_t j = 0; j < n_embd; ++j) {
            float expected = plain[2][i * n_embd + j] + v[j];
            if (is_planned(planned, i)) {
                expected = expected * 2.0f + w[j];
            }
            CHECK(edited[2][i * n_embd + j] == expected);
        }
    }
}

static void items_run_in_the_order_added_and_captures_last() {
    const std::vector<float> v    = random_vector(5);
    const std::vector<float> rows = input_rows(3);
    std::vector<float> captured((size_t) (3 * n_embd));
    for (bool double_first : {true, false}) {
        hook h(fake::api(), 6, n_embd);
        const std::vector<std::vector<float>> plain = run(h, nullptr, 512, rows, {});
        const std::shared_ptr<doubling> function    = std::make_shared<doubling>();
        program p;
        p.capture(2, captured.data(), 3, n_embd, ALL_ROWS);
        if (double_first) {
            p.host_function(2, function, ALL_ROWS);
        }
        p.add_vector(2, v, ALL_ROWS);
        if (!double_first) {
            p.host_function(2, function, ALL_ROWS);
        }
        const std::vector<std::vector<float>> edited = run(h, &p, 512, rows, {});
        for (int64_t i = 0; i < 3 * n_embd; ++i) {
            const float h0 = plain[2][i];
            CHECK(edited[2][i] == (double_first ? h0 * 2.0f + v[i % n_embd] : (h0 + v[i % n_embd]) * 2.0f));
        }
        CHECK(captured == edited[2]);
    }
}

static void v_and_minus_v_cancel() {
    // exact in floating point where v is a power of two times what the row resolves
    std::vector<float> v((size_t) n_embd, 0.0f);
    std::vector<float> rows(2 * (size_t) n_embd, 0.0f);
    v[3]                     = 4.0f;
    std::vector<float> minus = v;
    minus[3]                 = -4.0f;
    hook h(fake::api(), 6, n_embd);
    const std::vector<std::vector<float>> plain = run(h, nullptr, 512, rows, {});
    program p;
    p.add_vector(2, v, ALL_ROWS);
    p.add_vector(2, minus, ALL_ROWS);
    const std::vector<std::vector<float>> edited = run(h, &p, 512, rows, {});
    for (size_t i = 0; i < plain[2].size(); ++i) {
        CHECK_NEAR(edited[2][i], plain[2][i], 1e-6);
    }
}

int main() {
    add_vector_adds();
    ablation_removes_the_direction();
    low_rank_map_adds_what_the_row_says();
    host_functions_get_the_rows_in_scope();
    scopes_mix_on_one_layer();
    items_run_in_the_order_added_and_captures_last();
    v_and_minus_v_cancel();
    return n_failures;
}
