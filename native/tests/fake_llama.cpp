#include "fake_llama.h"

#include "count_new.h"

#include <algorithm>
#include <cstring>

namespace fake {

std::vector<transfer> gets;
std::vector<transfer> sets;

static const char * get_name(const ggml_tensor * t) {
    return t->name.c_str();
}
static int64_t nelements(const ggml_tensor * t) {
    return t->n_rows * t->n_embd;
}
static int64_t nrows(const ggml_tensor * t) {
    return t->n_rows;
}
static size_t nbytes(const ggml_tensor * t) {
    return (size_t) nelements(t) * t->element_size;
}
static bool is_contiguous(const ggml_tensor * t) {
    return t->contiguous;
}

static size_t allocated_by_recording = 0;

static void record(std::vector<transfer> & list, const ggml_tensor * t, size_t offset, size_t size) {
    const size_t before = n_allocations();
    list.push_back({t->name, offset, size});
    allocated_by_recording += n_allocations() - before;
}

static void tensor_get(const ggml_tensor * t, void * out, size_t offset, size_t size) {
    record(gets, t, offset, size);
    std::memcpy(out, (const char *) t->data.data() + offset, size);
}

static void tensor_set(ggml_tensor * t, const void * in, size_t offset, size_t size) {
    record(sets, t, offset, size);
    std::memcpy((char *) t->data.data() + offset, in, size);
}

edge_eds::ggml_api api() {
    edge_eds::ggml_api functions;
    functions.get_name      = get_name;
    functions.nelements     = nelements;
    functions.nrows         = nrows;
    functions.nbytes        = nbytes;
    functions.is_contiguous = is_contiguous;
    functions.tensor_get    = tensor_get;
    functions.tensor_set    = tensor_set;
    return functions;
}

void llama::visit(edge_eds::hook & hook, ggml_tensor & tensor) {
    allocated_by_recording = 0;
    const size_t before    = n_allocations();
    const bool need        = edge_eds::hook::eval_callback(&tensor, true, &hook);
    const bool go_on       = !need || edge_eds::hook::eval_callback(&tensor, false, &hook);
    n_allocations_in_callback += n_allocations() - before - allocated_by_recording;
    n_asked += 1;
    if (need) {
        wanted.push_back(tensor.name);
    }
    if (!go_on) {
        stopped = true;
    }
}

void llama::decode(edge_eds::hook & hook, const std::vector<float> & rows) {
    const int64_t n_rows = (int64_t) rows.size() / n_embd;
    outputs.assign((size_t) n_layer, std::vector<float>());
    wanted.clear();
    n_asked                   = 0;
    n_allocations_in_callback = 0;
    stopped                   = false;

    for (int64_t first = 0; first < n_rows; first += n_ubatch) {
        const int64_t n = std::min(n_ubatch, n_rows - first);
        std::vector<float> h(rows.begin() + first * n_embd, rows.begin() + (first + n) * n_embd);
        for (int32_t il = 0; il < n_layer; ++il) {
            const std::string number = std::to_string(il);
            int64_t n_kept           = n;
            if (il == n_layer - 1 && prune_last) {
                n_kept = first + n == n_rows ? 1 : 0;
                h.erase(h.begin(), h.end() - n_kept * n_embd);
            }
            std::vector<float> next(h.size());
            for (int64_t i = 0; i < n_kept; ++i) {
                for (int64_t j = 0; j < n_embd; ++j) {
                    next[i * n_embd + j] = 0.9f * h[i * n_embd + (j + 1) % n_embd] + 0.01f * (float) (il + 1);
                }
            }
            // nodes whose names only look like a block output
            for (const std::string & name :
                 {"norm-" + number, "xl_out-" + number, "l_out-" + number + " (view)",
                  "l_out-" + number + "x", "CPU#l_out-" + number + "#0", std::string("l_out"),
                  std::string("l_out-")}) {
                ggml_tensor decoy;
                decoy.name   = name;
                decoy.n_embd = n_embd;
                decoy.n_rows = n_kept;
                decoy.data   = next;
                visit(hook, decoy);
            }
            ggml_tensor out;
            out.name         = "l_out-" + number;
            out.n_embd       = n_embd;
            out.n_rows       = n_kept;
            out.data         = next;
            out.contiguous   = il != strided_layer;
            out.element_size = il == half_layer ? 2 : sizeof(float);
            if (il == wide_layer) {
                out.n_embd = 2 * n_embd;
                out.data.resize(2 * next.size());
            }
            if (il != missing_layer) {
                visit(hook, out);
            }
            if (il == repeated_layer) {
                visit(hook, out);
            }
            out.data.resize(next.size());
            h = out.data;
            outputs[(size_t) il].insert(outputs[(size_t) il].end(), h.begin(), h.end());
        }
    }
}

} // namespace fake
