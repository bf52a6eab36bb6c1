// edge_eds._native: the core as Python sees it. Converts arguments and errors, and keeps Python objects alive; decides nothing.
//
// std::invalid_argument becomes ValueError, std::out_of_range IndexError, std::logic_error and hook_error RuntimeError
// (hook_error as HookError with .layer). nanobind and numpy are the only dependencies.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "src/hook.h"
#include "src/kernels.h"
#include "src/layer_energy.h"
#include "src/program.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

namespace nb = nanobind;
using namespace nb::literals;
using namespace edge_eds;

using float_rows   = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>; // (n, n_embd)
using float_vector = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using int_vector   = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using out_rows     = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using new_floats   = nb::ndarray<nb::numpy, float, nb::ndim<1>>;
using new_ints     = nb::ndarray<nb::numpy, int32_t, nb::ndim<1>>;
using new_rows     = nb::ndarray<nb::numpy, float, nb::ndim<2>>;

static std::vector<float> to_vector(const float_vector & v) {
    return std::vector<float>(v.data(), v.data() + v.size());
}

static std::vector<int32_t> to_vector(const int_vector & v) {
    return std::vector<int32_t>(v.data(), v.data() + v.size());
}

template <typename T> static nb::capsule owner_of(T * data) {
    return nb::capsule(data, [](void * p) noexcept { delete[] static_cast<T *>(p); });
}

static new_floats make_floats(size_t n) {
    float * data = new float[n];
    return new_floats(data, {n}, owner_of(data));
}

static new_ints make_ints(size_t n) {
    int32_t * data = new int32_t[n];
    return new_ints(data, {n}, owner_of(data));
}

static new_rows make_rows(size_t n, size_t n_embd) {
    float * data = new float[n * n_embd];
    return new_rows(data, {n, n_embd}, owner_of(data));
}

//
// LayerEnergy
//

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
static std::unique_ptr<energy_net> make_net(const std::string & name, const nb::sequence & layers) {
    const size_t n = nb::len(layers);
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
        return std::make_unique<energy_net>(std::move(blocks), as_vector(last[0], where + "w"), nb::cast<float>(nb::float_(nb::handle(last[1]))));
    } catch (const std::invalid_argument & e) {
        throw nb::value_error((where + e.what()).c_str());
    }
}

static std::shared_ptr<layer_energy> make_layer_energy(int64_t n_embd, const std::optional<std::tuple<float_vector, float_rows, float_vector>> & space,
                                                       const nb::dict & heads) {
    std::shared_ptr<subspace> shared;
    if (space) {
        const float_rows & p = std::get<1>(*space);
        const size_t rank = std::get<2>(*space).size();
        if (p.shape(0) != rank || p.shape(1) != std::get<0>(*space).size()) {
            throw nb::value_error(("subspace: P is " + std::to_string(p.shape(0)) + " x " + std::to_string(p.shape(1)) + ", expected rank x n_embd = " +
                                   std::to_string(rank) + " x " + std::to_string(std::get<0>(*space).size())).c_str());
        }
        shared = std::make_shared<subspace>(to_vector(std::get<0>(*space)), std::vector<float>(p.data(), p.data() + p.size()), to_vector(std::get<2>(*space)));
    }
    std::unique_ptr<energy_net> nets[n_heads];
    for (auto [key, value] : heads) {
        const std::string name = nb::cast<std::string>(key);
        nets[head_from_name(name)] = make_net(name, nb::cast<nb::sequence>(value));
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
        throw nb::value_error(("rows of " + std::to_string(rows.shape(1)) + " values, expected n_embd = " + std::to_string(self.n_embd())).c_str());
    }
}

static new_floats energy_rows(const layer_energy & self, const std::string & name, const float_rows & rows) {
    const int head = head_of(self, name);
    check_rows(self, rows);
    new_floats energies = make_floats(rows.shape(0));
    {
        nb::gil_scoped_release no_gil;
        std::vector<float> work(self.work_size());
        for (size_t i = 0; i < rows.shape(0); ++i) {
            energies.data()[i] = self.energy(head, rows.data() + i * rows.shape(1), work.data());
        }
    }
    return energies;
}

