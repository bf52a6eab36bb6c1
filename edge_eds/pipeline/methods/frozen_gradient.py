"""`frozen-gradient`: ours with the gradient of each head frozen to its mean: the static ablation of our own method.

Each steered head becomes a linear one in the same subspace, whose one direction is the mean of the unit steps that
the head takes from the training states that it is there for. Gate, layers, force and tokens stay; the thresholds
of the heads, which depend on the state, go. So what is left out is the state-dependent part alone. The force is
searched again.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edge_eds.energy.file import EnergyFile
from edge_eds.energy.network import EnergyModel, Float32Array, FloatArray, HeadWeights, LayerEnergy
from edge_eds.errors import InputError
from edge_eds.pipeline.collect import Collection
from edge_eds.pipeline.methods.method import Context, Method
from edge_eds.pipeline.methods.ours import GatedFamily, fitted_file
from edge_eds.pipeline.train import BoolArray, Labels

FORCES = (0.7, 1.0, 1.4, 2.0)  # of the step: what was tuned for a descent need not be right for a vector


def freeze(file: EnergyFile, collection: Collection) -> EnergyFile:
    """The same steering with constant gradients, and without thresholds and targets."""
    assert file.energies is not None
    labels = Labels.of(collection)
    rows = {
        "fr": labels.train & labels.benign & labels.refused,
        "jb": labels.train & labels.harmful & labels.answered,
    }
    layers: dict[int, LayerEnergy] = {}
    for il, layer in file.energies.layers.items():
        heads = {
            name: _frozen_head(layer, name, collection, rows[name], file.spec.covariance)
            if name in rows and il in file.spec.layers
            else head
            for name, head in layer.heads.items()
        }
        layers[il] = LayerEnergy(il, layer.subspace, heads)
    return replace(
        file,
        energies=EnergyModel(file.energies.n_embd, layers),
        spec=replace(file.spec, thresholds={}, targets={}),
        scores={},
    )


def _frozen_head(
    layer: LayerEnergy, name: str, collection: Collection, rows: BoolArray, covariance: bool
) -> HeadWeights:
    if not rows.any():
        raise InputError(f"no training prompt is there for E_{name}: its gradient has no mean to be frozen to")
    H = collection.layer(layer.il, np.flatnonzero(rows)).astype(np.float64)
    gradient = layer.energy_and_gradient(name, H)[1]
    subspace = layer.subspace
    if subspace is not None and covariance:
        in_z = subspace.gradient_in_z(gradient)
        return HeadWeights((), _mean_direction(in_z, in_z * subspace.s))
    mean = _mean_direction(gradient, gradient)
    if subspace is not None:
        mean = subspace.gradient_in_z(mean[None])[0].astype(np.float32)
    return HeadWeights((), mean)


def _mean_direction(gradient: FloatArray, step: FloatArray) -> Float32Array:
    """Mean over rows of gradient / |step|; a row whose gradient vanishes takes no step and does not count."""
    length = np.linalg.norm(step, axis=1)
    moving = length > 0
    if not moving.any():
        raise InputError("the gradient vanishes at every training state")
    return np.asarray((gradient[moving] / length[moving, None]).mean(axis=0), dtype=np.float32)


def prepare(context: Context) -> GatedFamily:
    return GatedFamily(freeze(fitted_file(context), context.collection), FORCES)


FROZEN_GRADIENT = Method("frozen-gradient", "edge-eds, gradient frozen", prepare, ("energy",))
