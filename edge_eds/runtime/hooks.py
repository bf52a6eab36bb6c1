"""Making the native hook of a session, and finding out which layers of a model it can reach."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from llama_cpp import llama_cpp as llama_api

from edge_eds import _native
from edge_eds.errors import ModelError, SteeringError
from edge_eds.runtime.program import HookProgram
from edge_eds.runtime.seam import ggml_functions

if TYPE_CHECKING:
    from edge_eds.runtime.session import EdgeLlama

IntArray = npt.NDArray[np.int32]

_STOPPED = 2  # what llama_decode gives back when its abort callback says so
_STOP = llama_api.ggml_abort_callback(lambda _data: True)
_SILENCE = llama_api.llama_log_callback(lambda _level, _text, _data: None)
_log_lock = threading.Lock()  # the log is the process's: two sessions that open at once would restore each other's


@dataclass(frozen=True)
class LayerProbe:
    """What the probe saw of one layer's output.

    unreadable: why its rows cannot be read even when every row is an output; "" if they can.
    refusal: why it cannot be steered; "" if it can.
    """

    il: int
    unreadable: str = ""
    refusal: str = ""


def new_hook(n_layer: int, n_embd: int) -> _native.Hook:
    """A hook that does nothing until a program is set; it must outlive the context that it is given to."""
    return _native.Hook(functions=ggml_functions(), n_layer=n_layer, n_embd=n_embd)


@contextmanager
def armed(
    hook: _native.Hook,
    program: HookProgram | None,
    n_rows: int,
    rows: IntArray,
    slots: IntArray,
    offsets: IntArray,
) -> Iterator[None]:
    """Arm the hook for one llama_decode of n_rows rows, of which `rows` (m,) belong to answers, or with a negative
    offset to the messages that they are to.

    Raises:
        SteeringError: what the program asks for did not happen; a Python function's own exception passes as
        it is.
    """
    if program is not None and program.host is not None:
        program.host.begin(slots, offsets)
    try:
        hook.begin(n_rows, rows, slots, offsets)
        try:
            yield
        except BaseException:
            hook.abort()
            raise
        hook.end()
    except _native.HookError as error:
        _forget_trace(hook, program)
        raise SteeringError(f"steering did not happen: {error}") from error
    except BaseException:
        _forget_trace(hook, program)
        raise


def _forget_trace(hook: _native.Hook, program: HookProgram | None) -> None:
    """Drop the records of a decode that failed: they would be taken for those of the next."""
    hook.take_trace()
    if program is not None and program.host is not None:
        program.host.take_back()


def probe_layers(llm: EdgeLlama, hook: _native.Hook) -> tuple[LayerProbe, ...]:
    """Look at every l_out-<il> that llama.cpp offers for a token or two; leaves an empty timeline.

    Raises:
        ModelError: llama.cpp cannot decode them.
    """
    # Two tokens in one micro-batch with one output tell rows of tokens from rows of outputs.
    n_rows = min(2, llm.n_batch, llm.context_params.n_ubatch or llm.n_batch)
    # llama.cpp offers all nodes of a graph before it computes the first one, so that the names cost next to nothing.
    found = _offered(llm, hook, n_rows, computed=False)
    if not all(il in found for il in range(hook.n_layer)):  # where several backends share it, each its own part
        found = _offered(llm, hook, n_rows, computed=True)
    return tuple(_judge(il, hook.n_layer, hook.n_embd, n_rows, found.get(il)) for il in range(hook.n_layer))


def _offered(llm: EdgeLlama, hook: _native.Hook, n_rows: int, computed: bool) -> dict[int, tuple[int, int, int]]:
    """By layer the width, rows and bytes of the l_out that llama.cpp offers while it decodes n_rows tokens.

    computed: whether it computes them; otherwise it stops after the first node.
    """
    hook.begin_probe()
    try:
        llm._batch.set_batch(batch=[max(llm.token_bos(), 0)] * n_rows, n_past=0, logits_all=False)
        with nullcontext() if computed else _stopping_decodes(llm):
            code = llama_api.llama_decode(llm.ctx, llm._batch.batch)
    finally:
        seen = hook.end_probe()
        llm._ctx.kv_cache_clear()
    if computed and code != 0:
        raise ModelError(f"{llm.model_path}: llama.cpp could not decode the first tokens (code {code})")
    if code not in (0, _STOPPED):
        return {}
    return {il: (n_embd, rows, n_bytes) for il, n_embd, rows, n_bytes in seen}


@contextmanager
def _stopping_decodes(llm: EdgeLlama) -> Iterator[None]:
    """For a while llama.cpp stops each decode after its first node, without a word about it."""
    params = llm.context_params
    with _silent_log():
        llama_api.llama_set_abort_callback(llm.ctx, _STOP, None)
        try:
            yield
        finally:
            llama_api.llama_set_abort_callback(llm.ctx, params.abort_callback, params.abort_callback_data)


@contextmanager
def _silent_log() -> Iterator[None]:
    with _log_lock:
        log, data = llama_api.llama_log_callback(), ctypes.c_void_p()
        llama_api.llama_log_get(ctypes.byref(log), ctypes.byref(data))
        llama_api.llama_log_set(_SILENCE, None)
        try:
            yield
        finally:
            llama_api.llama_log_set(log, data)


def _judge(
    il: int, n_layer: int, n_embd: int, n_tokens: int, found: tuple[int, int, int] | None
) -> LayerProbe:
    if found is None:
        reason = f"llama.cpp computes no tensor named l_out-{il} for this architecture"
        return LayerProbe(il, reason, reason)
    width, n_rows, n_bytes = found
    if width != n_embd:
        reason = f"l_out-{il} is {width} wide, expected n_embd = {n_embd}"
        return LayerProbe(il, reason, reason)
    if n_bytes != width * n_rows * np.dtype(np.float32).itemsize:
        reason = f"l_out-{il} is not float32 ({n_bytes} bytes for {n_rows} x {width} numbers)"
        return LayerProbe(il, reason, reason)
    if il == n_layer - 1:
        return LayerProbe(il, refusal="it is the last layer, whose rows llama.cpp prunes to the outputs")
    if n_rows != n_tokens:
        reason = f"l_out-{il} has {n_rows} rows for {n_tokens} tokens, expected one row a token"
        return LayerProbe(il, reason, reason)
    return LayerProbe(il)
