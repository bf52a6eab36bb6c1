// The hot path alone: the calls that llama.cpp makes to the eval callback in one decode, with programs that
// people run, on the shapes of real models. No llama.cpp, no model: a fake graph of named nodes.
//   hot_path SCENARIO             one decode, for an instruction counter (counts.py)
//   hot_path SCENARIO --time      microseconds of one decode: median of many (fastest to slowest), with the caches
//                                 filled by other data before each layer, as the model's own weights do
//   hot_path SCENARIO --time --float32    the same with the weights of large nets not in 8 bits
//   hot_path --list               the scenarios
//   hot_path --compiler           what it was compiled with
// EDGE_EDS_KERNELS chooses the kernels (plain, avx2, ...); by default the best that this machine has.
#include "../tests/random_energy.h"
#include "hook.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <limits>
#include <string>

using namespace edge_eds;

struct ggml_tensor {
    const char * name;
    int64_t n_embd;
    int64_t n_rows;
    float * data;
};

static const char * get_name(const ggml_tensor * t) {
    return t->name;
}
static int64_t nelements(const ggml_tensor * t) {
    return t->n_rows * t->n_embd;
}
static int64_t nrows(const ggml_tensor * t) {
    return t->n_rows;
}
static size_t nbytes(const ggml_tensor * t) {
    return (size_t) nelements(t) * sizeof(float);
}
static bool is_contiguous(const ggml_tensor *) {
    return true;
}
static void tensor_get(const ggml_tensor * t, void * out, size_t offset, size_t size) {
    std::memcpy(out, (const char *) t->data + offset, size);
}
static void tensor_set(ggml_tensor * t, const void * in, size_t offset, size_t size) {
    std::memcpy((char *) t->data + offset, in, size);
}

// the nodes of one block of a llama graph, before its output
static const char * const node_names[] = {
    "norm", "attn_norm", "Qcur", "Qcur (reshaped)", "Qcur_rope", "Kcur", "Kcur (reshaped)", "Kcur_rope", "Vcur",
    "Vcur (reshaped)", "cache_k_l (view)", "cache_k_l (copy)", "cache_v_l (view)", "cache_v_l (copy)", "q",
    "k", "v", "kq", "kq_soft_max", "kqv", "kqv_merged", "kqv_out", "attn_out", "ffn_inp", "ffn_norm_0",
    "ffn_norm", "ffn_gate", "ffn_up", "ffn_swiglu", "ffn_out",
};

struct scenario {
    const char * name;
    int32_t n_layer;
    int64_t n_embd;
    int64_t n_rows;    // of the decode
    int32_t n_answers; // planned rows, at the end of it, each of a slot of its own
    int32_t n_steered; // layers
    enum { NOTHING, WAITING, GATED, MERGED, CAPTURE_LAST, CAPTURE_ALL } what;
    int64_t rank; // 0: the heads read the hidden state itself
    std::vector<int64_t> hidden;
    int32_t steps;
};

static const std::vector<int64_t> published = {2048, 1024, 1024, 512};

static const scenario scenarios[] = {
    {"idle-1b", 16, 2048, 1, 1, 0, scenario::NOTHING, 0, {}, 0},
    {"waiting-1b", 16, 2048, 1, 1, 3, scenario::WAITING, 32, {64}, 3},
    {"capture-last-1b", 16, 2048, 1, 1, 16, scenario::CAPTURE_LAST, 0, {}, 0},
    {"capture-all-1b", 16, 2048, 512, 1, 16, scenario::CAPTURE_ALL, 0, {}, 0},
    {"default-1b", 16, 2048, 1, 1, 3, scenario::GATED, 32, {64}, 3},
    {"15x3-1b", 16, 2048, 1, 1, 15, scenario::MERGED, 32, {64}, 3},
    {"15x3-8b", 32, 4096, 1, 1, 15, scenario::MERGED, 32, {64}, 3},
    {"15x3-1b-16-answers", 16, 2048, 16, 16, 15, scenario::MERGED, 32, {64}, 3},
    {"paper-1b", 16, 2048, 1, 1, 15, scenario::MERGED, 0, published, 3},
    {"paper-8b", 32, 4096, 1, 1, 15, scenario::MERGED, 0, published, 3},
    {"paper-8b-4-answers", 32, 4096, 4, 4, 15, scenario::MERGED, 0, published, 3},
};

