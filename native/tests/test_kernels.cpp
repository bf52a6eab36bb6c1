// Each form of the loops against the same sums in double, and against the plain form, at lengths around the number
// of lanes; what a row gives is the same bits whatever is computed beside it.
#include "each_form.h"
#include "random_energy.h"
#include "weights.h"

#include <algorithm>
#include <limits>

using namespace edge_eds;

static const float inf = std::numeric_limits<float>::infinity();
static const float nan_value = std::numeric_limits<float>::quiet_NaN();

static const std::vector<int64_t> lengths = {0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 65, 100, 576, 4097};

static void sums_are_those_in_double() {
    random_source random(1);
    for (int64_t n : lengths) {
        const std::vector<float> a = random.values(n);
        const std::vector<float> b = random.values(n);
        double product             = 0.0;
        double squares             = 0.0;
        double size                = 0.0;
        for (int64_t i = 0; i < n; ++i) {
            product += (double) a[i] * b[i];
            squares += (double) a[i] * a[i];
            size += std::fabs((double) a[i] * b[i]);
        }
        CHECK_NEAR(dot(a.data(), b.data(), n), product, 1e-6 * size);
        CHECK_NEAR(norm(a.data(), n), std::sqrt(squares), 1e-9 * (1.0 + std::sqrt(squares)));

        std::vector<float> y = b;
        y.push_back(7.0f);
        add_scaled(-0.5f, a.data(), y.data(), n);
        for (int64_t i = 0; i < n; ++i) {
            CHECK(y[i] == b[i] + -0.5f * a[i]);
        }
        CHECK(y[n] == 7.0f); // nothing behind the end is touched
    }
    // lengths that float squares could not hold
    const float tiny[2] = {3e-25f, 4e-25f};
    const float huge[2] = {3e30f, 4e30f};
    CHECK_NEAR(norm(tiny, 2) / 5e-25, 1.0, 1e-6);
    CHECK_NEAR(norm(huge, 2) / 5e30, 1.0, 1e-6);
}

// W as it is kept, in double: in 8 bits that is not the W it was made from
static std::vector<double> kept(const matrix & m) {
    std::vector<double> w((size_t) (m.n_out * m.n_in));
    for (size_t k = 0; k < w.size(); ++k) {
        w[k] = m.values   ? m.values[k]
               : m.halves ? (float) m.halves[k]
                          : (double) m.scale[k / m.n_in] * m.codes[k];
    }
    return w;
}

enum kind { FLOATS, HALVES, CODES };

static std::vector<float> random_weights(random_source & random, int64_t n, kind kept_as) {
    std::vector<float> values = random.values(n);
    values[0]                 = 1.0f + 1e-5f; // no half
    if (kept_as == HALVES) {
        std::transform(values.begin(), values.end(), values.begin(), nearest_half);
    }
    return values;
}

