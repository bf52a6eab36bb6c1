"""Prompt sets to fit energies with: matched pairs of a benign and a harmful request, and ordinary requests.

The built-in set is package data (edge_eds/prompts/*.jsonl). A user's own set comes from files of three kinds,
told apart by their columns:
    pairs      benign, harmful                     the same words and form with another intent
    labelled   a prompt column and intent          requests on their own; in place of prompts also conversations
                                                   (conversations.py). Rows with the same `group` are matched
    ordinary   a prompt column and no intent       everyday requests, nothing about which sounds dangerous
Each may have the columns id, category and split (train | validation | test). Without splits, rows are dealt
out by a hash of their text, groups as wholes: the same file gives the same splits anywhere.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, TypeVar

from edge_eds.errors import InputError
from edge_eds.pipeline.conversations import MESSAGES_COLUMN, read_messages
from edge_eds.pipeline.prompt_files import INTENTS, PROMPT_COLUMNS, Row, columns, find_column, read_rows
from edge_eds.runtime.chat_prompt import Message

SPLITS = ("train", "validation", "test")
MIN_PER_INTENT = 20
BUILTIN_PARTS = ("pairs", "jailbreaks", "multi_turn", "ordinary")
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
    """One request with its intent.

    group: what belongs together has the same (a pair's id, a file's column group, else one of its own).
    messages: the whole conversation that ends with `text`; () where there is nothing before it.
    """

    id: str
    group: str
    category: str
    split: str
    intent: str
    text: str
    messages: tuple[Message, ...] = ()

    @property
    def conversation(self) -> str | tuple[Message, ...]:
        """What the model is asked, as BatchRunner.chat_tokens takes it."""
        return self.messages or self.text

    @property
    def whole_text(self) -> str:
        """All that is said in the conversation, a line a message."""
        return "\n".join(message["content"] for message in self.messages) or self.text


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

    def labelled(self, *, conversations: bool = False) -> tuple[LabelledPrompt, ...]:
        """Both halves of every pair, then the singles.

        conversations: also those with messages, for callers that ask the model `conversation` and not `text`.
        """
        halves = (
            LabelledPrompt(f"{pair.id}-{intent}", pair.id, pair.category, pair.split, intent, pair.text(intent))
            for pair in self.pairs
            for intent in INTENTS
        )
        return (*halves, *(single for single in self.singles if conversations or not single.messages))

    @property
    def hash(self) -> str:
        """SHA-256 over texts, intents and splits, whatever their order, ids and categories."""
        rows = [["pair", pair.split, pair.benign, pair.harmful] for pair in self.pairs]
        rows += [["single", single.split, single.intent, single.whole_text] for single in self.singles]
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
    """All that the built-in energies are made from and measured on, once each.

    Raises:
        InputError: the installation lacks a file, or it was changed into something that cannot be used.
    """
    return read_prompt_set([builtin_folder() / f"{part}.jsonl" for part in BUILTIN_PARTS])


def builtin_part(name: str) -> PromptSet:
    """One file of the built-in set (BUILTIN_PARTS).

    Raises:
        InputError: as builtin_prompts.
    """
    return read_prompt_file(builtin_folder() / f"{name}.jsonl")


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
    parts = [_read(path) for path in paths]
    seen: dict[str, _Text] = {}
    for text in (text for part in parts for text in part.texts):
        _check_new(seen, text)
    pairs = [pair for part in parts for pair in part.pairs]
    singles = [single for part in parts for single in part.singles]
    ordinary = [prompt for part in parts for prompt in part.ordinary] or list(builtin_part("ordinary").ordinary)
    prompts = PromptSet(tuple(_dealt(pairs)), tuple(_dealt(ordinary)), tuple(_dealt(singles)))
    source = ", ".join(map(str, paths))
    _check_groups(prompts.singles, source)
    _check_enough(prompts, source)
    return prompts


def read_prompt_file(path: Path) -> PromptSet:
    """What one file holds, whether or not it is enough to fit with; nothing is taken from elsewhere.

    Raises:
        InputError: the file cannot be used, or holds a prompt twice.
    """
    part = _read(path)
    seen: dict[str, _Text] = {}
    for text in part.texts:
        _check_new(seen, text)
    return PromptSet(tuple(_dealt(part.pairs)), tuple(_dealt(part.ordinary)), tuple(_dealt(part.singles)))


class _Text(NamedTuple):
    """A prompt of a file, for finding repetitions."""

    where: str
    intent: str  # benign | harmful | ordinary
    text: str


class _Part(NamedTuple):
    """What one file holds, as it stands there."""

    pairs: list[PromptPair]
    ordinary: list[OrdinaryPrompt]
    singles: list[LabelledPrompt]
    texts: list[_Text]


def _read(path: Path) -> _Part:
    rows = read_rows(path)
    found = columns(rows)
    if "benign" in found or "harmful" in found:
        for column in INTENTS:
            find_column(rows, [column], f"the {column} half of the pairs")
        texts = [_Text(row.where, intent, row.text(intent)) for row in rows for intent in INTENTS]
        return _Part([_pair(row) for row in rows], [], [], texts)
    column = find_column(rows, (MESSAGES_COLUMN, *PROMPT_COLUMNS), "prompts, nor benign and harmful")
    if "intent" in found:
        singles = [_single(row, column) for row in rows]
        texts = [_Text(row.where, one.intent, one.whole_text) for row, one in zip(rows, singles, strict=True)]
        return _Part([], [], singles, texts)
    if column == MESSAGES_COLUMN:
        find_column(rows, ["intent"], "what the conversations intend")
    ordinary = [OrdinaryPrompt(_id(row), _category(row), _split(row), row.text(column)) for row in rows]
    texts = [_Text(row.where, "ordinary", one.prompt) for row, one in zip(rows, ordinary, strict=True)]
    return _Part([], ordinary, [], texts)


def _pair(row: Row) -> PromptPair:
    return PromptPair(_id(row), _category(row), _split(row), row.text("benign"), row.text("harmful"))


def _single(row: Row, column: str) -> LabelledPrompt:
    messages = read_messages(row) if column == MESSAGES_COLUMN else ()
    return LabelledPrompt(
        id=_id(row),
        group=row.fields.get("group", "").strip() or row.where,
        category=_category(row),
        split=_split(row),
        intent=row.intent(),
        text=messages[-1]["content"] if messages else row.text(column),
        messages=messages,
    )


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
    """The items, those without a split dealt out: groups as wholes, those of the same intents among themselves."""
    groups: dict[str, list[int]] = defaultdict(list)
    for i, item in enumerate(items):
        if not item.split:
            groups[item.group if isinstance(item, LabelledPrompt) else str(i)].append(i)
    alike: dict[tuple[str, ...], list[list[int]]] = defaultdict(list)
    for group in groups.values():
        alike[tuple(sorted({getattr(items[i], "intent", "") for i in group}))].append(group)
    splits = [item.split for item in items]
    for dealt_together in alike.values():
        dealt_together.sort(key=lambda group: _digest([items[i] for i in group]))
        for rank, group in enumerate(dealt_together):
            part = sum((rank + 0.5) / len(dealt_together) > end for end in _SPLIT_ENDS)
            for i in group:
                splits[i] = SPLITS[part]
    return [replace(item, split=split) for item, split in zip(items, splits, strict=True)]


def _digest(group: Sequence[_Item]) -> bytes:
    return hashlib.sha256("\n".join(sorted(map(_text, group))).encode()).digest()


def _text(item: PromptPair | OrdinaryPrompt | LabelledPrompt) -> str:
    if isinstance(item, PromptPair):
        return f"{item.benign}\n{item.harmful}"
    return item.prompt if isinstance(item, OrdinaryPrompt) else item.whole_text


def _check_new(seen: dict[str, _Text], new: _Text) -> None:
    """A prompt twice could be measured on after it was trained on; with two labels it would teach nothing."""
    known = seen.setdefault(" ".join(new.text.lower().split()), new)
    if known is not new:
        twice = "occurs twice" if known.intent == new.intent else f"is {new.intent} here and {known.intent} before"
        raise InputError(f"{new.where}: its {new.intent} prompt {twice} (first at {known.where})")


def _check_groups(singles: Sequence[LabelledPrompt], source: str) -> None:
    """Matched prompts in two splits would be measured on after their twins were trained on."""
    splits: dict[str, str] = {}
    for single in singles:
        split = splits.setdefault(single.group, single.split)
        if split != single.split:
            raise InputError(
                f"{source}: the group {single.group} is in the splits {split} and {single.split}; expected one split"
            )


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
