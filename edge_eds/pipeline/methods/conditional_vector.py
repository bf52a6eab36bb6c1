"""`conditional-vector`: a control vector that is added only where a condition holds (CAST).

Lee et al. 2025 ("Programming Refusal with Conditional Activation Steering"). The condition compares the state at
the prompt's end, in one early layer, with a condition vector: the first principal component of matched harmful and
benign states, each pair around its own mean. Where the cosine similarity of the state and its projection on that
vector is above (or below) a threshold, the behaviour vector is added from the prompt's end on. Both are exactly an
energy file (energy_forms.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_eds.energy.calibration import auc
from edge_eds.energy.file import EnergyFile
from edge_eds.energy.settings import GateSpec
from edge_eds.errors import InputError
from edge_eds.pipeline.methods.energy_forms import (
    bound_for_share,
    cosine_gate,
    similarity_energy,
    vector_energy,
    with_benign_bound,
)
from edge_eds.pipeline.methods.method import Context, Family, Method, Shape
from edge_eds.pipeline.methods.states import FloatArray, States, windows
from edge_eds.pipeline.methods.steerer import EnergySteerer, Steerer
from edge_eds.pipeline.train import MIN_CLASS

FORCES = (0.75, 1.5)  # as control-vector's strengths
WINDOW_SIZES = (4,)
SHARES = (0.2, 0.4, 0.55, 0.7, 0.8, 0.9, 0.95, 1.0)  # of the refused benign prompts that meet the condition


IndexArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Condition:
    """A condition vector (n_embd,) of one layer. sign: 1 where benign prompts are the less similar ones."""

    il: int
    vector: FloatArray
    sign: int
    auc: float


@dataclass(frozen=True)
class ConditionalFamily(Family):
    """Of the conditions below a window, the one that tells harmful from benign validation prompts best is used."""

    states: States
    conditions: tuple[Condition, ...]

    def shapes(self) -> Sequence[Shape]:
        return [
            {"layers": list(window), "force": force}
            for window in windows(self.states.collection, WINDOW_SIZES)
            for force in FORCES
        ]

    def strengths(self, shape: Shape) -> Sequence[float]:
        return SHARES

    def steerer(self, shape: Shape, strength: float) -> Steerer:
        file = self.open_file(shape)
        return EnergySteerer(with_benign_bound(file, bound_for_share(file, self.states.collection, strength)))

    def open_file(self, shape: Shape) -> EnergyFile:
        """The energy file of a shape, with a bound that is still to be set."""
        layers = shape["layers"]
        condition = max((c for c in self.conditions if c.il <= layers[0]), key=lambda c: c.auc)
        gate = GateSpec(bias=0.0, weights={condition.il: float(condition.sign)}, benign=0.0, harmful=1e6)
        return vector_energy(
            self.states.collection,
            {il: self.states.towards_answering(il) for il in layers},
            shape["force"] * self.states.distance(layers) / len(layers),
            (gate, cosine_gate(condition.il, condition.vector)),
        )


def find_condition(states: States, il: int) -> Condition:
    """The condition vector of one layer, and how well its similarity tells intents apart on validation."""
    harmful, benign = pairs(states)
    differences = (states.collection.layer(il, harmful) - states.collection.layer(il, benign)).astype(np.float64)
    # Around its own mean a pair is +-difference / 2: the component is the eigenvector of the second moments.
    vector = np.linalg.eigh(differences.T @ differences)[1][:, -1]
    vector = vector * (1.0 if differences.mean(axis=0) @ vector >= 0 else -1.0)
    labels = states.labels
    rows = labels.validation & ~labels.ordinary
    h = states.of(il, rows)
    cosine = h @ vector / np.linalg.norm(h, axis=1)  # vector is a unit vector
    value = auc(similarity_energy(cosine, vector.size), labels.harmful[rows])
    return Condition(il, vector, 1 if value >= 0.5 else -1, max(value, 1 - value))


def pairs(states: States) -> tuple[IndexArray, IndexArray]:
    """Rows of the harmful and the benign halves of the matched training pairs, pair by pair.

    Raises:
        InputError: too few pairs.
    """
    halves: dict[str, dict[str, int]] = {}
    for i in np.flatnonzero(states.labels.train):
        example = states.collection.examples[i]
        halves.setdefault(example.group, {})[example.intent] = int(i)
    whole = [pair for pair in halves.values() if {"harmful", "benign"} <= set(pair)]
    if len(whole) < MIN_CLASS:
        raise InputError(f"{len(whole)} matched training pairs; a condition vector needs at least {MIN_CLASS}")
    return np.array([pair["harmful"] for pair in whole]), np.array([pair["benign"] for pair in whole])


def prepare(context: Context) -> ConditionalFamily:
    states = States(context.collection)
    highest = max(window[0] for window in windows(context.collection, WINDOW_SIZES))
    layers = [il for il in context.collection.layers if il <= highest]
    return ConditionalFamily(states, tuple(find_condition(states, il) for il in layers))


CONDITIONAL_VECTOR = Method("conditional-vector", "conditional vector (CAST)", prepare)