static void products_are_those_in_double(int64_t n_out, int64_t n_in, kind kept_as, bool with_bias) {
    random_source random((uint64_t) (17 * n_out + n_in));
    const bool eight_bits = kept_as == CODES;
    const weights w(random_weights(random, n_out * n_in, kept_as), n_out, n_in, eight_bits);
    CHECK((w.view().codes != nullptr) == eight_bits);
    CHECK((w.view().halves != nullptr) == (kept_as == HALVES && halves_pay()));
    const std::vector<double> exact = kept(w.view());
    const std::vector<float> bias   = random.values(n_out);
    std::vector<float> in[max_rows_at_once], out[max_rows_at_once], back[max_rows_at_once], sum[max_rows_at_once];
    const float * x[max_rows_at_once];
    const float * y[max_rows_at_once];
    float * wx[max_rows_at_once];
    float * wty[max_rows_at_once];
    for (int r = 0; r < max_rows_at_once; ++r) {
        in[r]   = random.values(n_in);
        back[r] = random.values(n_out);
        sum[r]  = random.values(n_in);
        x[r]    = in[r].data();
        y[r]    = back[r].data();
    }
    const std::vector<float> sum_before[] = {sum[0], sum[1], sum[2], sum[3]};
    std::vector<float> alone[max_rows_at_once], alone_back[max_rows_at_once];
    for (int n_rows = 1; n_rows <= max_rows_at_once; ++n_rows) {
        for (int r = 0; r < n_rows; ++r) {
            out[r].assign((size_t) n_out + 1, 7.0f);
            sum[r] = sum_before[r];
            sum[r].push_back(7.0f);
            wx[r]  = out[r].data();
            wty[r] = sum[r].data();
        }
        affine(w.view(), with_bias ? bias.data() : nullptr, x, wx, n_rows);
        add_transposed(w.view(), y, wty, n_rows);
        for (int r = 0; r < n_rows; ++r) {
            // all forms but the plain one round what is multiplied with codes to 16 bits, of the greatest beside it
            const bool rounds     = eight_bits && kernels_in_use() != std::string("plain");
            const double rounding = rounds ? 1.0 / 65000.0 : 0.0;
            double greatest_in    = 0.0;
            double greatest_back  = 0.0;
            for (float value : in[r]) {
                greatest_in = std::max(greatest_in, std::fabs((double) value));
            }
            for (int64_t o = 0; o < n_out; ++o) {
                const double factor = eight_bits ? (double) back[r][o] * w.view().scale[o] : 0.0;
                greatest_back       = std::max(greatest_back, std::fabs(factor));
            }
            for (int64_t o = 0; o < n_out; ++o) {
                double value = with_bias ? bias[o] : 0.0;
                double size   = std::fabs(value);
                double weight = 0.0;
                for (int64_t i = 0; i < n_in; ++i) {
                    weight += std::fabs(exact[o * n_in + i]);
                    value += exact[o * n_in + i] * in[r][i];
                    size += std::fabs(exact[o * n_in + i] * in[r][i]);
                }
                CHECK_NEAR(out[r][o], value, 1e-6 * size + rounding * greatest_in * weight);
            }
            for (int64_t i = 0; i < n_in; ++i) {
                double value = sum_before[r][i];
                double size  = std::fabs(value);
                double codes = 0.0;
                for (int64_t o = 0; o < n_out; ++o) {
                    codes += eight_bits ? std::abs(w.view().codes[o * n_in + i]) : 0;
                    value += exact[o * n_in + i] * back[r][o];
                    size += std::fabs(exact[o * n_in + i] * back[r][o]);
                }
                CHECK_NEAR(sum[r][i], value, 1e-6 * size + rounding * greatest_back * codes);
            }
            CHECK(out[r][n_out] == 7.0f && sum[r][n_in] == 7.0f);
        }
        // the last row now has fewer beside it than it will ever have again
        alone[n_rows - 1]      = out[n_rows - 1];
        alone_back[n_rows - 1] = sum[n_rows - 1];
        for (int r = 0; r < n_rows; ++r) {
            CHECK(out[r] == alone[r] && sum[r] == alone_back[r]);
        }
        std::vector<float> single((size_t) n_out + 1, 7.0f), single_back = sum_before[n_rows - 1];
        single_back.push_back(7.0f);
        float * to      = single.data();
        float * back_to = single_back.data();
        affine(w.view(), with_bias ? bias.data() : nullptr, x + n_rows - 1, &to, 1);
        add_transposed(w.view(), y + n_rows - 1, &back_to, 1);
        CHECK(single == out[n_rows - 1] && single_back == sum[n_rows - 1]);
    }
}

static void halves_give_the_bits_of_floats(int64_t n_out, int64_t n_in) {
    random_source random((uint64_t) (19 * n_out + n_in));
    const std::vector<float> values = random_weights(random, n_out * n_in, HALVES);
    std::vector<half> as_halves(values.size());
    for (size_t i = 0; i < values.size(); ++i) {
        CHECK(half::from(values[i], as_halves[i]));
    }
    matrix floats;
    floats.n_out  = n_out;
    floats.n_in   = n_in;
    matrix halves = floats;
    floats.values = values.data();
    halves.halves = as_halves.data();
    std::vector<float> x = random.values(max_rows_at_once * n_in), y = random.values(max_rows_at_once * n_out);
    const float * in[max_rows_at_once];
    const float * back_in[max_rows_at_once];
    float * out[max_rows_at_once];
    float * back_out[max_rows_at_once];
    std::vector<float> results[2];
    for (const matrix * w : {&halves, &floats}) {
        for (int n_rows = 1; n_rows <= max_rows_at_once; ++n_rows) {
            std::vector<float> wx((size_t) (n_rows * n_out)), sum = x;
            for (int r = 0; r < n_rows; ++r) {
                in[r]       = x.data() + r * n_in;
                back_in[r]  = y.data() + r * n_out;
                out[r]      = wx.data() + r * n_out;
                back_out[r] = sum.data() + r * n_in;
            }
            affine(*w, nullptr, in, out, n_rows);
            add_transposed(*w, back_in, back_out, n_rows);
            std::vector<float> & result = results[w == &floats];
            result.insert(result.end(), wx.begin(), wx.end());
            result.insert(result.end(), sum.begin(), sum.end());
        }
    }
    CHECK(results[0] == results[1]);
}

