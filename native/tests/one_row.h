// The functions of layer_energy for a single row, with scratch memory of their own.
#pragma once

#include "layer_energy.h"

#include <vector>

inline float energy_of(const edge_eds::layer_energy & energy, int head, const std::vector<float> & h) {
    std::vector<float> work(energy.work_size());
    const float * row = h.data();
    float e           = 0.0f;
    energy.energy(head, &row, 1, &e, work.data());
    return e;
}

inline std::vector<float> gradient_of(const edge_eds::layer_energy & energy, int head, const std::vector<float> & h,
                                      float * e = nullptr) {
    std::vector<float> work(energy.work_size());
    std::vector<float> gradient(h.size());
    const float * row = h.data();
    float * out       = gradient.data();
    float ignored     = 0.0f;
    energy.energy_and_gradient(head, &row, 1, e ? e : &ignored, &out, work.data());
    return gradient;
}

// h (n_embd) is moved, by the rule's own step size
inline edge_eds::descent_result descend(const edge_eds::layer_energy & energy, int head, float * h,
                                        const edge_eds::descent_rule & rule, float threshold, float target) {
    std::vector<float> work(energy.work_size());
    edge_eds::descent_result result;
    energy.descend(head, &h, 1, rule, &rule.step_size, threshold, target, &result, work.data());
    return result;
}
