"""The document of inspection.py as lines for people: headings, facts, and what to do where something is missing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from edge_eds.apps.inspection import EXAMPLE
from edge_eds.apps.layer_ranges import ranges
from edge_eds.files import size_text

HEADING, BAD, GOOD, PLAIN = "bold", "red", "green", ""
Line = tuple[str, str]  # text and its style


def describe(document: dict[str, Any]) -> list[Line]:
    """Lines and their styles; without the styles they say the same."""
    lines = [*_model(document["model"]), *_layers(document["layers"]), *_energies(document)]
    return [*lines, *([] if document["energy"] is None else _energy(document["energy"]))]


def _fact(name: str, text: str, style: str = PLAIN) -> Line:
    return f"  {name:13} {text}", style


def _model(model: dict[str, Any]) -> Iterator[Line]:
    shape, fingerprint = model["shape"], model["fingerprint"]
    yield model["name"], HEADING
    yield _fact("file", model["path"])
    title = [str(model[key]) for key in ("title", "license") if model[key]]
    if title:
        yield _fact("is", ", ".join(title))
    parameters = shape["parameters"]
    count = f"{parameters / 1e9:.2f} billion" if parameters >= 1e9 else f"{parameters / 1e6:.1f} million"
    size = size_text(model["bytes"]) + (f" in {model['parts']} files" if model["parts"] > 1 else "")
    yield _fact("architecture", f"{fingerprint['architecture']}, {count} parameters, {size}")
    yield _fact("shape", ", ".join(f"{name} {shape[name]}" for name in shape if name != "parameters"))
    trained = model["context_length"]
    yield _fact("context", f"{trained} tokens" if trained else "not stated")
    types = (f"{kind} {size_text(entry['bytes'])}" for kind, entry in model["tensor_types"].items())
    yield _fact("quantization", f"{fingerprint['quantization']}: {', '.join(types)}")
    yield from _chat_template(model["chat_template"])
    yield "tensors (fastest dimension first)", HEADING
    for row in model["tensors"]:
        shown = " x ".join(map(str, row["shape"]))
        layers = f"  layers {ranges(row['layers'])}" if row["layers"] else ""
        yield f"  {row['name']:32} {shown:16} {row['type']:6}{layers}".rstrip(), PLAIN


def _chat_template(template: dict[str, Any] | None) -> Iterator[Line]:
    if template is None:
        yield _fact("chat template", "none: choose a format with --chat-format, e.g. chatml", BAD)
    elif template["error"]:
        yield _fact("chat template", f"cannot be used: {template['error']}; choose a format with --chat-format", BAD)
    else:
        system = "with a system prompt" if template["system"] else "which drops or refuses a system prompt"
        yield _fact("chat template", f"{template['format'] or 'its own'}, {system}")
        yield _fact("", f"{EXAMPLE!r} becomes {template['prompt']!r}")


def _layers(layers: list[dict[str, Any]]) -> Iterator[Line]:
    steerable = [row["layer"] for row in layers if row["steerable"]]
    readable = [row["layer"] for row in layers if row["readable"]]
    yield "layers", HEADING
    yield _fact("steerable", ranges(steerable) or "none", PLAIN if steerable else BAD)
    yield _fact("readable", ranges(readable) or "none", PLAIN if readable else BAD)
    reasons: dict[str, list[int]] = {}
    for row in layers:
        if not row["steerable"]:
            reasons.setdefault(row["reason"].replace(f"l_out-{row['layer']}", "l_out-<il>"), []).append(row["layer"])
    for reason, which in reasons.items():
        yield _fact(f"not {ranges(which)}", reason)


def _energies(document: dict[str, Any]) -> Iterator[Line]:
    yield "energies", HEADING
    taken = document["energy"] and document["energy"]["path"]
    for found in document["energies_found"]:
        if found["fits"]:
            yield _fact("fits", found["path"] + (" (taken)" if found["path"] == taken else ""), GOOD)
        elif found["differs"]:
            differs = ", ".join(found["differs"]).replace("_", " ")
            yield _fact("does not fit", f"{found['path']}: {found['reason']} (another {differs})")
        else:
            yield _fact("broken", found["reason"], BAD)
    if not any(found["fits"] for found in document["energies_found"]) and not taken:
        yield _fact("none fits", "`edge-eds fit` makes them; looked for in", BAD)
        for folder in document["energy_folders"]:
            yield _fact("", folder)


def _energy(energy: dict[str, Any]) -> Iterator[Line]:
    steering = energy["steering"]
    size = f"{steering['step_size']:.1%} of |h|" if steering["relative"] else f"{steering['step_size']:g}"
    where = f"{' and '.join(steering['heads'])} in layers {ranges(steering['layers'])}"
    yield energy["path"], HEADING
    yield _fact("engine", energy["engine"])
    yield _fact("steers", f"{where}: {steering['steps']} steps of {size}, {_first(steering['n_tokens'])}")
    gate = steering["gate"]
    if gate is not None:
        reads = sorted({int(il) for name in ("weights", "message_weights") for il in gate[name]})
        bounds = f"benign up to {gate['benign']:g}, harmful from {gate['harmful']:g}"
        yield _fact("gate", f"layers {ranges(reads)}: {bounds}")
    outlook = steering["outlook"]
    if outlook is not None:
        begin = f"refusals begin with token {' or '.join(map(str, outlook['tokens']))}"
        yield _fact("outlook", f"{begin}: in sight from a lead of {outlook['bound']:g}")
    made = [f"seed {energy['seed']}", *(f"{name} {version}" for name, version in energy["versions"].items())]
    if energy["prompt_set_hash"]:
        made.insert(0, f"prompt set {energy['prompt_set_hash'][:8]}")
    yield _fact("made from", ", ".join(made))
    for name, value in energy["scores"].items():
        yield _fact(name, _scores(value))


def _first(n_tokens: int) -> str:
    if n_tokens == 0:
        return "every token"
    return "the prompt's end" if n_tokens == 1 else f"the prompt's end and {n_tokens - 1} more"


def _scores(value: Any) -> str:
    """What a file says of its making under one name, whatever its form; groups of scores stand apart."""
    if isinstance(value, dict) and value and all(isinstance(group, dict) for group in value.values()):
        return "; ".join(f"{name}: {_score(group)}" for name, group in value.items())
    return _score(value)


def _score(value: Any) -> str:
    if isinstance(value, dict):
        if value.keys() == {"value", "low", "high"}:
            return f"{value['value']:.3f} ({value['low']:.3f}-{value['high']:.3f})"
        return ", ".join(f"{name} {_score(item)}" for name, item in value.items())
    return f"{value:.3f}" if isinstance(value, float) else str(value)
