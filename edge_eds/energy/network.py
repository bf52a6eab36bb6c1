"""Energies as plain NumPy: frozen weights, the closed form of energy and gradient, and the reference descent.

Takes rows of the residual stream H (n, n_embd) and gives E (n,) and dE/dH (n, n_embd). A *head* is one small
MLP with a scalar output; the heads of one layer share one projection (a *subspace*). Sign: low energy is
good, steering goes down the gradient.

    z = (P (h - mu)) / s                         with a subspace; without one z = h
    a = W x + b;  LayerNorm(a) where the layer has it;  x = a * sigmoid(a)
    E = w . x + c
    dE/dh = P^T ((dE/dz) / s)

Weights are float32. The arithmetic runs in the type of H: float32 as in the native core and in ONNX Runtime,
float64 for finite differences. This is the reference that the other engines are tested against, not the fast
one. Left out: training (training.py), files (file.py), which rows and layers are steered (the runtime).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from edge_eds.errors import SteeringError

FloatArray: TypeAlias = npt.NDArray[np.floating[Any]]
Float32Array: TypeAlias = npt.NDArray[np.float32]
EnergyAndGradient: TypeAlias = Callable[[FloatArray], tuple[FloatArray, FloatArray]]

HEADS = ("harm", "harm_message", "fr", "jb", "merged")
"""Every head name, in the order that traces number them by."""

GATE_HEADS = ("harm", "harm_message")
"""Those that a gate reads: at the prompt's last token, and over the tokens of the message."""

LAYER_NORM_EPS = 1e-5
SMALLEST_NORM = 1e-30  # a gradient shorter than this has no direction
ORTHONORMAL_TOLERANCE = 1e-3


def _frozen(name: str, value: npt.ArrayLike, shape: tuple[int | None, ...]) -> Float32Array:
    """A read-only float32 copy of `value`; ValueError for a wrong shape or values that are not finite."""
    array = np.array(value, dtype=np.float32, order="C", copy=True)
    fits = array.ndim == len(shape) and all(
        w is None or w == n for w, n in zip(shape, array.shape, strict=True)
    )
    if not fits or 0 in array.shape:
        wanted = ", ".join("any" if n is None else str(n) for n in shape)
        raise ValueError(f"{name}: shape {array.shape}, expected ({wanted})")
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: NaN or infinite values")
    array.setflags(write=False)
    return array


def _sigmoid(a: FloatArray) -> FloatArray:
    # exp of a negative number only: no overflow, and small values keep their relative precision
    e = np.exp(-np.abs(a))
    return np.where(a >= 0, 1, e) / (1 + e)  # type: ignore[no-any-return]


@dataclass(frozen=True, eq=False)
class HiddenLayer:
    """One hidden block: x -> SiLU(LayerNorm(W x + b)), LayerNorm only where gamma and beta are given.

    W (n_out, n_in); b, gamma, beta (n_out,).
    """

    W: Float32Array = field(repr=False)
    b: Float32Array = field(repr=False)
    gamma: Float32Array | None = field(default=None, repr=False)
    beta: Float32Array | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "W", _frozen("W", self.W, (None, None)))
        n_out = (self.W.shape[0],)
        object.__setattr__(self, "b", _frozen("b", self.b, n_out))
        if (self.gamma is None) != (self.beta is None):
            raise ValueError("gamma and beta of a LayerNorm come together or not at all")
        if self.gamma is not None and self.beta is not None:
            object.__setattr__(self, "gamma", _frozen("gamma", self.gamma, n_out))
            object.__setattr__(self, "beta", _frozen("beta", self.beta, n_out))

    @property
    def n_in(self) -> int:
        return int(self.W.shape[1])

    @property
    def n_out(self) -> int:
        return int(self.W.shape[0])


class _Saved(NamedTuple):
    """Of one hidden block: SiLU's input and its sigmoid, LayerNorm's output before gamma, 1 / its std."""

    a: FloatArray
    sigmoid: FloatArray
    normed: FloatArray
    rstd: FloatArray


