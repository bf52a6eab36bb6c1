// Choosing a form of the loops, and passing calls on to it.
#include "kernels.h"

#include "kernel_set.h"
#include "workers.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <stdexcept>

namespace edge_eds {

static std::vector<const kernel_set *> forms() {
    std::vector<const kernel_set *> found;
#if defined(EDGE_EDS_X86)
    // these ask the operating system too, which must keep the wide registers
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
        found.push_back(&avx512_kernels);
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        found.push_back(&avx2_kernels);
    }
#elif defined(EDGE_EDS_NEON)
    found.push_back(&neon_kernels);
#endif
    found.push_back(&plain_kernels);
    return found;
}

static const kernel_set * form_named(const std::string & name) {
    std::string known;
    for (const kernel_set * set : forms()) {
        if (name == set->name) {
            return set;
        }
        known += (known.empty() ? "" : ", ") + std::string(set->name);
    }
    throw std::invalid_argument("this machine cannot run the kernels '" + name + "': it has " + known);
}

static const kernel_set * first_choice() {
    const char * name = std::getenv("EDGE_EDS_KERNELS");
    return name && *name ? form_named(name) : forms().front();
}

static std::atomic<const kernel_set *> & in_use() {
    static std::atomic<const kernel_set *> set{first_choice()};
    return set;
}

static const kernel_set & now() {
    return *in_use().load(std::memory_order_relaxed);
}

std::vector<std::string> available_kernels() {
    std::vector<std::string> names;
    for (const kernel_set * set : forms()) {
        names.push_back(set->name);
    }
    return names;
}

const char * kernels_in_use() {
    return now().name;
}

void use_kernels(const std::string & name) {
    in_use().store(form_named(name));
}

float dot(const float * a, const float * b, int64_t n) {
    return now().dot(a, b, n);
}

void add_scaled(float alpha, const float * x, float * y, int64_t n) {
    now().add_scaled(alpha, x, y, n);
}

// -- large matrices, in parts

// Two parts a thread, so that one which comes late leaves its second part to the others; whole cache lines of outputs, so
// that no two threads write to the same one, and each part but the last falls into vectors as the whole does.
static int64_t part_size(int64_t n) {
    const int64_t n_wanted = 2 * threads_on_shift();
    return ((n + n_wanted - 1) / n_wanted + 63) / 64 * 64;
}

static int64_t n_parts(int64_t n) {
    return (n + part_size(n) - 1) / part_size(n);
}

static bool is_shared(const matrix & w) {
    return w.n_out * w.n_in >= shared_matrix && threads_on_shift() > 1;
}

// Outputs `first` and the n - 1 after it.
static matrix outputs_of(matrix w, int64_t first, int64_t n) {
    w.n_out = n;
    w.values = w.values ? w.values + first * w.step() : nullptr;
    w.codes  = w.codes ? w.codes + first * w.step() : nullptr;
    w.scale  = w.scale ? w.scale + first : nullptr;
    return w;
}

// Columns `first` and the n - 1 after it.
static matrix columns_of(matrix w, int64_t first, int64_t n) {
    w.stride = w.step();
    w.n_in   = n;
    w.values = w.values ? w.values + first : nullptr;
    w.codes  = w.codes ? w.codes + first : nullptr;
    return w;
}

struct affine_job {
    const matrix * w;
    const float * bias;
    const float * const * x;
    float * const * y;
    int n_rows;
    int64_t part; // outputs
};

static void affine_part(const void * given, int64_t k) {
    const affine_job & job = *static_cast<const affine_job *>(given);
    const int64_t first    = k * job.part;
    const int64_t n        = std::min(job.part, job.w->n_out - first);
    float * y[max_rows_at_once];
    for (int r = 0; r < job.n_rows; ++r) {
        y[r] = job.y[r] + first;
    }
    now().affine(outputs_of(*job.w, first, n), job.bias ? job.bias + first : nullptr, job.x, y, job.n_rows);
}

void affine(const matrix & w, const float * bias, const float * const * x, float * const * y, int n_rows) {
    if (!is_shared(w)) {
        now().affine(w, bias, x, y, n_rows);
        return;
    }
    const affine_job job = {&w, bias, x, y, n_rows, part_size(w.n_out)};
    run_shared(affine_part, &job, n_parts(w.n_out));
}

struct add_transposed_job {
    const matrix * w;
    const float * const * y;
    float * const * x;
    int n_rows;
    int64_t part; // columns
};

static void add_transposed_part(const void * given, int64_t k) {
    const add_transposed_job & job = *static_cast<const add_transposed_job *>(given);
    const int64_t first            = k * job.part;
    const int64_t n                = std::min(job.part, job.w->n_in - first);
    float * x[max_rows_at_once];
    for (int r = 0; r < job.n_rows; ++r) {
        x[r] = job.x[r] + first;
    }
    now().add_transposed(columns_of(*job.w, first, n), job.y, x, job.n_rows);
}

void add_transposed(const matrix & w, const float * const * y, float * const * x, int n_rows) {
    if (!is_shared(w)) {
        now().add_transposed(w, y, x, n_rows);
        return;
    }
    const add_transposed_job job = {&w, y, x, n_rows, part_size(w.n_in)};
    run_shared(add_transposed_part, &job, n_parts(w.n_in));
}

double norm(const float * x, int64_t n) {
    return now().norm(x, n);
}

bool all_finite(const float * x, int64_t n) {
    return now().all_finite(x, n);
}

void silu(const float * a, float * activation, float * slope, int64_t n) {
    now().silu(a, activation, slope, n);
}

float layer_norm(float * a, float * normed, const float * gamma, const float * beta, int64_t n) {
    return now().layer_norm(a, normed, gamma, beta, n);
}

void layer_norm_gradient(float * g, const float * normed, const float * gamma, float inv_std, int64_t n) {
    now().layer_norm_gradient(g, normed, gamma, inv_std, n);
}

} // namespace edge_eds
