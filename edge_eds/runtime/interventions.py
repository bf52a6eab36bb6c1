"""What can be done to the hidden states of a layer: frozen values, checked when made.

An intervention edits rows of `l_out-<il>`, the output of block il (residual stream after the block), float32
(n_rows, n_embd). Which rows: "all" (every token, the prompt's included) or "answer" (the prompt's last token
and every new token).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from edge_eds.energy.network import LayerEnergy
from edge_eds.errors import SettingsError

Rows = Literal["all", "answer"]
FloatArray = npt.NDArray[np.float32]
PythonFunction = Callable[[FloatArray], FloatArray | None]


def _vector(values: npt.ArrayLike, what: str) -> FloatArray:
    vector = np.ascontiguousarray(values, dtype=np.float32)
    if vector.ndim != 1 or vector.size == 0:
        raise SettingsError(f"{what}: expected a vector (n_embd,), found shape {vector.shape}")
    if not np.isfinite(vector).all():
        raise SettingsError(f"{what}: expected finite numbers, found NaN or infinity")
    return vector


def _check_rows(rows: str) -> None:
    if rows not in ("all", "answer"):
        raise SettingsError(f"rows: expected 'all' or 'answer', found {rows!r}")


@dataclass(frozen=True)
class AddVector:
    """h <- h + scale * vector, as llama.cpp's control vectors do (bit for bit at scale 1)."""

    vector: npt.ArrayLike  # (n_embd,)
    scale: float = 1.0
    rows: Rows = "all"

    def __post_init__(self) -> None:
        object.__setattr__(self, "vector", _vector(self.vector, "AddVector.vector"))
        if not np.isfinite(self.scale):
            raise SettingsError(f"AddVector.scale: expected a finite number, found {self.scale}")
        _check_rows(self.rows)

    @property
    def scaled(self) -> FloatArray:
        """scale * vector, float32 (n_embd,)."""
        scaled: FloatArray = np.asarray(self.vector, dtype=np.float32) * np.float32(self.scale)
        return scaled


@dataclass(frozen=True)
class AblateDirection:
    """h <- h - amount * (h . u) u with u = direction / |direction| (Arditi et al. 2024)."""

    direction: npt.ArrayLike  # (n_embd,), any length but 0
    amount: float = 1.0
    rows: Rows = "all"

    def __post_init__(self) -> None:
        direction = _vector(self.direction, "AblateDirection.direction")
        if not np.linalg.norm(direction) > 0:
            raise SettingsError("AblateDirection.direction: expected a vector that is not zero")
        object.__setattr__(self, "direction", direction)
        if not np.isfinite(self.amount):
            raise SettingsError(f"AblateDirection.amount: expected a finite number, found {self.amount}")
        _check_rows(self.rows)

    @property
    def unit(self) -> FloatArray:
        """direction / |direction|, float32 (n_embd,)."""
        direction = np.asarray(self.direction, dtype=np.float64)
        unit: FloatArray = (direction / np.linalg.norm(direction)).astype(np.float32)
        return unit


@dataclass(frozen=True)
class AddLowRank:
    """h <- h + scale * U (V h + c): a linear map of low rank that says itself how much each row is moved."""

    up: npt.ArrayLike = field(repr=False)  # U (n_embd, rank)
    down: npt.ArrayLike = field(repr=False)  # V (rank, n_embd)
    bias: npt.ArrayLike | None = field(default=None, repr=False)  # c (rank,); None: zeros
    scale: float = 1.0
    rows: Rows = "all"

    def __post_init__(self) -> None:
        up, down = (
            np.ascontiguousarray(value, dtype=np.float32) for value in (self.up, self.down)
        )
        rank = down.shape[0] if down.ndim == 2 else 0
        bias = np.zeros(rank, np.float32) if self.bias is None else np.ascontiguousarray(self.bias, np.float32)
        if rank == 0 or down.size == 0 or up.shape != down.shape[::-1] or bias.shape != (rank,):
            raise SettingsError(
                f"AddLowRank: expected up (n_embd, rank), down (rank, n_embd) and bias (rank,), "
                f"found {up.shape}, {down.shape} and {bias.shape}"
            )
        for name, value in (("up", up), ("down", down), ("bias", bias)):
            if not np.isfinite(value).all():
                raise SettingsError(f"AddLowRank.{name}: expected finite numbers, found NaN or infinity")
            object.__setattr__(self, name, value)
        if not np.isfinite(self.scale):
            raise SettingsError(f"AddLowRank.scale: expected a finite number, found {self.scale}")
        _check_rows(self.rows)

    @property
    def matrices(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """(V, c, scale * U^T), float32 (rank, n_embd), (rank,) and (rank, n_embd)."""
        up, down, bias = (np.asarray(value, dtype=np.float32) for value in (self.up, self.down, self.bias))
        return down, bias, np.ascontiguousarray(up.T * np.float32(self.scale))


@dataclass(frozen=True)
class EnergyDescent:
    """Descend one head of one layer's energy at the prompt's last token and every new token, without a gate.

    Each step moves by step_size * |h| (relative) or by step_size (absolute) down the gradient, in the
    covariance metric where the energy has a subspace and `covariance` is set. Rows whose energy is not above
    `threshold` keep their bits.
    """

    energy: LayerEnergy = field(repr=False)
    head: str = "fr"
    steps: int = 3
    step_size: float = 0.05
    relative: bool = True
    covariance: bool = True
    max_shift: float = 0.0  # as a fraction of |h|; 0 = no cap
    threshold: float = -np.inf

    rows: ClassVar[Rows] = "answer"

    def __post_init__(self) -> None:
        if self.head not in self.energy.heads:
            raise SettingsError(
                f"EnergyDescent.head: expected one of {sorted(self.energy.heads)}, found {self.head!r}"
            )
        if self.steps < 1:
            raise SettingsError(f"EnergyDescent.steps: expected at least 1, found {self.steps}")
        for name, value in (("step_size", self.step_size), ("max_shift", self.max_shift)):
            if not (np.isfinite(value) and value >= 0):
                raise SettingsError(f"EnergyDescent.{name}: expected a finite number >= 0, found {value}")
        if np.isnan(self.threshold):
            raise SettingsError("EnergyDescent.threshold: expected a number, found NaN")
        if self.covariance and self.energy.subspace is None:
            raise SettingsError("EnergyDescent.covariance: this energy has no subspace; set covariance=False")

    @property
    def schedule(self) -> tuple[int, float, bool, bool, float]:
        """What all descents of one session step have in common."""
        return self.steps, self.step_size, self.relative, self.covariance, self.max_shift


Intervention = AddVector | AblateDirection | AddLowRank | EnergyDescent | PythonFunction
