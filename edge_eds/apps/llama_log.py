"""Keeps llama.cpp's own log off the terminal, and remembers its first error for a message of ours."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from llama_cpp import llama_cpp as llama_api

from edge_eds.errors import ModelError

_ERROR = 4  # GGML_LOG_LEVEL_ERROR


class LlamaLog:
    """Takes over the log of llama.cpp, which is one for the whole process."""

    def __init__(self) -> None:
        self.first_error = ""
        self._callback = llama_api.llama_log_callback(self._receive)  # llama.cpp keeps no reference

    def install(self) -> None:
        """From now on nothing of llama.cpp's log is printed."""
        self.first_error = ""
        llama_api.llama_log_set(self._callback, ctypes.c_void_p(0))

    def explain(self, error: ModelError) -> ModelError:
        """The error with what llama.cpp said about it."""
        return ModelError(f"{error} ({self.first_error})") if self.first_error else error

    def _receive(self, level: int, text: bytes, _: ctypes.c_void_p) -> None:
        # Called from C: nothing may be raised here.
        # The first error is the cause; those after it say that the caller failed, too.
        if level == _ERROR and not self.first_error:
            line = text.decode("utf-8", errors="replace").strip()
            self.first_error = line.rpartition("error loading model: ")[2]


@lru_cache(maxsize=1)
def llama_log() -> LlamaLog:
    """The one log of this process."""
    return LlamaLog()


@contextmanager
def explained() -> Iterator[None]:
    """Load a model without llama.cpp's log on the terminal; its first error goes into the message of ours.

    Raises:
        ModelError: the model cannot be loaded.
    """
    log = llama_log()
    log.install()
    try:
        yield
    except ModelError as error:
        raise log.explain(error) from error
