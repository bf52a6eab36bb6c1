"""A comparison of methods as one SVG image: false refusals against true refusals, a curve for each method.

Takes a report; gives the text of the image, the same bytes for the same report. Written by hand, as a few lines and
circles need no plotting library. Down and to the right is better.
"""

from __future__ import annotations

from collections.abc import Iterator
from xml.sax.saxutils import escape

from edge_eds.pipeline.compare import REFERENCE, ComparisonReport, Point
from edge_eds.pipeline.statistics import Rate
from edge_eds.reports.comparison import chosen_point

WIDTH, HEIGHT = 920, 560
_TITLE = "False refusals against true refusals (95 % intervals; ringed: chosen on validation)"
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 610, 50, 490  # of the axes, in pixels
# Told apart by most colour-blind people (Okabe and Ito), with two greys; ours is black and drawn last.
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#8c6d31", "#7f7f7f", "#b0a000")


def svg(report: ComparisonReport) -> str:
    """The image.

    Raises:
        ValueError: a report without benign or without harmful suites has no plane to draw in.
    """
    n = [sum(len(s.prompts) for s in report.suites if s.intent == intent) for intent in ("benign", "harmful")]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(_LEFT, 28, _TITLE, size=15),
        *_axes(n[0], n[1]),
    ]
    parts += _plain(report)
    colours = iter(_COLOURS * len(report.methods))
    rows = [(method, "#000000" if method.name == REFERENCE else next(colours)) for method in report.methods]
    for method, colour in sorted(rows, key=lambda row: row[0].name == REFERENCE):
        parts += _curve(report, method.points, chosen_point(method), colour)
    for i, (method, colour) in enumerate(rows):
        y = _TOP + 30 + 24 * i
        parts.append(f'<line x1="635" y1="{y}" x2="660" y2="{y}" stroke="{colour}" stroke-width="2.5"/>')
        parts.append(f'<circle cx="647" cy="{y}" r="4" fill="{colour}"/>')
        parts.append(_text(668, y + 4, method.title))
    parts.append(_text(641, _TOP + 4, "+", size=18))
    parts.append(_text(668, _TOP + 4, "plain model"))
    return "\n".join([*parts, "</svg>", ""])


def _axes(n_benign: int, n_harmful: int) -> Iterator[str]:
    for percent in range(0, 101, 20):
        x, y = _x(percent / 100), _y(percent / 100)
        yield f'<line x1="{x}" y1="{_TOP}" x2="{x}" y2="{_BOTTOM}" stroke="#e4e4e4"/>'
        yield f'<line x1="{_LEFT}" y1="{y}" x2="{_RIGHT}" y2="{y}" stroke="#e4e4e4"/>'
        yield _text(x, _BOTTOM + 20, str(percent), anchor="middle")
        yield _text(_LEFT - 8, y + 4, str(percent), anchor="end")
    yield f'<path d="M{_LEFT} {_TOP}V{_BOTTOM}H{_RIGHT}" fill="none" stroke="#444"/>'
    middle = (_LEFT + _RIGHT) / 2
    yield _text(middle, _BOTTOM + 45, f"harmful prompts refused, % (n = {n_harmful})", anchor="middle")
    centre = (_TOP + _BOTTOM) / 2
    label = escape(f"benign prompts refused, % (n = {n_benign})")
    yield f'<text x="22" y="{centre}" text-anchor="middle" transform="rotate(-90 22 {centre})">{label}</text>'


def _plain(report: ComparisonReport) -> Iterator[str]:
    x, y = _place(report, report.plain)
    yield f'<path d="M{x - 7} {y}H{x + 7}M{x} {y - 7}V{y + 7}" stroke="#000" stroke-width="2"/>'


def _curve(
    report: ComparisonReport, points: tuple[Point, ...], chosen: Point | None, colour: str
) -> Iterator[str]:
    places = [_place(report, point) for point in points]
    line = " ".join(f"{x},{y}" for x, y in places)
    yield f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.8" stroke-opacity="0.8"/>'
    for point, (x, y) in zip(points, places, strict=True):
        harmful, benign = (report.refusals(point, intent) for intent in ("harmful", "benign"))
        yield (
            f'<path d="M{_x(harmful.low)} {y}H{_x(harmful.high)}M{x} {_y(benign.low)}V{_y(benign.high)}" '
            f'stroke="{colour}" stroke-opacity="0.3"/>'
        )
        caption = _caption(point, harmful, benign)
        yield f'<circle cx="{x}" cy="{y}" r="4" fill="{colour}"><title>{caption}</title></circle>'
        if point is chosen:
            yield f'<circle cx="{x}" cy="{y}" r="8" fill="none" stroke="{colour}" stroke-width="2"/>'


def _caption(point: Point, harmful: Rate, benign: Rate) -> str:
    where = ", ".join(f"{name} {value}" for name, value in (point.shape or {}).items())
    return escape(
        f"{where or 'strength'}, {point.strength:g}: {100 * harmful.value:.1f} % of harmful and "
        f"{100 * benign.value:.1f} % of benign prompts refused"
    )


def _place(report: ComparisonReport, point: Point) -> tuple[float, float]:
    return _x(report.refusals(point, "harmful").value), _y(report.refusals(point, "benign").value)


def _x(rate: float) -> float:
    return round(_LEFT + rate * (_RIGHT - _LEFT), 1)


def _y(rate: float) -> float:
    return round(_BOTTOM - rate * (_BOTTOM - _TOP), 1)


def _text(x: float, y: float, text: str, anchor: str = "start", size: int = 13) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-size="{size}">{escape(text)}</text>'
