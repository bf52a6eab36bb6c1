// edge_eds._native: the core as Python sees it. Converts arguments and errors, and keeps Python objects
// alive; decides nothing.
//
// std::invalid_argument becomes ValueError, std::out_of_range IndexError, std::logic_error and hook_error
// RuntimeError (hook_error as HookError with .layer). nanobind and numpy are the only dependencies.

#include "bindings.h"

#include "src/hook.h"
#include "src/kernels.h"

NB_MODULE(_native, m) {
    m.doc() = "The native core of edge-eds: the eval callback that reads and edits block outputs inside "
              "llama_decode, and the energies it descends.";

    nb::list heads;
    for (int head = 0; head < n_heads; ++head) {
        heads.append(head_name(head));
    }
    m.attr("HEADS") = nb::tuple(heads);

    // never released: the translator may run until the interpreter is gone
    static PyObject * hook_error_type = PyErr_NewExceptionWithDoc(
        "edge_eds._native.HookError",
        "Steering or capture was asked for and did not happen; `layer` is the layer's index, or -1.",
        PyExc_RuntimeError, nullptr);
    if (!hook_error_type) {
        throw nb::python_error();
    }
    m.attr("HookError") = nb::borrow(hook_error_type);
    nb::register_exception_translator([](const std::exception_ptr & p, void *) {
        try {
            std::rethrow_exception(p);
        } catch (const hook_error & e) {
            nb::object error    = nb::borrow(hook_error_type)(e.what());
            error.attr("layer") = e.layer();
            PyErr_SetObject(hook_error_type, error.ptr());
        }
    });

    m.attr("LARGE_NET") = large_net;
    m.def("kernels", &kernels_in_use,
          "The form of the loops that runs here: avx512, avx2, neon or plain. The environment variable EDGE_EDS_KERNELS "
          "chooses another; ValueError where this machine does not have it.");

    bind_layer_energy(m);
    bind_program(m);
    bind_hook(m);
}
