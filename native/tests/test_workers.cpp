// Loops that are shared among threads: every part runs once, and what comes out is the same bits as from one thread.
#include "each_form.h"
#include "fake_llama.h"
#include "random_energy.h"
#include "weights.h"
#include "workers.h"

#include <atomic>
#include <chrono>
#include <limits>
#if !defined(_WIN32)
#include <sys/wait.h>
#include <unistd.h>
#endif

using namespace edge_eds;

typedef std::vector<std::atomic<int>> counters;

static void count_part(const void * job, int64_t part) {
    (*static_cast<counters *>(const_cast<void *>(job)))[(size_t) part] += 1;
}

// As an OpenMP runtime has it done.
static void in_a_team(void (*function)(void *), void * data, unsigned n_threads, unsigned) {
    std::vector<std::thread> others;
    for (unsigned k = 1; k < n_threads; ++k) {
        others.emplace_back(function, data);
    }
    function(data);
    for (std::thread & other : others) {
        other.join();
    }
}

static void every_part_runs_once(int n_rounds, openmp_parallel openmp) {
    for (int n_helpers : {0, 1, 3}) {
        workers team(n_helpers, openmp);
        CHECK(team.n_helpers() == n_helpers);
        counters runs(9);
        int64_t n_loops[9] = {0};
        for (int k = 0; k < n_rounds; ++k) {
            const workers::shift shift(&team);
            for (int64_t n_parts : {1, 4, 9, 2}) {
                run_shared(count_part, &runs, n_parts);
                for (int64_t part = 0; part < n_parts; ++part) {
                    n_loops[part] += 1;
                    CHECK(runs[(size_t) part] == n_loops[part]); // done when run_shared() returns, and once
                }
            }
        }
    }
}

static void nothing_is_shared_outside_of_a_shift() {
    CHECK(threads_on_shift() == 1);
    workers team(2);
    {
        const workers::shift shift(&team);
        CHECK(threads_on_shift() == 3);
        const workers::shift inner(&team); // a thread has one shift at a time
        CHECK(threads_on_shift() == 3);
    }
    CHECK(threads_on_shift() == 1);
    const workers::shift none(nullptr);
    CHECK(threads_on_shift() == 1);
    counters runs(3);
    run_shared(count_part, &runs, 3);
    CHECK(runs[0] == 1 && runs[1] == 1 && runs[2] == 1);
}

// W x + b and W^T y of some rows, by a team of this size.
static std::vector<std::vector<float>> products(const matrix & w, int n_rows, int n_helpers) {
    random_source random(5);
    std::vector<std::vector<float>> results;
    const std::vector<float> bias = random.values(w.n_out);
    std::vector<float> x[max_rows_at_once], y[max_rows_at_once];
    const float * in[max_rows_at_once];
    const float * back[max_rows_at_once];
    float * out[max_rows_at_once];
    float * sum[max_rows_at_once];
    for (int r = 0; r < n_rows; ++r) {
        x[r]    = random.values(w.n_in);
        y[r]    = random.values(w.n_out);
        in[r]   = x[r].data();
        back[r] = y[r].data();
        results.push_back(std::vector<float>((size_t) w.n_out));
        results.push_back(random.values(w.n_in));
    }
    for (int r = 0; r < n_rows; ++r) {
        out[r] = results[(size_t) (2 * r)].data();
        sum[r] = results[(size_t) (2 * r + 1)].data();
    }
    workers team(n_helpers);
    const workers::shift shift(&team);
    affine(w, bias.data(), in, out, n_rows);
    add_transposed(w, back, sum, n_rows);
    return results;
}

static void threads_change_no_bit() {
    const int64_t sizes[][2] = {{1031, 577}, {67, 4099}, {4096, 64}, {65, 4096}};
    random_source random(6);
    for (const auto & size : sizes) {
        CHECK(size[0] * size[1] >= shared_matrix);
        for (bool eight_bits : {false, true}) {
            const weights w(random.values(size[0] * size[1]), size[0], size[1], eight_bits);
            for (int n_rows : {1, 2, max_rows_at_once}) {
                const std::vector<std::vector<float>> alone = products(w.view(), n_rows, 0);
                for (int n_helpers : {1, 2, 6}) {
                    CHECK(products(w.view(), n_rows, n_helpers) == alone);
                }
            }
        }
    }
}

// A large energy on two layers, and what a decode of two answers makes of it.
static std::vector<std::vector<float>> steered(hook & h, fake::llama & model, int n_threads) {
    random_source random(7);
    h.set_threads(n_threads);
    h.begin(2, {0, 1}, {0, 1}, {0, 0});
    model.decode(h, random.values(2 * model.n_embd));
    h.end();
    CHECK(model.n_allocations_in_callback == 0);
    CHECK(h.rows_written() == 2);
    return model.outputs;
}

static void a_hook_steers_alike_with_any_number_of_threads() {
    fake::llama model;
    random_source random(8);
    std::unique_ptr<energy_net> heads[n_heads];
    heads[HEAD_MERGED] = random_net(random, {model.n_embd, 2048, 600}, true);
    const auto energy  = std::make_shared<layer_energy>(model.n_embd, nullptr, std::move(heads));
    CHECK(energy->is_large());
    const float inf           = std::numeric_limits<float>::infinity();
    const float none[n_heads] = {-inf, -inf, -inf, -inf, -inf};
    descent_schedule schedule;
    schedule.rule.step_size  = 0.05f;
    schedule.rule.steps      = 3;
    schedule.rule.covariance = false;
    program p;
    p.set_descent(schedule);
    p.energy_descent(2, energy, none, none);
    p.energy_descent(4, energy, none, none);
    hook h(fake::api(), model.n_layer, model.n_embd);
    h.set_slots(2);
    h.set_program(&p);
    const std::vector<std::vector<float>> alone = steered(h, model, 1);
    for (int n_threads : {2, 4, 3, 1}) {
        CHECK(steered(h, model, n_threads) == alone);
    }
    CHECK_THROWS(h.set_threads(0), std::invalid_argument, "must be > 0");
    h.begin(1, {}, {}, {});
    CHECK_THROWS(h.set_threads(2), std::logic_error, "a decode is under way");
    h.abort();
}

#if !defined(_WIN32)
static void a_forked_process_works_alone_and_ends() {
    auto team = std::make_unique<workers>(2);
    std::this_thread::sleep_for(std::chrono::milliseconds(100)); // until the helpers sleep
    std::fflush(nullptr);
    const pid_t child = fork();
    if (child == 0) {
        alarm(20); // a helper that is waited for would never come
        counters runs(4);
        {
            const workers::shift shift(team.get());
            run_shared(count_part, &runs, 4);
        }
        team.reset();
        _exit(runs[0] == 1 && runs[3] == 1 ? 0 : 1);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}
#endif

int main() {
    every_part_runs_once(3000, nullptr);
    every_part_runs_once(100, in_a_team);
    nothing_is_shared_outside_of_a_shift();
#if !defined(_WIN32)
    a_forked_process_works_alone_and_ends();
#endif
    return with_each_form([] {
        threads_change_no_bit();
        a_hook_steers_alike_with_any_number_of_threads();
    });
}
