#include "workers.h"

#if defined(_WIN32)
#include <process.h>
#else
#include <unistd.h>
#endif
#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

namespace edge_eds {

static long this_process() {
#if defined(_WIN32)
    return (long) _getpid();
#else
    return (long) getpid();
#endif
}

// So often is looked before the CPU is offered to others.
static const int patience = 1000;

static void wait_a_moment(int turn) {
    if (turn >= patience) {
        std::this_thread::yield();
        return;
    }
#if defined(__x86_64__) || defined(__i386__)
    _mm_pause();
#elif defined(__aarch64__) && defined(__GNUC__)
    asm volatile("yield");
#endif
}

workers::workers(int n_helpers, openmp_parallel openmp)
    : n_helpers_(n_helpers), openmp_(openmp), process_(this_process()) {
    for (int k = 0; k < (openmp ? 0 : n_helpers); ++k) {
        helpers_.emplace_back([this] { help(); });
    }
}

bool workers::is_forked() const {
    return process_ != this_process();
}

workers::~workers() {
    if (is_forked()) {
        for (std::thread & helper : helpers_) {
            helper.detach(); // it is not here, and would never be joined
        }
        (void) bell_.release();
        return;
    }
    {
        const std::lock_guard<std::mutex> lock(bell_->mutex);
        quit_ = true;
    }
    bell_->wake.notify_all();
    for (std::thread & helper : helpers_) {
        helper.join();
    }
}

void workers::help() {
    for (;;) {
        {
            std::unique_lock<std::mutex> lock(bell_->mutex);
            bell_->wake.wait(lock, [this] { return quit_ || on_shift_.load(); });
            if (quit_) {
                return;
            }
        }
        for (int turn = 0; on_shift_.load(std::memory_order_relaxed); ++turn) {
            if (open_.load() && next_.load(std::memory_order_relaxed) < n_parts_.load(std::memory_order_relaxed)) {
                inside_.fetch_add(1);
                if (open_.load()) { // still: run() does not return while this one is inside
                    take_parts();
                }
                inside_.fetch_sub(1);
                turn = 0;
            }
            wait_a_moment(turn);
        }
    }
}

void workers::take_parts() {
    const int64_t n = n_parts_.load(std::memory_order_relaxed);
    for (int64_t part = next_.fetch_add(1); part < n; part = next_.fetch_add(1)) {
        run_part_(job_, part);
    }
}

void workers::take_parts_in_team(void * self) {
    static_cast<workers *>(self)->take_parts();
}

void workers::run(loop_part run_part, const void * job, int64_t n_parts) {
    run_part_ = run_part;
    job_      = job;
    n_parts_.store(n_parts, std::memory_order_relaxed);
    next_.store(0, std::memory_order_relaxed);
    if (openmp_) {
        openmp_(take_parts_in_team, this, (unsigned) (1 + n_helpers_), 0);
        return;
    }
    open_.store(true);
    take_parts();
    open_.store(false);
    for (int turn = 0; inside_.load() != 0; ++turn) {
        wait_a_moment(turn);
    }
}

static thread_local workers * team_of_this_thread = nullptr;

workers::shift::shift(workers * team)
    : team_(team_of_this_thread || !team || team->is_forked() ? nullptr : team) {
    if (!team_) {
        return;
    }
    team_of_this_thread = team_;
    if (!team_->openmp_) {
        const std::lock_guard<std::mutex> lock(team_->bell_->mutex);
        team_->on_shift_.store(true);
    }
    team_->bell_->wake.notify_all(); // nobody sleeps where OpenMP's threads help
}

workers::shift::~shift() {
    if (team_) {
        team_of_this_thread = nullptr;
        team_->on_shift_.store(false);
    }
}

int threads_on_shift() {
    return team_of_this_thread ? 1 + team_of_this_thread->n_helpers() : 1;
}

void run_shared(loop_part run_part, const void * job, int64_t n_parts) {
    if (team_of_this_thread) {
        team_of_this_thread->run(run_part, job, n_parts);
        return;
    }
    for (int64_t part = 0; part < n_parts; ++part) {
        run_part(job, part);
    }
}

} // namespace edge_eds
