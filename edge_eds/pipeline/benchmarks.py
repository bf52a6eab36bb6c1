"""Published benchmarks of refusal: what their files mean, told by columns and, where these do not say, by name.

Takes the rows of a prompt file; gives the intent of each row where the file is unmistakably one of

    XSTest          type: the types that begin with "contrast" are unsafe       Röttger et al. 2024
    OR-Bench        prompt, category; or-bench-hard-1k, or-bench-80k, or-bench-toxic     Cui et al. 2025
    OKTest          prompt; OKTest, OKTest_heldout                              Shi et al. 2024
    JailbreakBench  Goal, Target, Behavior, Category; harmful-behaviors, benign-behaviors     Chao et al. 2024
    HarmBench       Behavior, FunctionalCategory, SemanticCategory: harmful     Mazeika et al. 2024
    AdvBench        goal, target; most targets begin with "Sure": harmful       Zou et al. 2023
    StrongREJECT    forbidden_prompt: harmful                                   Souly et al. 2024

and the parts of a row that are named otherwise there. Any other file has to say its intents itself (suites.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_eds.pipeline.prompt_files import INTENTS, Row, columns

CATEGORY_COLUMNS = ("category", "Category", "type", "SemanticCategory")
ID_COLUMNS = ("id", "BehaviorID", "Index")
_CONTEXT = "ContextString"  # HarmBench: what a contextual request is about
_XSTEST_TYPE, _XSTEST_UNSAFE = "type", "contrast"
_ADVBENCH_TARGET = "Sure"


@dataclass(frozen=True)
class Implied:
    """What a published file says of its rows without a column of intents.

    benchmark: its name. intents: benign | harmful, one a row. names: what the suites of the benign and the
    harmful rows are called in it.
    """

    benchmark: str
    intents: tuple[str, ...]
    names: tuple[str, str] = INTENTS

    @property
    def both(self) -> bool:
        """Whether the file holds benign and harmful rows."""
        return len(set(self.intents)) > 1


def implied_intents(path: Path, rows: Sequence[Row]) -> Implied | None:
    """The intents that the published format implies; None for any other file."""
    found = frozenset(columns(rows))
    if any(row.fields.get(_XSTEST_TYPE, "").startswith(_XSTEST_UNSAFE) for row in rows):
        return Implied("XSTest", tuple(map(_xstest_intent, rows)), ("safe", "unsafe"))
    stem = path.stem.lower().replace("_", "-")
    for benchmark, intent_of in _BENCHMARKS:
        intent = intent_of(found, stem, rows)
        if intent is not None:
            return Implied(benchmark, (intent,) * len(rows))
    return None


def first_field(row: Row, names: Sequence[str]) -> str:
    """The first of these columns that holds something, without white space around it; else ""."""
    return next((value for name in names if (value := row.fields.get(name, "").strip())), "")


def with_context(row: Row, request: str) -> str:
    """The request after what it is about, where the row says that, as HarmBench puts the two together."""
    context = row.fields.get(_CONTEXT, "").strip()
    return f"{context}\n\n---\n\n{request}" if context else request


def _xstest_intent(row: Row) -> str:
    return "harmful" if row.text(_XSTEST_TYPE).startswith(_XSTEST_UNSAFE) else "benign"


def _or_bench(found: frozenset[str], stem: str, rows: Sequence[Row]) -> str | None:
    if found != {"prompt", "category"} or not (part := re.match(r"or-bench-(hard|80k|toxic)\b", stem)):
        return None
    return "harmful" if part[1] == "toxic" else "benign"


def _oktest(found: frozenset[str], stem: str, rows: Sequence[Row]) -> str | None:
    return "benign" if found == {"prompt"} and re.match(r"oktest\b", stem) else None


def _jailbreakbench(found: frozenset[str], stem: str, rows: Sequence[Row]) -> str | None:
    if not found >= {"Goal", "Target", "Behavior", "Category"}:
        return None
    return {"harmful-behaviors": "harmful", "benign-behaviors": "benign"}.get(stem)


def _harmbench(found: frozenset[str], stem: str, rows: Sequence[Row]) -> str | None:
    return "harmful" if found >= {"Behavior", "FunctionalCategory", "SemanticCategory"} else None


def _advbench(found: frozenset[str], stem: str, rows: Sequence[Row]) -> str | None:
    sure = sum(row.fields["target"].lstrip().startswith(_ADVBENCH_TARGET) for row in rows if "target" in row.fields)
    return "harmful" if found == {"goal", "target"} and 2 * sure > len(rows) else None


def _strongreject(found: frozenset[str], stem: str, rows: Sequence[Row]) -> str | None:
    return "harmful" if "forbidden_prompt" in found else None


_BENCHMARKS: tuple[tuple[str, Callable[[frozenset[str], str, Sequence[Row]], str | None]], ...] = (
    ("OR-Bench", _or_bench),
    ("OKTest", _oktest),
    ("JailbreakBench", _jailbreakbench),
    ("HarmBench", _harmbench),
    ("AdvBench", _advbench),
    ("StrongREJECT", _strongreject),
)
