"""A small model with energies that its gate always uses: what the tests of the commands talk to."""

from __future__ import annotations

from pathlib import Path

from runtime_examples import N_LAYER, make_energies
from tiny_gguf import tiny_gguf


def steered_model(folder: Path) -> Path:
    """Write tiny.gguf and tiny.energy.onnx, which steers the first two tokens hard; returns the GGUF."""
    gguf = tiny_gguf("llama", folder / "tiny.gguf", n_layer=N_LAYER)
    make_energies(gguf, step_size=1.0, n_tokens=2).save(folder / "tiny.energy.onnx")
    return gguf
