"""The tiny models are fit to test with: reproducible, able to read any text, and every layer matters."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama_cpp import Llama
from reference_transformer import ReferenceTransformer
from runtime_examples import SETTINGS, evaluate, make_prompt
from tiny_gguf import ARCHITECTURES, SPECIAL_TOKENS, tiny_gguf

from edge_eds import EdgeLlama
from edge_eds.energy.fingerprint import ModelFingerprint

TinyModel = Callable[..., Path]


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_same_arguments_give_the_same_file_and_another_seed_other_weights(arch: str, tmp_path: Path) -> None:
    first, again, other = (
        tiny_gguf(arch, tmp_path / f"{i}.gguf", seed=seed) for i, seed in enumerate((0, 0, 1))
    )
    assert first.read_bytes() == again.read_bytes()
    assert first.read_bytes() != other.read_bytes()


@pytest.mark.parametrize(
    "text", ["", "Hello there, and the rest\n\n\t", "böse 你好 🙂", "a\x00b", " 1234567  "]
)
def test_any_text_survives_tokenizing(tiny: TinyModel, text: str) -> None:
    with closing(Llama(str(tiny("llama")), vocab_only=True, verbose=False)) as llm:
        tokens = llm.tokenize(text.encode(), add_bos=False)
        assert llm.detokenize(tokens).decode() == text


def test_special_tokens_are_single_tokens(tiny: TinyModel) -> None:
    with closing(Llama(str(tiny("llama")), vocab_only=True, verbose=False)) as llm:
        assert llm.tokenize("".join(SPECIAL_TOKENS).encode(), special=True) == [0, 1, 2]


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_block_changes_the_stream_by_about_its_length(tiny: TinyModel, arch: str) -> None:
    states = ReferenceTransformer(tiny(arch)).forward(range(40, 80)).l_out
    for il in range(1, len(states)):
        change = np.linalg.norm(states[il] - states[il - 1], axis=1) / np.linalg.norm(states[il - 1], axis=1)
        assert 0.2 < np.median(change) < 2
        assert change.max() < 6


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_past_matters(tiny: TinyModel, arch: str) -> None:
    """Another first token moves the last one's state: what is captured depends on the cache."""
    model = ReferenceTransformer(tiny(arch))
    one, other = (model.forward([first, *range(40, 46)]).l_out[3][-1] for first in (10, 20))
    assert np.linalg.norm(one - other) > 1e-3 * np.linalg.norm(one)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_greedy_answers_run_to_their_limit(tiny: TinyModel, arch: str) -> None:
    settings: dict[str, Any] = {"n_ctx": 128, "n_threads": 1, "n_threads_batch": 1, "verbose": False}
    with closing(Llama(str(tiny(arch)), **settings)) as llm:
        answer: Any = llm.create_chat_completion(
            messages=[{"role": "user", "content": "Hello"}], max_tokens=40, temperature=0
        )
    assert answer["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("quant", ["f16", "q8_0", "q4_0"])
def test_quantized_models_load(tmp_path: Path, quant: str) -> None:
    path = tiny_gguf("llama", tmp_path / "model.gguf", quant=quant)
    with closing(Llama(str(path), n_ctx=32, n_threads=1, verbose=False)) as llm:
        llm.eval([5, 6, 7])
        assert np.isfinite(llm._scores).all()


def test_a_model_in_parts_is_the_whole_one(tiny: TinyModel, tmp_path: Path) -> None:
    parts = tiny_gguf("llama", tmp_path / "tiny.gguf", tensors_a_part=20)
    assert parts.name == "tiny-00001-of-00002.gguf"
    assert ModelFingerprint.from_gguf(parts) == ModelFingerprint.from_gguf(tiny("llama"))
    logits = []
    for path in (parts, tiny("llama")):
        with closing(EdgeLlama(path, energy=None, **SETTINGS)) as llm:
            logits.append(evaluate(llm, make_prompt(9)))
    assert np.array_equal(*logits)
