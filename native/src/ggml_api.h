// The few functions of ggml that the hook calls, as addresses: the core links to no ggml and reads no ggml
// header, so one build serves every build of llama.cpp. SEAM.md says what is assumed of them.
#pragma once

#include <cstddef>
#include <cstdint>

struct ggml_tensor;

namespace edge_eds {

struct ggml_api {
    const char * (*get_name)(const ggml_tensor *) = nullptr; // ggml_get_name
    int64_t (*nelements)(const ggml_tensor *)     = nullptr; // ggml_nelements
    int64_t (*nrows)(const ggml_tensor *)         = nullptr; // ggml_nrows
    size_t (*nbytes)(const ggml_tensor *)         = nullptr; // ggml_nbytes
    bool (*is_contiguous)(const ggml_tensor *)    = nullptr; // ggml_is_contiguous
    void (*tensor_get)(const ggml_tensor *, void *, size_t offset,
                       size_t size)               = nullptr; // ggml_backend_tensor_get
    void (*tensor_set)(ggml_tensor *, const void *, size_t offset,
                       size_t size)               = nullptr; // ggml_backend_tensor_set
};

} // namespace edge_eds
