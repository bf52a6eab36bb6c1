"""Random energies of the forms whose cost is measured, for any model, and an energy file made to write every time.

What steering costs does not depend on what its weights are, but on how many there are and on how often they are used.
So shapes, for which nothing was trained, get energies of the same form as trained ones. No threshold holds a row back
and the gate finds every prompt benign: each token that the settings name is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from edge_eds import _native
from edge_eds.energy.file import EnergyFile
from edge_eds.energy.fingerprint import ModelFingerprint
from edge_eds.energy.network import GATE_HEADS, EnergyModel, HeadWeights, HiddenLayer, LayerEnergy, Subspace
from edge_eds.energy.settings import GateSpec, SteeringSpec

_OPEN = 1e6  # a bound that every score is below


@dataclass(frozen=True)
class EnergyForm:
    """The size of energies and how they are used.

    n_layers: steered layers. rank: directions of a layer's subspace; 0 means none: the net takes the whole state.
    widths: of the hidden blocks; layer_norm: in each of them. n_gate: layers that the gate reads, at the prompt's end
    and over the message; 0 means no gate. n_tokens: steered tokens from the prompt's end on; 0 means all. step_size:
    relative to |h| with a subspace.
    """

    n_layers: int
    steps: int
    rank: int
    widths: tuple[int, ...]
    layer_norm: bool
    n_gate: int
    n_tokens: int
    step_size: float


# As the energy file of the default model has it; a test compares the two.
DEFAULT = EnergyForm(
    n_layers=4, steps=5, rank=64, widths=(64,), layer_norm=False, n_gate=13, n_tokens=2, step_size=0.0309
)
# The same nets, over 32 directions, where the paper steers: 15 layers, 3 steps, every token.
FIFTEEN = replace(DEFAULT, n_layers=15, steps=3, rank=32, n_gate=4, n_tokens=0, step_size=0.04)
# As published for Llama-3.1-8B: eta 0.1, 15 layers, 3 steps.
PAPER = EnergyForm(
    n_layers=15, steps=3, rank=0, widths=(2048, 1024, 1024, 512), layer_norm=True, n_gate=0, n_tokens=0, step_size=0.1
)


def random_energies(fingerprint: ModelFingerprint, form: EnergyForm, steerable: Sequence[int]) -> EnergyFile:
    """Energies of this form on the uppermost of the layers that can be steered; fewer where there are fewer.

    The gate's layers lie below the steered ones, as far as there is room, and one of them may be the first of those.
    """
    rng = np.random.default_rng(0)
    layers = tuple(steerable[-form.n_layers :])
    gate_layers = tuple(il for il in steerable if il <= layers[0])[-form.n_gate :] if form.n_gate else ()
    heads = ("fr", "jb") if form.n_gate else ("merged",)
    n_embd = fingerprint.n_embd
    n_in = form.rank or n_embd
    # One net for all layers: the native core keeps a copy for each, so the bytes that it reads are those of many.
    nets = {head: _net(rng, n_in, form) for head in heads}
    energies: dict[int, LayerEnergy] = {}
    for il in layers:
        energies[il] = LayerEnergy(il, _subspace(rng, n_embd, form.rank) if form.rank else None, nets)
    for il in gate_layers:
        steered = energies.get(il)
        # A gate reads a plane, with a subspace of its own; where the layer is steered it shares the steering's.
        space = _subspace(rng, n_embd, 2) if steered is None else steered.subspace
        assert space is not None
        harm = {head: HeadWeights((), _normal(rng, space.rank), 0.0) for head in GATE_HEADS}
        energies[il] = LayerEnergy(il, space, {**harm, **(steered.heads if steered else {})})
    weights = dict.fromkeys(gate_layers, 1e-3)
    gate = GateSpec(0.0, weights, _OPEN, 2 * _OPEN, weights) if gate_layers else None
    spec = SteeringSpec(
        gate=gate,
        layers=layers,
        heads=heads,
        steps=form.steps,
        step_size=form.step_size,
        relative=bool(form.rank),
        covariance=bool(form.rank),
        n_tokens=form.n_tokens,
    )
    return EnergyFile(fingerprint, spec, EnergyModel(n_embd, energies))


def always_writing(file: EnergyFile) -> EnergyFile:
    """Tuned energies made to write at every token that their settings name, whatever the model is about to do: all are
    taken for one side of the gate.
    """
    spec = replace(file.spec, thresholds={}, targets={}, outlook=None)
    if spec.gate is not None:
        benign = _OPEN if "fr" in spec.heads else -2 * _OPEN
        spec = replace(spec, gate=replace(spec.gate, benign=benign, harmful=benign + _OPEN))
    return replace(file, spec=spec)


def descended_head(file: EnergyFile) -> str:
    """The head that a file of `always_writing` or `random_energies` descends."""
    return file.spec.heads[0]


@dataclass(frozen=True)
class Work:
    """The least that steering one token takes: each weight that is used read once, each multiply-add done once.

    n_bytes: of weights: float32, or less where the native core keeps them so. multiply_adds: of all steps, in the
    cheapest order known.
    """

    n_bytes: int
    multiply_adds: int


def work_per_token(file: EnergyFile) -> Work:
    """The floor of steering one token with these energies, the gate left out (it is read once an answer)."""
    assert file.energies is not None
    n_bytes = multiply_adds = 0
    for il in file.spec.layers:
        layer = file.energies.layers[il]
        net = layer.heads[file.spec.heads[0]]
        n_hidden = sum(block.W.size for block in net.hidden)
        n_net = n_hidden + net.w.size
        n_bytes += (1 if n_hidden > _native.LARGE_NET else 4) * n_hidden + 4 * net.w.size
        n_basis = 0
        if layer.subspace is not None:
            n_basis = layer.subspace.P.size
            halves = np.array_equal(layer.subspace.P, layer.subspace.in_half_precision().P)
            n_bytes += (2 if halves else 4) * n_basis
        # P once down and once back; forward and backward through the net at each step, and the energy at the end
        multiply_adds += 2 * n_basis + (2 * file.spec.steps + 1) * n_net
    return Work(n_bytes, multiply_adds)


def _net(rng: np.random.Generator, n_in: int, form: EnergyForm) -> HeadWeights:
    blocks = []
    for width in form.widths:
        W = rng.standard_normal((width, n_in), dtype=np.float32)
        W /= np.sqrt(n_in, dtype=np.float32)
        norm = (np.ones(width, np.float32), np.zeros(width, np.float32)) if form.layer_norm else (None, None)
        blocks.append(HiddenLayer(W, np.zeros(width, np.float32), *norm))
        n_in = width
    return HeadWeights(tuple(blocks), _normal(rng, n_in))


def _subspace(rng: np.random.Generator, n_embd: int, rank: int) -> Subspace:
    directions = np.linalg.qr(_normal(rng, n_embd, rank))[0].T
    return Subspace(np.zeros(n_embd, np.float32), directions, np.ones(rank, np.float32)).in_half_precision()


def _normal(rng: np.random.Generator, *shape: int) -> npt.NDArray[np.float32]:
    return rng.standard_normal(shape, dtype=np.float32)
