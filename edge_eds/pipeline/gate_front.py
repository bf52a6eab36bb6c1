"""The gate's bound as a trade: what each choice of it mends, and what it loses.

Takes the gate's scores of prompts and whether steering changed their answers; gives the front and a choice on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

OPEN = 1e6  # a bound on the gate's score (log-odds) that no prompt reaches
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class GatePoint:
    """One choice of a bound: what it mends and what it loses, as fractions of the prompts at stake."""

    bound: float
    mended: float
    lost: float


def gate_front(
    head: str,
    wrong_scores: FloatArray,
    changed_wrong: BoolArray,
    right_scores: FloatArray,
    changed_right: BoolArray,
) -> list[GatePoint]:
    """Every bound that matters, from the safest (nothing is steered) on."""
    side = 1 if head == "fr" else -1  # fr steers scores at or below its bound, jb those at or above
    bounds = [-side * OPEN, *sorted(set(wrong_scores[changed_wrong].tolist()), reverse=side < 0)]
    return [
        GatePoint(
            bound=float(bound),
            mended=float((changed_wrong & (side * wrong_scores <= side * bound)).mean()),
            lost=float((changed_right & (side * right_scores <= side * bound)).mean()) if len(right_scores) else 0.0,
        )
        for bound in bounds
    ]


def reached(head: str, scores: FloatArray, right_scores: FloatArray, share: float) -> BoolArray:
    """Which scores a bound steers that steers this share of the right answers, or any safer bound."""
    if not len(right_scores):
        return np.ones(len(scores), dtype=bool)
    side = 1 if head == "fr" else -1
    return np.asarray(side * scores <= np.quantile(side * right_scores, share))


def choose_point(front: Sequence[GatePoint], max_lost: float) -> GatePoint:
    """The point that mends the most among those that lose at most max_lost; the safer one of equals."""
    allowed = (point for point in front if point.lost <= max_lost)
    return max(allowed, key=lambda point: (point.mended, -point.lost))


def thinned(front: Sequence[GatePoint], n: int) -> list[GatePoint]:
    """About n points of a front, spread over what they lose; of equal losses the one that mends the most."""
    best: dict[float, GatePoint] = {}
    for point in front:
        if point.lost not in best or point.mended > best[point.lost].mended:
            best[point.lost] = point
    kept = list(best.values())
    if len(kept) <= n:
        return kept
    return [kept[i] for i in sorted({round(i * (len(kept) - 1) / (n - 1)) for i in range(n)})]
