"""The gate of a model: one score for "is this request harmful?", read from several layers at the prompt's end and over
the tokens of the message.

Takes a collection; gives E_harm and E_harm_message for a span of layers and what joins them. All of it is fitted
together, by ridge regression of the intent on the standardised states: an energy is one term of one sum, so that layers
which tell the same thing share it, and what only two of them together can tell is found. A linear energy of the mean
state is the mean of that energy over the tokens, which is what the runtime reads. The gate is read and never descended,
so nothing asks for the shape of an energy around a state; small MLPs and kernels ranked no better.

Everything that is chosen (the penalty, the score's scale, later the bounds) is chosen on scores that are *out of
fold*: each prompt's score comes from a fit that has seen no prompt of its category. A gate has to work on kinds of
requests that nobody thought of, and on kinds it was trained on it looks far better than it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_eds.energy.calibration import auc, fit_logistic
from edge_eds.energy.network import GATE_HEADS, HeadWeights, LayerEnergy, Subspace
from edge_eds.energy.settings import GateSpec
from edge_eds.pipeline.collect import Collection

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
SMALLEST_SPREAD = 1e-6  # of a state's component that does not vary


@dataclass(frozen=True)
class TrainedGate:
    """spec: its bounds are still to be chosen. layers: E_harm and E_harm_message of each layer that it reads.

    scores (n,): out-of-fold log-odds of harm for every example of the collection; auc: how they rank the prompts that
    have an intent to be told, ordinary requests left out.
    """

    spec: GateSpec
    layers: Mapping[int, LayerEnergy]
    scores: FloatArray
    auc: float


def train_gate(
    collection: Collection,
    layers: Sequence[int],
    harmful: BoolArray,
    ranked: BoolArray,
    *,
    ridges: Sequence[float],
    n_folds: int,
    seed: int,
) -> TrainedGate:
    """Fit a gate that reads `layers`.

    Args:
        harmful: (n,) the examples whose request is harmful.
        ranked: (n,) the examples that the score is calibrated on and judged by.
        ridges: penalties to choose from, in units of the number of features.
        n_folds: parts of the collection that are left out in turn.
    """
    ends, messages = [[read(il) for il in layers] for read in (collection.layer, collection.message_layer)]
    states = np.concatenate([*ends, *messages], axis=1)  # (n, 2 * n_layers * n_embd)
    folds = folds_by_category(collection, n_folds, seed)
    by_ridge = dict(zip(ridges, _out_of_fold(states, harmful, folds, ridges), strict=True))
    ridge = max(ridges, key=lambda value: auc(by_ridge[value][ranked], harmful[ranked]))
    raw = by_ridge[ridge]
    bias, (scale,) = fit_logistic(raw[ranked][:, None], harmful[ranked])
    mean, spread = _standardised(states)
    weights = _ridge_weights((states - mean) / spread, harmful, [ridge])[0] * scale / spread
    means = mean.reshape(2, len(layers), -1)
    terms = weights.reshape(means.shape)
    energies = {il: _terms(il, means[:, i], terms[:, i], ends[i]) for i, il in enumerate(layers)}
    one_each = dict.fromkeys(layers, 1.0)
    spec = GateSpec(bias=bias, weights=one_each, message_weights=one_each, benign=0.0, harmful=0.0)
    return TrainedGate(spec, energies, bias + scale * raw, auc(raw[ranked], harmful[ranked]))


def folds_by_category(collection: Collection, n_folds: int, seed: int) -> npt.NDArray[np.int64]:
    """The fold (n,) of each example: whole categories together, or matched prompts where there are few categories."""
    names = [example.category for example in collection.examples]
    if len(set(names)) < 2 * n_folds:
        names = [example.group for example in collection.examples]
    distinct = sorted(set(names))
    shuffled = np.random.default_rng(seed).permutation(len(distinct))
    fold_of = {distinct[i]: rank % n_folds for rank, i in enumerate(shuffled)}
    return np.array([fold_of[name] for name in names])


def _out_of_fold(
    states: npt.NDArray[np.float32], harmful: BoolArray, folds: npt.NDArray[np.int64], ridges: Sequence[float]
) -> FloatArray:
    """(n_ridges, n) scores, each from a fit without its own fold."""
    scores = np.zeros((len(ridges), len(states)))
    for fold in np.unique(folds):
        out = folds == fold
        mean, spread = _standardised(states[~out])
        weights = _ridge_weights((states[~out] - mean) / spread, harmful[~out], ridges)
        scores[:, out] = weights @ ((states[out] - mean) / spread).T
    return scores


def _standardised(states: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    return states.mean(axis=0), states.std(axis=0) + np.float32(SMALLEST_SPREAD)


def _ridge_weights(X: npt.NDArray[np.float32], harmful: BoolArray, ridges: Sequence[float]) -> FloatArray:
    """(n_ridges, n_features), solved among the examples, which are fewer than the features of all layers."""
    kernel = (X @ X.T).astype(np.float64) / X.shape[1]
    y = np.where(harmful, 1.0, -1.0)
    dual = np.stack([np.linalg.solve(kernel + ridge * np.eye(len(X)), y) for ridge in ridges])
    return np.asarray(dual @ X / X.shape[1])


def _terms(
    il: int, means: npt.NDArray[np.float32], weights: FloatArray, ends: npt.NDArray[np.float32]
) -> LayerEnergy:
    """weights . (h - mean) as energies, for the prompt's end and the message, means and weights (2, n_embd): linear, in
    the plane of the two weights, which is scaled by the states at the prompts' ends.
    """
    plane = np.linalg.qr(weights.T)[0].T  # (2, n_embd), orthonormal even if the weights are not independent
    spread = np.maximum(((ends - means[0]) @ plane.T).std(axis=0), SMALLEST_SPREAD)
    subspace = Subspace(means[0], plane.astype(np.float32), spread.astype(np.float32))
    heads = {
        head: HeadWeights((), ((plane @ w) * spread).astype(np.float32), c=float(w @ (means[0] - mean)))
        for head, mean, w in zip(GATE_HEADS, means, weights, strict=True)
    }
    return LayerEnergy(il, subspace, heads)
