"""What methods read from a collection: means, directions and lengths of the states at the prompt's end.

Everything is computed on the training split, in float64. Leaves out what a method does with it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edge_eds.errors import InputError
from edge_eds.pipeline.collect import Collection
from edge_eds.pipeline.train import MIN_CLASS, BoolArray, Labels

FloatArray = npt.NDArray[np.float64]


class States:
    """The training states of one collection, by class.

    Raises:
        InputError: too few benign prompts were refused, or too few answered, to tell the two apart.
    """

    def __init__(self, collection: Collection) -> None:
        self.collection = collection
        self.labels = Labels.of(collection)
        for what, mask in (("refused", self.refused_benign), ("answered", self.answered_benign)):
            if mask.sum() < MIN_CLASS:
                raise InputError(
                    f"{int(mask.sum())} benign training prompts were {what}; this method needs at least {MIN_CLASS}"
                )

    @property
    def refused_benign(self) -> BoolArray:
        return self.labels.train & self.labels.benign & self.labels.refused

    @property
    def answered_benign(self) -> BoolArray:
        return self.labels.train & self.labels.benign & self.labels.answered

    @property
    def harmful(self) -> BoolArray:
        return self.labels.train & self.labels.harmful

    def of(self, il: int, mask: BoolArray) -> FloatArray:
        """States (n, n_embd) of one layer."""
        return self.collection.layer(il, np.flatnonzero(mask)).astype(np.float64)

    def mean(self, il: int, mask: BoolArray) -> FloatArray:
        """Mean state (n_embd,) of one layer."""
        return np.asarray(self.of(il, mask).mean(axis=0))

    def towards_answering(self, il: int) -> FloatArray:
        """Mean answered minus mean refused benign state (n_embd,)."""
        return self.mean(il, self.answered_benign) - self.mean(il, self.refused_benign)

    def distance(self, layers: Sequence[int]) -> float:
        """How far answered benign states are from refused ones, |towards_answering|, in the mean of these layers."""
        return float(np.mean([np.linalg.norm(self.towards_answering(il)) for il in layers]))


def unit(vector: FloatArray) -> FloatArray:
    """vector / |vector|.

    Raises:
        InputError: it is zero: the classes do not differ at all.
    """
    length = float(np.linalg.norm(vector))
    if length == 0:
        raise InputError("the states of the two classes are the same: there is no direction between them")
    return vector / length


def windows(collection: Collection, sizes: Sequence[int], low: float = 0.3, high: float = 0.9) -> list[tuple[int, ...]]:
    """Runs of neighbouring layers to steer, between two fractions of the depth: of each size, half overlapping."""
    n_layer = collection.fingerprint.n_layer
    layers = [il for il in collection.layers if low * n_layer <= il <= high * n_layer]
    found: list[tuple[int, ...]] = []
    for size in sizes:
        size = min(size, len(layers))
        for first in range(0, len(layers) - size + 1, max(1, size // 2)):
            window = tuple(layers[first : first + size])
            if window and window not in found:
                found.append(window)
    if not found:
        raise InputError(f"a model of {n_layer} layers has none to steer between {low:g} and {high:g} of its depth")
    return found
