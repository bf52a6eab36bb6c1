"""What stands first in an evaluation's page: groups of suites taken together, and examples of changed answers.

Takes an EvalReport; everything is read from its transcripts, so that a suite's prompts count each once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any

from edge_eds.pipeline.eval_report import EvalReport, SuiteReport
from edge_eds.pipeline.statistics import Rate, mcnemar, paired_difference, wilson

Transcript = Mapping[str, Any]
N_EXAMPLES = 10


@dataclass(frozen=True)
class Group:
    """Suites that belong together: benign, harmful, or harmful in jailbreak framings.

    refusals: what its refusals are called. before, after: whether each prompt was refused, plain and steered; after is
    None where nothing was steered.
    """

    name: str
    refusals: str
    intent: str
    suites: tuple[SuiteReport, ...]
    before: tuple[bool, ...]
    after: tuple[bool, ...] | None

    @property
    def n(self) -> int:
        """Prompts of all suites."""
        return len(self.before)

    @property
    def plain(self) -> Rate:
        """Refusals without steering."""
        return wilson(sum(self.before), self.n)

    @property
    def steered(self) -> Rate | None:
        """Refusals with steering."""
        return None if self.after is None else wilson(sum(self.after), self.n)

    @property
    def difference(self) -> Rate | None:
        """The rate of refusals, steered minus plain."""
        return None if self.after is None else paired_difference(self.before, self.after)

    @property
    def p(self) -> float | None:
        """McNemar's exact p."""
        return None if self.after is None else mcnemar(self.before, self.after)

    @property
    def removed(self) -> int:
        """Refusals that steering took away."""
        return sum(b and not a for b, a in zip(self.before, self.after or self.before, strict=True))

    @property
    def added(self) -> int:
        """Refusals that steering brought."""
        return sum(a and not b for b, a in zip(self.before, self.after or self.before, strict=True))


@dataclass(frozen=True)
class ExampleKind:
    """Changed answers of one kind: the first ones of each suite in turn. total: how many there are."""

    title: str
    shown: tuple[Transcript, ...]
    total: int


def groups(report: EvalReport) -> list[Group]:
    """The groups that the report has, in a fixed order."""
    kinds = (
        ("Benign prompts", "false refusals", "benign", (True, False)),
        ("Harmful prompts", "true refusals", "harmful", (False,)),
        ("Jailbroken prompts", "refusals of jailbroken prompts", "harmful", (True,)),
    )
    found = []
    for name, refusals, intent, jailbroken in kinds:
        suites = tuple(suite for suite in report.suites if suite.intent == intent and suite.jailbroken in jailbroken)
        lines = [line for suite in suites for line in suite.transcripts]
        if lines:
            before = tuple(line["plain"]["label"] == "refusal" for line in lines)
            steered = all("steered" in line for line in lines)
            after = tuple(line["steered"]["label"] == "refusal" for line in lines) if steered else None
            found.append(Group(name, refusals, intent, suites, before, after))
    return found


def broken(report: EvalReport) -> tuple[Rate, Rate | None]:
    """Degenerate answers over all prompts, plain and steered."""
    lines = [line for suite in report.suites for line in suite.transcripts]

    def rate(variant: str) -> Rate:
        return wilson(sum(line[variant]["label"] == "degenerate" for line in lines), len(lines))

    return rate("plain"), rate("steered") if all("steered" in line for line in lines) else None


def examples(report: EvalReport) -> list[ExampleKind]:
    """At most N_EXAMPLES changed answers: good changes and bad ones, by a fixed rule and not by hand."""
    kinds = (
        ("False refusal gone", 3, _pool(report, "benign", "refusal", ("answer", "partial"))),
        ("True refusal lost", 3, _pool(report, "harmful", "refusal", ("answer", "partial", "degenerate"))),
        ("New false refusal", 1, _pool(report, "benign", "other", ("refusal",))),
        ("Harmful prompt now refused", 1, _pool(report, "harmful", "other", ("refusal",))),
        ("Broken by steering", 1, _pool(report, "any", "other", ("degenerate",))),
        ("Other words, same verdict", 1, _pool(report, "any", "same", ())),
    )
    room = N_EXAMPLES - sum(min(wanted, len(pool)) for _, wanted, pool in kinds)
    chosen = []
    for title, wanted, pool in kinds:
        extra = min(room, max(len(pool) - wanted, 0))
        room -= extra
        if pool:
            chosen.append(ExampleKind(title, tuple(pool[: wanted + extra]), len(pool)))
    return chosen


def _pool(report: EvalReport, intent: str, before: str, after: tuple[str, ...]) -> list[Transcript]:
    """Transcripts of one kind, the suites in turn."""
    by_suite = (
        [line for line in suite.transcripts if "steered" in line and _is(line, before, after)]
        for suite in report.suites
        if intent in ("any", suite.intent)
    )
    return [line for line in chain.from_iterable(zip_longest(*by_suite)) if line is not None]


def _is(line: Transcript, before: str, after: tuple[str, ...]) -> bool:
    """before: a label, "other" for all but refusals, or "same" for the same label in other words."""
    plain, steered = line["plain"], line["steered"]
    if before == "same":
        return bool(plain["label"] == steered["label"] and plain["text"] != steered["text"])
    changed = plain["label"] != steered["label"] and steered["label"] in after
    return changed and (plain["label"] == before or (before == "other" and plain["label"] != "refusal"))
