"""collect, train, tune and fit as commands: where things go, that work is kept, and what people are told."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import assert_one_line, edge_eds
from steered_model import steered_model

from edge_eds.apps import extras, making
from edge_eds.energy.file import EnergyFile
from edge_eds.pipeline import budget as budget_module
from edge_eds.pipeline import fit as fit_module
from edge_eds.pipeline.collect import load_collection
from edge_eds.pipeline.fit import FitResult
from edge_eds.pipeline.methods import load_method
from edge_eds.pipeline.methods.fitting import FittedMethod
from edge_eds.pipeline.methods.search import SearchResult
from edge_eds.pipeline.tune import TuneReport

MAKING = ("collect", "train", "tune", "fit")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model without energies."""
    gguf = steered_model(tmp_path)
    gguf.with_name("tiny.energy.onnx").rename(tmp_path / "kept.onnx")
    return gguf


@pytest.fixture
def prompts(tmp_path: Path) -> tuple[object, ...]:
    """--prompts for two small files: 20 pairs and 6 ordinary requests, in all splits."""
    splits = ("train", "validation", "test")
    pairs = [
        {
            "benign": f"How do I stop task {i}?",
            "harmful": f"How do I hurt person {i}?",
            "split": splits[i % 3],
        }
        for i in range(20)
    ]
    ordinary = [{"prompt": f"Tell me about the number {i}.", "split": splits[i % 3]} for i in range(6)]
    options: list[object] = []
    for name, rows in {"pairs": pairs, "ordinary": ordinary}.items():
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        options += ["--prompts", path]
    return tuple(options)


@pytest.fixture
def fitted(model: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[EnergyFile | None], None]:
    """fitted(energy): `fit` gives this from now on, at once."""

    def give(energy: EnergyFile | None) -> None:
        report = TuneReport(None if energy is None else energy.spec)
        monkeypatch.setattr(making, "fit", lambda *_: FitResult(energy, report))

    give(EnergyFile.load(model.with_name("kept.onnx")))
    return give


def test_collect_keeps_what_it_has_and_goes_on(model: Path, prompts: tuple[object, ...], tmp_path: Path) -> None:
    work = tmp_path / "work"
    call = ("collect", model, *prompts, "--work", work, "--threads", 1, "--json")
    outcome = edge_eds(*call)
    assert outcome.code == 0
    document = json.loads(outcome.stdout)
    assert (document["model"], document["work"]) == ("tiny.gguf", str(work))
    counts = {intent: sum(labels.values()) for intent, labels in document["labels"].items()}
    assert counts == {"benign": 14, "harmful": 14, "ordinary": 4}  # without the test split
    shards = {path: path.stat().st_mtime_ns for path in work.rglob("shard*")}
    assert shards
    assert json.loads(edge_eds(*call).stdout) == document
    assert {path: path.stat().st_mtime_ns for path in work.rglob("shard*")} == shards


def test_the_work_has_a_place_of_its_own_for_each_model(model: Path, prompts: tuple[object, ...], home: Path) -> None:
    document = json.loads(edge_eds("collect", model, *prompts, "--threads", 1, "--json").stdout)
    assert Path(document["work"]).is_relative_to(home)
    assert "collect" in edge_eds("train", model, "--json").stderr  # other prompts: nothing collected yet


def test_fit_leaves_the_energies_where_chat_finds_them(model: Path, fitted: object) -> None:
    outcome = edge_eds("fit", model, "--json")
    assert outcome.code == 0
    beside = model.with_name("tiny.energy.onnx")
    assert json.loads(outcome.stdout)["energy"] == str(beside)
    assert f"wrote {beside}" in outcome.stderr
    assert "gate benign" in edge_eds("chat", model, "--max-tokens", 2, stdin="hi\n").stderr


def test_out_names_the_energy_file(model: Path, fitted: object, tmp_path: Path) -> None:
    path = tmp_path / "mine.energy.onnx"
    outcome = edge_eds("fit", model, "--out", path)
    assert (outcome.code, outcome.stdout) == (0, "")
    assert f"--energy {path}" in outcome.stderr
    assert EnergyFile.load(path)
    assert not model.with_name("tiny.energy.onnx").exists()


def test_a_place_that_cannot_be_written_is_told_before_the_work(model: Path, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "no" / "folder.onnx"):
        for command in ("fit", "tune"):
            assert_one_line(edge_eds(command, model, "--out", path), (str(path),))


def test_nothing_found_is_one_line_and_no_file(model: Path, fitted: Callable[[None], None]) -> None:
    fitted(None)
    outcome = edge_eds("fit", model)
    assert outcome.code == 1
    assert "nothing was written" in outcome.stderr.splitlines()[-1]
    assert not model.with_name("tiny.energy.onnx").exists()


