"""Collecting: what lies on the disk is what the model computed, and a run that was stopped goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from edge_eds.errors import InputError
from edge_eds.pipeline import collect as stage
from edge_eds.pipeline.collect import Collection, CollectSettings, collect, load_collection
from edge_eds.pipeline.prompts import OrdinaryPrompt, PromptPair, PromptSet
from edge_eds.runtime.batch import BatchRunner
from edge_eds.runtime.energies import ModelFiles

N_PAIRS = 4
SETTINGS = CollectSettings(max_new_tokens=3)
TinyModel = Callable[..., Path]


def prompt_set(word: str = "clouds") -> PromptSet:
    """4 pairs and 4 ordinary prompts, half of each in training and half in validation; one pair for the test."""
    splits = ["train", "validation"] * (N_PAIRS // 2)
    pairs = [PromptPair(f"p{i}", "c", s, f"why do {word} {i} rain", f"harm {word} {i}") for i, s in enumerate(splits)]
    pairs.append(PromptPair("unseen", "c", "test", "never asked", "never asked either"))
    ordinary = [OrdinaryPrompt(f"o{i}", "c", s, f"name {i} {word}") for i, s in enumerate(splits)]
    return PromptSet(tuple(pairs), tuple(ordinary))


@contextmanager
def runner_of(gguf: Path) -> Iterator[BatchRunner]:
    with BatchRunner(ModelFiles(gguf), n_parallel=3, n_ctx=128, n_threads=1) as runner:
        yield runner


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "SHARD_SIZE", 5)


def same(a: Collection, b: Collection) -> bool:
    same_states = np.array_equal(a.states, b.states) and np.array_equal(a.message_states, b.message_states)
    return a.examples == b.examples and same_states and a.layers == b.layers


def test_states_are_those_at_the_end_of_the_prompt(tiny: TinyModel, tmp_path: Path) -> None:
    with runner_of(tiny("llama")) as runner:
        collection = collect(runner, prompt_set(), tmp_path, SETTINGS)
        assert [example.split for example in collection.examples].count("test") == 0
        assert len(collection.examples) == 3 * N_PAIRS
        for row in (0, 1, 2 * N_PAIRS):
            tokens = runner.chat_tokens(collection.examples[row].prompt)
            expected = runner.session.capture(tokens, collection.layers)
            for il in collection.layers:
                captured = collection.layer(il)[row]
                np.testing.assert_allclose(captured, expected[il][-1], rtol=5e-3, atol=5e-3)  # float16 on disk


def test_a_stopped_run_goes_on_and_asks_nothing_twice(tiny: TinyModel, tmp_path: Path) -> None:
    with runner_of(tiny("llama")) as runner:
        whole = collect(runner, prompt_set(), tmp_path / "whole", SETTINGS)
        asked: list[int] = []
        generate = runner.generate

        def counting(prompts, **settings):  # type: ignore[no-untyped-def]
            asked.append(len(prompts))
            if len(asked) == 2:
                raise KeyboardInterrupt
            return generate(prompts, **settings)

        runner.generate = counting  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            collect(runner, prompt_set(), tmp_path / "part", SETTINGS)
        with pytest.raises(InputError, match="not finished"):
            load_collection(tmp_path / "part")
        done: list[tuple[int, int]] = []
        resumed = collect(runner, prompt_set(), tmp_path / "part", SETTINGS, lambda n, total: done.append((n, total)))
    assert asked == [5, 5, 5, 2]  # the second was interrupted and is asked again
    assert (done[0], done[-1][1]) == ((5, 12), 12)
    assert same(whole, resumed)


def test_a_shard_without_its_answers_is_collected_again(tiny: TinyModel, tmp_path: Path) -> None:
    with runner_of(tiny("llama")) as runner:
        whole = collect(runner, prompt_set(), tmp_path, SETTINGS)
        (tmp_path / "shard-00001.jsonl").unlink()
        assert same(whole, collect(runner, prompt_set(), tmp_path, SETTINGS))


def test_a_folder_of_something_else_is_refused(tiny: TinyModel, tmp_path: Path) -> None:
    with runner_of(tiny("llama")) as runner:
        collect(runner, prompt_set(), tmp_path, SETTINGS)
        with pytest.raises(InputError, match="another prompt set hash"):
            collect(runner, prompt_set("rivers"), tmp_path, SETTINGS)
        with pytest.raises(InputError, match="another settings"):
            collect(runner, prompt_set(), tmp_path, CollectSettings(max_new_tokens=4))
    with runner_of(tiny("qwen3")) as runner, pytest.raises(InputError, match="another fingerprint"):
        collect(runner, prompt_set(), tmp_path, SETTINGS)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "collect.json").unlink(), "holds no collection"),
        (lambda folder: (folder / "collect.json").write_text("{"), "cannot be read"),
        (lambda folder: (folder / "collect.json").write_text("{}"), "is not a collection"),
        (lambda folder: (folder / "shard-00000.npy").write_bytes(b"\x93NUMPY"), "is damaged"),
        (lambda folder: (folder / "shard-00000.jsonl").write_text("{}\n"), "does not fit its states"),
    ],
)
def test_damage_is_named(
    tiny: TinyModel, tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    with runner_of(tiny("llama")) as runner:
        collect(runner, prompt_set(), tmp_path, SETTINGS)
    damage(tmp_path)
    with pytest.raises(InputError, match=message):
        load_collection(tmp_path)


def test_the_neighbour_of_the_states_says_what_they_are(tiny: TinyModel, tmp_path: Path) -> None:
    with runner_of(tiny("llama")) as runner:
        collect(runner, prompt_set(), tmp_path, SETTINGS)
    first = json.loads((tmp_path / "shard-00000.jsonl").read_text().splitlines()[0])
    assert (first["id"], first["group"], first["intent"], first["split"]) == ("p0-benign", "p0", "benign", "train")
