"""A small model with energies that its gate always uses: what the tests of the commands talk to."""

from __future__ import annotations

from pathlib import Path

from energy_examples import make_head, make_subspace
from tiny_gguf import tiny_gguf

from edge_eds.energy.file import EnergyFile
from edge_eds.energy.fingerprint import ModelFingerprint
from edge_eds.energy.network import EnergyModel, LayerEnergy
from edge_eds.energy.settings import GateSpec, SteeringSpec

N_EMBD, RANK = 64, 12


def steered_model(folder: Path) -> Path:
    """Write tiny.gguf and tiny.energy.onnx, whose gate finds every prompt benign; returns the GGUF."""
    gguf = tiny_gguf("llama", folder / "tiny.gguf", n_embd=N_EMBD)
    layers = {
        0: LayerEnergy(0, make_subspace(N_EMBD, RANK, 0), {"harm": make_head(RANK, (), False, 1)}),
        2: LayerEnergy(2, make_subspace(N_EMBD, RANK, 2), {"fr": make_head(RANK, (16,), False, 2)}),
    }
    always_benign = GateSpec(bias=0.0, weights={0: 1.0}, benign=1e6, harmful=2e6)
    spec = SteeringSpec(
        gate=always_benign, layers=(2,), heads=("fr",), steps=3, step_size=1.0, n_tokens=2, decay=0.5
    )
    energies = EnergyFile(ModelFingerprint.from_gguf(gguf), spec, EnergyModel(N_EMBD, layers))
    energies.save(folder / "tiny.energy.onnx")
    return gguf
