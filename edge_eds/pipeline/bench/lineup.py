"""From the names of variants to contenders on one model, and the reason for each that cannot take part.

A model that cannot be steered is measured with what is left: plain and idle. Adding a variant touches this table alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from llama_cpp._internals import LlamaContext

from edge_eds.energy.file import EnergyFile
from edge_eds.energy.fingerprint import ModelFingerprint
from edge_eds.energy.gguf_header import read_gguf_header
from edge_eds.errors import SettingsError, SteeringError
from edge_eds.files import size_text
from edge_eds.pipeline.bench import transformers_peer
from edge_eds.pipeline.bench.contender import Contender
from edge_eds.pipeline.bench.contenders import Capturing, ControlVectored, Idle, Plain, PythonSteered, Steered
from edge_eds.pipeline.bench.contexts import BenchLlama
from edge_eds.pipeline.bench.energies import DEFAULT, FIFTEEN, PAPER, EnergyForm, always_writing, random_energies
from edge_eds.pipeline.bench.machine import room
from edge_eds.pipeline.bench.transformers_peer import TransformersPeer


@dataclass(frozen=True)
class Bed:
    """What contenders are made of.

    energy: the model's own energies, for steer-default; None: random ones of the same form.
    tokens: random ones, as many as the longest test reads.
    """

    llm: BenchLlama
    fingerprint: ModelFingerprint
    energy: EnergyFile | None
    tokens: list[int]
    n_threads: int

    @cached_property
    def steerable(self) -> tuple[int, ...]:
        """Layers that can be steered: all but the last, where nothing is wrong."""
        return self.llm.steerable_layers

    @cached_property
    def plain_context(self) -> LlamaContext:
        """A context without a callback."""
        return self.llm.other_context()

    def random(self, form: EnergyForm) -> EnergyFile:
        """Random energies for this model."""
        return random_energies(self.fingerprint, form, self.steerable)

    @cached_property
    def fifteen(self) -> EnergyFile:
        """Those that ours, Python's and transformers' steering share."""
        return self.random(FIFTEEN)


def _plain(bed: Bed) -> Contender:
    return Plain("plain", bed.llm, bed.tokens, bed.plain_context)


def _idle(bed: Bed) -> Contender:
    return Idle("idle", bed.llm, bed.tokens)


def _capture_1(bed: Bed) -> Contender:
    return Capturing("capture-1", bed.llm, bed.tokens, bed.steerable[len(bed.steerable) // 2 :][:1])


def _capture_all(bed: Bed) -> Contender:
    # Without the last layer: of that llama.cpp computes one row, unless it is told to compute the logits of all.
    return Capturing("capture-all", bed.llm, bed.tokens, bed.steerable)


def _capture_last(bed: Bed) -> Contender:
    contender = Capturing("capture-last", bed.llm, bed.tokens, bed.steerable, "last")
    contender.kinds = ("pp",)  # a new token has one row, which is the last
    return contender


def _control_vector(bed: Bed) -> Contender:
    return ControlVectored("control-vector", bed.llm, bed.tokens, bed.plain_context)


def _steer_default(bed: Bed) -> Contender:
    file = bed.random(DEFAULT) if bed.energy is None else always_writing(bed.energy)
    return Steered("steer-default", bed.llm, bed.tokens, file)


def _steer_15x3(bed: Bed) -> Contender:
    return Steered("steer-15x3", bed.llm, bed.tokens, bed.fifteen)


def _steer_paper(bed: Bed) -> Contender:
    return Steered("steer-paper", bed.llm, bed.tokens, bed.random(PAPER))


def _python_onnx(bed: Bed) -> Contender:
    return PythonSteered("python-onnx", bed.llm, bed.tokens, bed.fifteen)


def _transformers(bed: Bed) -> Contender | str:
    if not transformers_peer.is_installed():
        return "transformers and torch are not installed"
    if bed.llm.cpu_time:
        return "it runs in a process of its own, whose CPU time is not looked at"
    if bed.llm.lora_path is not None:
        return "it would run without the LoRA adapter"
    path = Path(bed.llm.model_path)
    n_weights = sum(math.prod(tensor.shape) for tensor in read_gguf_header(path).tensors)
    needed, free = transformers_peer.BYTES_PER_WEIGHT * n_weights, room(path.parent).memory
    if free is not None and needed > free:
        return f"it takes {size_text(needed)} of memory to load and {size_text(free)} are free"
    try:
        return TransformersPeer(path, bed.fifteen, bed.n_threads, bed.tokens)
    except SteeringError as error:
        return str(error)


_PLAIN = "plain"
_NEED_NO_LAYER: dict[str, Callable[[Bed], Contender | str]] = {_PLAIN: _plain, "idle": _idle}
_NEED_LAYERS: dict[str, Callable[[Bed], Contender | str]] = {
    "capture-1": _capture_1,
    "capture-all": _capture_all,
    "capture-last": _capture_last,
    "control-vector": _control_vector,
    "steer-default": _steer_default,
    "steer-15x3": _steer_15x3,
    "steer-paper": _steer_paper,
    "python-onnx": _python_onnx,
    "transformers": _transformers,
}
VARIANTS = (*_NEED_NO_LAYER, *_NEED_LAYERS)


def check_variants(names: Sequence[str]) -> None:
    """SettingsError for a name that is none, or for none at all."""
    unknown = [name for name in names if name not in VARIANTS]
    if unknown or not names:
        found = ", ".join(unknown) or "nothing"
        raise SettingsError(f"--variants: {found}; expected some of {', '.join(VARIANTS)}")


@dataclass(frozen=True)
class Lineup:
    """Who takes part. plain: what all are compared with. left_out: variant -> why it cannot."""

    plain: Contender
    contenders: tuple[Contender, ...]
    left_out: dict[str, str]


@contextmanager
def lined_up(bed: Bed, names: Sequence[str]) -> Iterator[Lineup]:
    """The contenders of these variants, in the order of VARIANTS, closed at the end."""
    plain = _plain(bed)
    contenders: list[Contender] = []
    left_out: dict[str, str] = {}
    try:
        for name in (name for name in VARIANTS if name in names):
            if name in _NEED_LAYERS and not bed.steerable:
                left_out[name] = f"no layer of this model can be steered: {bed.llm.layers[0].refusal}"
                continue
            made = plain if name == _PLAIN else {**_NEED_NO_LAYER, **_NEED_LAYERS}[name](bed)
            if isinstance(made, str):
                left_out[name] = made
            else:
                contenders.append(made)
        yield Lineup(plain, tuple(contenders), left_out)
    finally:
        for contender in contenders:
            contender.close()
