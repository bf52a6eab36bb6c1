"""Steering as one would write it in Python: a ctypes callback of llama.cpp, with ONNX Runtime for the energies.

The same steering as the native hook's, from the same energy file, to compare it with: energies and gradients come from
ONNX Runtime, the step is NumPy (runtime/onnx_steering.py), and llama.cpp calls a Python function for every node.
Leaves out all that the native hook checks.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
from llama_cpp import llama_cpp as llama_api

from edge_eds.runtime.seam import ggml_functions

EditRows = Callable[[npt.NDArray[np.float32]], None]


class PythonHook:
    """Edits the last row of each decode at some layers.

    functions: layer -> a function that edits rows (1, n_embd) in place.
    """

    def __init__(self, n_embd: int, functions: Mapping[int, EditRows]) -> None:
        addresses = ggml_functions()
        place = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t)
        self._name = ctypes.CFUNCTYPE(ctypes.c_char_p, ctypes.c_void_p)(addresses["ggml_get_name"])
        self._n_rows = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)(addresses["ggml_nrows"])
        self._get = ctypes.CFUNCTYPE(None, *place)(addresses["ggml_backend_tensor_get"])
        self._set = ctypes.CFUNCTYPE(None, *place)(addresses["ggml_backend_tensor_set"])
        self._functions = {f"l_out-{il}".encode(): function for il, function in functions.items()}
        self._row = np.empty((1, n_embd), dtype=np.float32)
        self._address = self._row.ctypes.data
        self._missing: dict[bytes, int] = {}
        self._error: BaseException | None = None
        self.callback = llama_api.ggml_backend_sched_eval_callback(self._called)

    def begin(self, n_rows: int) -> None:
        """Before a decode of so many rows, the last of which is to be edited."""
        self._missing = dict.fromkeys(self._functions, n_rows)

    def end(self) -> None:
        """After a decode: raises what went wrong in it."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _called(self, tensor: int, ask: bool, _: int | None) -> bool:
        name = self._name(tensor)
        if ask:
            return name in self._missing
        try:
            self._edit(name, tensor)
        except BaseException as error:  # ctypes would print it and go on
            self._error = error
            self._missing = {}
        return True

    def _edit(self, name: bytes, tensor: int) -> None:
        n_rows = self._n_rows(tensor)
        self._missing[name] -= n_rows
        if self._missing[name]:  # the last row comes in a later micro-batch
            return
        n_bytes = self._row.nbytes
        self._get(tensor, self._address, (n_rows - 1) * n_bytes, n_bytes)
        self._functions[name](self._row)
        self._set(tensor, self._address, (n_rows - 1) * n_bytes, n_bytes)
