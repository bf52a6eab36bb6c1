"""One set of weights under several contexts: with our hook, without any callback, and with one written in Python.

Loading a model twice would compare two places in memory as well, and take twice the room. The session is an EdgeLlama,
whose own context has the hook; `decoding_in` lets it decode in another one for a while.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, cast

import llama_cpp
from llama_cpp import llama_cpp as llama_api
from llama_cpp._internals import LlamaContext

from edge_eds.errors import ModelError
from edge_eds.runtime.session import EdgeLlama

EvalCallback = Any  # a ctypes function of type ggml_backend_sched_eval_callback
NO_CALLBACK: EvalCallback = llama_api.ggml_backend_sched_eval_callback()


class BenchLlama(EdgeLlama):
    """A session whose weights serve contexts with other callbacks, too.

    cpu_time: its contenders count CPU seconds of the whole process, which other programs hardly change, in place of
    the time that passes. With more than one thread the seconds of those that wait are counted, too.
    """

    cpu_time = False

    def clock(self) -> float:
        """Seconds, from any start."""
        return time.process_time() if self.cpu_time else time.perf_counter()

    def other_context(self, callback: EvalCallback = NO_CALLBACK) -> LlamaContext:
        """A context like the session's own but for its callback; it is freed with the session.

        Raises:
            ModelError: llama.cpp could not make it.
        """
        params = llama_api.llama_context_params.from_buffer_copy(self.context_params)
        params.cb_eval = callback
        params.cb_eval_user_data = ctypes.c_void_p(None)
        try:
            context = LlamaContext(model=self._model, params=params, verbose=False)
        except ValueError as error:
            raise ModelError(f"{self.model_path}: no memory for another context; lower -p and -n") from error
        self._stack.enter_context(closing(context))
        if self._lora_adapter is not None:
            adapters = (llama_api.llama_adapter_lora_p_ctypes * 1)(cast(Any, self._lora_adapter))
            scales = (ctypes.c_float * 1)(self.lora_scale)
            if llama_api.llama_set_adapters_lora(context.ctx, adapters, 1, scales):
                raise ModelError(f"{self.lora_path}: llama.cpp could not apply this adapter to another context")
        return context

    @contextmanager
    def decoding_in(self, context: LlamaContext) -> Iterator[None]:
        """Decode in another context for a while, with llama_cpp.Llama.eval, as our own armed the hook."""
        own, self._ctx = self._ctx, context
        try:
            yield
        finally:
            self._ctx = own

    def empty(self) -> None:
        """Forget every token."""
        self.reset()
        self._ctx.kv_cache_clear()

    def plain_eval(self, tokens: list[int]) -> None:
        """What llama-cpp-python's own class does with tokens: nothing of ours runs but what a context calls."""
        llama_cpp.Llama.eval(self, tokens)

    def wait(self) -> None:
        """Until everything that was asked for has been computed."""
        llama_api.llama_synchronize(self.ctx)
