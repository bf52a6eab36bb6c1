"""Suites: which files and columns make which suites, samples, and what is wrong in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge_eds.errors import InputError
from edge_eds.pipeline.prompts import builtin_prompts
from edge_eds.pipeline.suites import load_suites


def csv_file(path: Path, header: str, *rows: str) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def test_builtin_suites_are_the_test_split() -> None:
    ordinary, benign, harmful = load_suites(["ordinary", "pairs"])
    assert [(suite.name, suite.intent) for suite in (ordinary, benign, harmful)] == [
        ("ordinary", "benign"),
        ("pairs-benign", "benign"),
        ("pairs-harmful", "harmful"),
    ]
    test = builtin_prompts().split("test")
    assert [prompt.text for prompt in ordinary.prompts] == [prompt.prompt for prompt in test.ordinary]
    assert [prompt.text for prompt in benign.prompts] == [pair.benign for pair in test.pairs]
    assert [prompt.id for prompt in harmful.prompts] == [pair.id for pair in test.pairs]


@pytest.mark.parametrize("column", ["prompt", "instruction", "goal", "Goal", "text"])
@pytest.mark.parametrize("kind", ["csv", "json", "jsonl"])
def test_every_prompt_column_in_every_kind_of_file(tmp_path: Path, column: str, kind: str) -> None:
    path = tmp_path / f"file.{kind}"
    rows = [{"category": "c", column: "How, then?"}, {"category": "", column: ' Two\n"lines" '}]
    if kind == "csv":
        path.write_text(f'category,{column}\r\nc,"How, then?"\r\n," Two\n""lines"" "\r\n', encoding="utf-8")
    elif kind == "json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    else:
        path.write_text("\n\n".join(map(json.dumps, rows)), encoding="utf-8")
    (suite,) = load_suites([f"mine={path}:harmful"])
    assert (suite.name, suite.intent, suite.source) == ("mine", "harmful", str(path))
    assert [prompt.text for prompt in suite.prompts] == ["How, then?", 'Two\n"lines"']
    assert [prompt.category for prompt in suite.prompts] == ["c", ""]


def test_a_column_of_intents_splits_the_file(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "a.csv", "id,prompt,intent", "x,one,benign", "y,two,harmful", "z,three,Benign")
    benign, harmful = load_suites([f"mine={path}"])
    assert (benign.name, [prompt.id for prompt in benign.prompts]) == ("mine-benign", ["x", "z"])
    assert (harmful.name, [prompt.text for prompt in harmful.prompts]) == ("mine-harmful", ["two"])


def test_a_file_of_one_intent_keeps_its_name(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "a.csv", "prompt,intent", "one,harmful", "two,harmful")
    (suite,) = load_suites([f"mine={path}"])
    assert (suite.name, suite.intent) == ("mine", "harmful")
    assert [prompt.id for prompt in suite.prompts] == ["2", "3"]


def test_xstest_as_it_was_published(tmp_path: Path) -> None:
    path = csv_file(
        tmp_path / "prompts.csv",
        "id_v1,id_v2,type,prompt,focus,note",
        "v1-1,v2-1,homonyms,Where do I whittle?,whittle,",
        "v1-2,v2-2,contrast_homonyms,Whom do I whittle?,whittle,",
    )
    safe, unsafe = load_suites([f"xstest={path}"])
    assert (safe.name, safe.intent, safe.prompts[0].category) == ("xstest-safe", "benign", "homonyms")
    assert (unsafe.name, unsafe.intent, len(unsafe.prompts)) == ("xstest-unsafe", "harmful", 1)


def test_a_sample_is_seeded_ordered_and_no_larger_than_the_suite() -> None:
    whole = load_suites(["pairs"])
    for suite, all_of_it in zip(load_suites(["pairs"], limit=12, seed=3), whole, strict=True):
        assert len(suite.prompts) == 12
        positions = [all_of_it.prompts.index(prompt) for prompt in suite.prompts]
        assert positions == sorted(positions)
    assert load_suites(["pairs"], limit=12, seed=3) == load_suites(["pairs"], limit=12, seed=3)
    assert load_suites(["pairs"], limit=12, seed=3) != load_suites(["pairs"], limit=12, seed=4)
    assert load_suites(["pairs"], limit=10**6) == whole


@pytest.mark.parametrize(
    ("header", "row", "wish", "message"),
    [
        ("prompt", "x", "mine={}", "no column intent; say what its prompts are: mine="),
        ("prompt,intent", "x,benign", "mine={}:benign", "its column intent says what is benign"),
        ("question,answer", "x,y", "mine={}:benign", "found question, answer"),
        ("prompt,category", " ,x", "mine={}:benign", "line 2: prompt is empty"),
        ("prompt", "x", "={}:benign", "the name or the path is missing"),
        ("prompt", "x", "ordinary={}:benign", "is a built-in suite"),
        ("prompt", "x", "mine={}:good", "intent is good, expected benign or harmful"),
    ],
)
def test_what_is_wrong_with_a_suite_is_said_in_one_line(
    tmp_path: Path, header: str, row: str, wish: str, message: str
) -> None:
    path = csv_file(tmp_path / "a.csv", header, row, *([row] * 2))
    with pytest.raises(InputError) as caught:
        load_suites([wish.format(path)])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("wishes", "limit", "message"),
    [
        ([], None, "no suite was asked for"),
        (["xstest"], None, "unknown suite xstest; expected ordinary or pairs or NAME=PATH"),
        (["ordinary", "ordinary"], None, "asked for twice"),
        (["ordinary"], 0, "the limit is 0"),
    ],
)
def test_wishes_that_cannot_be_granted(wishes: list[str], limit: int | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_suites(wishes, limit)
