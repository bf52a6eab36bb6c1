"""`edge-eds bench`: the document, the formats, an earlier result beside it, and bad input."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bad_gguf import BAD_MODELS, UNLOADABLE_MODELS, without_chat_template
from bench_examples import SMALL
from command_line import assert_one_line, edge_eds
from llama_cpp import LLAMA_POOLING_TYPE_NONE, Llama
from runtime_examples import TinyModel
from steered_model import steered_model

from edge_eds.apps import benching
from edge_eds.energy.settings import Steering
from edge_eds.errors import InputError, SteeringError
from edge_eds.pipeline.bench import shape_file as shape_module
from edge_eds.pipeline.bench.answering import Batched, BatchOfBoth, BatchOfStates, LoopOfStates
from edge_eds.pipeline.bench.contender import Test
from edge_eds.pipeline.bench.growth import GrowthSettings
from edge_eds.pipeline.bench.lineup import VARIANTS
from edge_eds.pipeline.bench.machine import Room
from edge_eds.pipeline.bench.shapes import SHAPES
from edge_eds.pipeline.bench.start import Launch
from edge_eds.runtime.batch_run import Generation

QUICK = ("-p", "8", "-n", "2", "-r", "1", "--threads", "1")
SOME = "plain,capture-all,steer-default"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return steered_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def result(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What --out has kept."""
    path = tmp_path_factory.mktemp("result") / "result.json"
    assert edge_eds("bench", model, *QUICK, "--variants", SOME, "--out", path, "--json").code == 0
    return path


def test_json_is_one_document_on_the_last_line(model: Path) -> None:
    outcome = edge_eds("bench", model, *QUICK, "--variants", SOME, "--json")
    assert outcome.code == 0
    assert outcome.stdout.count("\n") == 1
    document = json.loads(outcome.stdout)
    assert (document["model"], document["threads"]) == ("tiny.gguf", 1)
    assert {"edge-eds", "llama-cpp-python"} <= set(document["versions"])
    assert [(row["variant"], row["test"]) for row in document["results"]] == [
        (variant, test) for test in ("pp8", "tg2") for variant in SOME.split(",")
    ]
    for row in document["results"]:
        assert row["ratio_low"] <= row["ratio_to_plain"] <= row["ratio_high"]
        assert row["median_ms"] > 0
    steered = document["results"][2]
    assert steered["floor"]["bytes"] > 0
    assert "threads" in outcome.stderr or "CPUs" in outcome.stderr


def test_the_models_own_energies_are_measured_and_random_ones_where_there_are_none(
    model: Path, result: Path
) -> None:
    assert json.loads(result.read_text())["energies"] == "tiny.energy.onnx"
    outcome = edge_eds("bench", model, *QUICK, "--variants", "steer-default", "--energy", "none", "--json")
    assert json.loads(outcome.stdout)["energies"].startswith("random")


def shown(path: Path, output: str) -> str:
    document = json.loads(path.read_text())
    return benching.FORMATS[output](document)


