"""Reads transcripts to judge: prompts with the answers of any model, and what people said of them where they did.

Takes CSV, JSON or JSONL (prompt_files.py) with a column of prompts and one of answers, or the transcripts that
`edge-eds eval --transcripts` writes, whose lines hold a plain and perhaps a steered answer. A row without an answer is
an error; an empty answer is an answer (the judge calls it degenerate).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_eds.errors import InputError
from edge_eds.pipeline.prompt_files import PROMPT_COLUMNS, Row, columns, find_column, read_rows

ANSWER_COLUMNS = ("answer", "response", "completion", "output", "text")
HUMAN_COLUMNS = ("label", "final_label")
VARIANTS = ("plain", "steered")  # columns of an evaluation's transcripts
ALL = "all"  # the one group of a file that is not divided
NO_LABELS = "none"
# what people's labels are called; a number before the name, as XSTest has it, does not matter
_HUMAN_NAMES = {
    "refusal": ("refusal", "full_refusal", "refused"),
    "partial": ("partial", "partial_refusal"),
    "answer": ("answer", "full_compliance", "compliance", "complied", "answered"),
    "degenerate": ("degenerate",),
}
_HUMAN = {name: label for label, names in _HUMAN_NAMES.items() for name in names}


@dataclass(frozen=True)
class Transcript:
    """One answer. row: its line or item. group: what is counted together. human: a label of people, or ""."""

    row: int
    prompt: str
    answer: str
    group: str = ALL
    human: str = ""


@dataclass(frozen=True)
class TranscriptColumns:
    """Which columns hold what; None is found by name. labels NO_LABELS: there are none. by: what groups rows."""

    prompt: str | None = None
    answer: str | None = None
    labels: str | None = None
    by: str | None = None


def read_transcripts(path: Path, wanted: TranscriptColumns | None = None) -> list[Transcript]:
    """All answers of a file, in its order.

    Raises:
        InputError: as read_rows; a column is missing, a prompt is empty, a row has no answer, a label is unknown.
    """
    wanted = wanted or TranscriptColumns()
    rows = read_rows(path)
    answers = _answer_columns(rows, wanted)
    taken = frozenset(answers)
    prompts = (wanted.prompt,) if wanted.prompt else tuple(name for name in PROMPT_COLUMNS if name not in taken)
    prompt = find_column(rows, prompts, "prompts")
    by = wanted.by
    if by is not None:
        find_column(rows, (by,), "groups")
    elif answers[0] in VARIANTS and "suite" in columns(rows):
        by = "suite"
    labels = _label_column(rows, wanted)
    return [
        Transcript(row.number, row.text(prompt), answer, _group(row, by, column), _human(row, labels))
        for row in rows
        for column, answer in _answers(row, answers)
    ]


def _answer_columns(rows: Sequence[Row], wanted: TranscriptColumns) -> tuple[str, ...]:
    found = columns(rows)
    if wanted.answer is None and VARIANTS[0] in found and not set(ANSWER_COLUMNS) & set(found):
        return tuple(name for name in VARIANTS if name in found)
    return (find_column(rows, (wanted.answer,) if wanted.answer else ANSWER_COLUMNS, "answers"),)


def _answers(row: Row, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(column, answer) of each answer in a row."""
    for name in names:
        if name not in row.fields:
            raise InputError(f"{row.where}: has no {name}; expected an answer")
        yield name, _spoken(row, name) if name in VARIANTS else row.fields[name]


def _spoken(row: Row, name: str) -> str:
    """The text of an answer in an evaluation's transcript, which is an object."""
    try:
        value = json.loads(row.fields[name])
    except ValueError:
        value = None
    if not isinstance(value, dict) or not isinstance(value.get("text"), str):
        raise InputError(f"{row.where}: {name} has no text; expected a line of edge-eds eval --transcripts")
    return str(value["text"])


def _group(row: Row, by: str | None, column: str) -> str:
    parts = [row.fields.get(by, "").strip() or "(none)"] if by else []
    return " ".join([*parts, *([column] if column in VARIANTS else [])]) or ALL


def _label_column(rows: Sequence[Row], wanted: TranscriptColumns) -> str | None:
    if wanted.labels == NO_LABELS:
        return None
    if wanted.labels is not None:
        return find_column(rows, (wanted.labels,), "labels")
    return next((name for name in HUMAN_COLUMNS if name in columns(rows)), None)


def _human(row: Row, column: str | None) -> str:
    if column is None or not (value := row.fields.get(column, "").strip()):
        return ""
    label = _HUMAN.get(re.sub(r"^\d+[_ ]", "", value.lower()).replace(" ", "_"))
    if label is None:
        raise InputError(
            f"{row.where}: {column} is {value[:40]!r}, expected {', '.join(_HUMAN_NAMES)} or XSTest's labels; "
            f"--labels {NO_LABELS} leaves it out"
        )
    return label
