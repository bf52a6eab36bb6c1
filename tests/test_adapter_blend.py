"""Blends of two LoRA adapters: exactly the weighted sum of what they add, in a file that llama.cpp applies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from method_examples import make_collection
from runtime_examples import N_LAYER, SETTINGS, TinyModel, evaluate, make_prompt

from edge_eds import EdgeLlama
from edge_eds.errors import InputError
from edge_eds.pipeline.methods.adapter_blend import blend, read_adapter, write_adapter
from edge_eds.pipeline.methods.lora_sft import prepare
from edge_eds.pipeline.methods.method import Context

PROMPT = make_prompt(12)
RANK = 2


def write_lora(
    model: Path, path: Path, *, alpha: float, seed: int, dtype: Any = np.float32, only: int | None = None
) -> Path:
    """A random adapter of all output projections of the attention, or of one layer's."""
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
    for tensor in gguf.GGUFReader(model).tensors:
        if tensor.name.endswith("attn_output.weight") and (only is None or f"blk.{only}." in tensor.name):
            n_in, n_out = (int(n) for n in tensor.shape)
            writer.add_tensor(tensor.name + ".lora_a", rng.normal(size=(RANK, n_in)).astype(dtype))
            writer.add_tensor(tensor.name + ".lora_b", 0.2 * rng.normal(size=(n_out, RANK)).astype(dtype))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def model(tiny: TinyModel) -> Path:
    return tiny("llama", n_layer=N_LAYER)


@pytest.fixture
def adapters(model: Path, tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    yield (
        write_lora(model, tmp_path / "own.lora.gguf", alpha=4.0, seed=1),
        write_lora(model, tmp_path / "tuned.lora.gguf", alpha=1.0, seed=2),
    )


def logits(model: Path, lora: Path | None) -> np.ndarray:
    adapter = None if lora is None else str(lora)
    with closing(EdgeLlama(model, energy=None, lora_path=adapter, **SETTINGS)) as llm:
        return evaluate(llm, PROMPT)


def test_a_blend_is_the_weighted_sum(adapters: tuple[Path, Path]) -> None:
    own, tuned = (read_adapter(path) for path in adapters)
    for t in (0.0, 0.3, 1.0, 1.25):
        blended = blend(own, tuned, t)
        for name, (a, b) in blended.weights.items():
            (a1, b1), (a2, b2) = own.weights[name], tuned.weights[name]
            np.testing.assert_allclose(b @ a, (1 - t) * b1 @ a1 + t * b2 @ a2, atol=1e-4)
            assert len(a) == 2 * RANK
    # alpha / rank is folded in
    raw = {tensor.name: tensor.data for tensor in gguf.GGUFReader(adapters[0]).tensors}
    name = next(iter(own.weights))
    np.testing.assert_allclose(own.weights[name][1], 2.0 * raw[name + ".lora_b"], rtol=1e-6)


def test_llama_cpp_takes_both_ends_for_the_adapters_themselves(
    model: Path, adapters: tuple[Path, Path], tmp_path: Path
) -> None:
    own, tuned = (read_adapter(path) for path in adapters)
    plain = logits(model, None)
    for t, whole in ((0.0, adapters[0]), (1.0, adapters[1])):
        write_adapter(blend(own, tuned, t), tmp_path / "blend.lora.gguf")
        expected = logits(model, whole)
        assert np.abs(logits(model, tmp_path / "blend.lora.gguf") - expected).max() < 0.02  # float16
        assert np.abs(expected - plain).max() > 0.5
    write_adapter(blend(None, tuned, 0.0), tmp_path / "blend.lora.gguf")
    assert np.abs(logits(model, tmp_path / "blend.lora.gguf") - plain).max() < 1e-3


def test_the_method_gives_adapters(model: Path, adapters: tuple[Path, Path], tmp_path: Path) -> None:
    collection = make_collection(model)
    family = prepare(Context(collection, tmp_path, own_adapter=adapters[0], tuned_adapter=adapters[1]))
    steerer = family.steerer({}, 0.6)
    assert steerer.adapter is not None
    assert read_adapter(steerer.adapter).weights.keys() == read_adapter(adapters[0]).weights.keys()
    assert steerer.save(tmp_path / "chosen").read_bytes() == steerer.adapter.read_bytes()
    with pytest.raises(InputError, match=r"train_sft_lora\.py"):
        prepare(Context(collection, tmp_path))


def test_adapters_that_cannot_be_blended(
    model: Path, adapters: tuple[Path, Path], tmp_path: Path, tiny: TinyModel
) -> None:
    with pytest.raises(InputError, match="is no LoRA adapter"):
        read_adapter(model)
    own = read_adapter(adapters[0])
    some = read_adapter(write_lora(model, tmp_path / "some.lora.gguf", alpha=4.0, seed=1, only=2))
    with pytest.raises(InputError, match="same tensors"):
        write_adapter(blend(own, some, 0.5), tmp_path / "out.lora.gguf")
    wide = tiny("llama", n_layer=N_LAYER, n_embd=32)
    other = read_adapter(write_lora(wide, tmp_path / "wide.lora.gguf", alpha=4.0, seed=1))
    with pytest.raises(InputError, match="different sizes"):
        blend(own, other, 0.5)
