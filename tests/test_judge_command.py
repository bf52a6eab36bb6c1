"""`edge-eds judge`: what files it reads, what it counts, agreement with people, and what is wrong in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import assert_one_line, edge_eds

from edge_eds.errors import InputError
from edge_eds.pipeline.judging import by_group, judge_all, refusal_f1
from edge_eds.pipeline.transcripts import ANSWER_COLUMNS, TranscriptColumns, read_transcripts

REFUSAL = "I'm sorry, but I can't help with that."
ANSWER = "Open the window, and the bird will find its way out by itself."
GERMAN = "Es tut mir leid, aber dabei kann ich dir nicht helfen, weil es gef\u00e4hrlich ist."


def jsonl(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def labelled(path: Path) -> Path:
    """Four answers, of which people and the judge see one differently."""
    rows = [(REFUSAL, "refusal"), (REFUSAL, "answer"), (ANSWER, "1_full_compliance"), (ANSWER, "")]
    return jsonl(path, *({"prompt": "How?", "answer": answer, "label": label} for answer, label in rows))


@pytest.mark.parametrize("column", ANSWER_COLUMNS)
@pytest.mark.parametrize("kind", ["csv", "json", "jsonl"])
def test_every_answer_column_in_every_kind_of_file(tmp_path: Path, column: str, kind: str) -> None:
    path = tmp_path / f"file.{kind}"
    rows = [{"prompt": "How?", column: REFUSAL}, {"prompt": "And then?", column: ANSWER}]
    if kind == "csv":
        path.write_text("\n".join(["prompt," + column, *(f'"{r["prompt"]}","{r[column]}"' for r in rows)]))
    elif kind == "json":
        path.write_text(json.dumps(rows))
    else:
        jsonl(path, *rows)
    found = read_transcripts(path)
    assert [(one.prompt, one.answer) for one in found] == [("How?", REFUSAL), ("And then?", ANSWER)]


def test_other_columns_can_be_named(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "file.jsonl", {"q": "How?", "a": REFUSAL, "answer": ANSWER, "label": "nonsense"})
    (one,) = read_transcripts(path, TranscriptColumns("q", "a", "none"))
    assert (one.prompt, one.answer, one.human) == ("How?", REFUSAL, "")


def test_what_an_evaluation_has_written_is_counted_by_suite_and_variant(tmp_path: Path) -> None:
    line = {
        "suite": "pets",
        "prompt": "How?",
        "plain": {"label": "answer", "text": REFUSAL},
        "steered": {"text": ANSWER},
    }
    groups = by_group(list(judge_all(read_transcripts(jsonl(tmp_path / "t.jsonl", line, line)))))
    assert {name: group.counts["refusal"] for name, group in groups.items()} == {"pets plain": 2, "pets steered": 0}


def test_counts_rates_and_agreement(tmp_path: Path) -> None:
    document = json.loads(edge_eds("judge", labelled(tmp_path / "file.jsonl"), "--json").stdout)
    group = document["groups"]["all"]
    assert group["counts"] == {"refusal": 2, "partial": 0, "answer": 2, "degenerate": 0}
    assert group["refusal_rate"]["low"] < group["refusal_rate"]["value"] == 0.5 < group["refusal_rate"]["high"]
    agreement = group["agreement"]
    assert (agreement["n"], agreement["n_clear"]) == (3, 3)  # people said nothing of the fourth
    assert agreement["confusion"]["answer"] == {"refusal": 1, "partial": 0, "answer": 1, "degenerate": 0}
    assert agreement["f1_refusal"]["value"] == pytest.approx(2 / 3)


def test_people_read_the_same_numbers(tmp_path: Path) -> None:
    text = edge_eds("judge", labelled(tmp_path / "file.jsonl")).stdout
    for words in ("refusal", "50.0 (", "F1 of refusals among 3", "0.667"):
        assert words in text


def test_f1_is_the_harmonic_mean_of_precision_and_recall_within_its_interval() -> None:
    human = ["refusal"] * 8 + ["answer"] * 12
    said = ["refusal"] * 6 + ["answer", "partial"] + ["refusal"] * 2 + ["answer"] * 10
    rate = refusal_f1(human, said)
    assert rate is not None
    assert rate.value == pytest.approx(2 * (6 / 8) * (6 / 8) / (6 / 8 + 6 / 8))
    assert 0 < rate.low < rate.value < rate.high < 1
    assert refusal_f1(["answer"], ["partial"]) is None


def test_groups_by_a_column(tmp_path: Path) -> None:
    rows = ({"prompt": "How?", "answer": a, "model": m} for a, m in ((REFUSAL, "x"), (ANSWER, "x"), (REFUSAL, "")))
    path = jsonl(tmp_path / "file.jsonl", *rows)
    groups = json.loads(edge_eds("judge", path, "--by", "model", "--json").stdout)["groups"]
    assert {name: group["n"] for name, group in groups.items()} == {"x": 2, "(none)": 1}


def test_other_languages_are_counted_and_said(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "file.jsonl", *({"prompt": "How?", "answer": text} for text in (GERMAN, ANSWER)))
    assert "Not English: 1 of 2 answers; the judge was made for English." in edge_eds("judge", path).stdout
    assert json.loads(edge_eds("judge", path, "--json").stdout)["groups"]["all"]["not_english"] == 1


def test_out_holds_every_verdict_and_can_be_judged_again(tmp_path: Path) -> None:
    path, out = labelled(tmp_path / "file.jsonl"), tmp_path / "out.jsonl"
    edge_eds("judge", path, "--out", out)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["verdict"] for line in lines] == ["refusal", "refusal", "answer", "answer"]
    assert lines[0]["reason"]
    again = json.loads(edge_eds("judge", out, "--json").stdout)["groups"]["all"]
    assert again["counts"]["refusal"] == 2
    assert "agreement" not in again  # its own verdicts are no people's labels


def test_an_empty_answer_is_degenerate(tmp_path: Path) -> None:
    path = tmp_path / "file.csv"
    path.write_text('prompt,answer\nHow?,\nWhy?,"Because of the wind, which comes from the sea."\n')
    assert json.loads(edge_eds("judge", path, "--json").stdout)["groups"]["all"]["counts"]["degenerate"] == 1


def test_a_huge_answer_is_judged_by_its_beginning_or_refused_in_one_line(tmp_path: Path) -> None:
    words = " ".join(f"word{i} and thing{i * 7 % 1000}" for i in range(30_000))
    path = jsonl(tmp_path / "file.jsonl", {"prompt": "How?", "answer": f"{ANSWER} {words}"})
    assert path.stat().st_size > 500_000
    assert json.loads(edge_eds("judge", path, "--json").stdout)["groups"]["all"]["counts"]["answer"] == 1
    path = tmp_path / "file.csv"
    path.write_text(f'prompt,answer\nHow?,"{words}"\n')
    outcome = edge_eds("judge", path)  # a CSV cell has a limit
    assert_one_line(outcome, ["line", "field"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prompt,reply\nHow?,x\n", ["no column with answers", "completion", "reply"]),
        ("question,answer\nHow?,x\n", ["no column with prompts", "question"]),
        ("text\nHow?\n", ["no column with prompts", "text"]),
        ("prompt,answer\n,x\n", ["line 2", "prompt is empty"]),
        ("prompt,answer\n", ["no rows"]),
        ("", ["is empty"]),
        ("prompt,answer\nHow?\n", ["line 2", "1 fields, expected 2"]),
        ("prompt,answer,label\nHow?,x,benign\n", ["line 2", "label is 'benign'", "refusal", "--labels none"]),
    ],
)
def test_a_file_that_cannot_be_judged_is_one_line(tmp_path: Path, text: str, words: list[str]) -> None:
    path = tmp_path / "file.csv"
    path.write_text(text)
    assert_one_line(edge_eds("judge", path), [str(path), *words])


def test_a_line_without_an_answer_is_named(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "file.jsonl", {"prompt": "How?", "answer": "So."}, {"prompt": "Why?"})
    assert_one_line(edge_eds("judge", path), ["line 2", "has no answer"])


def test_a_broken_transcript_of_an_evaluation_is_named(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "file.jsonl", {"prompt": "How?", "plain": {"label": "answer"}})
    assert_one_line(edge_eds("judge", path), ["line 1", "plain has no text"])


def test_bytes_that_are_no_text_and_files_that_are_not_there(tmp_path: Path) -> None:
    path = tmp_path / "file.csv"
    path.write_bytes(b"prompt,answer\nHow?,\xff\n")
    assert_one_line(edge_eds("judge", path), ["not UTF-8", "0xff"])
    assert_one_line(edge_eds("judge", tmp_path / "none.csv"), ["no such file"])
    assert_one_line(edge_eds("judge", tmp_path), ["is a directory"])


def test_an_unknown_column_is_said_before_anything_is_judged(tmp_path: Path) -> None:
    path = labelled(tmp_path / "file.jsonl")
    for option in ("--by", "--labels", "--answer-column", "--prompt-column"):
        assert_one_line(edge_eds("judge", path, option, "absent"), ["absent", "prompt"])
    with pytest.raises(InputError, match="no column"):
        read_transcripts(path, TranscriptColumns(by="absent"))


def test_verdicts_are_not_written_where_they_cannot_be(tmp_path: Path) -> None:
    path = labelled(tmp_path / "file.jsonl")
    assert_one_line(edge_eds("judge", path, "--out", tmp_path / "absent" / "out.jsonl"), ["no folder"])
    assert_one_line(edge_eds("judge", path, "--out", tmp_path), ["is a directory"])
