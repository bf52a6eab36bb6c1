// What steering did: one record for each row and layer where an energy was read or descended.
#pragma once

#include <cstdint>

namespace edge_eds {

// Laid out as the NumPy dtype TRACE_DTYPE of edge_eds/runtime/trace.py; every field is four bytes, so there is no padding.
struct trace_record {
    int32_t slot;
    int32_t offset; // token index relative to the prompt's end: 0 = the prompt's last token
    int32_t layer;
    int32_t head; // head_id
    float energy_before;
    float energy_after; // the same as before where nothing moved
    int32_t steps;      // 0: gate reading, or energy at or below threshold or target
    float shift;        // |new h - h| / |h|
};

static_assert(sizeof(trace_record) == 32, "trace_record is read as an array of 32-byte records");

} // namespace edge_eds
