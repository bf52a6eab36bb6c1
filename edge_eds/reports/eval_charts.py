"""The drawings of an evaluation's page: rates with intervals, gate scores, divergences, energies.

Takes numbers, gives inline SVG (markup.py). Plain is drawn hollow and grey, steered filled in the colour of the intent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from edge_eds.pipeline.eval_report import Descents
from edge_eds.pipeline.statistics import Histogram, Rate, bin_edges
from edge_eds.reports.markup import box, dot, drawing, label, line

_N_BINS = 30
_HISTOGRAM_HEIGHT = 96
_KL_LOW, _KL_HIGH = 1e-3, 1e1  # nats; what is smaller stands at the left end
_TICKS = (0, 0.25, 0.5, 0.75, 1)


def rate_bars(plain: Rate, steered: Rate | None, intent: str, name: str) -> str:
    """One row: the rate of refusals with its interval, plain above steered, on 0..100 %."""
    shapes = [line(tick, 0, tick, 34, "grid") for tick in _TICKS]
    shapes += _interval(plain, 10 if steered else 17, "plain", f"plain {_percents(plain)}")
    words = f"{name}: plain {_percents(plain)}"
    if steered is not None:
        shapes += _interval(steered, 24, f"steered {intent}", f"steered {_percents(steered)}")
        words += f", steered {_percents(steered)}"
    return drawing(34, words, shapes)


def rate_axis() -> str:
    """The ticks under rows of rate_bars."""
    anchors = ("start", "middle", "middle", "middle", "end")
    ticks = (label(tick, 12, f"{100 * tick:g} %", anchor) for tick, anchor in zip(_TICKS, anchors, strict=True))
    return drawing(16, "0 to 100 %", ticks)


def gate_histograms(scores: Mapping[str, Sequence[float]], bounds: tuple[float, float] | None) -> str:
    """What the gate read, one histogram an intent above the other, and the two bounds through both.

    bounds: benign, harmful: at or under the one E_fr is descended, from the other on E_jb.
    """
    shown = {intent: values for intent, values in scores.items() if values}
    everything = [value for values in shown.values() for value in values]
    # what the bounds separate has to be in the picture; a bound that was put out of reach has not
    span = (min(everything), max(everything))
    margin = 0.5 * (span[1] - span[0]) + 1e-6
    near = [bound for bound in bounds or () if span[0] - margin <= bound <= span[1] + margin]
    edges = bin_edges([*everything, *near], _N_BINS)
    low, high = edges[0], edges[-1]
    shapes, top = [], 22
    for intent, values in shown.items():
        shapes += _bars(Histogram.of(values, edges), top, f"fill {intent}", len(values))
        shapes.append(label(0, top + 12, f"{intent} prompts (n = {len(values)})", "start", f"name {intent}"))
        top += _HISTOGRAM_HEIGHT + 10
    bottom = top - 10
    for bound, name, anchor in zip(near, _bound_names(bounds, near), ("end", "start"), strict=False):
        x = (bound - low) / (high - low)
        shapes.append(line(x, 16, x, bottom, "bound"))
        shapes.append(label(x, 12, f" {name} ", anchor))
    shapes += _axis(bottom, (low, high), "gate score")
    return drawing(bottom + 34, "gate scores by intent", shapes)


def divergence_row(kl: Mapping[str, float], intent: str, name: str) -> str:
    """One row on a logarithmic axis: from the median to the 99th percentile, the mean as a dot."""
    shapes = [line(x, 0, x, 22, "grid") for x in map(_log_x, _decades())]
    shapes.append(line(_log_x(kl["p50"]), 11, _log_x(kl["p99"]), 11, "whisker steered " + intent))
    shapes.append(line(_log_x(kl["p50"]), 5, _log_x(kl["p50"]), 17, "whisker steered " + intent))
    words = f"{name}: mean {kl['mean']:.3g}, median {kl['p50']:.3g}, 99 % {kl['p99']:.3g}"
    shapes.append(dot(_log_x(kl["mean"]), 11, 5, "steered " + intent, words))
    return drawing(22, words, shapes)


def divergence_axis() -> str:
    """The ticks under rows of divergence_row."""
    decades = _decades()
    anchors = ["start", *["middle"] * (len(decades) - 2), "end"]
    names = [f"≤ {decades[0]:g}", *(f"{nats:g}" for nats in decades[1:-1]), f"{decades[-1]:g} nats"]
    ticks = (label(_log_x(x), 12, name, anchor) for x, name, anchor in zip(decades, names, anchors, strict=True))
    return drawing(16, "nats, logarithmic", ticks)


def energy_histograms(descents: Descents, name: str) -> str:
    """The energy of all rows that were written, before and after."""
    edges = bin_edges(np.concatenate([descents.before, descents.after]), _N_BINS)
    shapes, top = [], 0
    for values, kind, when in ((descents.before, "plain", "before"), (descents.after, "steered", "after")):
        shapes += _bars(Histogram.of(values, edges), top, f"fill {kind} benign", len(values))
        mean = f"{when}: mean {float(np.mean(values)):.2f}"
        shapes.append(label(0, top + 12, mean, "start", "name"))
        top += _HISTOGRAM_HEIGHT + 10
    shapes += _axis(top - 10, (edges[0], edges[-1]), f"energy {name}")
    return drawing(top + 24, f"energy {name} before and after", shapes)


def _interval(rate: Rate, y: float, kind: str, title: str) -> list[str]:
    return [line(rate.low, y, rate.high, y, f"whisker {kind}"), dot(rate.value, y, 5, kind, title)]


def _bars(histogram: Histogram, top: float, kind: str, n: int) -> list[str]:
    """Bars of one height for the fullest bin, whatever n is."""
    low, high = histogram.edges[0], histogram.edges[-1]
    fullest = max(histogram.counts) or 1
    shapes = []
    for start, end, count in zip(histogram.edges, histogram.edges[1:], histogram.counts, strict=False):
        height = count / fullest * (_HISTOGRAM_HEIGHT - 18)
        x1, x2 = ((edge - low) / (high - low) for edge in (start, end))
        if count:
            title = f"{start:.3g} to {end:.3g}: {count} of {n}"
            shapes.append(box(x1 + 0.001, x2 - 0.001, top + _HISTOGRAM_HEIGHT - height, height, kind, title))
    shapes.append(line(0, top + _HISTOGRAM_HEIGHT, 1, top + _HISTOGRAM_HEIGHT, "axis"))
    return shapes


def _axis(y: float, span: tuple[float, float], name: str) -> list[str]:
    middle = (span[0] + span[1]) / 2
    ends = zip((0, 0.5, 1), (span[0], middle, span[1]), ("start", "middle", "end"), strict=True)
    return [*(label(x, y + 14, f"{value:.3g}", anchor) for x, value, anchor in ends), label(0.5, y + 30, name)]


def _bound_names(bounds: tuple[float, float] | None, near: Sequence[float]) -> list[str]:
    names = ("← read as benign", "read as harmful →")
    return [name for bound, name in zip(bounds or (), names, strict=False) if bound in near]


def _decades() -> list[float]:
    return [10.0**power for power in range(round(math.log10(_KL_LOW)), round(math.log10(_KL_HIGH)) + 1)]


def _log_x(nats: float) -> float:
    inside = min(max(nats, _KL_LOW), _KL_HIGH)
    return math.log(inside / _KL_LOW) / math.log(_KL_HIGH / _KL_LOW)


def _percents(rate: Rate) -> str:
    return f"{100 * rate.value:.1f} % ({100 * rate.low:.1f} to {100 * rate.high:.1f})"
