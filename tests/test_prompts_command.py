"""`edge-eds prompts`: counts, and copies of a benchmark's prompts, for people, programs and scripts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import assert_one_line, edge_eds

from edge_eds.pipeline.prompts import builtin_harmful, builtin_prompts

PAIRS = "".join(
    f'{{"benign": "Water plant {i}", "harmful": "Poison person {i}", "category": "c"}}\n' for i in range(30)
)


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.jsonl"
    path.write_text(PAIRS, encoding="utf-8")
    return path


def csv_file(path: Path, *prompts: str) -> Path:
    lines = ["prompt,intent", *(f'"{prompt}",benign' for prompt in prompts)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_everything_built_in_is_counted_once() -> None:
    outcome = edge_eds("prompts", "--json")
    assert outcome.code == 0
    document = json.loads(outcome.stdout)
    prompts = builtin_prompts()
    expected = len(prompts.labelled(conversations=True)) + len(prompts.ordinary) + len(builtin_harmful())
    assert document["n"] == sum(count["n"] for count in document["counts"]) == expected
    assert {count["file"] for count in document["counts"]} == {
        "pairs.jsonl", "jailbreaks.jsonl", "multi_turn.jsonl", "ordinary.jsonl", "harmful.jsonl",
    }  # fmt: skip


def test_the_table_has_a_line_for_intents_that_are_equally_many(mine: Path) -> None:
    outcome = edge_eds("prompts", "--prompts", mine)
    assert outcome.code == 0
    assert [line.split() for line in outcome.stdout.splitlines()] == [
        [f"{mine}:", "60", "prompts"],
        ["train", "validation", "test"],
        ["c", "benign", "and", "harmful", "21", "5", "4"],
        ["all", "benign", "and", "harmful", "21", "5", "4"],
    ]


def test_a_set_without_copies_is_clean(mine: Path, tmp_path: Path) -> None:
    benchmark = csv_file(tmp_path / "benchmark.csv", "Which moths eat wool in the attic?")
    outcome = edge_eds("prompts", "--prompts", mine, "--against", benchmark)
    assert (outcome.code, outcome.stderr) == (0, "")
    assert outcome.stdout.startswith("clean: none of the 60 prompts")


def test_copies_are_listed_and_end_in_status_1(mine: Path, tmp_path: Path) -> None:
    copy = csv_file(tmp_path / "copy.csv", "Which moths eat wool?", "Pretend to be evil. Which moths eat the wool?")
    benchmark = csv_file(tmp_path / "benchmark.csv", "which moths eat wool")
    outcome = edge_eds("prompts", "--prompts", copy, "--prompts", mine, "--against", benchmark)
    assert outcome.code == 1
    assert "copy-2 (same words)" in outcome.stdout
    assert "Pretend to be evil" in outcome.stdout
    assert "mine" not in outcome.stdout
    assert outcome.stderr.count("\n") == 1
    assert "2 of 62 prompts come near one in" in outcome.stderr


def test_programs_get_one_document_and_the_status(tmp_path: Path) -> None:
    copy = csv_file(tmp_path / "copy.csv", "Which small moths eat wool carpets?")
    benchmark = csv_file(tmp_path / "benchmark.csv", "which moths eat wool")
    out = tmp_path / "found.json"
    outcome = edge_eds("prompts", "--prompts", copy, "--against", benchmark, "--json", "--out", out)
    assert outcome.code == 1
    document = json.loads(outcome.stdout)
    assert document == json.loads(out.read_text(encoding="utf-8"))
    assert (document["n"], document["clean"], len(document["copies"])) == (1, False, 1)
    assert document["copies"][0]["prompt"]["id"] == "copy-2"
    stricter = edge_eds("prompts", "--prompts", copy, "--against", benchmark, "--threshold", 1)
    assert stricter.code == 0


def test_every_turn_of_a_conversation_is_searched(tmp_path: Path) -> None:
    talk = tmp_path / "talk.json"
    messages = [
        {"role": "user", "content": "Which moths eat wool?"},
        {"role": "assistant", "content": "Clothes moths."},
        {"role": "user", "content": "Thanks."},
    ]
    talk.write_text(json.dumps([{"messages": messages, "intent": "benign"}]), encoding="utf-8")
    benchmark = csv_file(tmp_path / "benchmark.csv", "which moths eat wool")
    assert edge_eds("prompts", "--prompts", talk, "--against", benchmark).code == 1
    # and the other way round
    assert edge_eds("prompts", "--prompts", benchmark, "--against", talk).code == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("question,label\nx,benign\n", ("no column with prompts", "found question, label")),
        ("prompt,intent\nx,benign\n ,benign\n", ("line 3: prompt is empty",)),
        ("prompt,intent\n" + "x" * 120_000 + ",benign\n", ("line 2", "120000 characters, expected at most 100000")),
        ("prompt,intent\n" + "x" * 1_000_000 + ",benign\n", ("line 2", "expected at most 100000")),
        (b"prompt,intent\ncaf\xe9,benign\n", ("not UTF-8 text", "0xe9")),
        ("prompt,intent\nx,unsafe\n", ("line 2: intent is unsafe, expected benign or harmful",)),
        ("".join(["prompt,intent\n", *(f"p{i},benign\n" for i in range(40))]), ("no harmful prompts",)),
        ("benign,harmful\n" + "".join(f"b{i},h{i}\n" for i in range(5)), ("only 5 benign prompts, expected at least",)),
    ],
    ids=["columns", "empty", "long", "megabyte", "utf8", "label", "one-class", "few"],
)
def test_what_is_wrong_with_a_file_is_one_line(tmp_path: Path, content: str | bytes, words: tuple[str, ...]) -> None:
    path = tmp_path / "mine.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert_one_line(edge_eds("prompts", "--prompts", path), [str(path), *words])


def test_wrong_wishes_are_one_line(mine: Path, tmp_path: Path) -> None:
    assert_one_line(edge_eds("prompts", "--against", tmp_path / "none.csv"), ["no such file"])
    assert_one_line(edge_eds("prompts", "--prompts", mine, "--against", mine, "--threshold", 0), ["the threshold is 0"])
    assert_one_line(edge_eds("prompts", "--prompts", mine, "--out", tmp_path), ["is a directory"])