@dataclass(frozen=True, eq=False)
class HeadWeights:
    """One energy MLP: hidden blocks, then E = w . x + c. No hidden block makes a linear head. w (n_last,)."""

    hidden: tuple[HiddenLayer, ...] = field(repr=False)
    w: Float32Array = field(repr=False)
    c: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(self.hidden))
        for lower, upper in zip(self.hidden, self.hidden[1:], strict=False):
            if upper.n_in != lower.n_out:
                raise ValueError(f"W: a block of {lower.n_out} units feeds one that takes {upper.n_in}")
        object.__setattr__(self, "w", _frozen("w", self.w, (self.hidden[-1].n_out if self.hidden else None,)))
        c = float(np.float32(self.c))  # what a float32 file holds, so that a saved head is the same head
        if not math.isfinite(c):
            raise ValueError("c: NaN or infinite")
        object.__setattr__(self, "c", c)

    @property
    def n_in(self) -> int:
        return self.hidden[0].n_in if self.hidden else self.w.size

    def energy(self, Z: FloatArray) -> FloatArray:
        """E (n,) of rows Z (n, n_in)."""
        return self._forward(Z)[0]

    def energy_and_gradient(self, Z: FloatArray) -> tuple[FloatArray, FloatArray]:
        """E (n,) and dE/dZ (n, n_in) of rows Z (n, n_in)."""
        energy, saved = self._forward(Z)
        gradient = np.broadcast_to(self.w.astype(Z.dtype), (Z.shape[0], self.w.size))
        for layer, (a, sigmoid, normed, rstd) in zip(reversed(self.hidden), reversed(saved), strict=True):
            gradient = gradient * (sigmoid * (1 + a * (1 - sigmoid)))
            if layer.gamma is not None:
                gradient = gradient * layer.gamma
                along = (gradient * normed).mean(axis=1, keepdims=True)
                gradient = rstd * (gradient - gradient.mean(axis=1, keepdims=True) - normed * along)
            gradient = gradient @ layer.W
        return energy, np.ascontiguousarray(gradient)

    def _forward(self, Z: FloatArray) -> tuple[FloatArray, list[_Saved]]:
        """E (n,), and what the way back needs of each hidden block."""
        x, saved = Z, []
        for layer in self.hidden:
            a = x @ layer.W.T + layer.b
            normed, rstd = a, np.ones((1, 1), dtype=a.dtype)  # unused without a LayerNorm
            if layer.gamma is not None and layer.beta is not None:
                centered = a - a.mean(axis=1, keepdims=True)
                rstd = 1 / np.sqrt((centered * centered).mean(axis=1, keepdims=True) + LAYER_NORM_EPS)
                normed = centered * rstd
                a = layer.gamma * normed + layer.beta
            sigmoid = _sigmoid(a)
            x = a * sigmoid
            saved.append(_Saved(a, sigmoid, normed, rstd))
        return x @ self.w + self.c, saved


@dataclass(frozen=True, eq=False)
class Subspace:
    """The r directions in which real states of one layer vary: z = (P (h - mu)) / s.

    mu (n_embd,); P (r, n_embd) with orthonormal rows; s (r,) > 0, the spread along each row.
    """

    mu: Float32Array = field(repr=False)
    P: Float32Array = field(repr=False)
    s: Float32Array = field(repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "P", _frozen("P", self.P, (None, None)))
        r, n_embd = self.P.shape
        object.__setattr__(self, "mu", _frozen("mu", self.mu, (n_embd,)))
        object.__setattr__(self, "s", _frozen("s", self.s, (r,)))
        if not (self.s > 0).all():
            raise ValueError("s: every spread must be above 0")
        error = float(np.abs(self.P @ self.P.T - np.eye(r, dtype=np.float32)).max())
        if error > ORTHONORMAL_TOLERANCE:
            raise ValueError(f"P: rows are not orthonormal (off by {error:.2g})")

    @property
    def n_embd(self) -> int:
        return self.mu.size

    @property
    def rank(self) -> int:
        return self.s.size

    def first(self, rank: int) -> Subspace:
        """The first `rank` of the directions."""
        return Subspace(self.mu, self.P[:rank], self.s[:rank])

    def in_half_precision(self) -> Subspace:
        """With the nearest directions in half precision, as float32.

        The native core keeps what loses nothing by it in half precision, and reading P is most of what steering costs.
        """
        return Subspace(self.mu, self.P.astype(np.float16), self.s)

    def project(self, H: FloatArray) -> FloatArray:
        """Z (n, r) of rows H (n, n_embd)."""
        Z: FloatArray = ((H - self.mu) @ self.P.T) / self.s
        return Z

    def lift(self, dZ: FloatArray) -> FloatArray:
        """The move in H (n, n_embd) that moves Z by dZ (n, r): P^T (s * dz)."""
        dH: FloatArray = (dZ * self.s) @ self.P
        return dH

    def gradient_in_h(self, gradient_z: FloatArray) -> FloatArray:
        """dE/dh (n, n_embd) from dE/dz (n, r): P^T (g / s)."""
        gradient: FloatArray = (gradient_z / self.s) @ self.P
        return gradient

    def gradient_in_z(self, gradient_h: FloatArray) -> FloatArray:
        """dE/dz (n, r) from dE/dh (n, n_embd): s * (P g), the inverse of `gradient_in_h` as P P^T = 1."""
        gradient: FloatArray = (gradient_h @ self.P.T) * self.s
        return gradient


