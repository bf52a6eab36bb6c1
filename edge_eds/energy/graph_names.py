"""Names of the input and the outputs of an energy graph (graph.py), without the library that makes graphs."""

from __future__ import annotations

import re
from collections.abc import Iterable

from edge_eds.energy.network import HEADS

INPUT = "hidden"
_OUTPUT = re.compile(r"(energy|gradient)\.(0|[1-9][0-9]*)\.(" + "|".join(HEADS) + ")")


def energy_output(il: int, head: str) -> str:
    """Name of the output with E (n,)."""
    return f"energy.{il}.{head}"


def gradient_output(il: int, head: str) -> str:
    """Name of the output with dE/dh (n, n_embd)."""
    return f"gradient.{il}.{head}"


def heads_by_layer(output_names: Iterable[str]) -> dict[int, tuple[str, ...]]:
    """{il: heads} of the given outputs; ValueError when an energy has no gradient or the other way round."""
    found: dict[str, set[tuple[int, str]]] = {"energy": set(), "gradient": set()}
    for name in output_names:
        match = _OUTPUT.fullmatch(name)
        if match:
            found[match[1]].add((int(match[2]), match[3]))
    for il, head in sorted(found["energy"] ^ found["gradient"]):
        raise ValueError(
            f"layer {il}, head {head}: expected both outputs, energy.{il}.{head} and gradient.{il}.{head}"
        )
    if not found["energy"]:
        raise ValueError("no outputs energy.<layer>.<head> and gradient.<layer>.<head>")
    layers = sorted({il for il, _ in found["energy"]})
    return {il: tuple(head for head in HEADS if (il, head) in found["energy"]) for il in layers}
