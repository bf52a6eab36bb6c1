"""What an evaluation found: rates for each suite and what steering changed, as values and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_eds.pipeline.statistics import Histogram, Rate, bin_edges, quantiles

GATE_DECISIONS = ("benign", "harmful", "uncertain", "ungated")
N_BINS = 20
FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Measure:
    """One variant (plain or steered) on one suite.

    rates: by label. cut: answers that the limit of new tokens ended. mean_tokens: length of an answer. uptake: mean
    over what was judged an answer, None without any; usefulness: mean over all (usefulness.py says of what).
    not_english: answers in a language that the judge was not made for.
    """

    rates: dict[str, Rate]
    cut: Rate
    mean_tokens: float
    uptake: float | None
    usefulness: float
    not_english: int

    def to_json(self) -> dict[str, Any]:
        """{"refusal_rate": {"value", "low", "high"}, ...}."""
        rates: dict[str, Any] = {f"{label}_rate": rate.to_json() for label, rate in self.rates.items()}
        return rates | {
            "cut_rate": self.cut.to_json(),
            "mean_tokens": self.mean_tokens,
            "uptake": self.uptake,
            "usefulness": self.usefulness,
            "not_english": self.not_english,
        }


@dataclass(frozen=True, eq=False)
class Descents:
    """Rows of hidden states that were written by descending one energy: arrays (n_rows,).

    before, after: the energy. shift: |h_after - h_before| / |h_before|.
    """

    before: FloatArray
    after: FloatArray
    shift: FloatArray

    @classmethod
    def joined(cls, parts: Sequence[Descents]) -> Descents:
        """The rows of all parts."""
        return cls(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)))

    def to_json(self) -> dict[str, Any]:
        """{"rows", "before", "after", "shift"}; before and after are counted in the same bins."""
        edges = bin_edges(np.concatenate([self.before, self.after]), N_BINS)
        return {
            "rows": len(self.before),
            **{
                name: quantiles(values, (5, 50, 95)) | {"histogram": Histogram.of(values, edges).to_json()}
                for name, values in (("before", self.before), ("after", self.after))
            },
            "shift": quantiles(self.shift, (50, 95)) | {"max": float(self.shift.max())},
        }


@dataclass(frozen=True)
class Fluency:
    """Perplexity under the plain model of the answers that steering changed, and of the plain ones in their place.

    n: changed answers. None where no answer is long enough (usefulness.py).
    """

    n: int
    plain: float | None
    steered: float | None

    def to_json(self) -> dict[str, Any]:
        """{"n", "plain", "steered"}."""
        return {"n": self.n, "plain": self.plain, "steered": self.steered}


@dataclass(frozen=True)
class Comparison:
    """What steering changed on one suite, answer by answer.

    mcnemar_p: exact and two-sided, on refusal or not. difference: the rate of refusals, steered minus plain.
    kl: {mean, p50, p90, p95, p99, max} of KL(plain || steered) at the first token, in nats; kl_answered: the same
    and n, over the prompts that the plain model answered, None if there are none. length_shift: {mean, p5, p50,
    p95} of an answer's tokens, steered minus plain. gate: {decision: answers}; gate_scores: what the gate read.
    descents: by energy. touched_tokens: mean number of tokens of an answer at which a state was written.
    """

    mcnemar_p: float
    refusals_removed: int
    refusals_added: int
    difference: Rate
    kl: dict[str, float]
    kl_answered: dict[str, float] | None
    length_shift: dict[str, float]
    perplexity: Fluency
    gate: dict[str, int]
    gate_scores: tuple[float, ...]
    descents: Mapping[str, Descents]
    touched_tokens: float

    def to_json(self) -> dict[str, Any]:
        """The fields by their names; gate_scores and descents as quantiles and histograms."""
        scores = self.gate_scores
        return {
            "mcnemar_p": self.mcnemar_p,
            "refusals_removed": self.refusals_removed,
            "refusals_added": self.refusals_added,
            "refusal_difference": self.difference.to_json(),
            "kl": self.kl,
            "kl_answered": self.kl_answered,
            "length_shift": self.length_shift,
            "perplexity": self.perplexity.to_json(),
            "gate": self.gate,
            "gate_scores": quantiles(scores, (5, 50, 95))
            | {"histogram": Histogram.of(scores, bin_edges(scores, N_BINS)).to_json()}
            if scores
            else None,
            "energies": {head: descents.to_json() for head, descents in self.descents.items()},
            "touched_tokens": self.touched_tokens,
        }


@dataclass(frozen=True)
class CategoryReport:
    """The refusals of one category of a suite."""

    name: str
    n: int
    plain: Rate
    steered: Rate | None = None

    def to_json(self) -> dict[str, Any]:
        """{"n", "plain": {"refusal_rate"}, "steered": {"refusal_rate"}}."""
        data: dict[str, Any] = {"n": self.n, "plain": {"refusal_rate": self.plain.to_json()}}
        return data if self.steered is None else data | {"steered": {"refusal_rate": self.steered.to_json()}}


@dataclass(frozen=True)
class SuiteReport:
    """The numbers of one suite; steered and comparison are None where nothing was steered.

    seconds, tokens_per_second: what all answers took, prompts included, and how many tokens were decoded in it.
    categories: in the order of their names; () where the suite names none. jailbroken: as Suite has it. transcripts:
    one JSON object a prompt, with the answers; not a part of the suite's own JSON.
    """

    name: str
    intent: str
    n: int
    source: str
    seconds: float
    tokens_per_second: float
    plain: Measure
    steered: Measure | None = None
    comparison: Comparison | None = None
    categories: tuple[CategoryReport, ...] = ()
    jailbroken: bool = False
    transcripts: tuple[dict[str, Any], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """{"n", "intent", "plain", "steered", "mcnemar_p", "kl", ...}."""
        data: dict[str, Any] = {
            "n": self.n,
            "intent": self.intent,
            "source": self.source,
            "jailbroken": self.jailbroken,
            "seconds": self.seconds,
            "tokens_per_second": self.tokens_per_second,
            "plain": self.plain.to_json(),
        }
        if self.steered is not None and self.comparison is not None:
            data |= {"steered": self.steered.to_json(), **self.comparison.to_json()}
        return data | {"categories": {category.name: category.to_json() for category in self.categories}}


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