def test_every_format_says_the_same(result: Path) -> None:
    document = json.loads(result.read_text())
    wanted = [(row["variant"], row["test"], row["ratio_to_plain"]) for row in document["results"]]

    def found(rows: list[dict[str, Any]]) -> list[tuple[str, str, float]]:
        return [(row["variant"], row["test"], float(row["ratio_to_plain"])) for row in rows]

    assert found(list(csv.DictReader(io.StringIO(shown(result, "csv"))))) == wanted
    assert found([json.loads(line) for line in shown(result, "jsonl").splitlines()]) == wanted
    assert json.loads(shown(result, "json")) == document
    with sqlite3.connect(":memory:") as base:
        base.executescript(shown(result, "sql"))
        assert base.execute("SELECT variant, test, ratio_to_plain FROM edge_eds_bench").fetchall() == wanted
    lines = [line for line in shown(result, "md").splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    assert len(lines) == 2 + len(wanted)


@pytest.mark.parametrize("output", ["md", "csv", "json", "jsonl", "sql"])
def test_the_command_prints_the_format_that_is_asked_for(output: str, model: Path) -> None:
    outcome = edge_eds("bench", model, *QUICK, "--variants", "idle", "-o", output)
    assert outcome.code == 0
    assert "idle" in outcome.stdout


def test_an_earlier_result_stands_beside_this_one(model: Path, result: Path, tmp_path: Path) -> None:
    document = json.loads(result.read_text())
    for row in document["results"]:
        low_and_high = (0.0, 0.1) if row["variant"] == "plain" else (100.0, 200.0)
        row["ratio_low"], row["ratio_high"] = low_and_high
    earlier = tmp_path / "earlier.json"
    earlier.write_text(json.dumps(document))
    outcome = edge_eds("bench", model, *QUICK, "--variants", f"{SOME},idle", "--against", earlier)
    assert outcome.code == 0
    rows = [line for line in outcome.stdout.splitlines() if line.startswith("|") and "pp8" in line][-4:]
    assert [row.rpartition("|")[0].rpartition("|")[2].strip() for row in rows] == ["slower", "new", "faster", "faster"]
    for programs in (("-o", "csv"), ("--json",)):
        outcome = edge_eds("bench", model, *QUICK, "--variants", "plain", "--against", earlier, *programs)
        assert "ratio then" in outcome.stderr
        assert "ratio then" not in outcome.stdout


def test_a_model_that_cannot_be_steered_is_measured_plain_and_says_so(tiny: TinyModel) -> None:
    outcome = edge_eds("bench", tiny("llama", n_layer=1), *QUICK, "--variants", "plain,idle,steer-15x3")
    assert outcome.code == 0
    assert "steer-15x3 is left out: no layer of this model can be steered" in outcome.stdout
    assert "| idle" in outcome.stdout


def test_a_shape_is_written_once_and_measured(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHAPES, "smollm2", SMALL)
    call = ("bench", "--shape", "smollm2", *QUICK, "--variants", "steer-15x3", "--json")
    first, second = edge_eds(*call), edge_eds(*call)
    assert (first.code, second.code) == (0, 0)
    assert "wrote" in first.stderr and "wrote" not in second.stderr
    assert len(list(home.rglob("*.gguf"))) == 1


def test_a_shape_that_does_not_fit_is_one_line(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shape_module.shape_file, "__defaults__", (None, lambda _: Room(10**9, 10**9)))
    assert_one_line(edge_eds("bench", "--shape", "llama-8b"), ("llama-8b", "5.9 GB", "1.0 GB"))
    assert not list(home.rglob("*.gguf*"))


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--shape", "llama-2b"), ("llama-2b", "llama-1b")),
        (("--variants", "plain,dance"), ("dance", "steer-15x3")),
        (("-o", "xml"), ("xml", "sql")),
        (("-p", "many"), ("-p", "many")),
        (("-p", "0", "-n", "0"), ("nothing to measure",)),
        (("-r", "0"), ("-r is 0",)),
        (("--growth", "-o", "xml"), ("xml", "csv")),
        (("--answers", "0"), ("--answers is 0",)),
        (("--answers", "4", "-n", "2,3"), ("-n is 2,3", "one length")),
        (("--answers", "4", "-n", "1000"), ("-n is 1000",)),
        (("--answers", "4", "-r", "0"), ("-r is 0",)),
        (("--answers", "4", "-o", "xml"), ("xml", "csv")),
        (("--start", "-r", "0"), ("-r is 0",)),
        (("--start", "-o", "xml"), ("xml", "csv")),
        (("--growth", "-r", "0"), ("-r is 0",)),
        (("--growth", "--plot", "/no/such/folder/plot.svg"), ("no folder",)),
        (("--threads", "0"), ("--threads", "1 to")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_bad_options_are_one_line(args: tuple[str, ...], words: tuple[str, ...]) -> None:
    assert_one_line(edge_eds("bench", *args), words)


@pytest.mark.parametrize("name", ["missing file", "not a GGUF", "LoRA adapter", "missing tensor"])
def test_a_model_that_cannot_be_used_is_one_line(name: str, tmp_path: Path) -> None:
    builder, words = {**BAD_MODELS, **UNLOADABLE_MODELS}[name]
    outcome = edge_eds("bench", builder(tmp_path), *QUICK)
    assert (outcome.code, outcome.stdout) == (1, "")
    last = outcome.stderr.splitlines()[-1]
    assert all(word in last for word in ("edge-eds: ", *words))
    assert "Traceback" not in outcome.stderr


@pytest.mark.parametrize("content", ["", "[]", '{"results": 3}', '{"results": [{}]}'], ids=repr)
def test_an_earlier_result_that_is_none_is_told_before_the_work(content: str, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "earlier.json"
    path.write_text(content)
    with pytest.raises(InputError, match="no result of"):
        benching.read_result(path)
    assert_one_line(edge_eds("bench", model, *QUICK, "--against", path), ("earlier.json",))


@pytest.mark.parametrize(
    "args",
    [
        ("model.gguf", "--shape", "llama-1b"),
        ("--plot", "a.svg"),
        ("model.gguf", "--growth"),
        ("--answers", "4", "--shape", "smollm2"),
        ("--start", "--answers", "4"),
        ("--start", "--shape", "smollm2"),
        ("model.gguf", "--chat-format", "chatml"),
    ],
    ids=" ".join,
)
def test_options_that_contradict_each_other_are_wrong_usage(args: tuple[str, ...]) -> None:
    assert edge_eds("bench", *args).code == 2


def test_the_help_names_every_variant_and_shape() -> None:
    words = " ".join(edge_eds("bench", "--help").stdout.split())
    for name in (*VARIANTS, *SHAPES):
        assert f"{name}," in words or f"{name}." in words


def test_growth_prints_its_tables_and_draws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def quick(repetitions: int, n_threads: int, cpu_time: bool) -> GrowthSettings:
        return GrowthSettings(
            repetitions, n_threads, cpu_time, width=64, layers=(1, 4), steps=(3,), ranks=(8,), widths=(64,),
            batches=(1,), prompts=(8,), n_decodes=2, ffn_weights=2**12,
        )  # fmt: skip

    monkeypatch.setattr(benching, "GrowthSettings", quick)
    plot, out = tmp_path / "growth.svg", tmp_path / "growth.json"
    outcome = edge_eds("bench", "--growth", "-r", "1", "--threads", "1", "--plot", plot, "--out", out)
    assert outcome.code == 0
    for words in ("steered layers", "prompt", "Extra us of a decode", "llama-70b"):
        assert words in outcome.stdout
    assert plot.read_text().startswith("<svg")
    document = json.loads(out.read_text())
    rows = list(csv.DictReader(io.StringIO(benching.GROWTH_FORMATS["csv"](document))))
    assert [row["axis"] for row in rows] == [row["axis"] for row in document["growth"]]


def test_answers_are_counted_one_by_one_and_side_by_side(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "answers.json"
    asked = ("--answers", "5", "-n", "2", "-r", "2", "--threads", "1")
    outcome = edge_eds("bench", model, *asked, "--out", out)
    document = json.loads(out.read_text())
    assert outcome.code == 0 and (document["prompts"], document["new_tokens"]) == (5, 2)
    assert [(row["variant"], row["beside"], row["of"]) for row in document["answers"]] == [
        ("loop", "loop", 5),
        ("batch", "loop", 5),
        ("batch-steered", "loop", 5),
        ("loop-states", "loop-states", 5),
        ("batch-states", "loop-states", 5),
        ("loop-both", "loop-both", 10),
        ("batch-both", "loop-both", 10),
    ]
    for row in document["answers"]:
        value, low, high = row["times_as_many"]
        assert 0 < low <= value <= high and row["answers_per_minute"] > 0
        assert f"{row['answers_per_minute']:.0f}" in outcome.stdout
    same = {row["variant"]: row["same_as_loop"] for row in document["answers"]}
    assert same["loop"] == same["batch"] == same["loop-states"] == same["batch-states"] == 5
    unsteered = edge_eds("bench", model, *asked, "--energy", "none", "-o", "csv")
    rows = csv.DictReader(io.StringIO(unsteered.stdout))
    assert [row["variant"] for row in rows] == ["loop", "batch", "loop-states", "batch-states"]


def test_programs_are_started_beside_their_peers(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "start.json"
    outcome = edge_eds("bench", model, "--start", "-r", "1", "--threads", "1", "--out", out)
    assert outcome.code == 0
    document = json.loads(out.read_text())
    assert [(row["variant"], row["peer"]) for row in document["start"]] == [
        ("edge-eds --help", "python"),
        ("edge-eds run", "llama-cpp-python"),
    ]
    assert document["energy_bytes"] == model.with_name(f"{model.stem}.energy.onnx").stat().st_size
    for row in document["start"]:
        assert row["variant"] in outcome.stdout and 0 < row["peer_seconds"] < 60
        assert row["seconds"] - row["peer_seconds"] == pytest.approx(row["extra_seconds"][0])
        assert row["extra_bytes"] is None or abs(row["extra_bytes"][0]) < 2**30
    rows = list(csv.DictReader(io.StringIO(benching.START_FORMATS["csv"](document))))
    assert [row["variant"] for row in rows] == ["edge-eds --help", "edge-eds run"]


@pytest.mark.parametrize("what", [("--answers", "2", "-n", "2"), ("--start",)], ids=" ".join)
def test_a_model_without_a_chat_template_is_asked_in_the_format_that_is_chosen(
    what: tuple[str, ...], tmp_path: Path
) -> None:
    call = ("bench", without_chat_template(tmp_path), *what, "-r", "1", "--threads", "1", "--energy", "none")
    assert_one_line(edge_eds(*call), ("no chat template", "--chat-format chatml"))
    assert edge_eds(*call, "--chat-format", "chatml").code == 0


def test_a_program_that_fails_is_an_error() -> None:
    failing = Launch("this", "-c", "import sys; print('went wrong', file=sys.stderr); sys.exit(3)")
    with pytest.raises(SteeringError, match="this cannot be measured: went wrong"):
        failing.seconds(Test("st", 1))
    with pytest.raises(SteeringError, match="that cannot be measured: it prints nothing"):
        Launch("that", "-c", "").seconds(Test("st", 1))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows tells no child's memory")
def test_the_memory_of_a_program_is_its_own() -> None:
    small, large = Launch("small", "-c", "print()"), Launch("large", "-c", "x = bytearray(200_000_000); print()")
    ballast = bytearray(300_000_000)  # of the process that starts them
    small.seconds(Test("st", 1))
    large.seconds(Test("st", 1))
    assert small.peaks[0] < 60e6 < 200e6 < large.peaks[0] < len(ballast)


def test_answers_without_what_they_are_asked_for_beside_are_an_error() -> None:
    class Bare:
        def generate(self, prompts: Sequence[list[int]], **_: Any) -> list[Generation]:
            return [Generation([1], "a", "length", len(prompt)) for prompt in prompts]

        def generate_both(self, prompts: Sequence[list[int]], **_: Any) -> tuple[list[Generation], list[Generation]]:
            return self.generate(prompts), self.generate(prompts)

    runner: Any = Bare()
    for contender in (Batched(runner, [[1, 2]], 1, Steering()), BatchOfBoth(runner, [[1, 2]], 1)):
        with pytest.raises(SteeringError, match="gate"):
            contender.seconds(Test("an", 1))
    with pytest.raises(SteeringError, match="states"):
        BatchOfStates(runner, [0], [[1, 2]], 1).seconds(Test("an", 1))


def test_the_states_that_a_loop_takes_are_those_of_llama_cpp_python(model: Path) -> None:
    settings: dict[str, Any] = {"n_ctx": 64, "n_threads": 1, "verbose": False}
    text = "What is this?"
    with closing(Llama(str(model), embedding=True, pooling_type=LLAMA_POOLING_TYPE_NONE, **settings)) as embedder:
        tokens = embedder.tokenize(text.encode())
        states = LoopOfStates(embedder, embedder, [tokens], 1)._states(tokens)
        assert np.array_equal(states, np.array(embedder.embed(text), np.float32))