static std::tuple<new_floats, new_rows> energy_and_gradient_rows(const layer_energy & self, const std::string & name, const float_rows & rows) {
    const int head = head_of(self, name);
    check_rows(self, rows);
    new_floats energies  = make_floats(rows.shape(0));
    new_rows   gradients = make_rows(rows.shape(0), rows.shape(1));
    {
        nb::gil_scoped_release no_gil;
        std::vector<float> work(self.work_size());
        for (size_t i = 0; i < rows.shape(0); ++i) {
            const size_t at = i * rows.shape(1);
            energies.data()[i] = self.energy_and_gradient(head, rows.data() + at, gradients.data() + at, work.data());
        }
    }
    return {energies, gradients};
}

static std::tuple<new_rows, new_floats, new_floats, new_ints, new_floats> descend_rows(
        const layer_energy & self, const std::string & name, const float_rows & rows, float step_size, int32_t steps, bool relative, bool covariance,
        float max_shift, std::optional<float> threshold, std::optional<float> target) {
    const int head = head_of(self, name);
    check_rows(self, rows);
    const descent_rule rule = {step_size, steps, relative, covariance, max_shift};
    self.check_rule(rule);
    const float none = -std::numeric_limits<float>::infinity();
    const size_t n = rows.shape(0);
    new_rows   moved  = make_rows(n, rows.shape(1));
    new_floats before = make_floats(n);
    new_floats after  = make_floats(n);
    new_ints   taken  = make_ints(n);
    new_floats shift  = make_floats(n);
    {
        nb::gil_scoped_release no_gil;
        std::vector<float> work(self.work_size());
        std::memcpy(moved.data(), rows.data(), rows.nbytes());
        for (size_t i = 0; i < n; ++i) {
            const descent_result result =
                self.descend(head, moved.data() + i * rows.shape(1), rule, threshold.value_or(none), target.value_or(none), work.data());
            before.data()[i] = result.energy_before;
            after.data()[i]  = result.finite ? result.energy_after : std::numeric_limits<float>::quiet_NaN();
            taken.data()[i]  = result.steps;
            shift.data()[i]  = result.shift;
        }
    }
    return {moved, before, after, taken, shift};
}

//
// Program: the core's program, and the Python objects that it points to
//

// The callable is borrowed: the Program that holds it outlives every hook that runs it (py_hook keeps it).
class python_row_function : public row_function {
public:
    explicit python_row_function(PyObject * callable) : callable_(callable) {}

    bool edit(float * rows, int64_t n, int64_t n_embd, std::exception_ptr & error) noexcept override {
        nb::gil_scoped_acquire gil;
        try {
            // a copy, so that a function which keeps its argument does not keep a pointer into the hook
            new_rows given = make_rows((size_t) n, (size_t) n_embd);
            std::memcpy(given.data(), rows, (size_t) (n * n_embd) * sizeof(float));
            nb::object array  = nb::cast(given);
            nb::object result = nb::borrow(callable_)(array);
            float_rows edited;
            if (!nb::try_cast(result.is_none() ? array : result, edited)) {
                throw nb::type_error("an intervention function must return None or a float32 array of the shape it was given");
            }
            if ((int64_t) edited.shape(0) != n || (int64_t) edited.shape(1) != n_embd) {
                throw nb::value_error(("an intervention function was given rows (" + std::to_string(n) + ", " + std::to_string(n_embd) + ") and returned (" +
                                       std::to_string(edited.shape(0)) + ", " + std::to_string(edited.shape(1)) + ")").c_str());
            }
            std::memcpy(rows, edited.data(), (size_t) (n * n_embd) * sizeof(float));
            return true;
        } catch (...) {
            error = std::current_exception();
            return false;
        }
    }

private:
    PyObject * callable_;
};

