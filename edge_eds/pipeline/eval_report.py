"""What an evaluation found: rates for each suite and what steering changed, as values and as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from edge_eds.pipeline.statistics import Rate

GATE_DECISIONS = ("benign", "harmful", "uncertain", "ungated")


@dataclass(frozen=True)
class Measure:
    """One variant (plain or steered) on one suite.

    rates: by label. mean_tokens: length of an answer. seconds: what all answers took, prompts included.
    """

    rates: dict[str, Rate]
    mean_tokens: float
    tokens_per_second: float
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """{"refusal_rate": {"value", "low", "high"}, ...}."""
        rates: dict[str, Any] = {f"{label}_rate": rate.to_json() for label, rate in self.rates.items()}
        return rates | {
            "mean_tokens": self.mean_tokens,
            "tokens_per_second": self.tokens_per_second,
            "seconds": self.seconds,
        }


@dataclass(frozen=True)
class Comparison:
    """What steering changed on one suite, answer by answer.

    mcnemar_p: exact and two-sided, on refusal or not. kl: {mean, p50, p95, max} of KL(plain || steered) at
    the first token, in nats. gate: {decision: answers}. touched_tokens: mean number of tokens of an answer at
    which a state was written.
    """

    mcnemar_p: float
    refusals_removed: int
    refusals_added: int
    kl: dict[str, float]
    gate: dict[str, int]
    touched_tokens: float

    def to_json(self) -> dict[str, Any]:
        """The fields by their names."""
        return {
            "mcnemar_p": self.mcnemar_p,
            "refusals_removed": self.refusals_removed,
            "refusals_added": self.refusals_added,
            "kl": self.kl,
            "gate": self.gate,
            "touched_tokens": self.touched_tokens,
        }


@dataclass(frozen=True)
class SuiteReport:
    """The numbers of one suite; steered and comparison are None where nothing was steered.

    transcripts: one JSON object a prompt, with the answers; not a part of the suite's own JSON.
    """

    name: str
    intent: str
    n: int
    source: str
    plain: Measure
    steered: Measure | None = None
    comparison: Comparison | None = None
    transcripts: tuple[dict[str, Any], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """{"n", "intent", "plain", "steered", "mcnemar_p", "kl", ...}."""
        data: dict[str, Any] = {
            "n": self.n,
            "intent": self.intent,
            "source": self.source,
            "plain": self.plain.to_json(),
        }
        if self.steered is not None and self.comparison is not None:
            data |= {"steered": self.steered.to_json(), **self.comparison.to_json()}
        return data


@dataclass(frozen=True)
class EvalReport:
    """All suites, and what made the numbers."""

    suites: tuple[SuiteReport, ...]
    model: str
    energy: str | None
    settings: dict[str, Any]
    versions: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """{"suites": {NAME: ...}, "model", "energy", "settings", "versions"}."""
        return {
            "suites": {suite.name: suite.to_json() for suite in self.suites},
            "model": self.model,
            "energy": self.energy,
            "settings": self.settings,
            "versions": self.versions,
        }

    def transcripts_jsonl(self) -> str:
        """Every prompt with its answers and verdicts, one JSON object a line."""
        lines = (json.dumps(line, ensure_ascii=False) for suite in self.suites for line in suite.transcripts)
        return "".join(f"{line}\n" for line in lines)
