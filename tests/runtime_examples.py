"""Energies, prompts and answers for the tests of edge_eds.runtime: small, random, reproducible.

The models have N_LAYER layers; the gate of `make_energies` reads GATE_LAYERS and what it decides is descended
in STEERED_LAYERS, so one layer is both read and steered. An answer is greedy: its tokens, and the logits that
each of them was chosen from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from energy_examples import make_head, make_subspace
from llama_cpp import Llama
from llama_cpp import llama_cpp as llama_api

from edge_eds import EdgeLlama
from edge_eds.energy.file import EnergyFile
from edge_eds.energy.fingerprint import ModelFingerprint
from edge_eds.energy.network import EnergyModel, LayerEnergy
from edge_eds.energy.settings import GateSpec, SteeringSpec

N_LAYER, N_EMBD, RANK = 6, 64, 12
GATE_LAYERS, STEERED_LAYERS = (1, 2), (2, 3, 4)
ALWAYS, NEVER = 1e6, -1e6  # bounds of the gate that every score is below, or above
GGML_TYPE_F32 = 0
# A KV cache in half precision would turn the last digit of float32 into three digits.
SETTINGS: dict[str, Any] = {
    "n_ctx": 256, "n_threads": 1, "n_threads_batch": 1, "type_k": GGML_TYPE_F32, "type_v": GGML_TYPE_F32,
    "verbose": False,
}  # fmt: skip
# The first six are the ones that every promise of bit-identity is tested on, then two more kinds of memory.
ARCHITECTURES = ("llama", "qwen3", "gemma3", "phi3", "qwen3moe", "mamba", "jamba", "lfm2")

Floats = npt.NDArray[np.float32]
TinyModel = Callable[..., Path]


def make_prompt(n: int, seed: int = 0) -> list[int]:
    """n random tokens, none of them special."""
    return [int(token) for token in np.random.default_rng([17, seed]).integers(3, 259, n)]


def make_energies(
    path: Path,
    *,
    gated: bool = True,
    reads_message: bool = False,
    subspace: bool = True,
    n_embd: int = N_EMBD,
    **changes: Any,
) -> EnergyFile:
    """Random energies of a model; with a gate (that finds every prompt benign) fr and jb, else merged.

    Args:
        reads_message: the gate reads the message, too, in another order of weights.
        changes: fields of SteeringSpec, and `gate` as a GateSpec.
    """
    n_in = RANK if subspace else n_embd
    layers = {}
    for il in sorted({*GATE_LAYERS, *STEERED_LAYERS}):
        heads = {}
        if gated and il in GATE_LAYERS:
            heads["harm"] = make_head(n_in, (8,), True, 100 + il)
            if reads_message:
                heads["harm_message"] = make_head(n_in, (8,), True, 150 + il)
        if il in STEERED_LAYERS:
            for i, head in enumerate(("fr", "jb") if gated else ("merged",)):
                heads[head] = make_head(n_in, (16,), bool(il % 2), 200 + 10 * i + il)
        if heads:
            layers[il] = LayerEnergy(il, make_subspace(n_embd, RANK, il) if subspace else None, heads)
    gate = GateSpec(
        bias=0.5, weights={1: 1.0, 2: -0.5}, benign=ALWAYS, harmful=2 * ALWAYS,
        message_weights={1: -2.0, 2: 3.0} if reads_message else {},
    )  # fmt: skip
    settings = {
        "gate": gate if gated else None, "layers": STEERED_LAYERS,
        "heads": ("fr", "jb") if gated else ("merged",), "steps": 3, "step_size": 0.15, "n_tokens": 3, "decay": 0.8,
        "covariance": subspace,
    }  # fmt: skip
    spec = SteeringSpec(**{**settings, **changes})
    return EnergyFile(ModelFingerprint.from_gguf(path), spec, EnergyModel(n_embd, layers))


def tolerance(arch: str) -> float:
    """Allowed difference of logits and rows, about 10 in size, of one computation that is cut in two ways.

    gemma3's GELU comes from a half-precision table: a value at a rounding boundary may fall to either side.
    """
    return 0.02 if arch == "gemma3" else 2e-4


class Answer(NamedTuple):
    """A greedy answer."""

    tokens: list[int]
    logits: Floats  # (n_tokens, n_vocab)

    def same_bits(self, other: Answer) -> bool:
        return self.tokens == other.tokens and np.array_equal(self.logits, other.logits)

    def is_far(self, other: Answer) -> bool:
        """More than rounding can do."""
        return self.deviation(other) > 0.1

    def is_close(self, other: Answer, arch: str = "llama") -> bool:
        return self.tokens == other.tokens and self.deviation(other) < tolerance(arch)

    def deviation(self, other: Answer) -> float:
        """The largest difference of logits, up to the first token that differs."""
        n = next((i for i, (a, b) in enumerate(zip(self.tokens, other.tokens, strict=True)) if a != b), None)
        until = len(self.tokens) if n is None else n + 1
        return float(np.abs(self.logits[:until] - other.logits[:until]).max())


def last_logits(llm: Llama) -> Floats:
    """Logits (n_vocab,) of the row decoded last."""
    return np.ctypeslib.as_array(llama_api.llama_get_logits_ith(llm.ctx, -1), (llm.n_vocab(),)).copy()


def answer(llm: Llama, prompt: Sequence[int], n: int = 6, **sampling: Any) -> Answer:
    """n greedy tokens after the prompt."""
    tokens, logits = [], []
    for token in llm.generate(list(prompt), temp=0.0, **sampling):
        tokens.append(token)
        logits.append(last_logits(llm))
        if len(tokens) == n:
            break
    return Answer(tokens, np.stack(logits))


def evaluate(llm: Llama, prompt: Sequence[int], then: Sequence[int] = ()) -> Floats:
    """Logits (1 + len(then), n_vocab) of the prompt's last token and of those fed one by one after it."""
    llm.reset()
    llm.eval(list(prompt))
    logits = [last_logits(llm)]
    for token in then:
        llm.eval([token])
        logits.append(last_logits(llm))
    return np.stack(logits)


@contextmanager
def counted_rows(llm: EdgeLlama, monkeypatch: Any) -> Iterator[list[int]]:
    """The number of rows of every decode of this session, while it lasts."""
    n_rows: list[int] = []
    decode = llm._ctx.decode

    def counting(batch: Any) -> None:
        n_rows.append(batch.batch.n_tokens)
        decode(batch)

    with monkeypatch.context() as patch:
        patch.setattr(llm._ctx, "decode", counting)
        yield n_rows
