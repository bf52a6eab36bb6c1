// Which nodes are asked for, which rows are read, and capture; for every way of cutting a decode into
// micro-batches.
#include "check.h"
#include "fake_llama.h"
#include "random_energy.h"

using namespace edge_eds;

static const int64_t n_embd = 24;

static std::vector<float> input_rows(int64_t n) {
    random_source random(42);
    return random.values(n * n_embd);
}

static std::vector<std::vector<float>> plain_outputs(fake::llama model, const std::vector<float> & rows) {
    hook idle(fake::api(), model.n_layer, n_embd);
    model.decode(idle, rows);
    return model.outputs;
}

static void decode(fake::llama & model, hook & h, const std::vector<float> & rows) {
    fake::gets.clear();
    fake::sets.clear();
    model.decode(h, rows);
    CHECK(model.n_allocations_in_callback == 0);
    CHECK(!model.stopped);
}

static void capture_of_all_rows_is_the_block_output() {
    const int64_t n               = 11;
    const std::vector<float> rows = input_rows(n);
    for (int64_t n_ubatch : {1, 2, 3, 10, 11, 512}) {
        fake::llama model;
        model.n_ubatch                              = n_ubatch;
        const std::vector<std::vector<float>> plain = plain_outputs(model, rows);
        hook h(fake::api(), model.n_layer, n_embd);
        std::vector<float> out_2((size_t) (n * n_embd));
        std::vector<float> out_4((size_t) ((n + 3) * n_embd), -1.0f); // more room than needed
        program p;
        p.capture(2, out_2.data(), n, n_embd, ALL_ROWS);
        p.capture(4, out_4.data(), n + 3, n_embd, ALL_ROWS);
        h.set_program(&p);
        h.begin(n, {}, {}, {});
        decode(model, h, rows);
        h.end();
        CHECK(out_2 == plain[2]);
        CHECK(std::vector<float>(out_4.begin(), out_4.begin() + n * n_embd) == plain[4]);
        CHECK(out_4.back() == -1.0f);
        CHECK(model.outputs == plain); // observing changes nothing
        CHECK(fake::sets.empty());
        CHECK(h.rows_written() == 0 && h.first_row_written() == -1);
        for (const std::string & name : model.wanted) {
            CHECK(name == "l_out-2" || name == "l_out-4");
        }
        CHECK((int64_t) model.wanted.size() == 2 * ((n + n_ubatch - 1) / n_ubatch));
    }
}

static void capture_of_planned_rows() {
    const int64_t n                    = 11;
    const std::vector<float> rows      = input_rows(n);
    const std::vector<int32_t> planned = {0, 4, 5, 10};
    for (int64_t n_ubatch : {1, 2, 3, 5, 512}) {
        fake::llama model;
        model.n_ubatch                              = n_ubatch;
        const std::vector<std::vector<float>> plain = plain_outputs(model, rows);
        hook h(fake::api(), model.n_layer, n_embd);
        h.set_slots(4);
        std::vector<float> out((size_t) (4 * n_embd));
        program p;
        p.capture(3, out.data(), 4, n_embd, PLANNED_ROWS);
        h.set_program(&p);
        h.begin(n, planned, {0, 1, 2, 3}, {0, 5, 0, 7});
        decode(model, h, rows);
        h.end();
        for (size_t i = 0; i < planned.size(); ++i) {
            for (int64_t j = 0; j < n_embd; ++j) {
                CHECK(out[i * n_embd + j] == plain[3][planned[i] * n_embd + j]);
            }
        }
        size_t n_bytes = 0;
        for (const fake::transfer & t : fake::gets) {
            CHECK(t.tensor == "l_out-3");
            n_bytes += t.size;
        }
        CHECK(n_bytes == planned.size() * n_embd * sizeof(float)); // no row more than asked for
    }
}

static void an_answer_and_its_message_are_apart() {
    for (int64_t n_ubatch : {1, 2, 512}) {
        fake::llama model;
        model.n_ubatch                              = n_ubatch;
        const std::vector<float> rows               = input_rows(6);
        const std::vector<std::vector<float>> plain = plain_outputs(model, rows);
        hook h(fake::api(), model.n_layer, n_embd);
        std::vector<float> answer((size_t) (2 * n_embd)), message((size_t) (3 * n_embd));
        program p;
        p.capture(1, answer.data(), 2, n_embd, PLANNED_ROWS);
        p.capture(1, message.data(), 3, n_embd, MESSAGE_ROWS);
        p.add_vector(2, std::vector<float>((size_t) n_embd, 1.0f), PLANNED_ROWS);
        h.set_program(&p);
        h.begin(6, {0, 1, 3, 4, 5}, {0, 0, 0, 0, 0}, {-4, -3, -1, 0, 1});
        decode(model, h, rows);
        h.end();
        const auto row = [&](int64_t i) { return plain[1].begin() + i * n_embd; };
        CHECK(std::equal(row(4), row(6), answer.begin()));
        CHECK(std::equal(row(0), row(2), message.begin()));
        CHECK(std::equal(row(3), row(4), message.begin() + 2 * n_embd));
        CHECK(h.rows_written() == 2 && h.first_row_written() == 4);
        CHECK_THROWS(h.begin(4, {0, 1, 2, 3}, {0, 0, 0, 0}, {-4, -3, -2, -1}), std::invalid_argument, "holds 3 rows");
    }
}

