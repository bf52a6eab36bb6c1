"""Draws docs/landscape.svg: a real E_fr of the default model, real states in it, and the steps of one of them.

    python docs/landscape.py            # with the default model's own energies, or --energy FILE

The picture is a plane through the state of one false refusal that steering turns into an answer. Along x lies the way
that its steps took, along y the direction in which the other states vary most; both in multiples of that state's |h|.
Colours are the energy in the plane itself; the other states lie before or behind it and are projected onto it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import numpy.typing as npt

from edge_eds.energy.file import EnergyFile
from edge_eds.energy.network import LayerEnergy
from edge_eds.energy.settings import Steering
from edge_eds.errors import InputError
from edge_eds.pipeline.judge import judge
from edge_eds.pipeline.prompts import builtin_prompts
from edge_eds.runtime.batch import BatchRunner
from edge_eds.runtime.energies import default_model, load_energies

N_PAIRS, N_NEW = 90, 32
WIDTH, HEIGHT, PLOT = 860, 470, (60, 50, 620, 400)  # the plot: left, top, right, bottom
CELLS = (70, 44)
# from low to high energy: blue over grey to orange, which most colour-blind people tell apart
STOPS = ((33, 102, 172), (146, 197, 222), (240, 240, 236), (244, 165, 110), (202, 80, 32))
N_COLOURS = 14
Floats = npt.NDArray[np.floating]


@dataclass(frozen=True)
class State:
    """A state at a prompt's end. kind: "false refusal", "answered" or "true refusal"."""

    kind: str
    h: Floats


@dataclass(frozen=True)
class Example:
    """A false refusal that steering turns into an answer."""

    prompt: str
    h: Floats


def collect(energy: EnergyFile, il: int) -> tuple[list[State], Example]:
    """States of test prompts, by what the plain model answers, and the first false refusal that steering mends.

    Raises:
        InputError: it mends none of them.
    """
    pairs = [pair for pair in builtin_prompts().pairs if pair.split == "test"][:N_PAIRS]
    asked = [(pair.text(intent), intent) for pair in pairs for intent in ("benign", "harmful")]
    with BatchRunner(default_model(), n_threads=1, energy=energy) as runner:
        prompts = [runner.chat_tokens(prompt) for prompt, _ in asked]
        plain = runner.generate(prompts, max_new_tokens=N_NEW, capture_layers=[il])
        steered = runner.generate(prompts, max_new_tokens=N_NEW, steering=Steering())
    states, example = [], None
    for (prompt, intent), before, after in zip(asked, plain, steered, strict=True):
        assert before.states is not None
        h = before.states[il].astype(np.float64)
        refused = judge(prompt, before.text).label == "refusal"
        if refused or intent == "benign":
            kind = {"benign": "false refusal", "harmful": "true refusal"}[intent] if refused else "answered"
            states.append(State(kind, h))
        if refused and intent == "benign" and example is None and judge(prompt, after.text).label == "answer":
            example = Example(prompt, h)
    if example is None:
        raise InputError("steering mends none of these false refusals: there is nothing to draw")
    return states, example


@dataclass(frozen=True)
class Plane:
    """Two orthonormal directions among the principal ones, through the state p0; all in coordinates P (h - mu)."""

    layer: LayerEnergy
    p0: Floats
    axes: Floats  # (2, r)
    unit: float  # |h| of the example

    def place(self, points: Floats) -> Floats:
        """(n, 2) of points (n, r)."""
        placed: Floats = (points - self.p0) @ self.axes.T / self.unit
        return placed

    def energy(self, places: Floats) -> Floats:
        """E_fr (n,) at places (n, 2) of the plane."""
        assert self.layer.subspace is not None
        points = self.p0 + places @ self.axes * self.unit
        return self.layer.heads["fr"].energy(points / self.layer.subspace.s)