struct py_program {
    program core;
    std::vector<nb::object> kept; // callables and arrays that core points to
};

static row_scope scope_from_name(const std::string & name) {
    if (name == "all") {
        return ALL_ROWS;
    }
    if (name == "planned") {
        return PLANNED_ROWS;
    }
    throw nb::value_error(("unknown scope '" + name + "': expected all or planned").c_str());
}

static void fill_by_head(const nb::dict & values, const layer_energy & energy, const char * what, float (&out)[n_heads]) {
    for (int head = 0; head < n_heads; ++head) {
        out[head] = -std::numeric_limits<float>::infinity();
    }
    for (auto [key, value] : values) {
        const std::string name = nb::cast<std::string>(key);
        const int head = head_from_name(name);
        if (!energy.has_head(head)) {
            throw nb::value_error((std::string(what) + " given for the head '" + name + "', which this layer's energy does not have").c_str());
        }
        out[head] = nb::cast<float>(nb::float_(nb::handle(value)));
    }
}

static int program_traverse(PyObject * self, visitproc visit, void * arg) {
    Py_VISIT(Py_TYPE(self));
    if (nb::inst_ready(self)) {
        for (const nb::object & object : nb::inst_ptr<py_program>(self)->kept) {
            Py_VISIT(object.ptr());
        }
    }
    return 0;
}

static int program_clear(PyObject * self) {
    py_program * p = nb::inst_ptr<py_program>(self);
    p->core = program();
    p->kept.clear();
    return 0;
}

static PyType_Slot program_slots[] = {
    {Py_tp_traverse, (void *) program_traverse},
    {Py_tp_clear, (void *) program_clear},
    {0, nullptr},
};

//
// Hook
//

template <typename F> static void set_function(F & function, const nb::dict & addresses, const char * name) {
    if (!addresses.contains(name)) {
        throw nb::value_error((std::string("functions: the address of ") + name + " is missing").c_str());
    }
    function = reinterpret_cast<F>(nb::cast<uintptr_t>(addresses[name]));
}

static ggml_api make_api(const nb::dict & addresses) {
    ggml_api api;
    set_function(api.get_name, addresses, "ggml_get_name");
    set_function(api.nelements, addresses, "ggml_nelements");
    set_function(api.nrows, addresses, "ggml_nrows");
    set_function(api.nbytes, addresses, "ggml_nbytes");
    set_function(api.is_contiguous, addresses, "ggml_is_contiguous");
    set_function(api.tensor_get, addresses, "ggml_backend_tensor_get");
    set_function(api.tensor_set, addresses, "ggml_backend_tensor_set");
    return api;
}

struct py_hook {
    hook core;
    nb::object set; // the Program that core runs a copy of: it owns what the copy points to

    py_hook(const nb::dict & functions, int32_t n_layer, int64_t n_embd) : core(make_api(functions), n_layer, n_embd) {}

    void set_program(nb::handle p) {
        core.set_program(p.is_none() ? nullptr : &nb::cast<py_program &>(p).core);
        set = nb::borrow(p);
    }

    nb::object take_trace() {
        const std::vector<trace_record> records = core.take_trace();
        nb::module_ numpy = nb::module_::import_("numpy");
        nb::list fields;
        for (const char * name : {"slot", "offset", "layer", "head"}) {
            fields.append(nb::make_tuple(name, "i4"));
        }
        for (const char * name : {"energy_before", "energy_after"}) {
            fields.append(nb::make_tuple(name, "f4"));
        }
        fields.append(nb::make_tuple("steps", "i4"));
        fields.append(nb::make_tuple("shift", "f4"));
        const nb::bytes raw(records.data(), records.size() * sizeof(trace_record));
        return numpy.attr("frombuffer")(raw, "dtype"_a = numpy.attr("dtype")(fields)).attr("copy")();
    }
};

