// Hook as Python sees it.
#include "bindings.h"

#include "src/hook.h"

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

    py_hook(const nb::dict & functions, int32_t n_layer, int64_t n_embd)
        : core(make_api(functions), n_layer, n_embd) {}

    void set_program(nb::handle p) {
        core.set_program(p.is_none() ? nullptr : &nb::cast<py_program &>(p).core);
        set = nb::borrow(p);
    }

    nb::bytes take_trace() {
        const std::vector<trace_record> records = core.take_trace();
        return nb::bytes(records.data(), records.size() * sizeof(trace_record));
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

void bind_hook(nb::module_ & m) {
    nb::class_<py_hook>(m, "Hook", nb::type_slots(hook_slots),
                        "The eval callback of one llama.cpp context.\n\n"
                        "functions: addresses of ggml_get_name, ggml_nelements, ggml_nrows, ggml_nbytes, "
                        "ggml_is_contiguous, ggml_backend_tensor_get and\n"
                        "ggml_backend_tensor_set in the ggml that the context uses. The hook must live at "
                        "least as long as the context: llama.cpp keeps\n"
                        "callback_address and user_data, and calling a hook that is gone is undefined. One "
                        "thread at a time.\n"
                        "A decode: begin(...); llama_decode; end(), or abort() if llama_decode failed. "
                        "Otherwise the callback does nothing.")
        .def(nb::init<const nb::dict &, int32_t, int64_t>(), "functions"_a, "n_layer"_a, "n_embd"_a,
             nb::sig("def __init__(self, functions: collections.abc.Mapping[str, int], n_layer: int, n_embd: "
                     "int) -> None"))
        .def_prop_ro("n_layer", [](const py_hook & self) { return self.core.n_layer(); })
        .def_prop_ro("n_embd", [](const py_hook & self) { return self.core.n_embd(); })
        .def_prop_ro(
            "callback_address",
            [](const py_hook &) { return reinterpret_cast<uintptr_t>(&hook::eval_callback); },
            "Address for llama_context_params.cb_eval")
        .def_prop_ro(
            "user_data", [](py_hook & self) { return reinterpret_cast<uintptr_t>(&self.core); },
            "Address for llama_context_params.cb_eval_user_data")
        .def(
            "set_program", [](py_hook & self, nb::handle p) { self.set_program(p); }, "program"_a.none(),
            nb::sig("def set_program(self, program: Program | None) -> None"),
            "Run a copy of this program from the next begin() on. Gate decisions stay. ValueError if it does "
            "not fit the model.")
        .def(
            "set_slots", [](py_hook & self, int32_t n) { self.core.set_slots(n); }, "n"_a,
            "Have the slots 0..n-1, all forgotten")
        .def(
            "set_threads",
            [](py_hook & self, int n, uintptr_t openmp) {
                self.core.set_threads(n, reinterpret_cast<openmp_parallel>(openmp));
            },
            "n"_a, "openmp"_a = 0,
            "Compute large energies with n threads, the one that decodes among them; no bit depends on it.\n"
            "openmp: address of GOMP_parallel, whose threads these are then; 0: they are the hook's own.")
        .def(
            "reset_slot", [](py_hook & self, int32_t slot) { self.core.reset_slot(slot); }, "slot"_a,
            "Forget the gate's decision of this slot, and hold it no longer")
        .def(
            "hold_slot", [](py_hook & self, int32_t slot, bool held) { self.core.hold_slot(slot, held); }, "slot"_a,
            "held"_a, "While a slot is held, energies are read and traced, and no row is descended")
        .def(
            "gate_state",
            [](const py_hook & self, int32_t slot) {
                const gate_state state = self.core.get_gate_state(slot);
                return std::make_tuple(state.read, state.score, state.decision);
            },
            "slot"_a, "(read, score, decision): decision 0 nothing, 1 fr, 2 jb, 3 merged")
        .def(
            "begin",
            [](py_hook & self, int64_t n_rows, const int_vector & rows, const int_vector & slots,
               const int_vector & offsets) {
                self.core.begin(n_rows, to_vector(rows), to_vector(slots), to_vector(offsets));
            },
            "n_rows"_a, "rows"_a, "slots"_a, "offsets"_a,
            "Arm for one llama_decode of n_rows rows. rows: ascending batch rows that are planned; slots: "
            "their answers;\n"
            "offsets: token index relative to the prompt's end (0 = the prompt's last token, which also "
            "starts a new answer;\n"
            "negative = tokens of the message that the gate reads, all of them since reset_slot).")
        .def(
            "end", [](py_hook & self) { self.core.end(); },
            "Disarm. Raises what went wrong: HookError, or the exception of a host function. Rows written so "
            "far stay written.")
        .def(
            "abort", [](py_hook & self) { self.core.abort(); }, "Disarm after a llama_decode that failed")
        .def(
            "begin_probe", [](py_hook & self) { self.core.begin_probe(); },
            "Record every l_out-* of the coming decodes; read and change nothing")
        .def(
            "end_probe",
            [](py_hook & self) {
                std::vector<std::tuple<int32_t, int64_t, int64_t, int64_t>> records;
                for (const probe_record & record : self.core.end_probe()) {
                    records.emplace_back(record.layer, record.n_embd, record.n_rows, record.n_bytes);
                }
                return records;
            },
            "[(il, n_embd, n_rows, n_bytes)] in the order met; n_embd is 0 where there were no rows")
        .def("take_trace", &py_hook::take_trace,
             "The records since the last call, 32 bytes each (edge_eds.runtime.trace.records_of): slot, offset, layer,\n"
             "head (index into HEADS), energy_before, energy_after, steps, shift = |new h - h| / |h|.\n"
             "Gate readings have a head harm or harm_message, steps 0 and energy_after = "
             "energy_before.")
        .def_prop_ro(
            "rows_written", [](const py_hook & self) { return self.core.rows_written(); },
            "Rows of the last decode that were written at any layer")
        .def_prop_ro(
            "first_row_written", [](const py_hook & self) { return self.core.first_row_written(); },
            "The first of them, or -1");
}
