"""Steering that needs no new machinery: what other methods do, written exactly as energies and gates.

    a vector added to every row of an answer   a linear head: its gradient is the same everywhere
    cosine similarity against a threshold      a gate whose head computes |cos(h, c)|, see `cosine_gate`
    a gate's bound                             the share of refused benign prompts that it lets through

So chat, run and eval take the result with --energy, on both engines.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from edge_eds.energy.file import EnergyFile
from edge_eds.energy.network import EnergyModel, HeadWeights, HiddenLayer, LayerEnergy
from edge_eds.energy.settings import GateSpec, SteeringSpec
from edge_eds.pipeline.collect import Collection
from edge_eds.pipeline.methods.states import FloatArray, unit
from edge_eds.pipeline.train import Labels, gate_scores


def vector_energy(
    collection: Collection,
    directions: Mapping[int, FloatArray],
    length: float,
    condition: tuple[GateSpec, LayerEnergy] | None = None,
) -> EnergyFile:
    """h <- h + length * direction/|direction| at the prompt's last token and every new token of these layers.

    Args:
        condition: a gate and the energy that it reads: then only where it finds the prompt benign.
    """
    head = "merged" if condition is None else "fr"
    layers = {
        il: LayerEnergy(il, None, {head: HeadWeights((), (-unit(direction)).astype(np.float32))})
        for il, direction in directions.items()
    }
    if condition is not None:
        read = condition[1]
        own = layers[read.il].heads if read.il in layers else {}
        layers[read.il] = LayerEnergy(read.il, None, {**read.heads, **own})
    spec = SteeringSpec(
        gate=None if condition is None else condition[0],
        layers=tuple(directions),
        heads=(head,),
        steps=1,
        step_size=length,
        relative=False,
        covariance=False,
    )
    energies = EnergyModel(collection.fingerprint.n_embd, layers)
    return EnergyFile(collection.fingerprint, spec, energies, prompt_set_hash=collection.prompt_set_hash)


def cosine_gate(il: int, direction: FloatArray) -> LayerEnergy:
    """An energy whose value rises with |cos(h, direction)| and with nothing else.

    The first block's rows are the identity and its negative: LayerNorm then divides [h, -h] by its root mean
    square |h| / sqrt(n), as its mean is 0. Of SiLU, x = silu(x) - silu(-x), so the second block's two units get
    u = sqrt(n) cos(h, direction) and -u, and silu(u) + silu(-u) = u tanh(u / 2), which is even in u and rises with
    |u|. (LayerNorm's epsilon matters only where |h|^2 / n is near 1e-5.) The block takes 2 n_embd^2 numbers.
    """
    n = direction.size
    one, zeros = np.eye(n, dtype=np.float32), np.zeros(2 * n, np.float32)
    along = np.concatenate([unit(direction), -unit(direction)]).astype(np.float32)
    normed = HiddenLayer(np.concatenate([one, -one]), zeros, zeros + 1, zeros)
    cosine = HiddenLayer(np.stack([along, -along]), zeros[:2])
    return LayerEnergy(il, None, {"harm": HeadWeights((normed, cosine), np.ones(2, np.float32))})


def similarity_energy(cosine: FloatArray, n_embd: int) -> FloatArray:
    """What `cosine_gate` gives for |cos(h, direction)|."""
    u = np.sqrt(n_embd) * cosine
    return np.asarray(u * np.tanh(u / 2))


def bound_for_share(file: EnergyFile, collection: Collection, share: float) -> float:
    """The gate's bound that finds this share of the refused benign validation prompts benign."""
    assert file.energies is not None and file.spec.gate is not None
    labels = Labels.of(collection)
    wrong = labels.validation & labels.benign & labels.refused
    scores = gate_scores(collection, file.energies, file.spec.gate)[wrong]
    return float(np.quantile(scores, share, method="inverted_cdf")) if scores.size else file.spec.gate.benign


def with_benign_bound(file: EnergyFile, bound: float) -> EnergyFile:
    """The same energies, with another bound below which a prompt is benign."""
    gate = file.spec.gate
    assert gate is not None
    return replace(
        file, spec=replace(file.spec, gate=replace(gate, benign=bound, harmful=max(gate.harmful, bound)))
    )
