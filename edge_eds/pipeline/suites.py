"""Evaluation suites: sets of prompts of one intent, on which rates are measured.

A suite is asked for as
    ordinary                     the built-in everyday requests (test split)
    pairs                        the built-in matched pairs (test split): pairs-benign and pairs-harmful
    jailbreaks, multi-turn       the same of the built-in framed requests, and of the built-in conversations
    NAME=PATH                    a file with a column of prompts and one of intents (benign | harmful)
    NAME=PATH:benign|harmful     a file with a column of prompts, all of one intent
In place of prompts a file may have a column of conversations (conversations.py).
A file with both intents gives the suites NAME-benign and NAME-harmful. A published benchmark needs neither
(benchmarks.py lists them); XSTest gives NAME-safe and NAME-unsafe, as it calls them. `framed` makes jailbroken
versions of harmful suites.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edge_eds.errors import InputError
from edge_eds.pipeline.benchmarks import CATEGORY_COLUMNS, ID_COLUMNS, first_field, implied_intents, with_context
from edge_eds.pipeline.conversations import MESSAGES_COLUMN, read_messages
from edge_eds.pipeline.framings import frame, framing_names
from edge_eds.pipeline.prompt_files import INTENTS, PROMPT_COLUMNS, Row, columns, find_column, read_rows
from edge_eds.pipeline.prompts import builtin_part
from edge_eds.runtime.chat_prompt import Message

_PARTS = {"ordinary": "ordinary", "pairs": "pairs", "jailbreaks": "jailbreaks", "multi-turn": "multi_turn"}
BUILTIN = tuple(_PARTS)


@dataclass(frozen=True)
class SuitePrompt:
    """One request. id: unique in its suite; category: "" where the file names none.

    messages: the whole conversation that ends with `text`; () where there is nothing before it.
    """

    id: str
    text: str
    category: str = ""
    messages: tuple[Message, ...] = ()

    @property
    def conversation(self) -> str | tuple[Message, ...]:
        """What the model is asked, as BatchRunner.chat_tokens takes it."""
        return self.messages or self.text

    def framed(self, framing: str) -> SuitePrompt:
        """The same with its request in a jailbreak framing; what was said before stays as it was."""
        text = frame(framing, self.text)
        before = self.messages[:-1]
        return replace(self, text=text, messages=(*before, {"role": "user", "content": text}) if before else ())


@dataclass(frozen=True)
class Suite:
    """Prompts of one intent (benign | harmful). source: the file they came from, or "built-in".

    jailbroken: whether the requests stand in jailbreak framings.
    """

    name: str
    intent: str
    prompts: tuple[SuitePrompt, ...]
    source: str = "built-in"
    jailbroken: bool = False

    def sample(self, n: int, seed: int) -> Suite:
        """At most n of the prompts, in their order; the same ones for the same name and seed."""
        if n >= len(self.prompts):
            return self
        chosen = sorted(random.Random(f"{seed} {self.name}").sample(range(len(self.prompts)), n))
        return replace(self, prompts=tuple(self.prompts[i] for i in chosen))

    def framed(self, framing: str) -> Suite:
        """The same requests in a jailbreak framing, as the suite NAME+FRAMING."""
        prompts = tuple(prompt.framed(framing) for prompt in self.prompts)
        return replace(self, name=f"{self.name}+{framing}", prompts=prompts, jailbroken=True)


def load_suites(wishes: Sequence[str], limit: int | None = None, seed: int = 0) -> list[Suite]:
    """The suites that were asked for, in order.

    Args:
        wishes: as the module's docstring lists them.
        limit: a seeded random sample of so many prompts from each suite; None takes all.

    Raises:
        InputError: an unknown suite, a file that cannot be used, a name asked for twice, a limit under 1.
    """
    if limit is not None and limit < 1:
        raise InputError(f"the limit is {limit}, expected at least 1")
    if not wishes:
        raise InputError(
            f"no suite was asked for; expected {', '.join(BUILTIN)} or NAME=PATH[:benign|:harmful]"
        )
    suites = [suite for wish in wishes for suite in _suites(wish)]
    _check_names(suites)
    return suites if limit is None else [suite.sample(limit, seed) for suite in suites]


def read_suite_file(name: str, path: Path, intent: str | None = None) -> list[Suite]:
    """The suites of one file.

    Raises:
        InputError: the file cannot be read, has no prompts, or does not say what they intend.
    """
    rows = read_rows(path)
    found = columns(rows)
    prompt_column = find_column(rows, (MESSAGES_COLUMN, *PROMPT_COLUMNS), "prompts")
    names = INTENTS
    if "intent" in found:
        if intent is not None:
            raise InputError(f"{path}: its column intent says what is {intent}; leave :{intent} out")
        intents: Sequence[str] = [row.intent() for row in rows]
    elif (implied := implied_intents(path, rows)) and (intent is None or implied.both):
        if intent is not None:
            raise InputError(f"{path}: {implied.benchmark} says itself what is {intent}; leave :{intent} out")
        intents, names = implied.intents, implied.names
    elif intent is not None:
        intents = [intent] * len(rows)
    else:
        raise InputError(
            f"{path}: no column intent; say what its prompts are: {name}={path}:benign or :harmful"
        )
    prompts = [_prompt(row, prompt_column) for row in rows]
    if len({prompt.id for prompt in prompts}) < len(prompts):
        prompts = [replace(prompt, id=str(row.number)) for prompt, row in zip(prompts, rows, strict=True)]
    suites = []
    for one, its_name in zip(INTENTS, names, strict=True):
        chosen = tuple(prompt for prompt, its in zip(prompts, intents, strict=True) if its == one)
        if chosen:
            # XSTest calls its halves what they are, also where there is one of them
            alone = names == INTENTS and len(set(intents)) == 1
            suites.append(Suite(name if alone else f"{name}-{its_name}", one, chosen, str(path)))
    return suites


def framed(suites: Sequence[Suite], wishes: Sequence[str]) -> list[Suite]:
    """The suites, each harmful one that is not in framings already followed by its versions NAME+FRAMING.

    Args:
        wishes: names of framings (framings.py), or "all".

    Raises:
        InputError: an unknown framing; nothing harmful to frame; a version has the name of another suite.
    """
    names = framing_names(wishes)
    bare = [suite for suite in suites if suite.intent == "harmful" and not suite.jailbroken]
    if names and not bare:
        raise InputError("framings wrap plain harmful prompts, and no suite has any; add one, as pairs is")
    versions = [
        version
        for suite in suites
        for version in (suite, *(suite.framed(name) for name in names if suite in bare))
    ]
    _check_names(versions)
    return versions


def _check_names(suites: Sequence[Suite]) -> None:
    for i, suite in enumerate(suites):
        if any(suite.name == other.name for other in suites[:i]):
            raise InputError(f"the suite {suite.name} was asked for twice; expected names that differ")


def _suites(wish: str) -> list[Suite]:
    name, equals, rest = wish.partition("=")
    if not equals:
        if wish in BUILTIN:
            return _builtin(wish)
        raise InputError(
            f"unknown suite {wish}; expected {', '.join(BUILTIN)} or NAME=PATH[:benign|:harmful]"
        )
    path, colon, intent = rest.rpartition(":")
    if not colon or intent not in INTENTS:
        if colon and Path(path).expanduser().is_file():
            raise InputError(f"{wish}: intent is {intent}, expected benign or harmful")
        path, intent = rest, ""
    if not name or not path:
        raise InputError(f"{wish}: the name or the path is missing; expected NAME=PATH[:benign|:harmful]")
    if name in BUILTIN:
        raise InputError(f"{wish}: {name} is a built-in suite; choose another name")
    return read_suite_file(name, Path(path).expanduser(), intent or None)


def _builtin(name: str) -> list[Suite]:
    test = builtin_part(_PARTS[name]).split("test")
    if name == "ordinary":
        prompts: Iterable[SuitePrompt] = (SuitePrompt(o.id, o.prompt, o.category) for o in test.ordinary)
        return [Suite(name, "benign", tuple(prompts))]
    return [
        Suite(
            f"{name}-{intent}",
            intent,
            tuple(
                SuitePrompt(one.group, one.text, one.category, one.messages)
                for one in test.labelled(conversations=True)
                if one.intent == intent
            ),
            jailbroken=name == "jailbreaks",
        )
        for intent in INTENTS
    ]


def _prompt(row: Row, column: str) -> SuitePrompt:
    messages = read_messages(row) if column == MESSAGES_COLUMN else ()
    text = messages[-1]["content"] if messages else with_context(row, row.text(column))
    id = first_field(row, ID_COLUMNS) or str(row.number)
    return SuitePrompt(id, text, first_field(row, CATEGORY_COLUMNS), messages)
