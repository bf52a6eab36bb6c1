"""`alphasteer`: a linear map of the state that moves false refusals towards answers and vanishes on all others.

Sheng et al. 2026 ("AlphaSteer: Learning Refusal Steering with Principled Null-Space Constraint"). There the map
moves harmful prompts to refusals and preserves benign ones; here it is the other way round: refused benign states
are moved, harmful states and answered benign ones are preserved.

    h <- h + strength * r (v . h)      r = mean answered - mean refused benign state

v solves the ridge regression v . h = 1 on refused benign states, within the directions in which preserved states
hardly lie: the eigenvectors of their second moments with the smallest eigenvalues. All rows of the target are r, so
the published d x d matrix has rank one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from edge_eds.pipeline.methods.method import Context, Family, Method, Shape
from edge_eds.pipeline.methods.states import FloatArray, States, windows
from edge_eds.pipeline.methods.steerer import InterventionSteerer, Steerer
from edge_eds.runtime.interventions import AddLowRank

STRENGTHS = (0.15, 0.3, 0.5, 0.75, 1.0, 1.4, 2.0, 3.0)  # of all layers together
NULL_SHARES = (0.5, 0.8)  # of the directions that count as the null space
RIDGE = 0.1  # relative to the mean square of a coordinate of the states that are moved
WINDOW_SIZES = (4, 8)


@dataclass(frozen=True)
class AlphaSteerFamily(Family):
    """Shapes say which layers, and how many directions count as the null space of the preserved states."""

    states: States
    readings: dict[tuple[int, float], FloatArray] = field(default_factory=dict, repr=False)  # what took long

    def shapes(self) -> Sequence[Shape]:
        return [
            {"layers": list(window), "null_share": share}
            for window in windows(self.states.collection, WINDOW_SIZES)
            for share in NULL_SHARES
        ]

    def strengths(self, shape: Shape) -> Sequence[float]:
        return STRENGTHS

    def steerer(self, shape: Shape, strength: float) -> Steerer:
        maps = {}
        for il in shape["layers"]:
            reading = self.reading(il, shape["null_share"])
            maps[il] = AddLowRank(
                self.states.towards_answering(il)[:, None],
                reading[None],
                scale=strength / len(shape["layers"]),
                rows="answer",
            )
        return InterventionSteerer(maps)

    def reading(self, il: int, null_share: float) -> FloatArray:
        """v (n_embd,) of one layer."""
        if (il, null_share) not in self.readings:
            self.readings[il, null_share] = null_space_reading(*self.classes(il), null_share)
        return self.readings[il, null_share]

    def classes(self, il: int) -> tuple[FloatArray, FloatArray]:
        """Training states of one layer: those to move (n, n_embd), and those to preserve (m, n_embd)."""
        states = self.states
        return states.of(il, states.refused_benign), states.of(il, states.harmful | states.answered_benign)


def null_space_reading(moved: FloatArray, preserved: FloatArray, null_share: float, ridge: float = RIDGE) -> FloatArray:
    """v (n_embd,): v . h is about 1 on states to move (n, n_embd), and small on those to preserve (m, n_embd).

    v = N (Y^T Y + a I)^-1 Y^T 1 with Y = moved N, where N (n_embd, k) are the null_share * n_embd eigenvectors of
    preserved^T preserved with the smallest eigenvalues.
    """
    n_embd = moved.shape[1]
    k = min(max(1, round(null_share * n_embd)), n_embd)
    null = np.linalg.eigh(preserved.T @ preserved)[1][:, :k]  # ascending eigenvalues
    y = moved @ null
    gram = y.T @ y
    penalty = ridge * np.trace(gram) / k + np.finfo(float).tiny
    return np.asarray(null @ np.linalg.solve(gram + penalty * np.eye(k), y.sum(axis=0)))


def prepare(context: Context) -> AlphaSteerFamily:
    return AlphaSteerFamily(States(context.collection))


ALPHASTEER = Method("alphasteer", "null-space projection (AlphaSteer)", prepare)