class Descent(NamedTuple):
    """What a descent did to n rows."""

    H: FloatArray  # (n, n_embd) the rows afterwards; an unsteered row keeps its bits
    energy_before: FloatArray  # (n,)
    energy_after: FloatArray  # (n,)
    steps: npt.NDArray[np.int32]  # (n,) steps taken; 0: the row was not written
    shift: FloatArray  # (n,) |h_new - h| / |h|


@dataclass(frozen=True, eq=False)
class LayerEnergy:
    """The energies of one layer (block output `l_out-<il>`): a subspace, or none, and one MLP a head."""

    il: int
    subspace: Subspace | None
    heads: Mapping[str, HeadWeights]

    def __post_init__(self) -> None:
        if self.il < 0:
            raise ValueError(f"il: {self.il}, expected 0 or above")
        unknown = sorted(set(self.heads) - set(HEADS))
        if unknown or not self.heads:
            raise ValueError(
                f"layer {self.il}: heads {unknown or 'missing'}, expected some of {', '.join(HEADS)}"
            )
        object.__setattr__(self, "heads", {name: self.heads[name] for name in HEADS if name in self.heads})
        n_in = self.subspace.rank if self.subspace is not None else next(iter(self.heads.values())).n_in
        for name, head in self.heads.items():
            if head.n_in != n_in:
                raise ValueError(
                    f"layer {self.il}, head {name}: takes {head.n_in} numbers a row, expected {n_in}"
                )

    @property
    def n_embd(self) -> int:
        return self.subspace.n_embd if self.subspace is not None else next(iter(self.heads.values())).n_in

    def energy(self, head: str, H: FloatArray) -> FloatArray:
        """E (n,) of rows H (n, n_embd), float32 or float64."""
        H = self._checked(H)
        return self._head(head).energy(H if self.subspace is None else self.subspace.project(H))

    def energy_and_gradient(self, head: str, H: FloatArray) -> tuple[FloatArray, FloatArray]:
        """E (n,) and dE/dH (n, n_embd) of rows H (n, n_embd), float32 or float64."""
        H = self._checked(H)
        if self.subspace is None:
            return self._head(head).energy_and_gradient(H)
        energy, gradient = self._head(head).energy_and_gradient(self.subspace.project(H))
        return energy, self.subspace.gradient_in_h(gradient)

    def descend(
        self,
        head: str,
        H: FloatArray,
        *,
        step_size: float | Sequence[float],
        steps: int,
        relative: bool = True,
        covariance: bool = True,
        max_shift: float = 0.0,
        threshold: float | None = None,
        target: float | None = None,
    ) -> Descent:
        """`descend` with this layer's own energy and subspace."""
        return descend(
            lambda rows: self.energy_and_gradient(head, rows),
            self._checked(H),
            subspace=self.subspace if covariance else None,
            step_size=step_size,
            steps=steps,
            relative=relative,
            max_shift=max_shift,
            threshold=threshold,
            target=target,
        )

    def _head(self, head: str) -> HeadWeights:
        if head not in self.heads:
            raise KeyError(f"layer {self.il} has no head {head!r}; it has {', '.join(self.heads)}")
        return self.heads[head]

    def _checked(self, H: FloatArray) -> FloatArray:
        if H.ndim != 2 or H.shape[1] != self.n_embd:
            raise ValueError(f"layer {self.il}: rows of shape {H.shape}, expected (n, {self.n_embd})")
        if H.dtype not in (np.float32, np.float64):
            raise ValueError(f"layer {self.il}: rows are {H.dtype}, expected float32 or float64")
        return H


