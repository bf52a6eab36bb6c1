"""Two LoRA adapters of one model, added with weights of their own, as one adapter: what scales a fine-tune.

(1 - t) B1 A1 + t B2 A2 = [(1 - t) B1, t B2] [A1; A2], of twice the rank, exactly. llama.cpp multiplies B A with
alpha / rank; each adapter's own factor is folded into its B, and the blend has alpha = rank.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

from edge_eds.energy.gguf_header import read_gguf_header
from edge_eds.errors import InputError
from edge_eds.files import write_whole

_A, _B = ".lora_a", ".lora_b"
FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Adapter:
    """weights: tensor -> (A (rank, n_in), scale * B (n_out, rank)), what is added to the tensor is B A."""

    architecture: str
    weights: dict[str, tuple[FloatArray, FloatArray]]


def read_adapter(path: Path) -> Adapter:
    """Read a GGUF LoRA adapter in float16 or float32.

    Raises:
        ModelError: no such file, or damaged.
        InputError: no LoRA adapter, or one in another precision.
    """
    header = read_gguf_header(path)
    alpha = header.metadata.get("adapter.lora.alpha")
    if header.metadata.get("general.type") != "adapter" or not isinstance(alpha, float):
        raise InputError(f"{path}: is no LoRA adapter; expected a GGUF whose general.type is adapter")
    for info in header.tensors:
        if info.type not in ("F16", "F32"):
            raise InputError(f"{path}: {info.name} is {info.type}; expected F16 or F32")
    tensors = {tensor.name: np.array(tensor.data, np.float32) for tensor in gguf.GGUFReader(path).tensors}
    weights = {}
    for name in sorted({name.removesuffix(_A).removesuffix(_B) for name in tensors}):
        if name + _A not in tensors or name + _B not in tensors:
            raise InputError(f"{path}: {name} has only one of its two matrices; the adapter is damaged")
        a, b = tensors[name + _A], tensors[name + _B]
        # llama.cpp takes alpha 0 for "no scaling"
        weights[name] = (a, b * np.float32(alpha / len(a) if alpha else 1.0))
    return Adapter(header.architecture, weights)


def blend(first: Adapter | None, second: Adapter, t: float) -> Adapter:
    """(1 - t) of the first (None: nothing) and t of the second.

    Raises:
        InputError: adapters of models that differ.
    """
    if first is None:
        return Adapter(second.architecture, {n: (a, np.float32(t) * b) for n, (a, b) in second.weights.items()})
    if first.architecture != second.architecture:
        raise InputError(f"adapters of {first.architecture} and {second.architecture} cannot be joined")
    weights = {}
    for name in sorted({*first.weights, *second.weights}):
        parts = [
            (adapter.weights[name][0], np.float32(share) * adapter.weights[name][1])
            for adapter, share in ((first, 1 - t), (second, t))
            if name in adapter.weights
        ]
        if len({(a.shape[1], b.shape[0]) for a, b in parts}) > 1:
            raise InputError(f"the two adapters' {name} have different sizes: they are not of one model")
        weights[name] = (np.concatenate([a for a, _ in parts]), np.concatenate([b for _, b in parts], axis=1))
    return Adapter(first.architecture, weights)


def write_adapter(adapter: Adapter, path: Path) -> None:
    """Write a GGUF LoRA adapter in float16.

    Raises:
        InputError: tensors of different ranks, which one alpha cannot scale.
    """
    ranks = {len(a) for a, _ in adapter.weights.values()}
    if len(ranks) != 1:
        raise InputError("the adapters do not change the same tensors: their blend has no one rank")
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / "draft.gguf"
        writer = gguf.GGUFWriter(draft, adapter.architecture)
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(ranks.pop()))
        for name, (a, b) in adapter.weights.items():
            writer.add_tensor(name + _A, a.astype(np.float16))
            writer.add_tensor(name + _B, np.ascontiguousarray(b, dtype=np.float16))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        write_whole(path, draft.read_bytes())
