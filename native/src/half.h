// Half precision: IEEE 754's binary16, in which weights are kept that lose nothing by it.
#pragma once

#include <cstdint>
#include <cstring>

namespace edge_eds {

struct half {
    uint16_t bits;

    // exact; of finite values
    explicit operator float() const {
        uint32_t word = (uint32_t) (bits & 0x7fff) << 13; // what float32 calls 2^112 times less
        float value;
        std::memcpy(&value, &word, sizeof(value));
        value *= 0x1p112f;
        std::memcpy(&word, &value, sizeof(word));
        word |= (uint32_t) (bits & 0x8000) << 16;
        std::memcpy(&value, &word, sizeof(value));
        return value;
    }

    // Whether a finite value is one of half precision; then it is in `out`.
    static bool from(float value, half & out) {
        const float less = value * 0x1p-112f;
        uint32_t bits;
        std::memcpy(&bits, &less, sizeof(bits));
        const uint32_t size = bits & 0x7fffffff;
        out.bits            = (uint16_t) ((bits >> 16 & 0x8000) | (size >> 13 & 0x7fff));
        return size < 0x0f800000 && (float) out == value;
    }
};

} // namespace edge_eds
