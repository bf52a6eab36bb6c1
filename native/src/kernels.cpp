// Choosing a form of the loops, and passing calls on to it.
#include "kernels.h"

#include "kernel_set.h"

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

void affine(const matrix & w, const float * bias, const float * const * x, float * const * y, int n_rows) {
    now().affine(w, bias, x, y, n_rows);
}

void add_transposed(const matrix & w, const float * const * y, float * const * x, int n_rows) {
    now().add_transposed(w, y, x, n_rows);
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
