// The loops of kernels.h over vectors of whatever width: included once by each form, after it has defined, in an
// unnamed namespace within edge_eds,
//   SIMD            what stands before each function: `static inline`, and the instruction sets it may use
//   vec, n_lanes    n_lanes floats, loaded from floats or halves
//   sums            the sums of squares of many floats, in double
// and the operations on them that are used below. The order of a sum depends on its length alone: not on how many
// rows or outputs share a pass, and not on where in memory they lie.

// sum_i w[o * n + i] * x[r][i] for n_o outputs and n_r rows, into out[o][r]. Two sums for each, taken in turn, so
// that a multiplication need not wait for the one before.
template <int n_o, int n_r, typename weight>
SIMD void products(const weight * w, const float * const * x, int64_t n, float (&out)[n_o][n_r]) {
    vec sum[n_o][n_r][2];
    for (int o = 0; o < n_o; ++o) {
        for (int r = 0; r < n_r; ++r) {
            sum[o][r][0] = sum[o][r][1] = splat(0.0f);
        }
    }
    int64_t i = 0;
    for (; i + 2 * n_lanes <= n; i += 2 * n_lanes) {
        for (int half = 0; half < 2; ++half) {
            const int64_t at = i + half * n_lanes;
            vec b[n_r];
            for (int r = 0; r < n_r; ++r) {
                b[r] = load(x[r] + at);
            }
            for (int o = 0; o < n_o; ++o) {
                const vec a = load(w + o * n + at);
                for (int r = 0; r < n_r; ++r) {
                    sum[o][r][half] = multiply_add(a, b[r], sum[o][r][half]);
                }
            }
        }
    }
    for (int half = 0; i < n; i += n_lanes, ++half) {
        for (int o = 0; o < n_o; ++o) {
            const vec a = load_part(w + o * n + i, n - i);
            for (int r = 0; r < n_r; ++r) {
                sum[o][r][half] = multiply_add(a, load_part(x[r] + i, n - i), sum[o][r][half]);
            }
        }
    }
    for (int o = 0; o < n_o; ++o) {
        for (int r = 0; r < n_r; ++r) {
            out[o][r] = total(add(sum[o][r][0], sum[o][r][1]));
        }
    }
}

template <int n_o, int n_r, typename weight>
SIMD void affine_block(const weight * w, const float * bias, const float * const * x, float * const * y, int64_t n,
                       int64_t o) {
    float out[n_o][n_r];
    products<n_o, n_r>(w + o * n, x, n, out);
    for (int k = 0; k < n_o; ++k) {
        for (int r = 0; r < n_r; ++r) {
            y[r][o + k] = bias ? out[k][r] + bias[o + k] : out[k][r];
        }
    }
}

// Four outputs at a time, for two rows and two more: a cache keeps the four's weights meanwhile, and more rows would not
// fit the registers.
template <typename weight>
SIMD void affine_of(const weight * w, const float * bias, const float * const * x, float * const * y, int n_rows,
                    int64_t n_out, int64_t n_in) {
    int64_t o = 0;
    for (; o + 4 <= n_out; o += 4) {
        int r = 0;
        for (; r + 2 <= n_rows; r += 2) {
            affine_block<2, 2>(w, bias, x + r, y + r, n_in, o);
            affine_block<2, 2>(w, bias, x + r, y + r, n_in, o + 2);
        }
        if (r < n_rows) {
            affine_block<4, 1>(w, bias, x + r, y + r, n_in, o);
        }
    }
    for (; o < n_out; ++o) {
        for (int r = 0; r < n_rows; ++r) {
            affine_block<1, 1>(w, bias, x + r, y + r, n_in, o);
        }
    }
}

static SIMD_TARGET void simd_affine(const matrix & w, const float * bias, const float * const * x,
                                    float * const * y, int n_rows) {
    if (w.values) {
        affine_of(w.values, bias, x, y, n_rows, w.n_out, w.n_in);
    } else {
        affine_of(w.halves, bias, x, y, n_rows, w.n_out, w.n_in);
    }
}