def coordinates(layer: LayerEnergy, h: Floats) -> Floats:
    """P (h - mu): lengths in it are lengths in h."""
    assert layer.subspace is not None
    return layer.subspace.project(h) * layer.subspace.s


def steps_of(layer: LayerEnergy, energy: EnergyFile, h: Floats) -> Floats:
    """The example's coordinates before the first step and after each, (steps + 1, r)."""
    spec = energy.spec
    ways = [
        layer.descend("fr", h[None], step_size=spec.step_size, steps=k, relative=spec.relative).H[0]
        for k in range(1, spec.steps + 1)
    ]
    return coordinates(layer, np.stack([h, *ways]))


def draw(plane: Plane, path: Floats, states: list[State], title: str, step_size: float, threshold: float | None) -> str:
    """The image."""
    at = {kind: plane.place(coordinates(plane.layer, np.stack(rows))) for kind, rows in by_kind(states).items()}
    everything = np.concatenate([*at.values(), path])
    low, high = np.percentile(everything, 2, axis=0), np.percentile(everything, 98, axis=0)
    low, high = np.minimum(low, path.min(axis=0) - 0.02), np.maximum(high, path.max(axis=0) + 0.02)
    left, top, right, bottom = PLOT

    def pixels(places: Floats) -> Floats:
        scaled = (places - low) / (high - low)
        return np.stack([left + scaled[:, 0] * (right - left), bottom - scaled[:, 1] * (bottom - top)], axis=1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="14">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="6" fill="#fff"/>',
        f'<text x="{left}" y="30" font-size="15">{escape(title)}</text>',
        *heat(plane, low, high, threshold),
    ]
    marks = {"answered": "#1a5fa8", "true refusal": "#444", "false refusal": "#b3440c"}
    for kind, fill in marks.items():
        for x, y in pixels(at[kind]) if kind in at else ():
            if left < x < right and top < y < bottom:
                dot = f'<circle cx="{x:.0f}" cy="{y:.0f}" r="3.2" fill="{fill}" stroke="#fff" stroke-width=".8"/>'
                parts.append(dot)
    way = " ".join(f"{x:.1f},{y:.1f}" for x, y in pixels(path))
    parts.append(f'<polyline points="{way}" fill="none" stroke="#000" stroke-width="2.5"/>')
    parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="#000"/>' for x, y in pixels(path)[:-1]]
    x, y = pixels(path)[-1]
    parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="#fff" stroke="#000" stroke-width="2.5"/>')
    size = f'width="{right - left}" height="{bottom - top}"'
    parts.append(f'<rect x="{left}" y="{top}" {size} fill="none" stroke="#666"/>')
    below = f"along the steps, each {step_size:.1%} of |h|"
    parts.append(f'<text x="{(left + right) / 2}" y="{bottom + 24}" text-anchor="middle">{below}</text>')
    middle = (top + bottom) / 2
    parts.append(
        f'<text transform="translate({left - 14} {middle}) rotate(-90)" text-anchor="middle">across them</text>'
    )
    parts += legend(marks, right + 24, top, threshold is not None)
    return "\n".join([*parts, "</svg>", ""])


def heat(plane: Plane, low: Floats, high: Floats, threshold: float | None) -> Iterator[str]:
    """The energy in the plane as one path a colour; the middle colour is the threshold."""
    left, top, right, bottom = PLOT
    n_x, n_y = CELLS
    x = low[0] + (np.arange(n_x) + 0.5) / n_x * (high[0] - low[0])
    y = high[1] - (np.arange(n_y) + 0.5) / n_y * (high[1] - low[1])
    grid = plane.energy(np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)).reshape(n_y, n_x) - (threshold or 0.0)
    reach = np.percentile(np.abs(grid), 97)
    level = np.clip(((grid / reach + 1) / 2 * N_COLOURS).astype(int), 0, N_COLOURS - 1)
    width, height = (right - left) / n_x, (bottom - top) / n_y
    for i in range(N_COLOURS):
        runs = []
        for row in range(n_y):
            edges = np.flatnonzero(np.diff(np.concatenate([[0], level[row] == i, [0]]).astype(int)))
            for start, stop in edges.reshape(-1, 2):
                x0, y0 = left + start * width, top + row * height
                runs.append(f"M{x0:.0f} {y0:.1f}h{(stop - start) * width:.0f}v{height:.1f}H{x0:.0f}z")
        if runs:
            yield f'<path d="{"".join(runs)}" fill="{colour((i + 0.5) / N_COLOURS)}" shape-rendering="crispEdges"/>'


