"""Random but reproducible energies, rows and files for the tests of edge_eds.energy."""

from __future__ import annotations

import numpy as np

from edge_eds.energy.file import EnergyFile
from edge_eds.energy.fingerprint import ModelFingerprint
from edge_eds.energy.network import EnergyModel, HeadWeights, HiddenLayer, LayerEnergy, Subspace
from edge_eds.energy.settings import GateSpec, SteeringSpec

N_EMBD, N_LAYER, RANK = 48, 8, 12


def make_head(n_in: int, hidden: tuple[int, ...], layer_norm: bool, seed: int) -> HeadWeights:
    rng = np.random.default_rng(seed)
    blocks = []
    for width in hidden:
        norm = (
            (1 + 0.2 * rng.normal(size=width), 0.2 * rng.normal(size=width)) if layer_norm else (None, None)
        )
        blocks.append(HiddenLayer(rng.normal(size=(width, n_in)) / n_in**0.5, rng.normal(size=width), *norm))
        n_in = width
    return HeadWeights(tuple(blocks), rng.normal(size=n_in), rng.normal())


def make_subspace(n_embd: int = N_EMBD, rank: int = RANK, seed: int = 0) -> Subspace:
    rng = np.random.default_rng(seed)
    P = np.linalg.qr(rng.normal(size=(n_embd, rank)))[0].T
    return Subspace(rng.normal(size=n_embd), P, rng.uniform(0.5, 3, size=rank))


def make_rows(n: int = 7, n_embd: int = N_EMBD, seed: int = 0) -> np.ndarray:
    return (3 * np.random.default_rng(seed).normal(size=(n, n_embd))).astype(np.float32)


def make_model() -> EnergyModel:
    """Layers 2 (gate) and 4, 5 (steered), heads with and without hidden blocks and LayerNorm."""
    layers = {
        2: LayerEnergy(2, make_subspace(seed=2), {"harm": make_head(RANK, (), False, 1)}),
        4: LayerEnergy(
            4,
            make_subspace(seed=4),
            {"fr": make_head(RANK, (16,), False, 2), "jb": make_head(RANK, (16, 8), True, 3)},
        ),
        5: LayerEnergy(5, make_subspace(seed=5), {"fr": make_head(RANK, (10,), True, 4)}),
    }
    return EnergyModel(N_EMBD, layers)


def make_fingerprint(**changes: object) -> ModelFingerprint:
    values: dict = {
        "architecture": "llama",
        "n_layer": N_LAYER,
        "n_embd": N_EMBD,
        "vocab_hash": "a" * 64,
        "quantization": "Q4_1",
        "chat_template_hash": "b" * 64,
    }
    return ModelFingerprint(**{**values, **changes})


def make_spec(**changes: object) -> SteeringSpec:
    values: dict = {
        "gate": GateSpec(0.25, {2: 1.5}, -1.0, 1.0),
        "layers": (4, 5),
        "heads": ("fr", "jb"),
        "steps": 3,
        "step_size": 0.05,
        "thresholds": {"fr": {4: 0.1, 5: 0.2}},
        "targets": {"jb": {4: -2.0}},
        "n_tokens": 2,
        "decay": 0.6,
        "max_shift": 0.3,
    }
    return SteeringSpec(**{**values, **changes})


def make_file(**changes: object) -> EnergyFile:
    values: dict = {
        "fingerprint": make_fingerprint(),
        "spec": make_spec(),
        "energies": make_model(),
        "prompt_set_hash": "c" * 64,
        "seed": 7,
        "scores": {"auc": {"fr": {"4": 0.9}}},
        "versions": {"edge-eds": "0.1.0"},
    }
    return EnergyFile(**{**values, **changes})
