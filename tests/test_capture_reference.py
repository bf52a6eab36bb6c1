"""What `capture` reads from llama.cpp equals an independent NumPy transformer on the same weights."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from llama_cpp import Llama
from reference_transformer import Forward, ReferenceTransformer
from tiny_gguf import ARCHITECTURES, SLIDING_WINDOW

from edge_eds import EdgeLlama

TinyModel = Callable[..., Path]

N_TOKENS = 61  # more than gemma3's window, and no multiple of any batch size below
TOKENS = [int(token) for token in np.random.default_rng(7).integers(3, 259, N_TOKENS)]
GGML_TYPE_F32 = 0
# The cache in float32, as the reference has it; llama.cpp's default is half precision.
SETTINGS: dict[str, Any] = {
    "n_ctx": 128, "n_threads": 1, "n_threads_batch": 1, "type_k": GGML_TYPE_F32, "type_v": GGML_TYPE_F32,
    "verbose": False,
}  # fmt: skip
BATCHES = [(512, 512), (512, 3), (16, 512), (16, 3)]

assert SLIDING_WINDOW < N_TOKENS


def tolerance(arch: str) -> float:
    """Allowed distance of a row from the reference, relative to its length.

    Float32 sums over 4 layers were seen to deviate by 2e-6. GELU comes from a half-precision table: a value
    at a rounding boundary may fall to either side, which was seen to cost 1e-4.
    """
    return 5e-4 if arch in ("gemma3", "gpt2") else 1e-5


@cache
def reference(path: Path) -> Forward:
    return ReferenceTransformer(path).forward(TOKENS)


def deviation(rows: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    """The largest distance of a row from what is expected, relative to the expected row's length."""
    return float((np.linalg.norm(rows - expected, axis=1) / np.linalg.norm(expected, axis=1)).max())


@pytest.mark.parametrize(("n_batch", "n_ubatch"), BATCHES)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_captured_rows_equal_the_reference(tiny: TinyModel, arch: str, n_batch: int, n_ubatch: int) -> None:
    path = tiny(arch)
    with closing(EdgeLlama(path, energy=None, n_batch=n_batch, n_ubatch=n_ubatch, **SETTINGS)) as llm:
        captured = llm.capture(TOKENS)
    expected = reference(path).l_out
    assert captured.keys() == expected.keys()
    for il, rows in captured.items():
        assert rows.dtype == np.float32
        assert rows.shape == expected[il].shape
        assert deviation(rows, expected[il]) < tolerance(arch), f"layer {il}"


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_logits_of_plain_llama_cpp_equal_the_reference(tiny: TinyModel, arch: str) -> None:
    """The reference itself is right to the end, by a way that edge-eds has no part in."""
    path = tiny(arch)
    with closing(Llama(str(path), n_batch=16, n_ubatch=3, logits_all=True, **SETTINGS)) as llm:
        llm.eval(TOKENS)
        logits = llm.scores[:N_TOKENS].copy()
    assert deviation(logits, reference(path).logits) < tolerance(arch)


@pytest.mark.parametrize("n_batch", [512, 1])
@pytest.mark.parametrize("arch", ["llama", "mamba"])
def test_capture_one_token_at_a_time(tiny: TinyModel, arch: str, n_batch: int) -> None:
    path = tiny(arch)
    with closing(EdgeLlama(path, energy=None, n_batch=n_batch, n_ubatch=1, **SETTINGS)) as llm:
        captured = llm.capture(TOKENS)
    for il, rows in captured.items():
        assert deviation(rows, reference(path).l_out[il]) < tolerance(arch), f"layer {il}"


@pytest.mark.parametrize("arch", ["llama", "gemma3", "lfm2"])
def test_capture_of_a_deeper_and_wider_model(tiny: TinyModel, arch: str) -> None:
    path = tiny(arch, n_layer=9, n_embd=96, seed=3)
    with closing(EdgeLlama(path, energy=None, n_batch=32, n_ubatch=8, **SETTINGS)) as llm:
        captured = llm.capture(TOKENS, layers=[7, 0, 4])
    expected = reference(path).l_out
    assert sorted(captured) == [0, 4, 7]
    for il, rows in captured.items():
        assert deviation(rows, expected[il]) < tolerance(arch), f"layer {il}"


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_capture_leaves_nothing_behind(tiny: TinyModel, arch: str) -> None:
    """A capture after another and after an answer is as the first: no state of a recurrent layer stays."""
    path = tiny(arch)
    with closing(EdgeLlama(path, energy=None, n_batch=16, n_ubatch=3, **SETTINGS)) as llm:
        llm.capture(TOKENS[::-1])
        llm.create_completion("the answer before", max_tokens=5, temperature=0)
        captured = llm.capture(TOKENS)
    for il, rows in captured.items():
        assert deviation(rows, reference(path).l_out[il]) < tolerance(arch), f"layer {il}"