// x[r] += sum_o y[r][o] * w[o] over n_o outputs, one after the other; `step` is from row to row of w
template <int n_o, int n_r, typename weight>
SIMD void add_block(const weight * w, const float * const * y, float * const * x, int64_t n, int64_t step, int64_t o) {
    vec factor[n_o][n_r];
    for (int k = 0; k < n_o; ++k) {
        for (int r = 0; r < n_r; ++r) {
            factor[k][r] = splat(y[r][o + k]);
        }
    }
    w += o * step;
    int64_t i = 0;
    for (; i + n_lanes <= n; i += n_lanes) {
        vec sum[n_r];
        for (int r = 0; r < n_r; ++r) {
            sum[r] = load(x[r] + i);
        }
        for (int k = 0; k < n_o; ++k) {
            const vec a = load(w + k * step + i);
            for (int r = 0; r < n_r; ++r) {
                sum[r] = multiply_add(factor[k][r], a, sum[r]);
            }
        }
        for (int r = 0; r < n_r; ++r) {
            store(x[r] + i, sum[r]);
        }
    }
    if (i < n) {
        for (int r = 0; r < n_r; ++r) {
            vec sum = load_part(x[r] + i, n - i);
            for (int k = 0; k < n_o; ++k) {
                sum = multiply_add(factor[k][r], load_part(w + k * step + i, n - i), sum);
            }
            store_part(x[r] + i, sum, n - i);
        }
    }
}

// eight outputs at a time, likewise
template <typename weight>
SIMD void add_transposed_of(const weight * w, const float * const * y, float * const * x, int n_rows, int64_t n_out,
                            int64_t n_in, int64_t step) {
    int64_t o = 0;
    for (; o + 8 <= n_out; o += 8) {
        int r = 0;
        for (; r + 2 <= n_rows; r += 2) {
            add_block<4, 2>(w, y + r, x + r, n_in, step, o);
            add_block<4, 2>(w, y + r, x + r, n_in, step, o + 4);
        }
        if (r < n_rows) {
            add_block<8, 1>(w, y + r, x + r, n_in, step, o);
        }
    }
    for (; o < n_out; ++o) {
        for (int r = 0; r < n_rows; ++r) {
            add_block<1, 1>(w, y + r, x + r, n_in, step, o);
        }
    }
}

static SIMD_TARGET void simd_add_transposed(const matrix & w, const float * const * y, float * const * x,
                                            int n_rows) {
    if (w.values) {
        add_transposed_of(w.values, y, x, n_rows, w.n_out, w.n_in, w.step());
    } else {
        add_transposed_of(w.halves, y, x, n_rows, w.n_out, w.n_in, w.step());
    }
}

// exp(x) for x <= 0, to about 2 units in the last place; NaN stays NaN. What would be smaller than the smallest
// normal float is that. With n = round(x / ln 2): exp(x) = 2^n exp(x - n ln 2), the latter by its Taylor series.
SIMD vec exp_of_negative(vec x) {
    x             = at_least(-87.3f, x);
    const vec n   = nearest(multiply(x, splat(1.44269504f)));
    vec r         = multiply_add(n, splat(-0.693359375f), x); // ln 2 in two parts: the first is exact in few bits
    r             = multiply_add(n, splat(2.12194440e-4f), r);
    vec p         = splat(1.0f / 5040.0f);
    for (const float c : {1.0f / 720.0f, 1.0f / 120.0f, 1.0f / 24.0f, 1.0f / 6.0f, 0.5f, 1.0f, 1.0f}) {
        p = multiply_add(p, r, splat(c));
    }
    return times_power_of_2(p, n);
}

SIMD void silu_of(vec a, vec & activation, vec & slope) {
    const vec one = splat(1.0f);
    const vec e   = exp_of_negative(negative_size(a)); // exp(-|a|) cannot overflow
    const vec s   = divide(where_negative(a, e, one), add(one, e));
    activation    = multiply(a, s);
    slope         = multiply(s, multiply_add(a, subtract(one, s), one));
}

static SIMD_TARGET float simd_dot(const float * a, const float * b, int64_t n) {
    float out[1][1];
    products<1, 1>(a, &b, n, out);
    return out[0][0];
}

static SIMD_TARGET void simd_add_scaled(float alpha, const float * x, float * y, int64_t n) {
    const float * factor = &alpha;
    add_block<1, 1>(x, &factor, &y, n, n, 0);
}

