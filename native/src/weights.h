// A matrix of weights in memory, whole or in 8 bits, and frozen.
// Whole: in half precision if that is what every weight is (the directions of subspaces are made so) and it saves time
// (halves_pay), else in float32.
// 8 bits: each row keeps a scale, its greatest weight / 127, and the nearest multiple of it for each weight. That is
// a quarter of the memory, which is what large energies wait for, and an error of about 0.4 % of the weights' size.
#pragma once

#include "kernels.h"

#include <cstddef>
#include <cstdint>
#include <new>
#include <vector>

namespace edge_eds {

// Memory that begins at a cache line, so that a row of a round length fills whole lines.
template <typename T> struct line_allocator {
    typedef T value_type;
    line_allocator() = default;
    template <typename U> line_allocator(const line_allocator<U> &) {}
    T * allocate(size_t n) { return static_cast<T *>(::operator new(n * sizeof(T), line)); }
    void deallocate(T * p, size_t) { ::operator delete(p, line); }
    bool operator==(const line_allocator &) const { return true; }
    bool operator!=(const line_allocator &) const { return false; }

private:
    static constexpr std::align_val_t line{64};
};

// n floats, and as many more as fill the last line
inline int64_t whole_lines(int64_t n) {
    return (n + 15) / 16 * 16;
}

class weights {
public:
    // values (n_out, n_in) row-major, finite
    weights(const std::vector<float> & values, int64_t n_out, int64_t n_in, bool eight_bits);

    matrix view() const;

    int64_t n_out() const { return n_out_; }
    int64_t n_in() const { return n_in_; }

private:
    bool take_as_halves(const std::vector<float> & values);

    int64_t n_out_;
    int64_t n_in_;
    std::vector<float, line_allocator<float>> values_;  // or empty
    std::vector<half, line_allocator<half>> halves_;    // or empty
    std::vector<int8_t, line_allocator<int8_t>> codes_; // or empty
    std::vector<float> scale_;                            // (n_out) with codes
};

} // namespace edge_eds
