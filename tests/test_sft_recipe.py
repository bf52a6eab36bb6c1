"""The recipe of the fine-tuned LoRA: it starts from what the over-cautious adapter's file holds."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from edge_eds.pipeline.prompts import builtin_prompts

MODELS = Path(__file__).resolve().parent.parent / "models"


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module, found beside the one that it imports."""
    monkeypatch.syspath_prepend(str(MODELS))
    return importlib.import_module("train_sft_lora")


def test_reading_an_adapter_is_the_inverse_of_writing_it(recipe: ModuleType, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    parameters = {
        f"blk.0.{name}.weight.lora_{side}": rng.normal(size=shape).astype(np.float16).astype(np.float32)
        for name in ("attn_q", "attn_k", "ffn_up")
        for side, shape in (("a", (2, 24)), ("b", (24, 2)))
    }
    tensors = recipe.adapter_tensors(parameters, 3, 1)
    recipe.write_adapter(tmp_path / "x.lora.gguf", tensors, recipe.Recipe(), "", "")
    found = recipe.adapter_parameters(tmp_path / "x.lora.gguf", 3, 1)
    assert found.keys() == parameters.keys()
    for name, weight in parameters.items():
        assert np.array_equal(found[name], weight)


def test_the_shipped_adapter_is_where_training_begins(recipe: ModuleType) -> None:
    torch = pytest.importorskip("torch")
    weights = recipe.adapter_parameters(recipe.ADAPTER, 9, 3)
    parameters = {name: torch.nn.Parameter(torch.zeros(weight.shape)) for name, weight in weights.items()}
    recipe.start_from(parameters, weights)
    assert all(np.array_equal(parameters[name].detach().numpy(), weight) for name, weight in weights.items())
    name, parameter = parameters.popitem()
    parameters[name] = torch.nn.Parameter(parameter[:-1])
    with pytest.raises(SystemExit, match="other tensors"):
        recipe.start_from(parameters, weights)


def test_only_the_training_split_is_trained_on(recipe: ModuleType) -> None:
    benign, harmful, ordinary = recipe.training_prompts(None, None, 0)
    held_out = [builtin_prompts().split(name) for name in ("validation", "test")]
    unseen = {prompt.text for prompts in held_out for prompt in prompts.labelled()}
    unseen |= {one.prompt for prompts in held_out for one in prompts.ordinary}
    assert not unseen & {*benign, *harmful, *ordinary}
    assert len(benign) == len(harmful) > 100
    few = recipe.training_prompts(10, 5, 0)
    assert [len(part) for part in few] == [10, 10, 5]
    assert few == recipe.training_prompts(10, 5, 0) != recipe.training_prompts(10, 5, 1)
