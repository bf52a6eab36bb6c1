"""What is in prompt files, row by row: for counting, and for finding copies of a benchmark's prompts in them.

Takes the built-in files or a user's; gives every prompt with its file, category, split and intent. Leaves out
whether they are enough to fit with (prompts.py says that).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_eds.errors import SettingsError
from edge_eds.pipeline.conversations import MESSAGES_COLUMN, read_messages
from edge_eds.pipeline.near_copies import near_copies
from edge_eds.pipeline.prompt_files import INTENTS, PROMPT_COLUMNS, Row, columns, find_column, read_rows
from edge_eds.pipeline.prompts import (
    BUILTIN_PARTS,
    LabelledPrompt,
    PromptSet,
    builtin_harmful,
    builtin_part,
    read_prompt_file,
)
from edge_eds.runtime.chat_prompt import Message

_HARMFUL_FILE = "harmful.jsonl"


@dataclass(frozen=True)
class FiledPrompt:
    """One prompt of a file. intent: benign | harmful | ordinary. said: what the user says, a text a turn."""

    file: str
    id: str
    category: str
    split: str
    intent: str
    said: tuple[str, ...]


@dataclass(frozen=True)
class Count:
    """How many prompts of a file there are of one category, split and intent."""

    file: str
    category: str
    split: str
    intent: str
    n: int


@dataclass(frozen=True)
class FoundCopy:
    """A prompt that asks what a benchmark's prompt asks. text: the turn that does; benchmark_text: that prompt."""

    prompt: FiledPrompt
    text: str
    benchmark_text: str
    similarity: float
    exact: bool


def builtin_inventory() -> list[FiledPrompt]:
    """All built-in prompts, also those that only the test bed's adapter is trained on.

    Raises:
        InputError: as builtin_prompts.
    """
    prompts = [one for part in BUILTIN_PARTS for one in _filed(f"{part}.jsonl", builtin_part(part))]
    harmful = [
        FiledPrompt(_HARMFUL_FILE, one.id, one.category, "train", "harmful", (one.prompt,)) for one in builtin_harmful()
    ]
    return prompts + harmful


def file_inventory(paths: Sequence[Path]) -> list[FiledPrompt]:
    """All prompts of a user's files.

    Raises:
        InputError: as read_prompt_file.
    """
    return [one for path in paths for one in _filed(str(path), read_prompt_file(path))]


def counts(prompts: Sequence[FiledPrompt]) -> list[Count]:
    """How many of each kind, files and categories in order of appearance."""
    kinds = Counter((one.file, one.category, one.split, one.intent) for one in prompts)
    return [Count(*kind, n) for kind, n in kinds.items()]


def find_copies(prompts: Sequence[FiledPrompt], benchmark: Path, threshold: float) -> list[FoundCopy]:
    """The prompts that are copies or near copies of a benchmark's, the closest first within each prompt.

    Args:
        benchmark: any prompt file, whatever its intents.
        threshold: from which similarity on (near_copies.similarity; 1 finds the same words alone).

    Raises:
        InputError: the benchmark cannot be read.
        SettingsError: a threshold that is not above 0 and at most 1.
    """
    if not 0 < threshold <= 1:
        raise SettingsError(f"the threshold is {threshold}, expected above 0 and at most 1")
    theirs = _texts(benchmark)
    turns = [(one, text) for one in prompts for text in one.said]
    return [
        FoundCopy(*turns[copy.prompt], theirs[copy.benchmark], copy.similarity, copy.exact)
        for copy in near_copies([text for _, text in turns], theirs, threshold)
    ]


def _filed(file: str, prompts: PromptSet) -> list[FiledPrompt]:
    labelled = [
        FiledPrompt(file, one.id, one.category, one.split, one.intent, _said(one))
        for one in prompts.labelled(conversations=True)
    ]
    return labelled + [
        FiledPrompt(file, one.id, one.category, one.split, "ordinary", (one.prompt,)) for one in prompts.ordinary
    ]


def _said(prompt: LabelledPrompt) -> tuple[str, ...]:
    return _user_turns(prompt.messages) or (prompt.text,)


def _user_turns(messages: Sequence[Message]) -> tuple[str, ...]:
    return tuple(message["content"] for message in messages if message["role"] == "user")


def _texts(benchmark: Path) -> list[str]:
    rows = read_rows(benchmark)
    found = columns(rows)
    if all(intent in found for intent in INTENTS):
        return [row.text(intent) for row in rows for intent in INTENTS]
    column = find_column(rows, (MESSAGES_COLUMN, *PROMPT_COLUMNS), "prompts")
    return [text for row in rows for text in _row_texts(row, column)]


def _row_texts(row: Row, column: str) -> tuple[str, ...]:
    return _user_turns(read_messages(row)) if column == MESSAGES_COLUMN else (row.text(column),)