static std::shared_ptr<layer_energy> make_energy(const scenario & s, uint64_t seed, int head, bool float32) {
    random_source random(seed);
    std::shared_ptr<const subspace> space = s.rank > 0 ? random_half_subspace(random, s.n_embd, s.rank) : nullptr;
    std::vector<int64_t> widths           = {s.rank > 0 ? s.rank : s.n_embd};
    widths.insert(widths.end(), s.hidden.begin(), s.hidden.end());
    std::unique_ptr<energy_net> nets[n_heads];
    const std::vector<hidden_block> blocks = random_blocks(random, widths, s.rank == 0);
    nets[head] = std::make_unique<energy_net>(blocks, random.values(widths.back()), random.next(),
                                              float32 ? std::optional<bool>(false) : std::nullopt);
    return std::make_shared<layer_energy>(s.n_embd, space, std::move(nets));
}

// The gate of the default: linear, over one direction, in four layers. It decides "fr" for every prompt.
static void add_gate(program & p, const scenario & s) {
    p.set_gate({0.0, std::numeric_limits<double>::infinity(), std::numeric_limits<double>::infinity()});
    for (int32_t il = 1; il <= 4; ++il) {
        random_source random(100 + (uint64_t) il);
        std::unique_ptr<energy_net> nets[n_heads];
        nets[HEAD_HARM] = random_net(random, {1}, false);
        p.gate_read(il,
                    std::make_shared<layer_energy>(s.n_embd, random_half_subspace(random, s.n_embd, 1),
                                                   std::move(nets)),
                    0.25);
    }
}

// `distinct`: every layer has weights of its own, as in earnest; counting needs them only once.
static program make_program(const scenario & s, bool distinct, bool float32,
                            std::vector<std::vector<float>> & buffers) {
    const bool gated    = s.what == scenario::GATED || s.what == scenario::WAITING;
    const bool captures = s.what == scenario::CAPTURE_LAST || s.what == scenario::CAPTURE_ALL;
    float none[n_heads]; // no threshold and no target: every step is taken
    std::fill(none, none + n_heads, -INFINITY);
    program p;
    if (gated) {
        add_gate(p, s);
    }
    descent_schedule schedule;
    schedule.rule.step_size  = 0.001f;
    schedule.rule.steps      = s.steps;
    schedule.rule.covariance = s.rank > 0;
    schedule.n_tokens        = s.what == scenario::WAITING ? 1 : 0;
    p.set_descent(schedule);
    std::shared_ptr<layer_energy> energy;
    for (int32_t i = 0; i < s.n_steered; ++i) {
        const int32_t il = s.n_layer - 2 - (s.n_steered - 1 - i); // the last that can be steered, and those below
        if (captures) {
            const bool all      = s.what == scenario::CAPTURE_ALL;
            const int64_t n_out = all ? s.n_rows : s.n_answers;
            buffers.emplace_back((size_t) (n_out * s.n_embd));
            p.capture(i, buffers.back().data(), n_out, s.n_embd, all ? ALL_ROWS : PLANNED_ROWS);
            continue;
        }
        if (!energy || distinct) {
            energy = make_energy(s, 7 + (uint64_t) i, gated ? HEAD_FR : HEAD_MERGED, float32);
        }
        p.energy_descent(il, energy, none, none);
    }
    return p;
}

// Fills the caches with something else, as the weights of a model's layer do between two calls.
static volatile float sink;
static void forget_caches(const std::vector<float> & other) {
    float sum = 0.0f;
    for (size_t i = 0; i < other.size(); i += 16) {
        sum += other[i];
    }
    sink = sum;
}

// What is counted. Called through a pointer that no compiler sees through, so that it stays a function of its own.
extern "C" bool counted_callback(ggml_tensor * node, bool ask, hook * h) {
    return hook::eval_callback(node, ask, h);
}
static bool uncounted_callback(ggml_tensor * node, bool ask, hook * h) {
    return hook::eval_callback(node, ask, h);
}
typedef bool (*volatile callback)(ggml_tensor * node, bool ask, hook * h);