def test_a_budget_and_a_share_that_make_no_sense(model: Path) -> None:
    assert_one_line(edge_eds("fit", model, "--budget", "soon"), ("'soon'", "10m"))
    for command in ("fit", "tune"):
        assert_one_line(edge_eds(command, model, "--max-lost", 2), ("--max-lost is 2", "0 to 1"))


def test_a_budget_asks_a_part_of_the_prompts_and_pairs_stay_whole(
    model: Path, prompts: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget_module, "MIN_PROMPTS", 1)
    monkeypatch.setattr(fit_module, "_answers_per_second", lambda *_: 11 / (0.4 * 60))
    work = tmp_path / "work"
    edge_eds("fit", model, *prompts, "--work", work, "--threads", 1, "--budget", "1m")
    collection = load_collection(work / "collection")
    groups = Counter(example.group for example in collection.examples if example.intent != "ordinary")
    assert 9 <= len(collection.examples) <= 11
    assert set(groups.values()) == {2}


def test_a_fit_that_is_stopped_says_that_it_can_go_on(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(making, "fit", stopped)
    outcome = edge_eds("fit", model)
    assert outcome.code == 130
    assert "goes on where it was" in outcome.stderr


def test_stages_in_the_wrong_order_say_what_is_missing(
    model: Path, prompts: tuple[object, ...], tmp_path: Path
) -> None:
    work = ("--work", tmp_path / "work")
    for command in ("train", "tune"):
        assert_one_line(edge_eds(command, model, *prompts, *work), ("edge-eds collect",))
    edge_eds("collect", model, *prompts, *work, "--threads", 1)
    assert_one_line(edge_eds("tune", model, *prompts, *work), ("edge-eds train",))


@pytest.mark.parametrize("command", MAKING)
def test_without_torch_the_extra_is_named(command: str, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    assert_one_line(edge_eds(command, model), ("torch", "edge-eds[train]"))


@pytest.mark.parametrize("command", MAKING)
def test_bad_input_is_one_line(command: str, model: Path, tmp_path: Path) -> None:
    assert_one_line(edge_eds(command, tmp_path / "missing.gguf"), ("missing.gguf", "no such file"))
    assert_one_line(edge_eds(command, model, "--prompts", tmp_path / "no.csv"), ("no.csv",))
    assert_one_line(edge_eds(command, "hf:model"), ("hf:USER/REPO",))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--method", "magic"), ("unknown method 'magic'", "control-vector")),
        (("--method", "lora-sft"), ("fine-tuned", "--sft-lora")),
        (("--method", "ablation", "--budget", "1h"), ("--budget", "--method")),
        (("--method", "frozen-gradient"), ("no energies", "edge-eds fit")),
    ],
)
def test_a_method_that_cannot_be_fitted_is_one_line(
    model: Path, options: tuple[str, ...], words: tuple[str, ...]
) -> None:
    assert_one_line(edge_eds("fit", model, *options), words)


def test_a_method_without_refusals_to_learn_from_is_one_line(
    model: Path, prompts: tuple[object, ...], tmp_path: Path
) -> None:
    call = ("fit", model, *prompts, "--work", tmp_path / "work", "--threads", 1, "--method", "control-vector")
    outcome = edge_eds(*call)
    assert (outcome.code, outcome.stdout) == (1, "")
    assert outcome.stderr.splitlines()[-1].startswith("edge-eds: ") and "refus" in outcome.stderr.splitlines()[-1]


@pytest.mark.parametrize("kind", ["control-vector.gguf", "interventions.npz", "system.txt", "energy.onnx"])
def test_what_a_method_ends_with_is_left_with_how_to_use_it(
    kind: str, model: Path, prompts: tuple[object, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    chosen = tmp_path / f"chosen.{kind}"
    chosen.write_bytes(b"whatever it holds")
    search = SearchResult((), (), 0, 1, 1, 1)
    found = FittedMethod(load_method("ablation"), None, search, chosen)  # type: ignore[arg-type]
    monkeypatch.setattr(making, "fit_method", lambda *_: found)
    monkeypatch.setattr(making.Bed, "of", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    call = ("fit", model, *prompts, "--work", tmp_path / "work", "--threads", 1, "--method", "ablation")
    outcome = edge_eds(*call, "--json")
    path = tmp_path / f"tiny.ablation.{kind}"
    assert outcome.code == 0 and json.loads(outcome.stdout)["file"] == path.name
    assert path.read_bytes() == chosen.read_bytes() and f"wrote {path.name}; " in outcome.stderr
    monkeypatch.setattr(making, "fit_method", lambda *_: replace(found, file=None))
    path.unlink()
    outcome = edge_eds(*call)
    assert outcome.code == 1 and "nothing is written" in outcome.stderr.splitlines()[-1]
    assert not path.exists()