static SIMD_TARGET double simd_norm(const float * x, int64_t n) {
    sums squares = no_sums();
    int64_t i    = 0;
    for (; i + n_lanes <= n; i += n_lanes) {
        squares = add_squares(squares, load(x + i));
    }
    if (i < n) {
        squares = add_squares(squares, load_part(x + i, n - i));
    }
    return std::sqrt(total(squares));
}

static SIMD_TARGET bool simd_all_finite(const float * x, int64_t n) {
    bool finite = true;
    int64_t i   = 0;
    for (; i + n_lanes <= n; i += n_lanes) {
        finite = finite && is_finite(load(x + i));
    }
    return finite && (i == n || is_finite(load_part(x + i, n - i)));
}

static SIMD_TARGET void simd_silu(const float * a, float * activation, float * slope, int64_t n) {
    vec value, derivative;
    int64_t i = 0;
    for (; i + n_lanes <= n; i += n_lanes) {
        silu_of(load(a + i), value, derivative);
        store(activation + i, value);
        store(slope + i, derivative);
    }
    if (i < n) {
        silu_of(load_part(a + i, n - i), value, derivative);
        store_part(activation + i, value, n - i);
        store_part(slope + i, derivative, n - i);
    }
}

static SIMD_TARGET float simd_layer_norm(float * a, float * normed, const float * gamma, const float * beta,
                                         int64_t n) {
    const int64_t n_whole = n - n % n_lanes;
    vec sum               = splat(0.0f);
    for (int64_t i = 0; i < n_whole; i += n_lanes) {
        sum = add(sum, load(a + i));
    }
    float mean = total(sum);
    for (int64_t i = n_whole; i < n; ++i) {
        mean += a[i];
    }
    mean /= (float) n;

    sum = splat(0.0f);
    for (int64_t i = 0; i < n_whole; i += n_lanes) {
        const vec centred = subtract(load(a + i), splat(mean));
        store(normed + i, centred);
        sum = multiply_add(centred, centred, sum);
    }
    float var = total(sum);
    for (int64_t i = n_whole; i < n; ++i) {
        normed[i] = a[i] - mean;
        var += normed[i] * normed[i];
    }
    const float inv_std = 1.0f / std::sqrt(var / (float) n + layer_norm_eps);

    for (int64_t i = 0; i < n_whole; i += n_lanes) {
        const vec x = multiply(load(normed + i), splat(inv_std));
        store(normed + i, x);
        store(a + i, multiply_add(load(gamma + i), x, load(beta + i)));
    }
    for (int64_t i = n_whole; i < n; ++i) {
        normed[i] *= inv_std;
        a[i] = gamma[i] * normed[i] + beta[i];
    }
    return inv_std;
}

static SIMD_TARGET void simd_layer_norm_gradient(float * g, const float * normed, const float * gamma,
                                                 float inv_std, int64_t n) {
    const int64_t n_whole = n - n % n_lanes;
    vec sum               = splat(0.0f);
    vec sum_along         = splat(0.0f);
    for (int64_t i = 0; i < n_whole; i += n_lanes) {
        const vec u = multiply(load(g + i), load(gamma + i));
        store(g + i, u);
        sum       = add(sum, u);
        sum_along = multiply_add(u, load(normed + i), sum_along);
    }
    float mean  = total(sum);
    float along = total(sum_along);
    for (int64_t i = n_whole; i < n; ++i) {
        g[i] *= gamma[i];
        mean += g[i];
        along += g[i] * normed[i];
    }
    mean /= (float) n;
    along /= (float) n;
    for (int64_t i = 0; i < n_whole; i += n_lanes) {
        const vec rest = subtract(subtract(load(g + i), splat(mean)), multiply(load(normed + i), splat(along)));
        store(g + i, multiply(rest, splat(inv_std)));
    }
    for (int64_t i = n_whole; i < n; ++i) {
        g[i] = (g[i] - mean - normed[i] * along) * inv_std;
    }
}

// The whole form, with its loops for matrices in 8 bits. Constant, so that it is there before anything runs.
constexpr kernel_set simd_kernels(const char * name, decltype(kernel_set::coded_affine) coded_affine,
                                  decltype(kernel_set::coded_add_transposed) coded_add_transposed) {
    return {name,         true,                 simd_dot,  simd_add_scaled, simd_affine, simd_add_transposed,
            coded_affine, coded_add_transposed, simd_norm, simd_all_finite, simd_silu,   simd_layer_norm,
            simd_layer_norm_gradient};
}
