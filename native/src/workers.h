// Threads that share the loops over large matrices with the thread that computes. A part of a loop is whole outputs, so
// that what comes out is the same bits however many threads there are.
// Where llama.cpp computes with OpenMP, these are its own threads: after each graph they wait for the next by spinning,
// and threads of ours would have to share the cores with them. Elsewhere they are ours. Between shifts those sleep;
// during one they wait at the ready, because a loop lasts a fraction of a millisecond. Nobody waits for one that the
// system has not let run: whoever is there takes the next part.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace edge_eds {

// One part of a loop; `job` is what they have in common. Neither allocates nor throws.
typedef void (*loop_part)(const void * job, int64_t part);

// GOMP_parallel of the OpenMP runtime: has a team of n_threads, the caller in it, call function(data), and waits for all.
typedef void (*openmp_parallel)(void (*function)(void * data), void * data, unsigned n_threads, unsigned flags);

class workers {
public:
    // openmp: whose threads help; null: n_helpers of our own. Throws std::system_error where the system gives no more.
    explicit workers(int n_helpers, openmp_parallel openmp = nullptr);
    ~workers();
    workers(const workers &)             = delete;
    workers & operator=(const workers &) = delete;

    int n_helpers() const { return n_helpers_; }

    // Runs every part once, and returns when all are done. During a shift, by the thread that began it.
    void run(loop_part run_part, const void * job, int64_t n_parts);

    // While it lives, run_shared() in this thread is shared. Nothing is where `team` is null, nor in a forked process.
    class shift {
    public:
        explicit shift(workers * team);
        ~shift();
        shift(const shift &)             = delete;
        shift & operator=(const shift &) = delete;

    private:
        workers * team_;
    };

private:
    // What helpers sleep by. A forked process has no helpers, but what they held and waited for when it began: there it
    // is neither touched nor destroyed, which would wait for them.
    struct bell {
        std::mutex mutex;
        std::condition_variable wake;
    };

    int n_helpers_;
    openmp_parallel openmp_;
    std::vector<std::thread> helpers_; // our own
    long process_;                     // that the helpers live in
    std::unique_ptr<bell> bell_ = std::make_unique<bell>();
    bool quit_                  = false;
    std::atomic<bool> on_shift_{false};

    // the running loop; helpers read it only while they are inside, and it changes only while none is
    loop_part run_part_ = nullptr;
    const void * job_   = nullptr;
    std::atomic<int64_t> n_parts_{0};
    std::atomic<int64_t> next_{0};
    std::atomic<bool> open_{false};
    std::atomic<int> inside_{0};

    bool is_forked() const;
    void help();
    void take_parts();
    static void take_parts_in_team(void * self);
};

// How many threads share the loops of this thread now: 1 outside of a shift.
int threads_on_shift();

// Runs every part once: with the helpers of this thread's shift, else alone.
void run_shared(loop_part run_part, const void * job, int64_t n_parts);

} // namespace edge_eds