static void micro_batches_without_planned_rows_run_through() {
    fake::llama model;
    model.n_ubatch = 4;
    hook h(fake::api(), model.n_layer, n_embd);
    std::vector<float> out((size_t) n_embd);
    program p;
    p.capture(3, out.data(), 1, n_embd, PLANNED_ROWS);
    h.set_program(&p);
    h.begin(14, {13}, {0}, {0});
    decode(model, h, input_rows(14));
    h.end(); // all 14 rows were counted all the same
    CHECK(model.wanted == std::vector<std::string>{"l_out-3"});
    CHECK(fake::gets.size() == 1);
}

static void neighbours_travel_together() {
    fake::llama model;
    hook h(fake::api(), model.n_layer, n_embd);
    program p;
    p.add_vector(1, std::vector<float>((size_t) n_embd, 1.0f), PLANNED_ROWS);
    h.set_program(&p);
    h.set_slots(5);
    h.begin(9, {1, 2, 3, 6, 8}, {0, 1, 2, 3, 4}, {1, 1, 1, 1, 1});
    decode(model, h, input_rows(9));
    h.end();
    const size_t row = n_embd * sizeof(float);
    for (const std::vector<fake::transfer> * list : {&fake::gets, &fake::sets}) {
        CHECK(list->size() == 3);
        CHECK((*list)[0].offset == 1 * row && (*list)[0].size == 3 * row);
        CHECK((*list)[1].offset == 6 * row && (*list)[1].size == 1 * row);
        CHECK((*list)[2].offset == 8 * row && (*list)[2].size == 1 * row);
    }
}

static void a_hook_without_work_asks_for_nothing() {
    fake::llama model;
    const std::vector<float> rows               = input_rows(5);
    const std::vector<std::vector<float>> plain = plain_outputs(model, rows);
    hook h(fake::api(), model.n_layer, n_embd);
    program p;
    p.add_vector(1, std::vector<float>((size_t) n_embd, 1.0f), PLANNED_ROWS);

    decode(model, h, rows); // neither program nor begin
    CHECK(model.wanted.empty() && model.outputs == plain);

    h.set_program(&p);
    decode(model, h, rows); // not armed
    CHECK(model.wanted.empty() && model.outputs == plain);

    h.begin(5, {}, {}, {}); // no planned row
    decode(model, h, rows);
    h.end();
    CHECK(model.wanted.empty() && model.outputs == plain);

    h.set_program(nullptr);
    h.begin(5, {4}, {0}, {0});
    decode(model, h, rows);
    h.end();
    CHECK(model.wanted.empty() && model.outputs == plain);
    CHECK(fake::gets.empty() && fake::sets.empty());
}

static void the_last_layer_can_be_captured_where_it_is_whole() {
    fake::llama model;
    model.prune_last              = false;
    const std::vector<float> rows = input_rows(5);
    hook h(fake::api(), model.n_layer, n_embd);
    std::vector<float> out((size_t) (5 * n_embd));
    program p;
    p.capture(5, out.data(), 5, n_embd, ALL_ROWS);
    h.set_program(&p);
    h.begin(5, {}, {}, {});
    decode(model, h, rows);
    h.end();
    CHECK(out == plain_outputs(model, rows)[5]);

    model.prune_last = true;
    h.begin(5, {}, {}, {});
    decode(model, h, rows);
    CHECK_THROWS(h.end(), hook_error, "layer 5: l_out-5 was computed for 1 of the decode's 5 rows");
}

static void probing_records_and_touches_nothing() {
    fake::llama model;
    model.n_ubatch                = 4;
    model.missing_layer           = 2;
    model.wide_layer              = 3;
    model.half_layer              = 4;
    const std::vector<float> rows = input_rows(6);
    hook h(fake::api(), model.n_layer, n_embd);
    h.begin_probe();
    decode(model, h, rows);
    const std::vector<probe_record> records = h.end_probe();
    CHECK(model.wanted.empty() && fake::gets.empty() && fake::sets.empty());
    CHECK(records.size() == 10); // five block outputs in two micro-batches
    const int32_t layers[5] = {0, 1, 3, 4, 5};
    for (size_t i = 0; i < records.size(); ++i) {
        const int32_t il = layers[i % 5];
        const int64_t n  = il == 5 ? (i < 5 ? 0 : 1) : (i < 5 ? 4 : 2);
        CHECK(records[i].layer == il);
        CHECK(records[i].n_rows == n);
        CHECK(records[i].n_embd == (n == 0 ? 0 : il == 3 ? 2 * n_embd : n_embd));
        CHECK(records[i].n_bytes == n * n_embd * (il == 3 ? 8 : il == 4 ? 2 : 4));
    }
    decode(model, h, rows);
    h.begin_probe();
    CHECK(h.end_probe().empty()); // only what happened between the two
}

int main() {
    capture_of_all_rows_is_the_block_output();
    capture_of_planned_rows();
    an_answer_and_its_message_are_apart();
    micro_batches_without_planned_rows_run_through();
    neighbours_travel_together();
    a_hook_without_work_asks_for_nothing();
    the_last_layer_can_be_captured_where_it_is_whole();
    probing_records_and_touches_nothing();
    return n_failures;
}