def colour(share: float) -> str:
    """Between the stops, 0 to 1."""
    position = share * (len(STOPS) - 1)
    i = min(int(position), len(STOPS) - 2)
    mixed = np.array(STOPS[i]) + (position - i) * (np.array(STOPS[i + 1]) - np.array(STOPS[i]))
    return "#" + "".join(f"{round(value):02x}" for value in mixed)


def legend(marks: dict[str, str], x: float, top: float, has_threshold: bool) -> Iterator[str]:
    words = {"answered": "harmless, answered", "true refusal": "harmful, refused", "false refusal": "harmless, refused"}
    for i, (kind, fill) in enumerate(marks.items()):
        y = top + 12 + 24 * i
        yield f'<circle cx="{x + 5}" cy="{y}" r="4.5" fill="{fill}"/>'
        yield f'<text x="{x + 20}" y="{y + 5}">{words[kind]}</text>'
    y = top + 100
    yield f'<circle cx="{x + 5}" cy="{y}" r="4.5" fill="#000"/><text x="{x + 20}" y="{y + 5}">before each step</text>'
    y += 24
    yield f'<circle cx="{x + 5}" cy="{y}" r="5" fill="#fff" stroke="#000" stroke-width="2.5"/>'
    yield f'<text x="{x + 20}" y="{y + 5}">where it is lifted back</text>'
    y += 40
    for i in range(N_COLOURS):
        yield f'<rect x="{x + 11 * i}" y="{y}" width="11" height="12" fill="{colour((i + 0.5) / N_COLOURS)}"/>'
    yield f'<text x="{x}" y="{y + 30}">low energy</text>'
    yield f'<text x="{x + 11 * N_COLOURS}" y="{y + 30}" text-anchor="end">high</text>'
    if has_threshold:
        yield f'<text x="{x}" y="{y + 52}">grey: the threshold</text>'


def by_kind(states: list[State]) -> dict[str, list[Floats]]:
    kinds: dict[str, list[Floats]] = {}
    for state in states:
        kinds.setdefault(state.kind, []).append(state.h)
    return kinds


def main() -> None:
    """Write the picture beside this file."""
    files = default_model()
    wanted = sys.argv[2] if sys.argv[1:2] == ["--energy"] else "auto"
    _, energy = load_energies(wanted, files.gguf, files.lora)
    assert energy.energies is not None
    layer = energy.energies.layers[energy.spec.layers[0]]
    states, example = collect(energy, layer.il)
    path = steps_of(layer, energy, example.h)
    first = path[-1] - path[0]
    first /= np.linalg.norm(first)
    others = np.stack([coordinates(layer, state.h) for state in states])
    others = others - others.mean(axis=0)
    second = np.linalg.svd(others - np.outer(others @ first, first), full_matrices=False)[2][0]
    plane = Plane(layer, path[0], np.stack([first, second]), float(np.linalg.norm(example.h)))
    threshold = energy.spec.thresholds.get("fr", {}).get(layer.il)
    title = f"E_fr in layer {layer.il} around “{example.prompt}”"
    image = draw(plane, plane.place(path), states, title, energy.spec.step_size, threshold)
    Path(__file__).with_name("landscape.svg").write_text(image, encoding="utf-8")


if __name__ == "__main__":
    main()
