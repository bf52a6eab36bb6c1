"""Looks at a model and its energies without generating anything; gives a document and its text for people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edge_eds.apps.layer_ranges import ranges
from edge_eds.apps.session import check_files, load_quietly
from edge_eds.apps.settings import MIN_CTX, SessionOptions
from edge_eds.energy.file import EnergyFile
from edge_eds.energy.fingerprint import ModelFingerprint
from edge_eds.errors import EnergyFileError
from edge_eds.runtime.energies import ModelFiles, find_energy_file
from edge_eds.runtime.model_file import CHAT_TEMPLATE_KEY


def inspect_model(wanted: SessionOptions) -> dict[str, Any]:
    """The document that `inspect --json` prints.

    Raises:
        EdgeError: the model or the energy file cannot be used.
    """
    files = wanted.files()
    header = check_files(files)
    fingerprint = ModelFingerprint.from_gguf(files.gguf, files.lora)
    path, file = _energies(wanted.energy, files, fingerprint)
    llm = load_quietly(files, energy=None, n_ctx=MIN_CTX)
    layers = [{"layer": probe.il, "steerable": not probe.refusal, "reason": probe.refusal} for probe in llm.layers]
    llm.close()
    return {
        "model": {
            "name": files.name,
            "path": str(files.gguf),
            "lora": None if files.lora is None else str(files.lora),
            "bytes": files.gguf.stat().st_size,
            "context_length": header.arch_value("context_length"),
            "chat_template": CHAT_TEMPLATE_KEY in header.metadata,
            "fingerprint": json.loads(fingerprint.to_json()),
        },
        "layers": layers,
        "energy": None if file is None else _energy_document(path, file),
    }


def describe(document: dict[str, Any]) -> str:
    """The document as text for people."""
    model, fingerprint = document["model"], document["model"]["fingerprint"]
    trained = model["context_length"]
    steerable = [row["layer"] for row in document["layers"] if row["steerable"]]
    lines = [
        model["name"],
        f"  architecture  {fingerprint['architecture']}, {fingerprint['n_layer']} layers, "
        f"n_embd {fingerprint['n_embd']}, {fingerprint['quantization']}, {model['bytes'] / 1e6:.0f} MB",
        f"  context       {f'{trained} tokens' if trained else 'not stated'}",
        f"  chat template {'yes' if model['chat_template'] else 'none: choose one with --chat-format'}",
        f"  steerable     layers {ranges(steerable) or 'none'}",
    ]
    for row in document["layers"]:
        if not row["steerable"]:
            lines.append(f"  not layer {row['layer']:<3} {row['reason']}")
    return "\n".join([*lines, *_describe_energy(document["energy"])])


def _energies(wanted: str, files: ModelFiles, fingerprint: ModelFingerprint) -> tuple[Path | None, EnergyFile | None]:
    if wanted == "none":
        return None, None
    if wanted == "auto":
        try:
            path = find_energy_file(files.gguf, files.lora)
        except EnergyFileError:
            return None, None
    else:
        path = Path(wanted).expanduser()
    file = EnergyFile.load(path)
    file.check_fingerprint(fingerprint)
    return path, file


def _energy_document(path: Path | None, file: EnergyFile) -> dict[str, Any]:
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


def _describe_energy(energy: dict[str, Any] | None) -> list[str]:
    if energy is None:
        return ["no energies (`edge-eds fit` makes them)"]
    steering = energy["steering"]
    size = f"{steering['step_size']:.1%} of |h|" if steering["relative"] else f"{steering['step_size']:g}"
    n_tokens = steering["n_tokens"]
    lines = [
        energy["path"],
        f"  engine        {energy['engine']}",
        f"  steers        {' and '.join(steering['heads'])} in layers {ranges(steering['layers'])}: "
        f"{steering['steps']} steps of {size}, {_first(n_tokens)}",
    ]
    gate = steering["gate"]
    if gate is not None:
        lines.append(
            f"  gate          layers {ranges(sorted(map(int, gate['weights'])))}: benign up to "
            f"{gate['benign']:g}, harmful from {gate['harmful']:g}"
        )
    made = [f"seed {energy['seed']}", *(f"{name} {version}" for name, version in energy["versions"].items())]
    if energy["prompt_set_hash"]:
        made.insert(0, f"prompt set {energy['prompt_set_hash'][:8]}")
    lines.append(f"  made from     {', '.join(made)}")
    lines += [f"  {name:13} {json.dumps(_rounded(value))}" for name, value in energy["scores"].items()]
    return lines


def _first(n_tokens: int) -> str:
    if n_tokens == 0:
        return "every token"
    return "the prompt's end" if n_tokens == 1 else f"the prompt's end and {n_tokens - 1} more"


def _rounded(value: Any) -> Any:
    """Scores with three decimals."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return round(value, 3) if isinstance(value, float) else value
