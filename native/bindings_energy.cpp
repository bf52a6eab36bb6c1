// LayerEnergy as Python sees it: weights from NumPy arrays, and the row functions over whole matrices.
#include "bindings.h"

#include <algorithm>

static float_rows as_matrix(nb::handle value, const std::string & what) {
    float_rows array;
    if (!nb::try_cast(value, array)) {
        throw nb::value_error((what + " must be a float32 matrix").c_str());
    }
    return array;
}

static std::vector<float> as_vector(nb::handle value, const std::string & what) {
    float_vector array;
    if (!nb::try_cast(value, array)) {
        throw nb::value_error((what + " must be a float32 vector").c_str());
    }
    return to_vector(array);
}

// [(W, b, gamma | None, beta | None), ..., (w, c)]
static std::unique_ptr<energy_net> make_net(const std::string & name, const nb::sequence & layers,
                                            std::optional<bool> eight_bits) {
    const size_t n          = nb::len(layers);
    const std::string where = "head " + name + ": ";
    if (n == 0) {
        throw nb::value_error((where + "the list of layers is empty").c_str());
    }
    std::vector<hidden_block> blocks;
    for (size_t i = 0; i + 1 < n; ++i) {
        const std::string which = where + "hidden block " + std::to_string(i);
        nb::tuple parts(layers[i]);
        if (parts.size() != 4) {
            throw nb::value_error((which + " must be (W, b, gamma, beta)").c_str());
        }
        float_rows weight = as_matrix(parts[0], which + ": W");
        hidden_block block;
        block.n_out = (int64_t) weight.shape(0);
        block.n_in  = (int64_t) weight.shape(1);
        block.weight.assign(weight.data(), weight.data() + weight.size());
        block.bias = as_vector(parts[1], which + ": b");
        if (!parts[2].is_none()) {
            block.gamma = as_vector(parts[2], which + ": gamma");
        }
        if (!parts[3].is_none()) {
            block.beta = as_vector(parts[3], which + ": beta");
        }
        blocks.push_back(std::move(block));
    }
    nb::tuple last(layers[n - 1]);
    if (last.size() != 2) {
        throw nb::value_error((where + "the last layer must be (w, c)").c_str());
    }
    try {
        return std::make_unique<energy_net>(std::move(blocks), as_vector(last[0], where + "w"),
                                            nb::cast<float>(nb::float_(nb::handle(last[1]))), eight_bits);
    } catch (const std::invalid_argument & e) {
        throw nb::value_error((where + e.what()).c_str());
    }
}

static std::shared_ptr<layer_energy>
make_layer_energy(int64_t n_embd,
                  const std::optional<std::tuple<float_vector, float_rows, float_vector>> & space,
                  const nb::dict & heads, std::optional<bool> eight_bits) {
    std::shared_ptr<subspace> shared;
    if (space) {
        const float_rows & p = std::get<1>(*space);
        const size_t rank    = std::get<2>(*space).size();
        if (p.shape(0) != rank || p.shape(1) != std::get<0>(*space).size()) {
            throw nb::value_error(("subspace: P is " + std::to_string(p.shape(0)) + " x " +
                                   std::to_string(p.shape(1)) + ", expected rank x n_embd = " +
                                   std::to_string(rank) + " x " + std::to_string(std::get<0>(*space).size()))
                                      .c_str());
        }
        shared = std::make_shared<subspace>(to_vector(std::get<0>(*space)),
                                            std::vector<float>(p.data(), p.data() + p.size()),
                                            to_vector(std::get<2>(*space)));
    }
    std::unique_ptr<energy_net> nets[n_heads];
    for (auto [key, value] : heads) {
        const std::string name     = nb::cast<std::string>(key);
        nets[head_from_name(name)] = make_net(name, nb::cast<nb::sequence>(value), eight_bits);
    }
    return std::make_shared<layer_energy>(n_embd, shared, std::move(nets));
}

static int head_of(const layer_energy & self, const std::string & name) {
    for (int head = 0; head < n_heads; ++head) {
        if (name == head_name(head) && self.has_head(head)) {
            return head;
        }
    }
    throw nb::key_error(("this layer's energy has no head '" + name + "'").c_str());
}

static void check_rows(const layer_energy & self, const float_rows & rows) {
    if ((int64_t) rows.shape(1) != self.n_embd()) {
        throw nb::value_error(("rows of " + std::to_string(rows.shape(1)) +
                               " values, expected n_embd = " + std::to_string(self.n_embd()))
                                  .c_str());
    }
}

// the rows from `first` on that are computed together
static int rows_from(const float_rows & rows, size_t first) {
    return (int) std::min(rows.shape(0) - first, (size_t) max_rows_at_once);
}

template <typename T> static void row_pointers(T * data, const float_rows & rows, size_t first, T ** pointers) {
    for (int k = 0; k < rows_from(rows, first); ++k) {
        pointers[k] = data + (first + (size_t) k) * rows.shape(1);
    }
}

