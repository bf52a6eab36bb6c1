#include "weights.h"

#include <algorithm>
#include <cmath>

namespace edge_eds {

weights::weights(const std::vector<float> & values, int64_t n_out, int64_t n_in, bool eight_bits)
    : n_out_(n_out), n_in_(n_in) {
    if (!eight_bits) {
        if (!halves_pay() || !take_as_halves(values)) {
            values_.assign(values.begin(), values.end());
        }
        return;
    }
    codes_.resize(values.size());
    scale_.resize((size_t) n_out);
    for (int64_t o = 0; o < n_out; ++o) {
        const float * row = values.data() + o * n_in;
        float greatest    = 0.0f;
        for (int64_t i = 0; i < n_in; ++i) {
            greatest = std::max(greatest, std::fabs(row[i]));
        }
        const float scale = greatest / 127.0f;
        scale_[(size_t) o] = scale;
        for (int64_t i = 0; i < n_in; ++i) {
            // a scale too small to divide by belongs to weights that are nothing
            const float multiple = scale >= 1e-38f ? std::nearbyint(row[i] / scale) : 0.0f;
            codes_[(size_t) (o * n_in + i)] = (int8_t) std::max(-127.0f, std::min(127.0f, multiple));
        }
    }
}

// false if they are not all of half precision
bool weights::take_as_halves(const std::vector<float> & values) {
    halves_.reserve(values.size());
    for (float value : values) {
        half given;
        if (!half::from(value, given)) {
            decltype(halves_)().swap(halves_);
            return false;
        }
        halves_.push_back(given);
    }
    return true;
}

matrix weights::view() const {
    matrix m;
    m.n_out = n_out_;
    m.n_in  = n_in_;
    if (!codes_.empty()) {
        m.codes = codes_.data();
        m.scale = scale_.data();
    } else if (!halves_.empty()) {
        m.halves = halves_.data();
    } else {
        m.values = values_.data();
    }
    return m;
}

} // namespace edge_eds
