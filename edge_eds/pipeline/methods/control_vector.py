"""`control-vector`: the mean difference of answered and refused benign states, added at some layers.

A strength is how far the layers together move a row, in units of the distance between the two means. Each layer of a
window adds the same length, so that the answer-rows form is exactly an energy file and the all-rows form exactly a
control vector of llama.cpp (unit directions times one scale, as its cvector-generator's method "mean" makes them).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edge_eds.pipeline.methods.energy_forms import vector_energy
from edge_eds.pipeline.methods.method import Context, Family, Method, Shape
from edge_eds.pipeline.methods.states import States, unit, windows
from edge_eds.pipeline.methods.steerer import EnergySteerer, Steerer, VectorSteerer
from edge_eds.runtime.control_vector import ControlVector

STRENGTHS = (0.15, 0.3, 0.5, 0.75, 1.0, 1.4, 2.0, 3.0)
WINDOW_SIZES = (4, 8)


@dataclass(frozen=True)
class ControlVectorFamily(Family):
    """The directions by layer are those of the training split."""

    states: States

    def shapes(self) -> Sequence[Shape]:
        return [
            {"layers": list(window), "rows": rows}
            for window in windows(self.states.collection, WINDOW_SIZES)
            if 0 not in window  # which a control vector cannot name
            for rows in ("answer", "all")
        ]

    def strengths(self, shape: Shape) -> Sequence[float]:
        return STRENGTHS

    def steerer(self, shape: Shape, strength: float) -> Steerer:
        layers = shape["layers"]
        length = strength * self.states.distance(layers) / len(layers)
        directions = {il: self.states.towards_answering(il) for il in layers}
        collection = self.states.collection
        if shape["rows"] == "answer":
            return EnergySteerer(vector_energy(collection, directions, length))
        vectors = {il: (length * unit(vector)).astype(np.float32) for il, vector in directions.items()}
        return VectorSteerer(ControlVector(vectors, collection.fingerprint.architecture))


def prepare(context: Context) -> ControlVectorFamily:
    return ControlVectorFamily(States(context.collection))


CONTROL_VECTOR = Method("control-vector", "control vector", prepare)
