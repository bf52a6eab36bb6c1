// Random weights for tests, the same on every machine: a linear congruential generator, not the standard
// library's distributions.
#pragma once

#include "layer_energy.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <vector>

struct random_source {
    uint64_t state;
    explicit random_source(uint64_t seed) : state(seed * 2654435761u + 1) {}
    // uniform in [-1, 1)
    float next() {
        state = state * 6364136223846793005ull + 1442695040888963407ull;
        return (float) ((double) (state >> 33) / 1073741824.0 - 1.0);
    }
    std::vector<float> values(int64_t n, float scale = 1.0f) {
        std::vector<float> v((size_t) n);
        for (float & x : v) {
            x = scale * next();
        }
        return v;
    }
};

// the nearest value of half precision, for |x| < 65504
inline float nearest_half(float x) {
    const int exponent = std::max(std::ilogb(x), -14); // below, halves are as far apart as there
    return std::ldexp(std::nearbyint(std::ldexp(x, 10 - exponent)), exponent - 10);
}

inline std::vector<edge_eds::hidden_block>
random_blocks(random_source & random, const std::vector<int64_t> & widths, bool layer_norm) {
    std::vector<edge_eds::hidden_block> blocks;
    for (size_t i = 0; i + 1 < widths.size(); ++i) {
        edge_eds::hidden_block block;
        block.n_in   = widths[i];
        block.n_out  = widths[i + 1];
        block.weight = random.values(block.n_in * block.n_out, 2.0f / std::sqrt((float) block.n_in));
        block.bias   = random.values(block.n_out, 0.3f);
        if (layer_norm) {
            block.gamma = random.values(block.n_out);
            block.beta  = random.values(block.n_out, 0.3f);
        }
        blocks.push_back(block);
    }
    return blocks;
}

// widths: input, hidden...
inline std::unique_ptr<edge_eds::energy_net>
random_net(random_source & random, const std::vector<int64_t> & widths, bool layer_norm) {
    return std::make_unique<edge_eds::energy_net>(random_blocks(random, widths, layer_norm),
                                                  random.values(widths.back()), random.next());
}

struct subspace_values {
    std::vector<float> mu, p, s;
};

// orthonormal rows by Gram-Schmidt
inline subspace_values random_subspace_values(random_source & random, int64_t n_embd, int64_t rank) {
    subspace_values v;
    v.mu = random.values(n_embd, 0.5f);
    v.s  = random.values(rank);
    for (float & x : v.s) {
        x = 0.3f + std::fabs(x);
    }
    for (int64_t i = 0; i < rank; ++i) {
        std::vector<double> row((size_t) n_embd);
        for (double & x : row) {
            x = random.next();
        }
        for (int pass = 0; pass < 2; ++pass) {
            for (int64_t j = 0; j < i; ++j) {
                double overlap = 0.0;
                for (int64_t k = 0; k < n_embd; ++k) {
                    overlap += row[k] * v.p[j * n_embd + k];
                }
                for (int64_t k = 0; k < n_embd; ++k) {
                    row[k] -= overlap * v.p[j * n_embd + k];
                }
            }
        }
        double length = 0.0;
        for (double x : row) {
            length += x * x;
        }
        for (double x : row) {
            v.p.push_back((float) (x / std::sqrt(length)));
        }
    }
    return v;
}

inline std::shared_ptr<const edge_eds::subspace> random_subspace(random_source & random, int64_t n_embd,
                                                                 int64_t rank) {
    const subspace_values v = random_subspace_values(random, n_embd, rank);
    return std::make_shared<edge_eds::subspace>(v.mu, v.p, v.s);
}

// with directions in half precision, as a fit makes them
inline std::shared_ptr<const edge_eds::subspace> random_half_subspace(random_source & random, int64_t n_embd,
                                                                      int64_t rank) {
    subspace_values v = random_subspace_values(random, n_embd, rank);
    std::transform(v.p.begin(), v.p.end(), v.p.begin(), nearest_half);
    return std::make_shared<edge_eds::subspace>(v.mu, v.p, v.s);
}

// A layer with the given heads over a subspace.
inline std::shared_ptr<edge_eds::layer_energy>
random_layer_energy(uint64_t seed, int64_t n_embd, const std::vector<int> & heads, int64_t rank = 5) {
    random_source random(seed);
    std::shared_ptr<const edge_eds::subspace> space = random_subspace(random, n_embd, rank);
    std::unique_ptr<edge_eds::energy_net> nets[edge_eds::n_heads];
    for (int head : heads) {
        nets[head] = random_net(random, {rank, 16, 8}, true);
    }
    return std::make_shared<edge_eds::layer_energy>(n_embd, space, std::move(nets));
}

// E_head(h) = value, whatever h: for tests of gates and thresholds. A slope in the first direction gives it a
// gradient.
inline std::shared_ptr<edge_eds::layer_energy>
constant_layer_energy(int64_t n_embd, const std::vector<std::pair<int, float>> & values, float slope = 0.0f) {
    std::unique_ptr<edge_eds::energy_net> nets[edge_eds::n_heads];
    for (const std::pair<int, float> & value : values) {
        std::vector<float> w((size_t) n_embd, 0.0f);
        w[0] = slope;
        nets[value.first] =
            std::make_unique<edge_eds::energy_net>(std::vector<edge_eds::hidden_block>(), w, value.second);
    }
    return std::make_shared<edge_eds::layer_energy>(n_embd, nullptr, std::move(nets));
}