// Products in 8 bits: what is not finite is not rounded away, and what is small or huge keeps its digits.
static void rounded_inputs_keep_their_range() {
    random_source random(5);
    const int64_t n_out = 17, n_in = 600;
    const weights w(random.values(n_out * n_in), n_out, n_in, true);
    const std::vector<double> exact = kept(w.view());
    const std::vector<float> bias   = random.values(n_out);
    std::vector<float> x((size_t) n_in, 0.0f), y((size_t) n_out), back((size_t) n_out, 0.0f), sum = random.values(n_in);
    const float * in      = x.data();
    const float * back_in = back.data();
    float * out           = y.data();
    const auto worst_of   = [&](float scale) {
        const std::vector<float> given = random.values(n_in, scale);
        std::copy(given.begin(), given.end(), x.begin());
        affine(w.view(), nullptr, &in, &out, 1);
        double worst = 0.0;
        for (int64_t o = 0; o < n_out; ++o) {
            double value = 0.0;
            double size  = 0.0;
            for (int64_t i = 0; i < n_in; ++i) {
                value += exact[o * n_in + i] * given[i];
                size += std::fabs(exact[o * n_in + i] * given[i]);
            }
            worst = std::max(worst, std::fabs(y[o] - value) / size);
        }
        return worst;
    };
    affine(w.view(), bias.data(), &in, &out, 1);
    CHECK(y == bias); // of nothing
    for (float scale : {1e-30f, 1e-10f, 1e10f, 1e30f}) {
        CHECK(worst_of(scale) < 2e-5);
    }
    for (float bad : {nan_value, inf, -inf}) {
        for (int64_t at : {(int64_t) 0, n_in - 1}) {
            std::fill(x.begin(), x.end(), 1.0f);
            x[at] = bad;
            affine(w.view(), nullptr, &in, &out, 1);
            for (float value : y) {
                CHECK(!std::isfinite(value));
            }
        }
        std::fill(back.begin(), back.end(), 1.0f);
        back[16]   = bad;
        float * to = sum.data();
        add_transposed(w.view(), &back_in, &to, 1);
        for (float value : sum) {
            CHECK(!std::isfinite(value) || w.view().codes[16 * n_in + (&value - sum.data())] == 0);
        }
    }
}

static void silu_is_that_in_double() {
    std::vector<float> a = {0.0f, -0.0f, 1e-30f, -1e-30f, 87.0f, -87.0f, 88.5f, -88.5f, 1e30f, -1e30f};
    random_source random(2);
    for (float scale : {0.01f, 1.0f, 10.0f, 100.0f}) {
        const std::vector<float> more = random.values(333, scale);
        a.insert(a.end(), more.begin(), more.end());
    }
    std::vector<float> activation(a.size()), slope = a;
    silu(slope.data(), activation.data(), slope.data(), (int64_t) a.size()); // in place
    for (size_t i = 0; i < a.size(); ++i) {
        const double s = 1.0 / (1.0 + std::exp(-(double) a[i]));
        CHECK_NEAR(activation[i], a[i] * s, 1e-6 * std::fabs(a[i] * s) + 2e-38 * std::fabs(a[i]));
        CHECK_NEAR(slope[i], s * (1.0 + a[i] * (1.0 - s)), 1e-6);
    }
    for (int64_t n : {1, 5, 8, 19}) { // NaN in the whole vectors and in the rest
        for (int64_t at : {(int64_t) 0, n - 1}) {
            std::vector<float> bad((size_t) n, 1.0f), out((size_t) n), derivative((size_t) n);
            bad[at] = nan_value;
            silu(bad.data(), out.data(), derivative.data(), n);
            for (int64_t i = 0; i < n; ++i) {
                CHECK(std::isnan(out[i]) == (i == at) && std::isnan(derivative[i]) == (i == at));
            }
        }
    }
}

static void layer_norm_is_that_in_double() {
    random_source random(3);
    for (int64_t n : lengths) {
        if (n < 2) {
            continue;
        }
        std::vector<float> a           = random.values(n, 5.0f);
        const std::vector<float> gamma = random.values(n);
        const std::vector<float> beta  = random.values(n);
        double mean                    = 0.0;
        double var                     = 0.0;
        for (float v : a) {
            mean += v / (double) n;
        }
        for (float v : a) {
            var += (v - mean) * (v - mean) / (double) n;
        }
        const std::vector<float> input = a;
        std::vector<float> normed((size_t) n);
        const float inv_std = layer_norm(a.data(), normed.data(), gamma.data(), beta.data(), n);
        CHECK_NEAR(inv_std, 1.0 / std::sqrt(var + 1e-5), 1e-5 * inv_std);
        for (int64_t i = 0; i < n; ++i) {
            const double x = (input[i] - mean) / std::sqrt(var + 1e-5);
            CHECK_NEAR(normed[i], x, 2e-5);
            CHECK_NEAR(a[i], gamma[i] * x + beta[i], 2e-5);
        }

        std::vector<float> g           = random.values(n);
        const std::vector<float> given = g;
        double mean_u                  = 0.0;
        double along                   = 0.0;
        for (int64_t i = 0; i < n; ++i) {
            mean_u += (double) gamma[i] * g[i] / (double) n;
            along += (double) gamma[i] * g[i] * normed[i] / (double) n;
        }
        layer_norm_gradient(g.data(), normed.data(), gamma.data(), inv_std, n);
        for (int64_t i = 0; i < n; ++i) {
            CHECK_NEAR(g[i], ((double) gamma[i] * given[i] - mean_u - normed[i] * along) * inv_std, 1e-5);
        }
    }
}

