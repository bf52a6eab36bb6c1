// The loops of kernels.h for matrices in 8 bits, over vectors of whatever width: included by a form after
// kernels_simd.h and these operations, on vectors of 2 * n_lanes whole numbers in 16 bits and n_lanes in 32:
//   short_vec load_codes(p), load_codes_part(p, n)   codes, widened; the places from n on are 0
//   short_vec load_shorts(p), void store_shorts(p, a)
//   short_vec rounded(a, b)                  two vectors of floats to the nearest whole numbers, in order
//   long_vec zero_longs()
//   long_vec add_products(sum, a, b)         of each place: into any lane of the sum
//   void add_two_rows(sum, a, b, factors)    factors[0] * a + factors[1] * b into sum[2], lanes in any order
//   void lanes_in_order(sum)                 of add_two_rows
//   vec to_float(a)
// What is multiplied with the codes is rounded to 16 bits, with a scale for every few of them, so that a huge one
// costs only its neighbours their last bits: an error of 1/65534 of the greatest, where the codes err by 1/254.
// Products of whole numbers are summed exactly, in fewer instructions than floats take.

const int64_t inputs_a_scale  = 256;
const int64_t outputs_a_scale = 16;   // greatest sum of a block: 256 * 127 * 32767 < 2^31
const int64_t inputs_at_once  = 4096; // in 16 bits on the stack
const int64_t factors_kept    = outputs_a_scale < 2 * n_lanes ? 2 * n_lanes : outputs_a_scale; // whole vectors

struct rounded_inputs {
    int16_t shorts[inputs_at_once];
    float scale[inputs_at_once / inputs_a_scale];
};

// Where n is a constant, as in the loops over whole vectors, the compiler decides.
SIMD vec load_some(const float * p, int64_t n) {
    return n >= n_lanes ? load(p) : n > 0 ? load_part(p, n) : splat(0.0f);
}

SIMD void store_some(float * p, vec a, int64_t n) {
    if (n >= n_lanes) {
        store(p, a);
    } else if (n > 0) {
        store_part(p, a, n);
    }
}

SIMD short_vec load_codes_some(const int8_t * p, int64_t n) {
    return n >= 2 * n_lanes ? load_codes(p) : load_codes_part(p, n);
}

// x ~ scale * shorts; the scale is NaN if some x is NaN or infinite. Whole vectors of shorts are written.
SIMD float round_block(const float * x, int64_t n, int16_t * shorts) {
    vec least   = splat(0.0f); // of -|x|
    vec nothing = splat(0.0f); // 0 * x
    for (int64_t i = 0; i < n; i += n_lanes) {
        const vec a    = load_some(x + i, n - i);
        const vec size = negative_size(a);
        least          = where_negative(subtract(size, least), size, least);
        nothing        = multiply_add(a, splat(0.0f), nothing);
    }
    float lanes[n_lanes];
    store(lanes, least);
    float greatest = 0.0f;
    for (int64_t k = 0; k < n_lanes; ++k) {
        greatest = -lanes[k] > greatest ? -lanes[k] : greatest;
    }
    // below that, 1 / scale would not be finite
    const vec inverse = splat(greatest > 1e-33f ? 32767.0f / greatest : 0.0f);
    for (int64_t i = 0; i < n; i += 2 * n_lanes) {
        const vec a = multiply(load_some(x + i, n - i), inverse);
        const vec b = multiply(load_some(x + i + n_lanes, n - i - n_lanes), inverse);
        store_shorts(shorts + i, rounded(a, b));
    }
    return greatest / 32767.0f + total(nothing);
}

SIMD void round_inputs(const float * x, int64_t n, rounded_inputs & out) {
    for (int64_t i = 0; i < n; i += inputs_a_scale) {
        const int64_t n_here          = n - i < inputs_a_scale ? n - i : inputs_a_scale;
        out.scale[i / inputs_a_scale] = round_block(x + i, n_here, out.shorts + i);
    }
}

