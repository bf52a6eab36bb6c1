"""Looks at a model and its energies without generating anything, and gives a document of what is there.

Takes what names a model; gives its shapes and types, what its chat template makes of a message, what can be done at
each layer and why not, and every energy file in the places where energies are looked for, with what keeps those that
do not fit from fitting. Leaves out how it is shown to people (inspection_text.py).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from llama_cpp import llama_chat_format

from edge_eds.apps.session import check_files, load_quietly
from edge_eds.apps.settings import MIN_CTX, SessionOptions
from edge_eds.energy.file import EnergyFile
from edge_eds.energy.fingerprint import ModelFingerprint
from edge_eds.energy.gguf_header import GgufHeader, TensorInfo, read_gguf_header
from edge_eds.errors import ChatTemplateError, EnergyFileError
from edge_eds.runtime.energies import ModelFiles, energy_files, energy_folders, load_energies
from edge_eds.runtime.hub_name import parts_of
from edge_eds.runtime.model_file import CHAT_TEMPLATE_KEY
from edge_eds.runtime.session import EdgeLlama

EXAMPLE = "How are you?"  # what the chat template is shown with
_SHAPE_KEYS = {
    "n_ff": "feed_forward_length", "n_head": "attention.head_count", "n_head_kv": "attention.head_count_kv",
    "n_expert": "expert_count", "n_expert_used": "expert_used_count",
}  # fmt: skip
_BLOCK = re.compile(r"blk\.(\d+)\.")


def inspect_model(wanted: SessionOptions) -> dict[str, Any]:
    """The document that `inspect --json` prints.

    Raises:
        EdgeError: the model cannot be used, or the energy file that was named.
    """
    files = wanted.files()
    header = check_files(files)
    fingerprint = ModelFingerprint.from_gguf(files.gguf, files.lora)
    found = _found(files, fingerprint)
    path, file = _energies(wanted.energy, files)
    llm = load_quietly(files, energy=None, n_ctx=MIN_CTX)
    try:
        return {
            "model": {**_model(files, header, llm), "fingerprint": json.loads(fingerprint.to_json())},
            "layers": [
                {
                    "layer": probe.il,
                    "steerable": not probe.refusal,
                    "readable": not probe.unreadable,
                    "reason": probe.refusal,
                }
                for probe in llm.layers
            ],
            "energy": None if file is None else _energy(path, file),
            "energies_found": found,
            "energy_folders": [str(folder) for folder in energy_folders(files.gguf, files.lora)],
        }
    finally:
        llm.close()


def _model(files: ModelFiles, header: GgufHeader, llm: EdgeLlama) -> dict[str, Any]:
    parts = parts_of(files.gguf)
    tensors = [tensor for part in parts for tensor in read_gguf_header(part).tensors]
    stated = {name: header.arch_value(key) for name, key in _SHAPE_KEYS.items()}
    return {
        "name": files.name,
        "path": str(files.gguf),
        "lora": None if files.lora is None else str(files.lora),
        "title": header.metadata.get("general.name"),
        "license": header.metadata.get("general.license"),
        "bytes": sum(part.stat().st_size for part in parts),
        "parts": len(parts),
        "context_length": header.arch_value("context_length"),
        "shape": {
            "n_layer": len(llm.layers),
            "n_embd": llm.n_embd(),
            "n_vocab": llm.n_vocab(),
            **{name: value for name, value in stated.items() if isinstance(value, int)},  # else one a layer, or none
            "parameters": sum(math.prod(tensor.shape) for tensor in tensors),
        },
        "tensor_types": _types(tensors),
        "tensors": _tensors(tensors),
        "chat_template": _chat_template(header, llm),
    }


def _types(tensors: Iterable[TensorInfo]) -> dict[str, dict[str, int]]:
    """What the weights take by their type, the largest share first."""
    types: dict[str, dict[str, int]] = {}
    for tensor in tensors:
        entry = types.setdefault(tensor.type, {"tensors": 0, "bytes": 0})
        entry["tensors"] += 1
        entry["bytes"] += tensor.n_bytes
    return dict(sorted(types.items(), key=lambda item: -item[1]["bytes"]))


def _tensors(tensors: Iterable[TensorInfo]) -> list[dict[str, Any]]:
    """One row for tensors that differ in nothing but their layer, in the order of the file."""
    rows: dict[tuple[Any, ...], list[int]] = {}
    for tensor in tensors:
        block = _BLOCK.match(tensor.name)
        name = _BLOCK.sub("blk.*.", tensor.name)
        rows.setdefault((name, tensor.shape, tensor.type), []).extend([int(block[1])] if block else [])
    return [
        {"name": name, "shape": list(shape), "type": kind, "layers": sorted(layers)}
        for (name, shape, kind), layers in rows.items()
    ]


def _chat_template(header: GgufHeader, llm: EdgeLlama) -> dict[str, Any] | None:
    """Which known format it is, and what it makes of a message, alone and after a system prompt."""
    if CHAT_TEMPLATE_KEY not in header.metadata:
        return None
    user = {"role": "user", "content": EXAMPLE}
    shown: dict[str, Any] = {"prompt": None, "system": False, "error": ""}
    try:
        shown["prompt"] = _text(llm, llm.chat_tokens([user]))
        with_system = _text(llm, llm.chat_tokens([{"role": "system", "content": EXAMPLE[::-1]}, user]))
        shown["system"] = EXAMPLE[::-1] in with_system
    except ChatTemplateError as error:
        shown["error"] = error.reason if shown["prompt"] is None else ""
    return {"format": llama_chat_format.guess_chat_format_from_gguf_metadata(llm.metadata), **shown}


def _text(llm: EdgeLlama, tokens: list[int]) -> str:
    return llm.detokenize(tokens, special=True).decode("utf-8", errors="replace")


def _found(files: ModelFiles, fingerprint: ModelFingerprint) -> list[dict[str, Any]]:
    """Every energy file where they are looked for, and what keeps it from fitting."""
    found = []
    for path in energy_files(files.gguf, files.lora):
        try:
            file = EnergyFile.load(path)
        except EnergyFileError as error:
            found.append({"path": str(path), "fits": False, "differs": [], "reason": str(error)})
            continue
        differs = fingerprint.mismatch(file.fingerprint)
        reason = f"made for {file.fingerprint}" if differs else ""
        found.append({"path": str(path), "fits": not differs, "differs": list(differs), "reason": reason})
    return found


def _energies(wanted: str, files: ModelFiles) -> tuple[Path | None, EnergyFile | None]:
    """The energies that a chat with the same options would steer with."""
    if wanted == "none":
        return None, None
    try:
        return load_energies(wanted, files.gguf, files.lora)
    except EnergyFileError:
        if wanted != "auto":
            raise
        return None, None  # what was found says why not


def _energy(path: Path | None, file: EnergyFile) -> dict[str, Any]:
    return {
        "path": str(path),
        "engine": "onnx" if file.energies is None else "native",
        "heads": {str(il): list(heads) for il, heads in file.heads.items()},
        "steering": json.loads(file.spec.to_json()),
        "prompt_set_hash": file.prompt_set_hash,
        "seed": file.seed,
        "scores": dict(file.scores),
        "versions": dict(file.versions),
    }
