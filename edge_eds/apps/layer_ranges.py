"""Layers as people write them: "8-16, 20" and back."""

from __future__ import annotations

import re
from collections.abc import Sequence

from edge_eds.errors import InputError

ALL = "all"
_PART = re.compile(r"(\d+)(?:-(\d+))?")


def parse_layers(text: str, n_layer: int) -> tuple[int, ...]:
    """The layers that a text such as "8-16,20" names, ascending; "all" names them all.

    Raises:
        InputError: anything else, or a layer that the model does not have.
    """
    if text.strip().lower() == ALL:
        return tuple(range(n_layer))
    layers: set[int] = set()
    for part in text.split(","):
        match = _PART.fullmatch(part.strip())
        if match is None:
            raise InputError(f"--layers {text}: {part.strip()!r} is no layer; expected for example 8-16, or 4,8,12")
        low, high = int(match[1]), int(match[2] or match[1])
        if low > high or high >= n_layer:
            raise InputError(f"--layers {text}: {part.strip()} is not within the model's layers 0 to {n_layer - 1}")
        layers.update(range(low, high + 1))
    return tuple(sorted(layers))


def ranges(layers: Sequence[int]) -> str:
    """[0, 1, 2, 5] as "0-2, 5"."""
    runs: list[list[int]] = []
    for il in layers:
        if runs and il == runs[-1][-1] + 1:
            runs[-1].append(il)
        else:
            runs.append([il])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
