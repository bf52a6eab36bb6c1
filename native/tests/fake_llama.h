// A stand-in for llama.cpp and ggml: a graph of a few layers, cut into micro-batches, that calls an eval
// callback the way ggml's scheduler does. Only what the core may assume of the real thing is here (see
// SEAM.md).
#pragma once

#include "ggml_api.h"
#include "hook.h"

#include <cstdint>
#include <string>
#include <vector>

struct ggml_tensor {
    std::string name;
    int64_t n_embd      = 0;
    int64_t n_rows      = 0;
    size_t element_size = sizeof(float);
    bool contiguous     = true;
    std::vector<float> data; // (n_rows, n_embd)
};

namespace fake {

edge_eds::ggml_api api();

// transfers since the last reset, one entry a call
struct transfer {
    std::string tensor;
    size_t offset;
    size_t size;
};
extern std::vector<transfer> gets;
extern std::vector<transfer> sets;

// Every layer maps each row on its own: h <- 0.9 * rotated(h) + 0.01 * (il + 1), so that an edit travels
// upwards.
struct llama {
    int32_t n_layer  = 6;
    int64_t n_embd   = 24;
    int64_t n_ubatch = 512;
    bool prune_last  = true; // the last layer keeps only the last row of the decode

    // faults
    int32_t missing_layer  = -1; // has no l_out
    int32_t wide_layer     = -1; // twice as wide
    int32_t half_layer     = -1; // two bytes a value
    int32_t strided_layer  = -1; // not contiguous
    int32_t repeated_layer = -1; // two nodes of this name

    // outputs of the last decode: [il] (n_rows, n_embd), as the next layer saw them
    std::vector<std::vector<float>> outputs;
    // of the last decode
    std::vector<std::string> wanted; // names of nodes whose ask was answered with true
    size_t n_asked                   = 0;
    size_t n_allocations_in_callback = 0;
    bool stopped                     = false; // a computed node was answered with false

    void decode(edge_eds::hook & hook, const std::vector<float> & rows);

private:
    void visit(edge_eds::hook & hook, ggml_tensor & tensor);
};

} // namespace fake
