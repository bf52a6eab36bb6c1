"""`control-vector`: the mean difference of answered and refused benign states, added at some layers.

One length for all layers of a window, scale times their mean |h|, so that the answer-rows form is exactly an energy
file and the all-rows form exactly a control vector of llama.cpp (unit directions times one scale, as its
cvector-generator's method "mean" makes them).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edge_eds.pipeline.methods.energy_forms import vector_energy
from edge_eds.pipeline.methods.method import Context, Method, Shape
from edge_eds.pipeline.methods.states import States, unit, windows
from edge_eds.pipeline.methods.steerer import EnergySteerer, Steerer, VectorSteerer
from edge_eds.runtime.control_vector import ControlVector

SCALES = (0.03, 0.06, 0.1, 0.15, 0.2, 0.3, 0.45, 0.7)
WINDOW_SIZES = (4, 8)


@dataclass(frozen=True)
class ControlVectorFamily:
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
        # several layers in a row add up
        return [scale / len(shape["layers"]) ** 0.5 for scale in SCALES]

    def steerer(self, shape: Shape, strength: float) -> Steerer:
        layers = shape["layers"]
        length = strength * self.states.length(layers)
        directions = {il: self.states.towards_answering(il) for il in layers}
        collection = self.states.collection
        if shape["rows"] == "answer":
            return EnergySteerer(vector_energy(collection, directions, length))
        vectors = {il: (length * unit(vector)).astype(np.float32) for il, vector in directions.items()}
        return VectorSteerer(ControlVector(vectors, collection.fingerprint.architecture))


def prepare(context: Context) -> ControlVectorFamily:
    return ControlVectorFamily(States(context.collection))


CONTROL_VECTOR = Method("control-vector", "control vector", prepare)