static int hook_traverse(PyObject * self, visitproc visit, void * arg) {
    Py_VISIT(Py_TYPE(self));
    if (nb::inst_ready(self)) {
        Py_VISIT(nb::inst_ptr<py_hook>(self)->set.ptr());
    }
    return 0;
}

static int hook_clear(PyObject * self) {
    py_hook * h = nb::inst_ptr<py_hook>(self);
    h->core.abort();
    h->core.set_program(nullptr);
    h->set.reset();
    return 0;
}

static PyType_Slot hook_slots[] = {
    {Py_tp_traverse, (void *) hook_traverse},
    {Py_tp_clear, (void *) hook_clear},
    {0, nullptr},
};

NB_MODULE(_native, m) {
    m.doc() = "The native core of edge-eds: the eval callback that reads and edits block outputs inside llama_decode, and the energies it descends.";

    nb::list heads;
    for (int head = 0; head < n_heads; ++head) {
        heads.append(head_name(head));
    }
    m.attr("HEADS") = nb::tuple(heads);

    // never released: the translator may run until the interpreter is gone
    static PyObject * hook_error_type = PyErr_NewExceptionWithDoc(
        "edge_eds._native.HookError", "Steering or capture was asked for and did not happen; `layer` is the layer's index, or -1.",
        PyExc_RuntimeError, nullptr);
    if (!hook_error_type) {
        throw nb::python_error();
    }
    m.attr("HookError") = nb::borrow(hook_error_type);
    nb::register_exception_translator([](const std::exception_ptr & p, void *) {
        try {
            std::rethrow_exception(p);
        } catch (const hook_error & e) {
            nb::object error = nb::borrow(hook_error_type)(e.what());
            error.attr("layer") = e.layer();
            PyErr_SetObject(hook_error_type, error.ptr());
        }
    });

    nb::class_<layer_energy>(m, "LayerEnergy",
        "The energies of one layer. Frozen.\n\n"
        "subspace: (mu (n_embd,), P (r, n_embd) with orthonormal rows, s (r,) > 0), z = (P (h - mu)) / s; None: z = h.\n"
        "heads: {\"harm\" | \"fr\" | \"jb\" | \"merged\": [(W (n_out, n_in), b, gamma | None, beta | None), ..., (w, c)]}.\n"
        "ValueError where shapes do not fit or a weight is not finite.")
        .def(nb::new_(&make_layer_energy), "n_embd"_a, "subspace"_a.none(), "heads"_a)
        .def_prop_ro("n_embd", &layer_energy::n_embd)
        .def("energy", &energy_rows, "head"_a, "rows"_a, "E_head of rows (n, n_embd): (n,). KeyError for a head that is not there.")
        .def("energy_and_gradient", &energy_and_gradient_rows, "head"_a, "rows"_a, "E_head (n,) and dE/dh (n, n_embd) of rows (n, n_embd)")
        .def("descend", &descend_rows, "head"_a, "rows"_a, "step_size"_a, "steps"_a, "relative"_a = true, "covariance"_a = true, "max_shift"_a = 0.0f,
             "threshold"_a = nb::none(), "target"_a = nb::none(),
             "Move each row (n, n_embd) down E_head by up to `steps` steps of step_size (* |h| if relative).\n\n"
             "Returns (new rows, energy before, energy after, steps taken, |shift| / |h|). Rows with E <= threshold are returned as they are.");

    nb::class_<py_program>(m, "Program", nb::type_slots(program_slots),
        "What is to be done at which layer. On one layer: gate readings, then the rest in the order added, then captures.\n\n"
        "scope: \"all\" rows of the decode, or the \"planned\" rows listed in Hook.begin.")
        .def(nb::init<>())
        .def("add_vector", [](py_program & self, int32_t il, const float_vector & v, const std::string & scope) {
                 self.core.add_vector(il, to_vector(v), scope_from_name(scope));
             }, "il"_a, "v"_a, "scope"_a, "h <- h + v, with v (n_embd,)")
        .def("ablate_direction", [](py_program & self, int32_t il, const float_vector & u, float amount, const std::string & scope) {
                 self.core.ablate_direction(il, to_vector(u), amount, scope_from_name(scope));
             }, "il"_a, "u"_a, "amount"_a, "scope"_a, "h <- h - amount * (u . h) u, with u (n_embd,) normalised here")
        .def("host_function", [](py_program & self, int32_t il, nb::callable function, const std::string & scope) {
                 self.core.host_function(il, std::make_shared<python_row_function>(function.ptr()), scope_from_name(scope));
                 self.kept.push_back(std::move(function));
             }, "il"_a, "function"_a, "scope"_a,
             nb::sig("def host_function(self, il: int, function: collections.abc.Callable[[numpy.typing.NDArray[numpy.float32]], "
                     "numpy.typing.NDArray[numpy.float32] | None], scope: str) -> None"),
             "function(rows (n, n_embd) float32) edits its argument in place, or returns an array of the same shape")
        .def("gate_read", [](py_program & self, int32_t il, std::shared_ptr<layer_energy> energy, double weight) {
                 self.core.gate_read(il, std::move(energy), weight);
             }, "il"_a, "energy"_a, "weight"_a, "Add weight * E_harm(h) of the prompt's last token to the gate's score")
        .def("energy_descent", [](py_program & self, int32_t il, std::shared_ptr<layer_energy> energy, const nb::dict & thresholds, const nb::dict & targets) {
                 float below[n_heads];
                 float until[n_heads];
                 fill_by_head(thresholds, *energy, "threshold", below);
                 fill_by_head(targets, *energy, "target", until);
                 self.core.energy_descent(il, std::move(energy), below, until);
             }, "il"_a, "energy"_a, "thresholds"_a, "targets"_a,
             "Descend the head that the gate decides for; {head: energy}, a head that is not named has no threshold or target",
             nb::sig("def energy_descent(self, il: int, energy: LayerEnergy, thresholds: collections.abc.Mapping[str, float], targets: collections.abc.Mapping[str, float]) -> None"))
        .def("set_descent", [](py_program & self, float step_size, int32_t steps, bool relative, bool covariance, int32_t n_tokens, float decay, float max_shift) {
                 self.core.set_descent({{step_size, steps, relative, covariance, max_shift}, n_tokens, decay});
             }, "step_size"_a, "steps"_a, "relative"_a, "covariance"_a, "n_tokens"_a, "decay"_a, "max_shift"_a,
             "The rule of every descent: offsets k < n_tokens (0: all) take `steps` steps of step_size * decay**k (* |h| if relative)")
        .def("set_gate", [](py_program & self, double bias, double gate_benign, double gate_harmful) {
                 self.core.set_gate({bias, gate_benign, gate_harmful});
             }, "bias"_a, "gate_benign"_a, "gate_harmful"_a,
             "score = bias + sum of weight * E_harm; <= gate_benign: descend fr; >= gate_harmful: descend jb; between: nothing")
        .def("capture", [](py_program & self, int32_t il, const out_rows & out, const std::string & scope) {
                 self.core.capture(il, out.data(), (int64_t) out.shape(0), (int64_t) out.shape(1), scope_from_name(scope));
                 self.kept.push_back(nb::cast(out));
             }, "il"_a, "out"_a.noconvert(), "scope"_a,
             "Copy rows, as they leave the layer, into out (float32, C-contiguous): batch row i to out[i], or the i-th planned row to out[i]");

    nb::class_<py_hook>(m, "Hook", nb::type_slots(hook_slots),
        "The eval callback of one llama.cpp context.\n\n"
        "functions: addresses of ggml_get_name, ggml_nelements, ggml_nrows, ggml_nbytes, ggml_is_contiguous, ggml_backend_tensor_get and\n"
        "ggml_backend_tensor_set in the ggml that the context uses. The hook must live at least as long as the context: llama.cpp keeps\n"
        "callback_address and user_data, and calling a hook that is gone is undefined. One thread at a time.\n"
        "A decode: begin(...); llama_decode; end(), or abort() if llama_decode failed. Otherwise the callback does nothing.")
        .def(nb::init<const nb::dict &, int32_t, int64_t>(), "functions"_a, "n_layer"_a, "n_embd"_a,
             nb::sig("def __init__(self, functions: collections.abc.Mapping[str, int], n_layer: int, n_embd: int) -> None"))
        .def_prop_ro("n_layer", [](const py_hook & self) { return self.core.n_layer(); })
        .def_prop_ro("n_embd", [](const py_hook & self) { return self.core.n_embd(); })
        .def_prop_ro("callback_address", [](const py_hook &) { return reinterpret_cast<uintptr_t>(&hook::eval_callback); },
                     "Address for llama_context_params.cb_eval")
        .def_prop_ro("user_data", [](py_hook & self) { return reinterpret_cast<uintptr_t>(&self.core); }, "Address for llama_context_params.cb_eval_user_data")
        .def("set_program", [](py_hook & self, nb::handle p) { self.set_program(p); }, "program"_a.none(),
             nb::sig("def set_program(self, program: Program | None) -> None"),
             "Run a copy of this program from the next begin() on. Gate decisions stay. ValueError if it does not fit the model.")
        .def("set_slots", [](py_hook & self, int32_t n) { self.core.set_slots(n); }, "n"_a, "Have the slots 0..n-1, all forgotten")
        .def("reset_slot", [](py_hook & self, int32_t slot) { self.core.reset_slot(slot); }, "slot"_a, "Forget the gate's decision of this slot")
        .def("gate_state", [](const py_hook & self, int32_t slot) {
                 const gate_state state = self.core.get_gate_state(slot);
                 return std::make_tuple(state.read, state.score, state.decision);
             }, "slot"_a, "(read, score, decision): decision 0 nothing, 1 fr, 2 jb, 3 merged")
        .def("begin", [](py_hook & self, int64_t n_rows, const int_vector & rows, const int_vector & slots, const int_vector & offsets) {
                 self.core.begin(n_rows, to_vector(rows), to_vector(slots), to_vector(offsets));
             }, "n_rows"_a, "rows"_a, "slots"_a, "offsets"_a,
             "Arm for one llama_decode of n_rows rows. rows: ascending batch rows that are planned; slots: their answers;\n"
             "offsets: token index relative to the prompt's end (0 = the prompt's last token, which also starts a new answer).")
        .def("end", [](py_hook & self) { self.core.end(); },
             "Disarm. Raises what went wrong: HookError, or the exception of a host function. Rows written so far stay written.")
        .def("abort", [](py_hook & self) { self.core.abort(); }, "Disarm after a llama_decode that failed")
        .def("begin_probe", [](py_hook & self) { self.core.begin_probe(); }, "Record every l_out-* of the coming decodes; read and change nothing")
        .def("end_probe", [](py_hook & self) {
                 std::vector<std::tuple<int32_t, int64_t, int64_t, int64_t>> records;
                 for (const probe_record & record : self.core.end_probe()) {
                     records.emplace_back(record.layer, record.n_embd, record.n_rows, record.n_bytes);
                 }
                 return records;
             }, "[(il, n_embd, n_rows, n_bytes)] in the order met; n_embd is 0 where there were no rows")
        .def("take_trace", &py_hook::take_trace, nb::sig("def take_trace(self) -> numpy.typing.NDArray[numpy.void]"),
             "The records since the last call: structured array (slot, offset, layer, head (index into HEADS), energy_before, energy_after,\n"
             "steps, shift = |new h - h| / |h|). Gate readings have head harm, steps 0 and energy_after = energy_before.")
        .def_prop_ro("rows_written", [](const py_hook & self) { return self.core.rows_written(); }, "Rows of the last decode that were written at any layer")
        .def_prop_ro("first_row_written", [](const py_hook & self) { return self.core.first_row_written(); }, "The first of them, or -1");
}