// One decode: every node is asked for, and computed (which changes nothing here) where it is wanted.
// Returns the seconds spent in the callback.
static double decode(hook & h, std::vector<std::vector<ggml_tensor>> & graph, const std::vector<float> & other,
                     bool counted) {
    const callback call = counted ? counted_callback : uncounted_callback;
    double seconds      = 0.0;
    for (std::vector<ggml_tensor> & block : graph) {
        forget_caches(other);
        const auto start = std::chrono::steady_clock::now();
        for (ggml_tensor & node : block) {
            if (call(&node, true, &h)) {
                call(&node, false, &h);
            }
        }
        seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    }
    return seconds;
}

static int run(const scenario & s, bool timed, bool float32) {
    ggml_api api;
    api.get_name      = get_name;
    api.nelements     = nelements;
    api.nrows         = nrows;
    api.nbytes        = nbytes;
    api.is_contiguous = is_contiguous;
    api.tensor_get    = tensor_get;
    api.tensor_set    = tensor_set;

    std::vector<std::vector<float>> buffers;
    buffers.reserve((size_t) s.n_layer);
    hook h(api, s.n_layer, s.n_embd);
    h.set_slots(s.n_answers);
    if (s.what != scenario::NOTHING) {
        const program p = make_program(s, timed, float32, buffers);
        h.set_program(&p);
    }

    random_source random(1);
    std::vector<float> rows = random.values(s.n_rows * s.n_embd, 3.0f);
    std::vector<std::string> names;
    names.reserve((size_t) s.n_layer);
    std::vector<std::vector<ggml_tensor>> graph((size_t) s.n_layer);
    for (int32_t il = 0; il < s.n_layer; ++il) {
        for (const char * name : node_names) {
            graph[(size_t) il].push_back({name, s.n_embd, s.n_rows, rows.data()});
        }
        names.push_back("l_out-" + std::to_string(il));
        graph[(size_t) il].push_back({names.back().c_str(), s.n_embd, s.n_rows, rows.data()});
    }

    std::vector<int32_t> planned, slots, offsets;
    for (int32_t i = 0; i < s.n_answers; ++i) {
        planned.push_back((int32_t) s.n_rows - s.n_answers + i);
        slots.push_back(i);
        offsets.push_back(s.what == scenario::GATED ? 0 : 1);
    }
    if (s.what == scenario::WAITING) { // the token before has read the gate
        h.begin(s.n_rows, planned, slots, std::vector<int32_t>((size_t) s.n_answers, 0));
        decode(h, graph, {}, false);
        h.end();
    }
    const std::vector<float> other(timed ? 16 << 20 : 0); // 64 MB
    std::vector<double> times;
    for (int i = 0; i < (timed ? 15 : 1); ++i) {
        h.begin(s.n_rows, planned, slots, offsets);
        times.push_back(decode(h, graph, other, true));
        h.end();
        h.take_trace();
    }
    if (timed) {
        std::sort(times.begin(), times.end());
        std::printf("%-20s %10.1f us  (%.1f to %.1f)\n", s.name, 1e6 * times[times.size() / 2],
                    1e6 * times.front(), 1e6 * times.back());
    }
    return 0;
}

int main(int argc, char ** argv) {
    bool timed   = false;
    bool float32 = false;
    std::string wanted;
    for (int i = 1; i < argc; ++i) {
        const std::string word = argv[i];
        if (word == "--time") {
            timed = true;
        } else if (word == "--float32") {
            float32 = true;
        } else if (word == "--list") {
            for (const scenario & s : scenarios) {
                std::printf("%s\n", s.name);
            }
            return 0;
        } else if (word == "--compiler") {
#if defined(__clang__)
            std::printf("%s\n", __VERSION__); // which names it
#elif defined(__GNUC__)
            std::printf("gcc %s\n", __VERSION__);
#endif
            return 0;
        } else {
            wanted = word;
        }
    }
    for (const scenario & s : scenarios) {
        if (wanted == s.name) {
            return run(s, timed, float32);
        }
    }
    std::fprintf(stderr, "usage: hot_path SCENARIO [--time] [--float32]; hot_path --list; hot_path --compiler\n");
    return 2;
}