template <int n_o, int n_r>
SIMD void add_coded_products(const int8_t * const (&codes)[n_o], const rounded_inputs * x, int64_t i, int64_t n,
                             long_vec (&sum)[n_o][n_r]) {
    short_vec b[n_r];
    for (int r = 0; r < n_r; ++r) {
        b[r] = load_shorts(x[r].shorts + i);
    }
    for (int o = 0; o < n_o; ++o) {
        const short_vec a = load_codes_some(codes[o] + i, n);
        for (int r = 0; r < n_r; ++r) {
            sum[o][r] = add_products(sum[o][r], a, b[r]);
        }
    }
}

// sum_i codes[o][i] * x[r][i] for n_o outputs and n_r rows
template <int n_o, int n_r>
SIMD void coded_products(const int8_t * const (&codes)[n_o], const rounded_inputs * x, int64_t n,
                         float (&out)[n_o][n_r]) {
    vec sum[n_o][n_r];
    for (int o = 0; o < n_o; ++o) {
        for (int r = 0; r < n_r; ++r) {
            sum[o][r] = splat(0.0f);
        }
    }
    for (int64_t from = 0; from < n; from += inputs_a_scale) {
        const int64_t end = n - from < inputs_a_scale ? n : from + inputs_a_scale;
        long_vec block[n_o][n_r];
        for (int o = 0; o < n_o; ++o) {
            for (int r = 0; r < n_r; ++r) {
                block[o][r] = zero_longs();
            }
        }
        int64_t i = from;
        for (; i + 4 * n_lanes <= end; i += 4 * n_lanes) {
            add_coded_products(codes, x, i, 2 * n_lanes, block);
            add_coded_products(codes, x, i + 2 * n_lanes, 2 * n_lanes, block);
        }
        for (; i < end; i += 2 * n_lanes) {
            add_coded_products(codes, x, i, end - i < 2 * n_lanes ? end - i : 2 * n_lanes, block);
        }
        for (int r = 0; r < n_r; ++r) {
            const vec scale = splat(x[r].scale[from / inputs_a_scale]);
            for (int o = 0; o < n_o; ++o) {
                sum[o][r] = multiply_add(to_float(block[o][r]), scale, sum[o][r]);
            }
        }
    }
    for (int o = 0; o < n_o; ++o) {
        for (int r = 0; r < n_r; ++r) {
            out[o][r] = total(sum[o][r]);
        }
    }
}

// Of the inputs from `from` on, of which x holds n, for n_o outputs and n_r rows; what earlier inputs gave stands in y.
template <int n_o, int n_r>
SIMD void coded_affine_block(const matrix & w, const float * bias, const rounded_inputs * x, float * const * y,
                             int64_t o, int64_t from, int64_t n) {
    const int8_t * codes[n_o];
    for (int k = 0; k < n_o; ++k) {
        codes[k] = w.codes + (o + k) * w.step() + from;
    }
    float out[n_o][n_r];
    coded_products(codes, x, n, out);
    for (int k = 0; k < n_o; ++k) {
        for (int r = 0; r < n_r; ++r) {
            const float before = from > 0 ? y[r][o + k] : bias ? bias[o + k] : 0.0f;
            y[r][o + k]        = w.scale[o + k] * out[k][r] + before;
        }
    }
}

static SIMD_TARGET void coded_affine(const matrix & w, const float * bias, const float * const * x, float * const * y,
                                     int n_rows) {
    rounded_inputs in[max_rows_at_once];
    for (int64_t from = 0; from < w.n_in; from += inputs_at_once) {
        const int64_t n = w.n_in - from < inputs_at_once ? w.n_in - from : inputs_at_once;
        for (int r = 0; r < n_rows; ++r) {
            round_inputs(x[r] + from, n, in[r]);
        }
        int64_t o = 0;
        for (; o + 4 <= w.n_out; o += 4) { // a cache keeps the four's codes from two rows to the next two
            int r = 0;
            for (; r + 2 <= n_rows; r += 2) {
                coded_affine_block<4, 2>(w, bias, in + r, y + r, o, from, n);
            }
            if (r < n_rows) {
                coded_affine_block<4, 1>(w, bias, in + r, y + r, o, from, n);
            }
        }
        for (; o < w.n_out; ++o) {
            for (int r = 0; r < n_rows; ++r) {
                coded_affine_block<1, 1>(w, bias, in + r, y + r, o, from, n);
            }
        }
    }
}

