"""Statistics of paired times: medians, spread, and the ratio to plain with an interval that assumes nothing.

A machine's speed drifts, so each time is compared with the plain ones right before and after it. The interval of a
median lies between two of the ordered values (the sign test turned around): k values lie below the true median with the
probability of k heads in n throws of a coin. Nothing is assumed of how the noise is spread; five values give no 95 %
interval, six do. Left out: measuring (runner.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Median:
    """The median of n values, and an interval for the true one that holds with at least this confidence.

    confidence: CONFIDENCE or a little more where n >= 6, else what the whole range of the values gives (n = 5: 0.9375).
    """

    value: float
    low: float
    high: float
    confidence: float


def median(values: Sequence[float]) -> Median:
    """The median of one value or more, with its interval."""
    ordered = sorted(values)
    k, confidence = 0, _confidence(len(ordered), 0)
    while 2 * (k + 1) < len(ordered) and _confidence(len(ordered), k + 1) >= CONFIDENCE:
        k, confidence = k + 1, _confidence(len(ordered), k + 1)
    return Median(float(np.median(ordered)), ordered[k], ordered[-1 - k], confidence)


def _confidence(n: int, k: int) -> float:
    """How surely the true median lies between the values of rank k and n - 1 - k, counted from 0."""
    return max(0.0, 1 - math.ldexp(sum(math.comb(n, i) for i in range(k + 1)), 1 - n))


@dataclass(frozen=True)
class Pair:
    """One time, and the plain times right before and after it; seconds."""

    seconds: float
    before: float
    after: float

    @property
    def plain(self) -> float:
        """What plain would have taken at the same moment, if speed drifts evenly: the geometric mean."""
        return math.sqrt(self.before) * math.sqrt(self.after)

    @property
    def ratio(self) -> float:
        return self.seconds / self.plain

    @property
    def extra(self) -> float:
        """Seconds more than plain."""
        return self.seconds - self.plain


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """The spread: the middle half of the values lies between these two."""
    low, high = np.percentile(np.asarray(values, dtype=np.float64), [25, 75])
    return float(low), float(high)


def quotient(over: Median, under: Median) -> tuple[float | None, float | None, float | None]:
    """(value, low, high) of over / under, from both intervals at their worst; None where zero is in the way."""

    def part(a: float, b: float) -> float | None:
        return a / b if a > 0 and b > 0 else None

    return part(over.value, under.value), part(over.low, under.high), part(over.high, under.low)