static void what_is_not_finite_is_found_wherever_it_stands() {
    const float fine[3] = {0.0f, -std::numeric_limits<float>::max(), std::numeric_limits<float>::denorm_min()};
    CHECK(all_finite(fine, 3));
    CHECK(all_finite(fine, 0));
    for (int64_t n : {1, 4, 8, 16, 37}) {
        std::vector<float> x((size_t) n + 1, 1.0f);
        x[n] = nan_value; // behind the end
        CHECK(all_finite(x.data(), n));
        for (int64_t at = 0; at < n; ++at) {
            for (float bad : {inf, -inf, nan_value}) {
                x[at] = bad;
                CHECK(!all_finite(x.data(), n));
                CHECK(!std::isfinite(norm(x.data(), n)));
                x[at] = 1.0f;
            }
        }
    }
}

static void all() {
    sums_are_those_in_double();
    for (int64_t n_in : lengths) {
        if (n_in == 0) {
            continue;
        }
        for (int64_t n_out : {1, 3, 4, 5, 8, 17}) {
            for (kind kept_as : {FLOATS, HALVES, CODES}) {
                products_are_those_in_double(n_out, n_in, kept_as, n_out % 2 == 1);
            }
            halves_give_the_bits_of_floats(n_out, n_in);
        }
    }
    rounded_inputs_keep_their_range();
    silu_is_that_in_double();
    layer_norm_is_that_in_double();
    what_is_not_finite_is_found_wherever_it_stands();
}

static void eight_bits_keep_what_they_promise() {
    random_source random(4);
    std::vector<float> values = random.values(6 * 50);
    std::fill(values.begin() + 50, values.begin() + 100, 0.0f);    // a row of nothing
    std::fill(values.begin() + 100, values.begin() + 150, 1e-40f); // and of next to nothing
    const weights w(values, 6, 50, true);
    const std::vector<double> now = kept(w.view());
    for (int64_t o = 0; o < 6; ++o) {
        double greatest = 0.0;
        for (int64_t i = 0; i < 50; ++i) {
            greatest = std::max(greatest, (double) std::fabs(values[o * 50 + i]));
        }
        for (int64_t i = 0; i < 50; ++i) {
            CHECK_NEAR(now[o * 50 + i], values[o * 50 + i], greatest / 254.0 * 1.001 + 1e-37);
        }
    }
    CHECK((uintptr_t) w.view().codes % 64 == 0);
}

static void halves_are_told_from_other_floats() {
    for (uint32_t bits = 0; bits < 0x10000; ++bits) {
        if ((bits & 0x7c00) == 0x7c00) {
            continue; // infinite, or NaN
        }
        const half given = {(uint16_t) bits};
        const float value = (float) given;
        const int exponent = (int) (bits >> 10 & 31);
        const double size  = exponent ? std::ldexp(1024 + (bits & 0x3ff), exponent - 25)
                                      : std::ldexp(bits & 0x3ff, -24);
        CHECK((double) value == (bits & 0x8000 ? -size : size));
        half found;
        CHECK(half::from(value, found) && found.bits == bits);
        if (value != 0.0f) {
            CHECK(!half::from(std::nextafter(value, inf), found) && !half::from(std::nextafter(value, -inf), found));
        }
    }
    half found;
    for (float value : {65520.0f, 65536.0f, -1e30f, 1e-8f, 1e-40f, 1.0f / 3.0f, inf, nan_value}) {
        CHECK(!half::from(value, found));
    }
}

int main() {
    CHECK(available_kernels().back() == "plain");
    CHECK_THROWS(use_kernels("mmx"), std::invalid_argument, "cannot run the kernels 'mmx': it has ");
    CHECK(available_kernels().front() == kernels_in_use() || std::getenv("EDGE_EDS_KERNELS"));
    eight_bits_keep_what_they_promise();
    halves_are_told_from_other_floats();
    return with_each_form(all);
}
