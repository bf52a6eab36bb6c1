"""The contenders that decode in this process: plain, idle, capture, control vector, steering in C++ and in Python."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from llama_cpp import llama_cpp as llama_api
from llama_cpp._internals import LlamaContext

from edge_eds.energy.file import EnergyFile
from edge_eds.energy.settings import Steering
from edge_eds.errors import SteeringError
from edge_eds.pipeline.bench.contender import Decoding, Test
from edge_eds.pipeline.bench.contexts import BenchLlama
from edge_eds.pipeline.bench.energies import descended_head
from edge_eds.pipeline.bench.python_hook import PythonHook
from edge_eds.runtime.capture import FloatArray, Positions
from edge_eds.runtime.control_vector import ControlVector
from edge_eds.runtime.hooks import armed
from edge_eds.runtime.onnx_steering import OnnxSteering
from edge_eds.runtime.program import capturing, steering_program
from edge_eds.runtime.trace import Trace

_NONE = np.zeros(0, np.int32)
_ONE_SLOT = np.zeros(1, np.int32)


class Plain(Decoding):
    """llama-cpp-python alone: a context without a callback."""

    def __init__(self, name: str, llm: BenchLlama, tokens: list[int], context: LlamaContext) -> None:
        super().__init__(name, llm, tokens)
        self.context = context

    @contextmanager
    def in_force(self) -> Iterator[None]:
        with self.llm.decoding_in(self.context):
            yield

    def prompt(self, tokens: list[int]) -> None:
        self.llm.plain_eval(tokens)


class ControlVectored(Plain):
    """llama.cpp's own control vector on every layer that it can name."""

    @contextmanager
    def in_force(self) -> Iterator[None]:
        n_layer, n_embd = len(self.llm.layers), self.llm.n_embd()
        rng = np.random.default_rng(0)
        vectors = {il: rng.normal(0, 1e-3, n_embd).astype(np.float32) for il in range(1, n_layer)}
        matrix = ControlVector(vectors).matrix(n_layer)
        pointer = matrix.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        context = self.context.ctx
        with super().in_force():
            if llama_api.llama_set_adapter_cvec(context, pointer, matrix.size, n_embd, 1, n_layer - 1):
                raise SteeringError("llama.cpp could not take a control vector")
            try:
                yield
            finally:
                llama_api.llama_set_adapter_cvec(context, None, 0, 0, 0, 0)


class Idle(Decoding):
    """A session of ours with nothing to do: the callback says no to every node."""

    @contextmanager
    def in_force(self) -> Iterator[None]:
        with self.llm._programmed(None):
            yield

    def prompt(self, tokens: list[int]) -> None:
        self.llm.eval(tokens)


class Capturing(Idle):
    """Hidden states of some layers: of a prompt all rows, or the last alone; of new tokens the one row of each decode.

    A prompt goes through `EdgeLlama.capture`, buffers and copies included.
    """

    def __init__(
        self,
        name: str,
        llm: BenchLlama,
        tokens: list[int],
        layers: Sequence[int],
        positions: Positions = "all",
    ) -> None:
        super().__init__(name, llm, tokens)
        self.layers, self.positions = tuple(layers), positions
        self.rows: dict[int, FloatArray] = {}

    def prompt(self, tokens: list[int]) -> None:
        self.rows = self.llm.capture(tokens, self.layers, positions=self.positions)

    def before_tokens(self, tokens: list[int]) -> None:
        self.llm.eval(tokens)
        self.rows = {il: np.full((1, self.llm.n_embd()), np.nan, dtype=np.float32) for il in self.layers}
        self.llm._hook.set_program(capturing(None, [(self.rows, "all")]))

    def more(self, tokens: list[int]) -> None:
        with armed(self.llm._hook, None, len(tokens), _NONE, _NONE, _NONE):
            self.llm.plain_eval(tokens)

    def check(self, test: Test) -> None:
        for il, rows in self.rows.items():
            if not np.isfinite(rows).all():
                raise SteeringError(f"{self.name}: the rows of layer {il} were not captured")
        self.rows = {}


class Steered(Decoding):
    """Our own steering, in C++: at the prompt's end and at as many new tokens as the energies' settings name."""

    def __init__(self, name: str, llm: BenchLlama, tokens: list[int], file: EnergyFile) -> None:
        super().__init__(name, llm, tokens)
        self.file = file
        self.program = steering_program(file, Steering())

    @contextmanager
    def in_force(self) -> Iterator[None]:
        with self.llm._programmed(self.program):
            yield

    def prompt(self, tokens: list[int]) -> None:
        self.llm.eval(tokens)

    def check(self, test: Test) -> None:
        require_steered(self.name, self.llm.last_trace, self.file, 0 if test.kind == "pp" else test.n)


class PythonSteered(Decoding):
    """The same steering in Python: a ctypes callback and ONNX Runtime."""

    def __init__(self, name: str, llm: BenchLlama, tokens: list[int], file: EnergyFile) -> None:
        super().__init__(name, llm, tokens)
        self.file = file
        self.steering = OnnxSteering(file, file.spec, 1.0)
        self.hook = PythonHook(llm.n_embd(), self.steering.layer_functions())
        self.context = llm.other_context(self.hook.callback)
        self.offset = 0

    @contextmanager
    def in_force(self) -> Iterator[None]:
        self.steering.take_trace()
        self.offset = 0
        with self.llm.decoding_in(self.context):
            yield

    def prompt(self, tokens: list[int]) -> None:
        for start in range(0, len(tokens), self.llm.n_batch):
            piece = tokens[start : start + self.llm.n_batch]
            at_end = start + len(piece) == len(tokens)
            if at_end:
                self.steering.begin(_ONE_SLOT, np.array([self.offset], dtype=np.int32))
                self.hook.begin(len(piece))
                self.offset += 1
            self.llm.plain_eval(piece)
            self.hook.end()

    def check(self, test: Test) -> None:
        trace = Trace(self.steering.take_trace())
        require_steered(self.name, trace, self.file, 0 if test.kind == "pp" else test.n)


def require_steered(name: str, trace: Trace, file: EnergyFile, last_offset: int) -> None:
    """SteeringError unless every steered layer was written at every token that the settings name.

    last_offset: of the answer's last token that was decoded, 0 being the prompt's end.
    """
    spec = file.spec
    n_tokens = last_offset + 1 if spec.n_tokens == 0 else min(spec.n_tokens, last_offset + 1)
    written = trace.descents[trace.descents["steps"] > 0]
    found = set(zip(written["offset"].tolist(), written["layer"].tolist(), strict=True))
    layers = [il for il in spec.layers if descended_head(file) in file.heads[il]]
    expected = {(offset, il) for offset in range(n_tokens) for il in layers}
    if found != expected or not expected:
        raise SteeringError(
            f"{name}: steering was to write {len(expected)} rows and wrote {len(found & expected)} of them and "
            f"{len(found - expected)} others; nothing was measured"
        )
