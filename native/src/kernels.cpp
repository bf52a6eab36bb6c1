// Choosing a form of the loops, and passing calls on to it.
#include "kernels.h"

#include "kernel_set.h"
#include "workers.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <stdexcept>

#if defined(EDGE_EDS_X86)
#include <cpuid.h>
#endif

namespace edge_eds {

#if defined(EDGE_EDS_X86)
// not every compiler's __builtin_cpu_supports knows its name
static bool has_f16c() {
    unsigned int a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
#endif

static std::vector<const kernel_set *> forms() {
    std::vector<const kernel_set *> found;
#if defined(EDGE_EDS_X86)
    // these ask the operating system too, which must keep the wide registers
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
        found.push_back(&avx512_kernels);
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c()) {
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

bool halves_pay() {
    return now().halves_pay;
}

float dot(const float * a, const float * b, int64_t n) {
    return now().dot(a, b, n);
}

void add_scaled(float alpha, const float * x, float * y, int64_t n) {
    now().add_scaled(alpha, x, y, n);
}

static void affine_alone(const matrix & w, const float * bias, const float * const * x, float * const * y, int n_rows) {
    (w.codes ? now().coded_affine : now().affine)(w, bias, x, y, n_rows);
}

static void add_transposed_alone(const matrix & w, const float * const * y, float * const * x, int n_rows) {
    (w.codes ? now().coded_add_transposed : now().add_transposed)(w, y, x, n_rows);
}

// -- large matrices, in parts

// Two parts a thread, so that one which comes late leaves its second part to the others; whole cache lines of outputs, so
// that no two threads write to the same one, and each part but the last falls into vectors as the whole does.
static int64_t part_size(int64_t n) {
    const int64_t n_wanted = 2 * threads_on_shift();
    return ((n + n_wanted - 1) / n_wanted + 63) / 64 * 64;
}

static bool is_shared(const matrix & w) {
    return w.n_out * w.n_in >= shared_matrix && threads_on_shift() > 1;
}

// Outputs `first` and the n - 1 after it.
static matrix outputs_of(matrix w, int64_t first, int64_t n) {
    w.n_out = n;
    w.values = w.values ? w.values + first * w.step() : nullptr;
    w.halves = w.halves ? w.halves + first * w.step() : nullptr;
    w.codes  = w.codes ? w.codes + first * w.step() : nullptr;
    w.scale  = w.scale ? w.scale + first : nullptr;
    return w;
}

// Columns `first` and the n - 1 after it.
static matrix columns_of(matrix w, int64_t first, int64_t n) {
    w.stride = w.step();
    w.n_in   = n;
    w.values = w.values ? w.values + first : nullptr;
    w.halves = w.halves ? w.halves + first : nullptr;
    w.codes  = w.codes ? w.codes + first : nullptr;
    return w;
}

// W in[r] + bias, or W^T in[r] added, into out[r]; each part is some of what out[r] holds.
struct product {
    const matrix & w;
    bool transposed;
    const float * bias; // or null
    const float * const * in;
    float * const * out;
    int n_rows;
    int64_t part = 0; // values of out[r] in each part: only the thread that begins knows among how many it shares

    int64_t n() const { return transposed ? w.n_in : w.n_out; }
};

static void product_part(const void * job, int64_t k) {
    const product & p   = *static_cast<const product *>(job);
    const int64_t first = k * p.part;
    const int64_t n     = std::min(p.part, p.n() - first);
    float * out[max_rows_at_once];
    for (int r = 0; r < p.n_rows; ++r) {
        out[r] = p.out[r] + first;
    }
    if (p.transposed) {
        add_transposed_alone(columns_of(p.w, first, n), p.in, out, p.n_rows);
    } else {
        affine_alone(outputs_of(p.w, first, n), p.bias ? p.bias + first : nullptr, p.in, out, p.n_rows);
    }
}

static void run_product(product p) {
    p.part = part_size(p.n());
    run_shared(product_part, &p, (p.n() + p.part - 1) / p.part);
}

void affine(const matrix & w, const float * bias, const float * const * x, float * const * y, int n_rows) {
    if (!is_shared(w)) {
        affine_alone(w, bias, x, y, n_rows);
        return;
    }
    run_product({w, false, bias, x, y, n_rows});
}

void add_transposed(const matrix & w, const float * const * y, float * const * x, int n_rows) {
    if (!is_shared(w)) {
        add_transposed_alone(w, y, x, n_rows);
        return;
    }
    run_product({w, true, nullptr, y, x, n_rows});
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
