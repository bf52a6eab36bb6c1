"""The statistics of an evaluation: intervals for rates and for a paired difference, a paired test, the distance of
two distributions, quantiles and histograms.

Closed forms only: nothing is resampled, so the same answers give the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Z_95 = 1.959963984540054  # the 97.5 % quantile of the normal distribution


@dataclass(frozen=True)
class Rate:
    """A fraction 0..1 with its 95 % interval."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        """{"value", "low", "high"}."""
        return {"value": self.value, "low": self.low, "high": self.high}


def wilson(successes: int, n: int) -> Rate:
    """The rate of `successes` among n with its 95 % score interval (Wilson 1927).

    With p = successes/n the centre is (p + z^2/2n) / (1 + z^2/n), the half width
    z sqrt(p(1-p)/n + z^2/4n^2) / (1 + z^2/n).

    Raises:
        ValueError: n is not positive, or successes lie outside 0..n.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} of {n} is no rate")
    p, z2n = successes / n, Z_95**2 / n
    centre = p + z2n / 2
    half = Z_95 * math.sqrt((p * (1 - p) + z2n / 4) / n)
    # at 0 and n the bound is exact; rounding must not put it beyond the rate itself
    low = 0.0 if successes == 0 else (centre - half) / (1 + z2n)
    high = 1.0 if successes == n else (centre + half) / (1 + z2n)
    return Rate(p, low, high)


def mcnemar(before: Sequence[bool], after: Sequence[bool]) -> float:
    """Two-sided exact p of McNemar's test for paired outcomes (McNemar 1947; binomial form).

    Of the pairs that changed, each direction is equally likely if nothing is going on: with b and c changes
    in the two directions p = min(1, 2 P(X <= min(b, c))), X ~ Binomial(b + c, 1/2). No changes: 1.
    """
    if len(before) != len(after):
        raise ValueError(f"{len(before)} and {len(after)} outcomes are no pairs")
    b = sum(x and not y for x, y in zip(before, after, strict=True))
    c = sum(y and not x for x, y in zip(before, after, strict=True))
    tail = sum(math.comb(b + c, k) for k in range(min(b, c) + 1))
    return min(1.0, float(2 * tail / 2 ** (b + c)))  # whole numbers up to the one division: no overflow


def paired_difference(before: Sequence[bool], after: Sequence[bool]) -> Rate:
    """The rate after minus the rate before, -1..1, with its 95 % interval (Newcombe 1998, paired data, method 10).

    The score intervals of both rates are put together by squares, less what the correlation phi of the outcomes
    explains; phi is corrected for continuity where it is positive.

    Raises:
        ValueError: no outcomes, or not in pairs.
    """
    if len(before) != len(after):
        raise ValueError(f"{len(before)} and {len(after)} outcomes are no pairs")
    n = len(before)
    both = sum(x and y for x, y in zip(before, after, strict=True))
    gone, come = sum(before) - both, sum(after) - both
    neither = n - both - gone - come
    p, q = wilson(sum(after), n), wilson(sum(before), n)
    covariance: float = both * neither - gone * come
    if covariance > 0:
        covariance = max(covariance - n / 2, 0.0)
    margins = (both + gone) * (come + neither) * (both + come) * (gone + neither)
    phi = covariance / math.sqrt(margins) if margins else 0.0
    difference = p.value - q.value
    below = _joined(p.value - p.low, q.high - q.value, phi)
    above = _joined(p.high - p.value, q.value - q.low, phi)
    return Rate(difference, max(difference - below, -1.0), min(difference + above, 1.0))


def _joined(a: float, b: float, phi: float) -> float:
    return math.sqrt(max(a * a - 2 * phi * a * b + b * b, 0.0))


def quantiles(values: npt.ArrayLike, percents: Sequence[int]) -> dict[str, float]:
    """{"mean", "p50", ...}: the mean and the asked percentiles of one value or more."""
    array = np.asarray(values, dtype=np.float64)
    found = np.percentile(array, percents)
    return {"mean": float(array.mean()), **{f"p{q}": float(x) for q, x in zip(percents, found, strict=True)}}


@dataclass(frozen=True)
class Histogram:
    """counts[i] values lie in edges[i]..edges[i + 1]; the last bin holds its upper edge."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]

    @classmethod
    def of(cls, values: npt.ArrayLike, edges: Sequence[float]) -> Histogram:
        """Count values that lie within the edges."""
        counts, _ = np.histogram(np.asarray(values, dtype=np.float64), bins=np.asarray(edges))
        return cls(tuple(map(float, edges)), tuple(map(int, counts)))

    def to_json(self) -> dict[str, list[float] | list[int]]:
        """{"edges", "counts"}."""
        return {"edges": list(self.edges), "counts": list(self.counts)}


def bin_edges(values: npt.ArrayLike, n_bins: int) -> tuple[float, ...]:
    """The edges of n_bins bins of one width over all of these values."""
    array = np.asarray(values, dtype=np.float64)
    return tuple(map(float, np.histogram_bin_edges(array, bins=n_bins)))


def kl_divergence(plain: npt.ArrayLike, steered: npt.ArrayLike) -> float:
    """KL(plain || steered) in nats of the two distributions over the next token, from logits (n_vocab,)."""
    p, q = (_log_softmax(np.asarray(logits, dtype=np.float64)) for logits in (plain, steered))
    possible = p > -np.inf  # elsewhere the term is 0
    return max(
        0.0, float(np.sum(np.exp(p[possible]) * (p[possible] - q[possible])))
    )  # rounding may fall below 0


def _log_softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    shifted = logits - logits.max()
    return np.asarray(shifted - np.log(np.exp(shifted).sum()))
