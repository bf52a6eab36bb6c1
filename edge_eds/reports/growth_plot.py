"""How the cost of steering grows, as one SVG image: a panel for each thing that was varied, both axes logarithmic.

Takes the document of `bench --growth --json`; gives the text of the image. Dots are measured, with their intervals; the
line is what the cost model says. A cost below a microsecond is drawn at one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

from edge_eds.reports.growth import AXES

_PANEL_WIDTH, _PANEL_HEIGHT, _COLUMNS = 310, 240, 3
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 36, 48  # margins of a panel, in pixels
_MEASURED, _PREDICTED = "#0072b2", "#d55e00"
_LEAST = 1.0  # microseconds
_TITLE = "Extra time of a decode, us: measured (dots, with intervals) and predicted (line)"
Row = Mapping[str, Any]


def svg(document: Mapping[str, Any]) -> str:
    """The image."""
    panels = {axis: [row for row in document["growth"] if row["axis"] == axis] for axis in AXES}
    panels = {axis: rows for axis, rows in panels.items() if rows}
    costs = [cost for rows in panels.values() for row in rows for cost in (*row["extra_us"], row["predicted_us"])]
    low, high = _decades(costs)
    width, n_lines = _COLUMNS * _PANEL_WIDTH, math.ceil(len(panels) / _COLUMNS)
    height = 40 + n_lines * _PANEL_HEIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="20" y="26" font-size="15">{escape(_TITLE)}</text>',
    ]
    for i, (axis, rows) in enumerate(panels.items()):
        left, top = i % _COLUMNS * _PANEL_WIDTH, 40 + i // _COLUMNS * _PANEL_HEIGHT
        parts += [f'<g transform="translate({left} {top})">', *_panel(AXES[axis], rows, low, high), "</g>"]
    return "\n".join([*parts, "</svg>", ""])


def _panel(title: str, rows: Sequence[Row], low: int, high: int) -> Iterator[str]:
    right, bottom = _PANEL_WIDTH - _RIGHT, _PANEL_HEIGHT - _BOTTOM
    first, last = math.log10(rows[0]["value"]), math.log10(rows[-1]["value"])

    def x(value: float) -> float:
        part = (math.log10(value) - first) / (last - first) if last > first else 0.5
        return round(_LEFT + part * (right - _LEFT), 1)

    def y(cost: float) -> float:
        part = (math.log10(max(cost, _LEAST)) - low) / (high - low)
        return round(bottom - part * (bottom - _TOP), 1)

    for decade in range(low, high + 1):
        at = y(10.0**decade)
        yield f'<line x1="{_LEFT}" y1="{at}" x2="{right}" y2="{at}" stroke="#e4e4e4"/>'
        yield f'<text x="{_LEFT - 6}" y="{at + 4}" text-anchor="end">{10**decade}</text>'
    yield f'<path d="M{_LEFT} {_TOP}V{bottom}H{right}" fill="none" stroke="#444"/>'
    yield f'<text x="{(_LEFT + right) / 2}" y="{bottom + 38}" text-anchor="middle">{escape(title)}</text>'
    line = " ".join(f"{x(row['value'])},{y(row['predicted_us'])}" for row in rows)
    yield f'<polyline points="{line}" fill="none" stroke="{_PREDICTED}" stroke-width="1.8"/>'
    for row in rows:
        cost, least, most = row["extra_us"]
        at = x(row["value"])
        yield f'<path d="M{at} {y(least)}V{y(most)}" stroke="{_MEASURED}" stroke-opacity="0.5" stroke-width="2"/>'
        caption = f"{row['value']}: {cost:.0f} us ({least:.0f} to {most:.0f}), predicted {row['predicted_us']:.0f}"
        yield f'<circle cx="{at}" cy="{y(cost)}" r="4" fill="{_MEASURED}"><title>{escape(caption)}</title></circle>'
        yield f'<text x="{at}" y="{bottom + 18}" text-anchor="middle">{row["value"]}</text>'


def _decades(costs: Sequence[float]) -> tuple[int, int]:
    """Powers of ten between which all costs lie."""
    low = math.floor(math.log10(max(min(costs), _LEAST)))
    high = math.ceil(math.log10(max(*costs, _LEAST)))
    return low, max(high, low + 1)
