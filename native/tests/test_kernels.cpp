// The loops against sums in double, at lengths around the number of lanes.
#include "check.h"
#include "kernels.h"
#include "random_energy.h"

#include <limits>

using namespace edge_eds;

int main() {
    random_source random(1);
    for (int64_t n : {0, 1, 2, 15, 16, 17, 31, 32, 33, 100, 576, 4097}) {
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
        add_scaled(-0.5f, a.data(), y.data(), n);
        for (int64_t i = 0; i < n; ++i) {
            CHECK(y[i] == b[i] + -0.5f * a[i]);
        }
    }

    // W x + b and W^T y are adjoint: (W x) . y = x . (W^T y)
    const int64_t n_out        = 7;
    const int64_t n_in         = 37;
    const std::vector<float> w = random.values(n_out * n_in);
    const std::vector<float> zero((size_t) n_out, 0.0f);
    const std::vector<float> x = random.values(n_in);
    const std::vector<float> y = random.values(n_out);
    std::vector<float> wx((size_t) n_out);
    std::vector<float> wty((size_t) n_in);
    affine(w.data(), zero.data(), x.data(), wx.data(), n_out, n_in);
    transposed_product(w.data(), y.data(), wty.data(), n_out, n_in);
    CHECK_NEAR(dot(wx.data(), y.data(), n_out), dot(x.data(), wty.data(), n_in), 1e-5);

    // lengths that float squares could not hold
    const float tiny[2] = {3e-25f, 4e-25f};
    const float huge[2] = {3e30f, 4e30f};
    CHECK_NEAR(norm(tiny, 2) / 5e-25, 1.0, 1e-6);
    CHECK_NEAR(norm(huge, 2) / 5e30, 1.0, 1e-6);

    const float inf          = std::numeric_limits<float>::infinity();
    const float nan          = std::numeric_limits<float>::quiet_NaN();
    const float fine[3]      = {0.0f, -std::numeric_limits<float>::max(),
                                std::numeric_limits<float>::denorm_min()};
    const float infinite[3]  = {0.0f, 1.0f, -inf};
    const float undefined[3] = {nan, 1.0f, 2.0f};
    CHECK(all_finite(fine, 3));
    CHECK(all_finite(fine, 0));
    CHECK(!all_finite(infinite, 3));
    CHECK(!all_finite(undefined, 3));

    CHECK(sigmoid(0.0f) == 0.5f);
    CHECK(sigmoid(-1000.0f) == 0.0f);
    CHECK(sigmoid(1000.0f) == 1.0f);
    return n_failures;
}
