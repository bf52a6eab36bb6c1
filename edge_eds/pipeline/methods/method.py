"""The interface of a method: what it is given, and the family of steerers that it gives back.

A method sees the collection (states and judged answers, train and validation split) once, in `prepare`. What
comes back spans a grid: shapes (layers and the like; searched) times a ladder of strengths (weak to strong; each
shape's curve). The search steers the model with members of this grid and knows nothing else of the method.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_eds.energy.file import EnergyFile
from edge_eds.pipeline.collect import Collection
from edge_eds.pipeline.methods.steerer import Steerer
from edge_eds.pipeline.train import Labels

Shape = Mapping[str, Any]  # of values that JSON can hold; its canonical JSON names it


@dataclass(frozen=True)
class Context:
    """What a method may use.

    energy: the fitted energy file, for methods that are made from it. own_adapter: the LoRA adapter that the model
    is used with; tuned_adapter: one fine-tuned against false refusals. folder: where it may keep what took long to
    make; it finds it there again. on_progress: called with (done, in all, what comes next).
    """

    collection: Collection
    folder: Path
    energy: EnergyFile | None = None
    own_adapter: Path | None = None
    tuned_adapter: Path | None = None
    seed: int = 0
    on_progress: Callable[[int, int, str], None] = field(default=lambda done, total, what: None)

    @property
    def labels(self) -> Labels:
        return Labels.of(self.collection)


class Family(ABC):
    """The grid of one method on one model."""

    @abstractmethod
    def shapes(self) -> Sequence[Shape]:
        """All shapes, in no particular order."""

    @abstractmethod
    def strengths(self, shape: Shape) -> Sequence[float]:
        """The ladder of a shape, weak to strong."""

    @abstractmethod
    def steerer(self, shape: Shape, strength: float) -> Steerer:
        """One member."""

    def given_strength(self) -> float | None:
        """The strength to choose, where that was found elsewhere; None where the search is to choose."""
        return None


@dataclass(frozen=True)
class Method:
    """name: as --method takes it. title: for tables. prepare: see Context; InputError where the collection, or
    what else the method needs, does not suffice. made_from: the fields of the context besides the collection that
    what it gives depends on.
    """

    name: str
    title: str
    prepare: Callable[[Context], Family]
    made_from: tuple[str, ...] = ()
