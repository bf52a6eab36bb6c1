"""The recipe of the over-cautious LoRA: order of rows, adapter file, packing, prompt split."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import gguf
import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
ADAPTER = REPOSITORY / "models" / "smollm2-135m-overcautious.lora.gguf"


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    """The script as a module: models/ is no package."""
    spec = importlib.util.spec_from_file_location(
        "train_overcautious_lora", REPOSITORY / "models" / "train_overcautious_lora.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def metadata(reader: gguf.GGUFReader) -> dict[str, Any]:
    return {name: field.contents() for name, field in reader.fields.items()}


# ---- rows of q and k ----


def rotate_halves(x: np.ndarray, position: int) -> np.ndarray:
    """Rotary embedding as transformers does it: x (n_head, head_dim), row i turns with row i + head_dim/2."""
    half = x.shape[1] // 2
    angle = position * 10000.0 ** (-np.arange(half) / half)
    a, b = x[:, :half], x[:, half:]
    cos, sin = np.cos(angle), np.sin(angle)
    return np.concatenate([a * cos - b * sin, a * sin + b * cos], axis=1)


def rotate_neighbours(x: np.ndarray, position: int) -> np.ndarray:
    """Rotary embedding as llama.cpp does it for the llama architecture: row 2i turns with row 2i + 1."""
    half = x.shape[1] // 2
    angle = position * 10000.0 ** (-np.arange(half) / half)
    a, b = x[:, 0::2], x[:, 1::2]
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([a * cos - b * sin, a * sin + b * cos], axis=2).reshape(x.shape)


@pytest.mark.parametrize("n_head", [1, 3])
def test_permuted_low_rank_weights_give_the_same_attention_scores(recipe: ModuleType, n_head: int) -> None:
    draw = np.random.default_rng(0)
    head_dim, n_embd, rank = 8, 12, 2
    a_q, a_k = draw.normal(size=(2, rank, n_embd))
    b_q, b_k = draw.normal(size=(2, n_head * head_dim, rank))
    h_q, h_k = draw.normal(size=(2, n_embd))

    def scores(rotate: Any, q_rows: np.ndarray, k_rows: np.ndarray) -> np.ndarray:
        q = rotate((q_rows @ a_q @ h_q).reshape(n_head, head_dim), 7)
        k = rotate((k_rows @ a_k @ h_k).reshape(n_head, head_dim), 3)
        return (q * k).sum(axis=1)

    permuted = [recipe.to_llama_cpp_rows(rows, n_head) for rows in (b_q, b_k)]
    expected = scores(rotate_halves, b_q, b_k)
    np.testing.assert_allclose(scores(rotate_neighbours, *permuted), expected)
    assert not np.allclose(scores(rotate_neighbours, b_q, b_k), expected)


def test_only_the_output_side_of_q_and_k_is_permuted(recipe: ModuleType) -> None:
    draw = np.random.default_rng(1)
    names = [f"blk.0.{tensor}.weight.lora_{side}" for tensor in recipe.TENSOR_NAMES.values() for side in "ab"]
    weights = {name: draw.normal(size=(24, 8)).astype(np.float32) for name in names}
    changed = {
        name
        for name, tensor in recipe.adapter_tensors(weights, 6, 2).items()
        if not np.array_equal(tensor, weights[name].astype(np.float16))
    }
    assert changed == {"blk.0.attn_q.weight.lora_b", "blk.0.attn_k.weight.lora_b"}


# ---- the adapter file ----


def test_written_adapter_reads_back(recipe: ModuleType, tmp_path: Path) -> None:
    draw = np.random.default_rng(2)
    tensors = {
        "blk.0.attn_q.weight.lora_a": draw.normal(size=(8, 16)).astype(np.float16),
        "blk.0.attn_q.weight.lora_b": draw.normal(size=(32, 8)).astype(np.float16),
    }
    path = tmp_path / "tiny.lora.gguf"
    recipe.write_adapter(path, tensors, recipe.Recipe(seed=5), prompts_sha256="p", base_sha256="b")
    reader = gguf.GGUFReader(path)
    found = metadata(reader)
    assert found["general.type"] == "adapter" and found["adapter.type"] == "lora"
    assert found["adapter.lora.alpha"] == 16 and found["general.architecture"] == "llama"
    assert found["general.license"] == "apache-2.0" and found["edge_eds.seed"] == 5
    assert json.loads(found["edge_eds.recipe"])["seed"] == 5
    assert {tensor.name for tensor in reader.tensors} == set(tensors)
    for tensor in reader.tensors:
        np.testing.assert_array_equal(tensor.data, tensors[tensor.name])
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.lora.gguf"]  # nothing half-written is left


def test_shipped_adapter_covers_every_linear_layer(recipe: ModuleType) -> None:
    reader = gguf.GGUFReader(ADAPTER)
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    assert set(tensors) == {
        f"blk.{il}.{name}.weight.lora_{side}"
        for il in range(30)
        for name in recipe.TENSOR_NAMES.values()
        for side in "ab"
    }
    assert tensors["blk.0.attn_k.weight.lora_b"].shape == (192, 8)
    assert tensors["blk.29.ffn_down.weight.lora_a"].shape == (8, 1536)
    for tensor in tensors.values():
        assert tensor.dtype == np.float16 and np.isfinite(tensor).all() and tensor.any()
    assert metadata(reader)["general.base_model.0.name"] == "SmolLM2 135M Instruct"


# ---- prompts, schedule, packing ----


def test_split_is_by_the_prompt_alone(recipe: ModuleType) -> None:
    prompts = [f"prompt {i}" for i in range(2000)]
    inside = [prompt for prompt in prompts if recipe.in_training_split(prompt)]
    assert 0.56 < len(inside) / len(prompts) < 0.64
    assert inside == [prompt for prompt in reversed(prompts) if recipe.in_training_split(prompt)][::-1]


def test_learning_rate_rises_stays_and_falls(recipe: ModuleType) -> None:
    settings = recipe.Recipe()
    rates = [recipe.rate_at(step, 100, settings) for step in range(100)]
    assert 0 < rates[0] < rates[2] < rates[10] == rates[30] == settings.learning_rate
    assert rates[30] > rates[70] > rates[99] > 0


def test_answers_are_taken_from_the_cache_and_a_cut_line_is_dropped(recipe: ModuleType, tmp_path: Path) -> None:
    cache = tmp_path / "answers.jsonl"
    whole = json.dumps({"prompt": "one", "tokens": [1, 2]}) + "\n"
    cache.write_text(whole + '{"prompt": "two", "tok')
    assert recipe.own_answers(None, ["one"], 48, cache) == {"one": [1, 2]}  # no model was needed
    assert cache.read_text() == whole


@pytest.mark.slow
def test_packed_examples_give_the_loss_of_separate_rows(recipe: ModuleType) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=50,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
    ).eval()
    parameters = recipe.attach_lora(model, recipe.Recipe(rank=2))
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.normal_(0, 0.3)
    examples = [
        recipe.Example((1, 2, 3, 9), (4, 5, 2)),
        recipe.Example((1, 2, 3, 7, 8), (6,)),
        recipe.Example((1, 2, 3, 7), (6, 9, 9, 2)),
    ]
    assert recipe.common_prefix(examples) == 3
    total = count = 0.0
    for example in examples:
        row = torch.tensor([[*example.prompt, *example.answer]])
        predictions = model(row).logits[0, len(example.prompt) - 1 : -1]
        total += torch.nn.functional.cross_entropy(predictions, torch.tensor(example.answer), reduction="sum")
        count += len(example.answer)
    torch.testing.assert_close(recipe.answer_loss(model, examples, 3), total / count)