// n_v times 2 * n_lanes places from x[r] + i on, of which n are there of each:
// x[r] += scale[r] * sum_k factors[r][k] * codes[k] over n_o outputs
template <int n_v, int n_r>
SIMD void add_coded_columns(const int8_t * codes, int64_t step, int64_t n_o, const int16_t (*factors)[factors_kept],
                            const float * scale, float * const * x, int64_t i, int64_t n) {
    long_vec sum[n_r][n_v][2];
    for (int r = 0; r < n_r; ++r) {
        for (int v = 0; v < n_v; ++v) {
            sum[r][v][0] = sum[r][v][1] = zero_longs();
        }
    }
    codes += i;
    for (int64_t k = 0; k < n_o; k += 2, codes += 2 * step) {
        for (int v = 0; v < n_v; ++v) {
            const int8_t * p  = codes + v * 2 * n_lanes;
            const short_vec a = load_codes_some(p, n);
            const short_vec b = k + 1 < n_o ? load_codes_some(p + step, n) : a; // its factor is 0
            for (int r = 0; r < n_r; ++r) {
                add_two_rows(sum[r][v], a, b, factors[r] + k);
            }
        }
    }
    for (int r = 0; r < n_r; ++r) {
        for (int v = 0; v < n_v; ++v) {
            lanes_in_order(sum[r][v]);
            for (int half = 0; half < 2; ++half) {
                float * at       = x[r] + i + (2 * v + half) * n_lanes;
                const int64_t m  = n - half * n_lanes;
                store_some(at, multiply_add(to_float(sum[r][v][half]), splat(scale[r]), load_some(at, m)), m);
            }
        }
    }
}

template <int n_r>
SIMD void add_coded_block(const int8_t * codes, int64_t step, int64_t n_o, const int16_t (*factors)[factors_kept],
                          const float * scale, float * const * x, int64_t n) {
    int64_t i = 0;
    if (n_o == outputs_a_scale) { // a number that the compiler knows
        for (; i + 4 * n_lanes <= n; i += 4 * n_lanes) {
            add_coded_columns<2, n_r>(codes, step, outputs_a_scale, factors, scale, x, i, 2 * n_lanes);
        }
    }
    for (; i < n; i += 2 * n_lanes) {
        const int64_t n_here = n - i < 2 * n_lanes ? n - i : 2 * n_lanes;
        add_coded_columns<1, n_r>(codes, step, n_o, factors, scale, x, i, n_here);
    }
}

// Outputs from the last to the first: what a product with W has read last is in the cache still, and what is read last
// here the next product begins with.
static SIMD_TARGET void coded_add_transposed(const matrix & w, const float * const * y, float * const * x, int n_rows) {
    int16_t factors[max_rows_at_once][factors_kept];
    float scale[max_rows_at_once];
    for (int64_t o = (w.n_out - 1) / outputs_a_scale * outputs_a_scale; o >= 0; o -= outputs_a_scale) {
        const int64_t n_o = w.n_out - o < outputs_a_scale ? w.n_out - o : outputs_a_scale;
        for (int r = 0; r < n_rows; ++r) {
            float factor[outputs_a_scale] = {0.0f};
            for (int64_t k = 0; k < n_o; ++k) {
                factor[k] = y[r][o + k] * w.scale[o + k];
            }
            scale[r] = round_block(factor, outputs_a_scale, factors[r]);
        }
        const int8_t * codes = w.codes + o * w.step();
        int r                = 0;
        for (; r + 2 <= n_rows; r += 2) {
            add_coded_block<2>(codes, w.step(), n_o, factors + r, scale + r, x + r, w.n_in);
        }
        if (r < n_rows) {
            add_coded_block<1>(codes, w.step(), n_o, factors + r, scale + r, x + r, w.n_in);
        }
    }
}
