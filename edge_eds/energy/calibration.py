"""How well an energy ranks, and what its value means.

AUC ranks heads: a loss on energy differences does not change when a constant is added to E, so "E < 0" means
nothing before calibration. `calibrate` then scales an energy so that its value is the log-odds of a bad
state, with good and bad equally frequent. Scale and offset are folded into w and c: the direction of the
gradient stays.

NumPy only, so that measuring needs no torch. Left out: training (training.py), the choice of thresholds
(tuning).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_eds.energy.network import FloatArray, HeadWeights
from edge_eds.errors import InputError

BoolArray = npt.NDArray[np.bool_]

RIDGE = 1e-3  # keeps the weights finite where the classes are separable
MAX_NEWTON_STEPS = 100
SMALLEST_SCALE = 1e-3  # of an energy that tells nothing, or the wrong thing: nearly even odds, the order kept


def auc(energies: npt.ArrayLike, bad: npt.ArrayLike) -> float:
    """Probability that a bad row has more energy than a good one, ties counting half. energies (n,), bad (n,)
    bool.

    Mann-Whitney U over the number of pairs. InputError unless there are both good and bad rows.
    """
    values, is_bad = np.asarray(energies, dtype=np.float64), np.asarray(bad, dtype=bool)
    n_bad, n_good = require_both(is_bad)
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # 1-based, ties share their mean rank
    return float((ranks[is_bad].sum() - n_bad * (n_bad + 1) / 2) / (n_bad * n_good))


def require_both(bad: BoolArray) -> tuple[int, int]:
    """(number of bad rows, number of good rows); InputError when either is 0."""
    n_bad = int(bad.sum())
    n_good = bad.size - n_bad
    if n_bad == 0 or n_good == 0:
        raise InputError(f"{n_bad} bad and {n_good} good states: an energy needs both; collect more prompts")
    return n_bad, n_good


def fit_logistic(
    X: FloatArray, bad: BoolArray, ridge: float = RIDGE
) -> tuple[float, npt.NDArray[np.float64]]:
    """(bias, weights (k,)) of a logistic regression of bad (n,) on X (n, k), both classes weighing the same.

    Newton's method in float64 with `ridge` on the weights of the standardised columns, the labels smoothed as
    Platt (1999) does. Also what joins the E_harm of several layers into one gate score.
    """
    n_bad, n_good = require_both(bad)
    X = np.asarray(X, dtype=np.float64)
    mean, spread = X.mean(axis=0), X.std(axis=0)
    spread[spread == 0] = 1
    A = np.column_stack([np.ones(len(X)), (X - mean) / spread])
    wanted = np.where(bad, (n_bad + 1) / (n_bad + 2), 1 / (n_good + 2))
    weight = np.where(bad, 0.5 / n_bad, 0.5 / n_good)
    penalty = np.diag([0.0] + [ridge] * X.shape[1])
    beta = np.zeros(A.shape[1])

    def loss(beta: npt.NDArray[np.float64]) -> float:
        logits = A @ beta
        return float(weight @ (np.logaddexp(0, logits) - wanted * logits) + beta @ penalty @ beta / 2)

    for _ in range(MAX_NEWTON_STEPS):
        p = 0.5 * (1 + np.tanh(A @ beta / 2))
        gradient = A.T @ (weight * (p - wanted)) + penalty @ beta
        hessian = (A * (weight * p * (1 - p))[:, None]).T @ A + penalty
        step = np.linalg.solve(hessian + 1e-12 * np.eye(len(beta)), gradient)
        scale = 1.0
        while loss(beta - scale * step) > loss(beta) and scale > 1e-8:
            scale /= 2
        beta = beta - scale * step
        if np.abs(step).max() < 1e-10:
            break
    weights = beta[1:] / spread
    return float(beta[0] - weights @ mean), weights


def calibrate(head: HeadWeights, Z: FloatArray, bad: BoolArray) -> HeadWeights:
    """The same head, scaled so that E is the log-odds of a bad state on rows Z (n, n_in), bad (n,).

    0 means undecided between good and bad if both are equally frequent. Use rows that the head was not
    trained on.
    """
    bias, (scale,) = fit_logistic(head.energy(Z)[:, None], bad)
    if scale < SMALLEST_SCALE:
        scale = SMALLEST_SCALE
        bias = -scale * float(np.median(head.energy(Z)))
    return HeadWeights(head.hidden, head.w * np.float32(scale), head.c * scale + bias)
