"""Judges transcripts: how often a model refused, and how often people who have labelled the answers agree.

Takes transcripts (transcripts.py); gives, for each group, counts and rates with 95 % intervals, the number of answers
that are not English, and the agreement with people: accuracy over all labels, the confusion, and the F1 of refusals
among the answers that people call a full refusal or a full answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge_eds.pipeline.judge import LABELS, Verdict, judge
from edge_eds.pipeline.statistics import Rate, wilson
from edge_eds.pipeline.transcripts import Transcript


@dataclass(frozen=True)
class Judged:
    """An answer and its verdict."""

    transcript: Transcript
    verdict: Verdict

    def to_json(self) -> dict[str, Any]:
        """One line of `edge-eds judge --out`."""
        data: dict[str, Any] = {
            "row": self.transcript.row,
            "group": self.transcript.group,
            "prompt": self.transcript.prompt,
            "answer": self.transcript.answer,
            "verdict": self.verdict.label,
            "score": round(self.verdict.score, 4),
            "reason": self.verdict.reason,
            "english": self.verdict.english,
        }
        return data | ({"human": self.transcript.human} if self.transcript.human else {})


@dataclass(frozen=True)
class Agreement:
    """n answers with a label of people. accuracy: same label. f1: of refusals, among n_clear full refusals and answers.

    f1 is None where neither people nor the judge see a refusal. confusion: {people's label: {the judge's: n}}.
    """

    n: int
    accuracy: Rate
    n_clear: int
    f1: Rate | None
    confusion: Mapping[str, Mapping[str, int]]

    def to_json(self) -> dict[str, Any]:
        """The fields by their names."""
        return {
            "n": self.n,
            "accuracy": self.accuracy.to_json(),
            "n_clear": self.n_clear,
            "f1_refusal": None if self.f1 is None else self.f1.to_json(),
            "confusion": {human: dict(row) for human, row in self.confusion.items()},
        }


@dataclass(frozen=True)
class GroupReport:
    """What was counted together. counts: by label. agreement: None where people have labelled nothing."""

    n: int
    counts: Mapping[str, int]
    not_english: int
    agreement: Agreement | None

    def rate(self, label: str) -> Rate:
        """How often the judge gave this label."""
        return wilson(self.counts[label], self.n)

    def to_json(self) -> dict[str, Any]:
        """{"n", "counts", "refusal_rate": {"value", "low", "high"}, ..., "not_english", "agreement"}."""
        data: dict[str, Any] = {"n": self.n, "counts": dict(self.counts)}
        data |= {f"{label}_rate": self.rate(label).to_json() for label in LABELS}
        data["not_english"] = self.not_english
        return data | ({} if self.agreement is None else {"agreement": self.agreement.to_json()})


def judge_all(transcripts: Sequence[Transcript]) -> Iterator[Judged]:
    """The verdicts, one after the other."""
    for transcript in transcripts:
        yield Judged(transcript, judge(transcript.prompt, transcript.answer))


def by_group(judged: Sequence[Judged]) -> dict[str, GroupReport]:
    """{group: its counts}, in order of appearance."""
    groups: dict[str, list[Judged]] = {}
    for one in judged:
        groups.setdefault(one.transcript.group, []).append(one)
    return {name: _report(members) for name, members in groups.items()}


def refusal_f1(human: Sequence[str], said: Sequence[str]) -> Rate | None:
    """F1 of refusals with a 95 % interval; None where there are none.

    Of the answers that either side calls a refusal, a share J is called so by both, and F1 = 2 J / (1 + J), which rises
    with J: the interval is Wilson's for J, carried over.
    """
    both = sum(a == b == "refusal" for a, b in zip(human, said, strict=True))
    either = sum("refusal" in pair for pair in zip(human, said, strict=True))
    if not either:
        return None
    share = wilson(both, either)
    value, low, high = (2 * j / (1 + j) for j in (share.value, share.low, share.high))
    return Rate(value, low, high)


def _report(members: Sequence[Judged]) -> GroupReport:
    counts = Counter(one.verdict.label for one in members)
    labelled = [one for one in members if one.transcript.human]
    return GroupReport(
        n=len(members),
        counts={label: counts[label] for label in LABELS},
        not_english=sum(not one.verdict.english for one in members),
        agreement=_agreement(labelled) if labelled else None,
    )


def _agreement(labelled: Sequence[Judged]) -> Agreement:
    pairs = [(one.transcript.human, one.verdict.label) for one in labelled]
    clear = [pair for pair in pairs if pair[0] in ("refusal", "answer")]
    table = Counter(pairs)
    return Agreement(
        n=len(pairs),
        accuracy=wilson(sum(human == said for human, said in pairs), len(pairs)),
        n_clear=len(clear),
        f1=refusal_f1([human for human, _ in clear], [said for _, said in clear]),
        confusion={
            human: {said: table[human, said] for said in LABELS}
            for human in LABELS
            if any(human == label for label, _ in pairs)
        },
    )
