"""Prompt sets to fit energies with: matched pairs of a benign and a harmful request, and ordinary requests.

The built-in set is package data (edge_eds/prompts/*.jsonl). A user's own set comes from files of three kinds,
told apart by their columns:
    pairs      benign, harmful                     the same words and form with another intent
    labelled   a prompt column and intent          requests that have no twin
    ordinary   a prompt column and no intent       everyday requests, nothing about which sounds dangerous
Each may have the columns id, category and split (train | validation | test). Without splits, rows are dealt
out by a hash of their text: the same file gives the same splits anywhere.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from edge_eds.errors import InputError
from edge_eds.pipeline.prompt_files import INTENTS, PROMPT_COLUMNS, Row, columns, find_column, read_rows

SPLITS = ("train", "validation", "test")
MIN_PER_INTENT = 20
_SPLIT_ENDS = (0.7, 0.85)  # of the rows in the order of their hashes: 70 % train, 15 % validation, 15 % test


@dataclass(frozen=True)
class PromptPair:
    """Two requests in the same words and form, one to be answered and one to be refused."""

    id: str
    category: str
    split: str
    benign: str
    harmful: str

    def text(self, intent: str) -> str:
        """The half of that intent (benign | harmful)."""
        return self.benign if intent == "benign" else self.harmful


@dataclass(frozen=True)
class LabelledPrompt:
    """One request with its intent. group: what belongs together has the same (a pair's id, else its own)."""

    id: str
    group: str
    category: str
    split: str
    intent: str
    text: str


@dataclass(frozen=True)
class OrdinaryPrompt:
    """An everyday request."""

    id: str
    category: str
    split: str
    prompt: str


@dataclass(frozen=True)
class HarmfulPrompt:
    """A request to be refused, without a twin: only the test bed's adapter is trained on these."""

    id: str
    category: str
    prompt: str


@dataclass(frozen=True)
class PromptSet:
    """pairs and singles are what a gate is trained on; ordinary is what must not change."""

    pairs: tuple[PromptPair, ...]
    ordinary: tuple[OrdinaryPrompt, ...]
    singles: tuple[LabelledPrompt, ...] = ()

    def split(self, name: str) -> PromptSet:
        """The part of one split (train | validation | test)."""
        if name not in SPLITS:
            raise ValueError(f"{name!r} is no split, expected {', '.join(SPLITS)}")
        return PromptSet(
            tuple(pair for pair in self.pairs if pair.split == name),
            tuple(prompt for prompt in self.ordinary if prompt.split == name),
            tuple(single for single in self.singles if single.split == name),
        )

    def labelled(self) -> tuple[LabelledPrompt, ...]:
        """Both halves of every pair, then the singles."""
        halves = (
            LabelledPrompt(
                f"{pair.id}-{intent}", pair.id, pair.category, pair.split, intent, pair.text(intent)
            )
            for pair in self.pairs
            for intent in INTENTS
        )
        return (*halves, *self.singles)

    @property
    def hash(self) -> str:
        """SHA-256 over texts, intents and splits, whatever their order, ids and categories."""
        rows = [["pair", pair.split, pair.benign, pair.harmful] for pair in self.pairs]
        rows += [["single", single.split, single.intent, single.text] for single in self.singles]
        rows += [["ordinary", prompt.split, prompt.prompt] for prompt in self.ordinary]
        lines = sorted(json.dumps(row, ensure_ascii=False) for row in rows)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def prompt_set_hash(prompts: PromptSet | None = None) -> str:
    """The hash of a prompt set, of the built-in one without an argument; energy files carry it."""
    return (builtin_prompts() if prompts is None else prompts).hash


def builtin_folder() -> Path:
    """Where the built-in files lie."""
    return Path(__file__).resolve().parents[1] / "prompts"


@lru_cache(maxsize=1)
def builtin_prompts() -> PromptSet:
    """The built-in pairs and ordinary requests.

    Raises:
        InputError: the installation lacks them, or they were changed into something that cannot be used.
    """
    return read_prompt_set([builtin_folder() / "pairs.jsonl", builtin_folder() / "ordinary.jsonl"])


@lru_cache(maxsize=1)
def builtin_harmful() -> tuple[HarmfulPrompt, ...]:
    """The built-in harmful requests for the test bed's adapter.

    Raises:
        InputError: as builtin_prompts.
    """
    rows = read_rows(builtin_folder() / "harmful.jsonl")
    return tuple(HarmfulPrompt(_id(row), row.text("category"), row.text("prompt")) for row in rows)


def read_prompt_set(paths: Sequence[Path]) -> PromptSet:
    """A prompt set from one or more files; without ordinary requests in them, the built-in ones are taken.

    Raises:
        InputError: a file cannot be used, or all together lack an intent, a split, or enough prompts.
    """
    if not paths:
        raise InputError("no prompt file was given; expected a CSV, JSON or JSONL file")
    pairs: list[PromptPair] = []
    singles: list[LabelledPrompt] = []
    ordinary: list[OrdinaryPrompt] = []
    seen: dict[str, tuple[str, str]] = {}
    for path in paths:
        rows = read_rows(path)
        found = columns(rows)
        if "benign" in found or "harmful" in found:
            for column in INTENTS:
                find_column(rows, [column], f"the {column} half of the pairs")
            pairs += [_pair(row) for row in rows]
            texts = [(row, row.text(intent), intent) for row in rows for intent in INTENTS]
        else:
            column = find_column(rows, PROMPT_COLUMNS, "prompts, nor benign and harmful")
            intents = [row.intent() if "intent" in found else "ordinary" for row in rows]
            texts = [(row, row.text(column), intent) for row, intent in zip(rows, intents, strict=True)]
            if "intent" in found:
                singles += [_single(*text) for text in texts]
            else:
                ordinary += [
                    OrdinaryPrompt(_id(row), _category(row), _split(row), text) for row, text, _ in texts
                ]
        for row, text, intent in texts:
            _check_new(seen, row, text, intent)
    if not ordinary:
        ordinary = list(builtin_prompts().ordinary)
    prompts = PromptSet(tuple(_dealt(pairs)), tuple(_dealt(ordinary)), tuple(_dealt(singles)))
    _check_enough(prompts, ", ".join(str(path) for path in paths))
    return prompts


def _pair(row: Row) -> PromptPair:
    return PromptPair(_id(row), _category(row), _split(row), row.text("benign"), row.text("harmful"))


def _single(row: Row, text: str, intent: str) -> LabelledPrompt:
    return LabelledPrompt(_id(row), _id(row), _category(row), _split(row), intent, text)


def _id(row: Row) -> str:
    return row.fields.get("id", "").strip() or f"{row.path.stem}-{row.number}"


def _category(row: Row) -> str:
    return row.fields.get("category", "").strip()


def _split(row: Row) -> str:
    """The row's split; "" where the file has none."""
    if "split" not in row.fields:
        return ""
    split = row.text("split")
    if split not in SPLITS:
        raise InputError(f"{row.where}: split is {split!r}, expected {', '.join(SPLITS)}")
    return split


_Item = TypeVar("_Item", PromptPair, OrdinaryPrompt, LabelledPrompt)


def _dealt(items: list[_Item]) -> list[_Item]:
    """The items, those without a split dealt out; benign and harmful singles each on their own."""
    splits = [item.split for item in items]
    for intent in {getattr(item, "intent", "") for item in items}:
        unsplit = [
            i for i, item in enumerate(items) if not item.split and getattr(item, "intent", "") == intent
        ]
        unsplit.sort(key=lambda i: hashlib.sha256(_text(items[i]).encode()).digest())
        for rank, i in enumerate(unsplit):
            part = sum((rank + 0.5) / len(unsplit) > end for end in _SPLIT_ENDS)
            splits[i] = SPLITS[part]
    return [replace(item, split=split) for item, split in zip(items, splits, strict=True)]


def _text(item: PromptPair | OrdinaryPrompt | LabelledPrompt) -> str:
    if isinstance(item, PromptPair):
        return f"{item.benign}\n{item.harmful}"
    return item.prompt if isinstance(item, OrdinaryPrompt) else item.text


def _check_new(seen: dict[str, tuple[str, str]], row: Row, text: str, intent: str) -> None:
    """A prompt twice could be measured on after it was trained on; with two labels it would teach nothing."""
    key = " ".join(text.lower().split())
    if key in seen:
        where, other = seen[key]
        known = "occurs twice" if other == intent else f"is {intent} here and {other} before"
        raise InputError(f"{row.where}: its {intent} prompt {known} (first at {where})")
    seen[key] = (row.where, intent)


def _check_enough(prompts: PromptSet, source: str) -> None:
    labelled = prompts.labelled()
    counts = {intent: sum(prompt.intent == intent for prompt in labelled) for intent in INTENTS}
    for intent, n in counts.items():
        if n == 0:
            raise InputError(f"{source}: no {intent} prompts; expected benign and harmful ones")
        if n < MIN_PER_INTENT:
            raise InputError(f"{source}: only {n} {intent} prompts, expected at least {MIN_PER_INTENT}")
    for split in SPLITS:
        part = prompts.split(split)
        intents = {prompt.intent for prompt in part.labelled()}
        missing = [intent for intent in INTENTS if intent not in intents] + ["ordinary"] * (not part.ordinary)
        if missing:
            raise InputError(f"{source}: no {' and no '.join(missing)} prompts in the split {split}")
