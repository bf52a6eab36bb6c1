"""`edge-eds run`: the answer on stdout, the document of --json, and that steering is what it says it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import assert_one_line, edge_eds
from steered_model import steered_model

SHORT = ("--max-tokens", 6, "--threads", 1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return steered_model(tmp_path_factory.mktemp("model"))


def document(*args: object) -> dict[str, Any]:
    outcome = edge_eds("run", *args, "--json")
    assert (outcome.code, outcome.stderr) == (0, "")
    return json.loads(outcome.stdout)


def test_the_answer_alone_goes_to_stdout(model: Path) -> None:
    outcome = edge_eds("run", model, "-p", "hi", *SHORT)
    assert outcome.code == 0
    assert outcome.stdout.rstrip("\n") == document(model, "-p", "hi", *SHORT)["text"].rstrip("\n")
    assert "gate benign" in outcome.stderr
    assert "\x1b" not in outcome.stdout + outcome.stderr


def test_the_document_has_the_shape_that_scripts_rely_on(model: Path) -> None:
    found = document(model, "-p", "hi", *SHORT)
    assert list(found) == ["text", "model", "finish_reason", "steering", "timings"]
    assert (found["model"], found["finish_reason"]) == ("tiny.gguf", "length")
    steering = found["steering"]
    assert list(steering) == [
        "gate", "gate_score", "refusal_in_sight", "touched_tokens", "energy_before", "energy_after"
    ]  # fmt: skip
    assert (steering["gate"], steering["touched_tokens"]) == ("benign", 2)
    assert steering["energy_after"] < steering["energy_before"]
    assert found["timings"]["prompt_tokens"] > 0
    assert found["timings"]["completion_tokens"] >= 6  # llama-cpp-python ends no answer within a letter


def test_unsteered_the_document_says_so(model: Path) -> None:
    for options in (("--energy", "none"), ("--strength", "0")):
        steering = document(model, "-p", "hi", *SHORT, *options)["steering"]
        assert steering["gate"] is None
        assert (steering["touched_tokens"], steering["energy_before"], steering["energy_after"]) == (
            0,
            None,
            None,
        )


def test_strength_0_is_the_plain_model(model: Path) -> None:
    plain = document(model, "-p", "hi", *SHORT, "--energy", "none")["text"]
    assert document(model, "-p", "hi", *SHORT, "--strength", "0")["text"] == plain
    assert document(model, "-p", "hi", *SHORT)["text"] != plain


def test_compare_adds_the_plain_answer(model: Path) -> None:
    found = document(model, "-p", "hi", *SHORT, "--compare")
    assert found["text"] == document(model, "-p", "hi", *SHORT)["text"]
    assert found["plain"]["text"] == document(model, "-p", "hi", *SHORT, "--energy", "none")["text"]
    assert found["plain"]["steering"]["touched_tokens"] == 0
    assert "without steering" in edge_eds("run", model, "-p", "hi", *SHORT, "--compare").stdout


def test_the_same_seed_gives_the_same_answer(model: Path) -> None:
    warm = (model, "-p", "hi", *SHORT, "--temperature", "1.5")
    assert document(*warm, "--seed", 3)["text"] == document(*warm, "--seed", 3)["text"]
    assert len({document(*warm, "--seed", seed)["text"] for seed in range(4)}) > 1


def test_the_prompt_may_come_from_stdin(model: Path) -> None:
    from_stdin = edge_eds("run", model, "-p", "-", *SHORT, stdin="hi\n")
    assert (from_stdin.code, from_stdin.stdout) == (0, edge_eds("run", model, "-p", "hi", *SHORT).stdout)


def test_the_system_prompt_is_part_of_the_prompt(model: Path) -> None:
    plain, longer = (document(model, "-p", "hi", *SHORT, *extra) for extra in ((), ("--system", "Be brief.")))
    assert longer["timings"]["prompt_tokens"] > plain["timings"]["prompt_tokens"]


def test_out_writes_what_json_prints(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "answer.json"
    outcome = edge_eds("run", model, "-p", "hi", *SHORT, "--json", "--out", path)
    assert json.loads(path.read_text("utf-8")) == json.loads(outcome.stdout)


def test_an_unwritable_out_is_one_line(model: Path, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "no" / "folder.json"):
        outcome = edge_eds("run", model, "-p", "hi", *SHORT, "--json", "--out", path)
        assert_one_line(outcome, (str(path),))


def test_an_empty_prompt_is_one_line(model: Path) -> None:
    assert_one_line(edge_eds("run", model, "-p", "  "), ("prompt is empty",))


def test_a_prompt_longer_than_the_context_is_one_line(model: Path) -> None:
    outcome = edge_eds("run", model, "-p", "word " * 500, "--ctx", 256)
    assert_one_line(outcome, ("context", "256", "--ctx"))
