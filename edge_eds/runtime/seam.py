"""Where edge-eds meets llama.cpp: addresses of the few ggml functions that the native core calls.

Takes the libraries that llama-cpp-python has already loaded, and gives addresses. Nothing is loaded a second
time: a second copy of ggml would have tensors and backends of its own. What is assumed of llama.cpp is
written down in native/SEAM.md.
"""

from __future__ import annotations

import ctypes
import sys
from functools import lru_cache
from typing import Any

import llama_cpp
from llama_cpp import llama_cpp as llama_api

from edge_eds.errors import ModelError

GGML_FUNCTIONS = (
    "ggml_get_name",
    "ggml_nelements",
    "ggml_nrows",
    "ggml_nbytes",
    "ggml_is_contiguous",
    "ggml_backend_tensor_get",
    "ggml_backend_tensor_set",
)


@lru_cache(maxsize=1)
def ggml_functions() -> dict[str, int]:
    """Addresses of GGML_FUNCTIONS in the loaded llama.cpp.

    Raises:
        ModelError: this build of llama-cpp-python does not export one of them.
    """
    addresses = {}
    for name in GGML_FUNCTIONS:
        function = find_function(name)
        if function is None:
            raise ModelError(
                f"llama-cpp-python {llama_cpp.__version__} does not export {name}, which reading hidden "
                "states needs; expected a build with shared libraries; reinstall llama-cpp-python"
            )
        addresses[name] = ctypes.cast(function, ctypes.c_void_p).value or 0
    return addresses


def openmp_parallel() -> int:
    """Address of GOMP_parallel in the OpenMP runtime that llama.cpp computes with; 0 where it computes without one."""
    function = find_function("GOMP_parallel")
    return 0 if function is None else ctypes.cast(function, ctypes.c_void_p).value or 0


def find_function(name: str) -> Any | None:
    """A function of the llama.cpp and ggml that are loaded; None where this build does not export it."""
    # dlsym on libllama's handle also searches the libraries that it was linked with, which are the right
    # copies.
    libraries: list[Any] = [llama_api._lib]
    if (
        sys.platform == "win32"
    ):  # GetProcAddress does not search them; a bare name gives the module already loaded
        libraries += [ctypes.CDLL("ggml-base.dll"), ctypes.CDLL("ggml.dll")]
    for library in libraries:
        try:
            return getattr(library, name)
        except AttributeError:
            continue
    return None