@dataclass(frozen=True, eq=False)
class EnergyModel:
    """All energies of one language model, by layer."""

    n_embd: int
    layers: Mapping[int, LayerEnergy]

    def __post_init__(self) -> None:
        if not self.layers:
            raise ValueError("layers: an energy model needs at least one layer")
        for il, layer in self.layers.items():
            if layer.il != il:
                raise ValueError(f"layers: layer {layer.il} is filed under {il}")
            if layer.n_embd != self.n_embd:
                raise ValueError(f"layer {il}: n_embd {layer.n_embd}, expected {self.n_embd}")
        object.__setattr__(self, "layers", {il: self.layers[il] for il in sorted(self.layers)})

    def energy(self, il: int, head: str, H: FloatArray) -> FloatArray:
        """E (n,) of rows H (n, n_embd) of layer `il`."""
        return self._layer(il).energy(head, H)

    def energy_and_gradient(self, il: int, head: str, H: FloatArray) -> tuple[FloatArray, FloatArray]:
        """E (n,) and dE/dH (n, n_embd) of rows H (n, n_embd) of layer `il`."""
        return self._layer(il).energy_and_gradient(head, H)

    def _layer(self, il: int) -> LayerEnergy:
        if il not in self.layers:
            raise KeyError(
                f"no energies for layer {il}; there are some for {', '.join(map(str, self.layers))}"
            )
        return self.layers[il]


def descend(
    energy_and_gradient: EnergyAndGradient,
    H: FloatArray,
    *,
    subspace: Subspace | None,
    step_size: float | Sequence[float],
    steps: int,
    relative: bool = True,
    max_shift: float = 0.0,
    threshold: float | None = None,
    target: float | None = None,
) -> Descent:
    """Move rows H (n, n_embd) down an energy; the reference for what the native core does.

    `energy_and_gradient` maps rows (m, n_embd) to E (m,) and dE/dh (m, n_embd); any engine serves. Each row
    on its own takes `steps` steps of length L = step_size * |h| (`relative`) or step_size; `step_size` is one
    number or one a row.

        with `subspace` (covariance metric)  z <- z - L * g / |s*g|  with g = dE/dz,  at last h + P^T (s*(z_K
        - z_0)) without (euclidean metric)           h <- h - L * g / |g|    with g = dE/dh

    In the covariance metric a step in h is P^T (s * dz) = -L Sigma dE/dh / |Sigma dE/dh| with Sigma = P^T s^2
    P. A row stops before a step when its energy is at or under `target`, or when its gradient vanishes.
    `max_shift` above 0 caps the whole move at max_shift * |h|. A row whose energy is at or under `threshold`,
    or that takes no step, keeps its bits. Raises SteeringError when an energy, a gradient or a moved row is
    not finite.
    """
    rates = np.broadcast_to(np.asarray(step_size, dtype=H.dtype), (H.shape[0],))
    before, gradient = energy_and_gradient(H)
    _require_finite("energy or gradient", before, gradient)
    norm = np.linalg.norm(H, axis=1)
    length = rates * norm if relative else rates

    taken = np.zeros(H.shape[0], dtype=np.int32)
    moved = np.zeros_like(H)  # the shift in h so far
    # the same in the space that the steps are taken in: z with a subspace, else h itself
    offset = moved if subspace is None else np.zeros((H.shape[0], subspace.rank), dtype=H.dtype)
    active = np.flatnonzero((length > 0) & ((before > threshold) if threshold is not None else True))
    energy_now, gradient_now = before[active], gradient[active]
    for k in range(steps):
        if k > 0:
            energy_now, gradient_now = energy_and_gradient(H[active] + moved[active])
            _require_finite("energy or gradient", energy_now, gradient_now)
        if subspace is not None:
            gradient_now = subspace.gradient_in_z(gradient_now)
            size = np.linalg.norm(gradient_now * subspace.s, axis=1)
        else:
            size = np.linalg.norm(gradient_now, axis=1)
        going = size > SMALLEST_NORM
        if target is not None:
            going &= energy_now > target
        active = active[going]
        if active.size == 0:
            break
        offset[active] -= (length[active] / size[going])[:, None] * gradient_now[going]
        if subspace is not None:
            moved[active] = subspace.lift(offset[active])
        taken[active] += 1

    size = np.linalg.norm(moved, axis=1)
    if max_shift > 0:
        over = size > max_shift * norm
        moved[over] *= (max_shift * norm[over] / size[over])[:, None]
        size[over] = max_shift * norm[over]
    written = np.flatnonzero(taken)
    after, result = before.copy(), H.copy()
    result[written] += moved[written]
    if written.size:
        after[written] = energy_and_gradient(result[written])[0]
    _require_finite("steered rows", result[written], after)
    shift = np.divide(size, norm, out=np.zeros_like(size), where=norm > 0)
    return Descent(result, before, after, taken, shift)


def _require_finite(what: str, *arrays: FloatArray) -> None:
    if not all(np.isfinite(array).all() for array in arrays):
        raise SteeringError(f"{what} became NaN or infinite; lower the strength, or fit the energies again")
