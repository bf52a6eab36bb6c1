"""From judged answers to numbers: one variant's rates, and what another changed of the same prompts' answers.

Takes the answers of one suite, plain and steered, with their divergences at the first token; gives the values of
eval_report.py. Leaves out how the answers came about (evaluate.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_eds.energy.network import HEADS
from edge_eds.pipeline.eval_report import GATE_DECISIONS, CategoryReport, Comparison, Descents, Fluency, Measure
from edge_eds.pipeline.judge import LABELS, Verdict, judge
from edge_eds.pipeline.statistics import mcnemar, paired_difference, quantiles, wilson
from edge_eds.pipeline.suites import SuitePrompt
from edge_eds.pipeline.usefulness import perplexity, uptake, usefulness
from edge_eds.runtime.batch_run import Generation

KL_PERCENTS = (50, 90, 95, 99)
NO_CATEGORY = "(none)"


@dataclass(frozen=True, eq=False)
class Answer:
    """A judged answer, without its logits and states. descents: trace records of the rows that were written."""

    text: str
    tokens: list[int]
    verdict: Verdict
    uptake: float
    finish_reason: str
    gate: str | None
    gate_score: float | None
    refusal_in_sight: bool | None
    touched_tokens: int
    descents: npt.NDArray[Any]
    n_decoded: int

    @classmethod
    def of(cls, prompt: SuitePrompt, generation: Generation) -> Answer:
        """Judge what was generated for a prompt."""
        trace = generation.trace
        return cls(
            text=generation.text,
            tokens=generation.tokens,
            verdict=judge(prompt.text, generation.text),
            uptake=uptake(prompt.text, generation.text),
            finish_reason=generation.finish_reason,
            gate=trace.gate,
            gate_score=trace.gate_score,
            refusal_in_sight=trace.refusal_in_sight,
            touched_tokens=trace.touched_tokens,
            descents=trace.descents[trace.descents["steps"] > 0],
            n_decoded=generation.n_decoded,
        )

    @property
    def refuses(self) -> bool:
        """Whether it is a full refusal."""
        return self.verdict.label == "refusal"

    def to_json(self, steered: bool) -> dict[str, Any]:
        """Its part of a transcript."""
        data: dict[str, Any] = {
            "label": self.verdict.label,
            "reason": self.verdict.reason,
            "text": self.text,
            "n_tokens": len(self.tokens),
            "finish_reason": self.finish_reason,
        }
        if steered:
            data |= {name: getattr(self, name) for name in ("gate", "gate_score", "refusal_in_sight", "touched_tokens")}
        return data


@dataclass(frozen=True, eq=False)
class Change:
    """What is only known while both answers are there.

    divergence: KL(plain || steered) at the first token. log_probs: of the plain and the steered answer's tokens under
    the plain model, or None where the answers are the same.
    """

    divergence: float
    log_probs: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]] | None = None


def measure(answers: Sequence[Answer]) -> Measure:
    """One variant on one suite."""
    labels = Counter(answer.verdict.label for answer in answers)
    n = len(answers)
    n_tokens = sum(len(answer.tokens) for answer in answers)
    taken_up = [answer.uptake for answer in answers if answer.verdict.label == "answer"]
    return Measure(
        rates={label: wilson(labels[label], n) for label in LABELS},
        cut=wilson(sum(answer.finish_reason == "length" for answer in answers), n),
        mean_tokens=n_tokens / n,
        uptake=float(np.mean(taken_up)) if taken_up else None,
        usefulness=float(np.mean([usefulness(answer.verdict.label, answer.uptake) for answer in answers])),
        not_english=sum(not answer.verdict.english for answer in answers),
    )


def compare(plain: Sequence[Answer], steered: Sequence[Answer], changes: Sequence[Change]) -> Comparison:
    """What steering changed on one suite."""
    before, after = ([answer.refuses for answer in answers] for answers in (plain, steered))
    divergences = [change.divergence for change in changes]
    answered = [
        change.divergence for answer, change in zip(plain, changes, strict=True) if answer.verdict.label == "answer"
    ]
    decisions = Counter(answer.gate for answer in steered)
    lengths = [len(b.tokens) - len(a.tokens) for a, b in zip(plain, steered, strict=True)]
    scored = [change.log_probs for change in changes if change.log_probs is not None]
    return Comparison(
        mcnemar_p=mcnemar(before, after),
        refusals_removed=sum(b and not a for b, a in zip(before, after, strict=True)),
        refusals_added=sum(a and not b for b, a in zip(before, after, strict=True)),
        difference=paired_difference(before, after),
        kl=_divergence(divergences),
        kl_answered={"n": len(answered), **_divergence(answered)} if answered else None,
        length_shift=quantiles(lengths, (5, 50, 95)),
        perplexity=Fluency(
            len(scored), perplexity([both[0] for both in scored]), perplexity([both[1] for both in scored])
        ),
        gate={decision: decisions[decision] for decision in GATE_DECISIONS},
        gate_scores=tuple(answer.gate_score for answer in steered if answer.gate_score is not None),
        descents=_descents(steered),
        touched_tokens=sum(answer.touched_tokens for answer in steered) / len(steered),
    )


def by_category(
    prompts: Sequence[SuitePrompt], plain: Sequence[Answer], steered: Sequence[Answer] | None
) -> tuple[CategoryReport, ...]:
    """Refusals by category; () where no prompt has one."""
    names = [prompt.category or NO_CATEGORY for prompt in prompts]
    reports = []
    for name in sorted(set(names)):
        indices = [i for i, its in enumerate(names) if its == name]
        rates = [
            wilson(sum(answers[i].refuses for i in indices), len(indices))
            for answers in (plain, steered)
            if answers is not None
        ]
        reports.append(CategoryReport(name, len(indices), *rates))
    return () if set(names) == {NO_CATEGORY} else tuple(reports)


def _divergence(nats: Sequence[float]) -> dict[str, float]:
    return {**quantiles(nats, KL_PERCENTS), "max": float(np.max(nats))}


def _descents(answers: Sequence[Answer]) -> dict[str, Descents]:
    """By head, of all answers together; heads that nothing was descended in are left out."""
    records = np.concatenate([answer.descents for answer in answers])
    by_head = {HEADS[head]: records[records["head"] == head] for head in np.unique(records["head"])}
    return {
        head: Descents(its["energy_before"], its["energy_after"], its["shift"]) for head, its in by_head.items()
    }
