// Program as Python sees it, and Python functions as interventions.
#include "bindings.h"

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
                throw nb::type_error(
                    "an intervention function must return None or a float32 array of the shape it was given");
            }
            if ((int64_t) edited.shape(0) != n || (int64_t) edited.shape(1) != n_embd) {
                throw nb::value_error(("an intervention function was given rows (" + std::to_string(n) +
                                       ", " + std::to_string(n_embd) + ") and returned (" +
                                       std::to_string(edited.shape(0)) + ", " +
                                       std::to_string(edited.shape(1)) + ")")
                                          .c_str());
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

static row_scope scope_from_name(const std::string & name) {
    if (name == "all") {
        return ALL_ROWS;
    }
    if (name == "planned") {
        return PLANNED_ROWS;
    }
    if (name == "message") {
        return MESSAGE_ROWS;
    }
    throw nb::value_error(("unknown scope '" + name + "': expected all, planned or message").c_str());
}

static void fill_by_head(const nb::dict & values, const layer_energy & energy, const char * what,
                         float (&out)[n_heads]) {
    for (int head = 0; head < n_heads; ++head) {
        out[head] = -std::numeric_limits<float>::infinity();
    }
    for (auto [key, value] : values) {
        const std::string name = nb::cast<std::string>(key);
        const int head         = head_from_name(name);
        if (!energy.has_head(head)) {
            throw nb::value_error((std::string(what) + " given for the head '" + name +
                                   "', which this layer's energy does not have")
                                      .c_str());
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
    p->core        = program();
    p->kept.clear();
    return 0;
}

static PyType_Slot program_slots[] = {
    {Py_tp_traverse, (void *) program_traverse},
    {Py_tp_clear, (void *) program_clear},
    {0, nullptr},
};

void bind_program(nb::module_ & m) {
    nb::class_<py_program>(m, "Program", nb::type_slots(program_slots),
                           "What is to be done at which layer. On one layer: gate readings, then the rest in "
                           "the order added, then captures.\n\n"
                           "scope: \"all\" rows of the decode, or of the rows listed in Hook.begin the \"planned\" ones "
                           "(offset >= 0) or those of a \"message\" (offset < 0).")
        .def(nb::init<>())
        .def(
            "add_vector",
            [](py_program & self, int32_t il, const float_vector & v, const std::string & scope) {
                self.core.add_vector(il, to_vector(v), scope_from_name(scope));
            },
            "il"_a, "v"_a, "scope"_a, "h <- h + v, with v (n_embd,)")
        .def(
            "ablate_direction",
            [](py_program & self, int32_t il, const float_vector & u, float amount,
               const std::string & scope) {
                self.core.ablate_direction(il, to_vector(u), amount, scope_from_name(scope));
            },
            "il"_a, "u"_a, "amount"_a, "scope"_a,
            "h <- h - amount * (u . h) u, with u (n_embd,) normalised here")
        .def(
            "add_low_rank",
            [](py_program & self, int32_t il, const float_rows & down, const float_vector & bias,
               const float_rows & up, const std::string & scope) {
                if (down.shape(0) != bias.size() || up.shape(0) != bias.size() ||
                    down.shape(1) != up.shape(1)) {
                    throw nb::value_error("down and up must both be (rank, n_embd), and bias (rank,)");
                }
                self.core.add_low_rank(il, std::vector<float>(down.data(), down.data() + down.size()),
                                       to_vector(bias), std::vector<float>(up.data(), up.data() + up.size()),
                                       scope_from_name(scope));
            },
            "il"_a, "down"_a, "bias"_a, "up"_a, "scope"_a,
            "h <- h + up^T (down h + bias), with down and up (rank, n_embd), bias (rank,)")
        .def(
            "host_function",
            [](py_program & self, int32_t il, nb::callable function, const std::string & scope) {
                self.core.host_function(il, std::make_shared<python_row_function>(function.ptr()),
                                        scope_from_name(scope));
                self.kept.push_back(std::move(function));
            },
            "il"_a, "function"_a, "scope"_a,
            nb::sig("def host_function(self, il: int, function: "
                    "collections.abc.Callable[[numpy.typing.NDArray[numpy.float32]], "
                    "numpy.typing.NDArray[numpy.float32] | None], scope: str) -> None"),
            "function(rows (n, n_embd) float32) edits its argument in place, or returns an array of the same "
            "shape")
        .def(
            "gate_read",
            [](py_program & self, int32_t il, std::shared_ptr<layer_energy> energy, double weight) {
                self.core.gate_read(il, std::move(energy), weight);
            },
            "il"_a, "energy"_a, "weight"_a,
            "Add weight * E_harm(h) of the prompt's last token to the gate's score")
        .def(
            "message_read",
            [](py_program & self, int32_t il, std::shared_ptr<layer_energy> energy, double weight) {
                self.core.message_read(il, std::move(energy), weight);
            },
            "il"_a, "energy"_a, "weight"_a,
            "Add weight * the mean of E_harm_message(h) over the message's tokens (negative offsets) to the gate's "
            "score")
        .def(
            "energy_descent",
            [](py_program & self, int32_t il, std::shared_ptr<layer_energy> energy,
               const nb::dict & thresholds, const nb::dict & targets) {
                float below[n_heads];
                float until[n_heads];
                fill_by_head(thresholds, *energy, "threshold", below);
                fill_by_head(targets, *energy, "target", until);
                self.core.energy_descent(il, std::move(energy), below, until);
            },
            "il"_a, "energy"_a, "thresholds"_a, "targets"_a,
            "Descend the head that the gate decides for; {head: energy}, a head that is not named has no "
            "threshold or target",
            nb::sig(
                "def energy_descent(self, il: int, energy: LayerEnergy, thresholds: "
                "collections.abc.Mapping[str, float], targets: collections.abc.Mapping[str, float]) -> None"))
        .def(
            "set_descent",
            [](py_program & self, float step_size, int32_t steps, bool relative, bool covariance,
               int32_t n_tokens, float decay, float max_shift) {
                self.core.set_descent({{step_size, steps, relative, covariance, max_shift}, n_tokens, decay});
            },
            "step_size"_a, "steps"_a, "relative"_a, "covariance"_a, "n_tokens"_a, "decay"_a, "max_shift"_a,
            "The rule of every descent: offsets k < n_tokens (0: all) take `steps` steps of step_size * "
            "decay**k (* |h| if relative)")
        .def(
            "set_gate",
            [](py_program & self, double bias, double gate_benign, double gate_harmful) {
                self.core.set_gate({bias, gate_benign, gate_harmful});
            },
            "bias"_a, "gate_benign"_a, "gate_harmful"_a,
            "score = bias + sum of weight * E_harm; <= gate_benign: descend fr; >= gate_harmful: descend jb; "
            "between: nothing")
        .def(
            "capture",
            [](py_program & self, int32_t il, const out_rows & out, const std::string & scope) {
                self.core.capture(il, out.data(), (int64_t) out.shape(0), (int64_t) out.shape(1),
                                  scope_from_name(scope));
                self.kept.push_back(nb::cast(out));
            },
            "il"_a, "out"_a.noconvert(), "scope"_a,
            "Copy rows, as they leave the layer, into out (float32, C-contiguous): batch row i to out[i], or "
            "the i-th listed row of the scope to out[i]");
}