static new_floats energy_rows(const layer_energy & self, const std::string & name, const float_rows & rows) {
    const int head = head_of(self, name);
    check_rows(self, rows);
    new_floats energies = make_floats(rows.shape(0));
    {
        nb::gil_scoped_release no_gil;
        std::vector<float> work(self.work_size() * max_rows_at_once);
        const float * h[max_rows_at_once];
        for (size_t i = 0; i < rows.shape(0); i += max_rows_at_once) {
            row_pointers(rows.data(), rows, i, h);
            self.energy(head, h, rows_from(rows, i), energies.data() + i, work.data());
        }
    }
    return energies;
}

static std::tuple<new_floats, new_rows>
energy_and_gradient_rows(const layer_energy & self, const std::string & name, const float_rows & rows) {
    const int head = head_of(self, name);
    check_rows(self, rows);
    new_floats energies = make_floats(rows.shape(0));
    new_rows gradients  = make_rows(rows.shape(0), rows.shape(1));
    {
        nb::gil_scoped_release no_gil;
        std::vector<float> work(self.work_size() * max_rows_at_once);
        const float * h[max_rows_at_once];
        float * g[max_rows_at_once];
        for (size_t i = 0; i < rows.shape(0); i += max_rows_at_once) {
            row_pointers(rows.data(), rows, i, h);
            row_pointers(gradients.data(), rows, i, g);
            self.energy_and_gradient(head, h, rows_from(rows, i), energies.data() + i, g, work.data());
        }
    }
    return {energies, gradients};
}

static std::tuple<new_rows, new_floats, new_floats, new_ints, new_floats>
descend_rows(const layer_energy & self, const std::string & name, const float_rows & rows, float step_size,
             int32_t steps, bool relative, bool covariance, float max_shift, std::optional<float> threshold,
             std::optional<float> target) {
    const int head = head_of(self, name);
    check_rows(self, rows);
    const descent_rule rule = {step_size, steps, relative, covariance, max_shift};
    self.check_rule(rule);
    const float none  = -std::numeric_limits<float>::infinity();
    const size_t n    = rows.shape(0);
    new_rows moved    = make_rows(n, rows.shape(1));
    new_floats before = make_floats(n);
    new_floats after  = make_floats(n);
    new_ints taken    = make_ints(n);
    new_floats shift  = make_floats(n);
    {
        nb::gil_scoped_release no_gil;
        std::vector<float> work(self.work_size() * max_rows_at_once);
        std::memcpy(moved.data(), rows.data(), rows.nbytes());
        const std::vector<float> step_sizes(max_rows_at_once, step_size);
        float * h[max_rows_at_once];
        descent_result results[max_rows_at_once];
        for (size_t i = 0; i < n; i += max_rows_at_once) {
            row_pointers(moved.data(), rows, i, h);
            self.descend(head, h, rows_from(rows, i), rule, step_sizes.data(), threshold.value_or(none),
                         target.value_or(none), results, work.data());
            for (int k = 0; k < rows_from(rows, i); ++k) {
                const descent_result & result = results[k];
                before.data()[i + k]          = result.energy_before;
                after.data()[i + k] = result.finite ? result.energy_after : std::numeric_limits<float>::quiet_NaN();
                taken.data()[i + k] = result.steps;
                shift.data()[i + k] = result.shift;
            }
        }
    }
    return {moved, before, after, taken, shift};
}

void bind_layer_energy(nb::module_ & m) {
    nb::class_<layer_energy>(m, "LayerEnergy",
                             "The energies of one layer. Frozen.\n\n"
                             "subspace: (mu (n_embd,), P (r, n_embd) with orthonormal rows, s (r,) > 0), z = "
                             "(P (h - mu)) / s; None: z = h.\n"
                             "heads: {\"harm\" | \"fr\" | \"jb\" | \"merged\": [(W (n_out, n_in), b, gamma | "
                             "None, beta | None), ..., (w, c)]}.\n"
                             "eight_bits: whether the matrices W are kept in 8 bits, each row with a scale of its "
                             "own; None: those of heads with more than LARGE_NET weights are.\n"
                             "ValueError where shapes do not fit or a weight is not finite.")
        .def(nb::new_(&make_layer_energy), "n_embd"_a, "subspace"_a.none(), "heads"_a, "eight_bits"_a = nb::none())
        .def_prop_ro("n_embd", &layer_energy::n_embd)
        .def("energy", &energy_rows, "head"_a, "rows"_a,
             "E_head of rows (n, n_embd): (n,). KeyError for a head that is not there.")
        .def("energy_and_gradient", &energy_and_gradient_rows, "head"_a, "rows"_a,
             "E_head (n,) and dE/dh (n, n_embd) of rows (n, n_embd)")
        .def("descend", &descend_rows, "head"_a, "rows"_a, "step_size"_a, "steps"_a, "relative"_a = true,
             "covariance"_a = true, "max_shift"_a = 0.0f, "threshold"_a = nb::none(), "target"_a = nb::none(),
             "Move each row (n, n_embd) down E_head by up to `steps` steps of step_size (* |h| if "
             "relative).\n\n"
             "Returns (new rows, energy before, energy after, steps taken, |shift| / |h|). Rows with E <= "
             "threshold are returned as they are.");
}
