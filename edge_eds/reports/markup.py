"""Pieces of HTML and of inline SVG: escaped text, and shapes that grow with the page.

Takes values, gives markup. A drawing has a fixed height in pixels and the width of its container: x is a fraction
0..1 of that width, y is in pixels from the top, so that text and dots keep their size on a phone. Colours come from
CSS classes, which know about dark mode. Nothing here knows what is drawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

_CONTROL = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def text(value: object) -> str:
    """Any value as text for elements and attributes: markup escaped, control characters made visible."""
    return escape(str(value).translate(_CONTROL), quote=True)


def drawing(height: int, label: str, shapes: Iterable[str]) -> str:
    """An inline SVG; label: what it shows, for those who cannot see it."""
    return f'<svg role="img" aria-label="{text(label)}" width="100%" height="{height}">{"".join(shapes)}</svg>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A straight line; kind: CSS classes."""
    return f'<line class="{kind}" x1="{_x(x1)}" y1="{y1:g}" x2="{_x(x2)}" y2="{y2:g}"/>'


def dot(x: float, y: float, radius: float, kind: str, title: str = "") -> str:
    """A filled circle; title: shown under the pointer."""
    return f'<circle class="{kind}" cx="{_x(x)}" cy="{y:g}" r="{radius:g}">{_title(title)}</circle>'


def box(x1: float, x2: float, y: float, height: float, kind: str, title: str = "") -> str:
    """A filled rectangle between two x."""
    return (
        f'<rect class="{kind}" x="{_x(x1)}" y="{y:g}" width="{_x(max(x2 - x1, 0))}" height="{height:g}">'
        f"{_title(title)}</rect>"
    )


def label(x: float, y: float, value: object, anchor: str = "middle", kind: str = "tick") -> str:
    """Text on a drawing; anchor: start, middle or end."""
    return f'<text class="{kind}" x="{_x(x)}" y="{y:g}" text-anchor="{anchor}">{text(value)}</text>'


def section(title: str, introduction: str, body: str) -> str:
    """A part of a page with its heading; introduction and body are markup already."""
    words = f'<p class="soft">{introduction}</p>' if introduction else ""
    return f"<section><h2>{text(title)}</h2>{words}\n{body}</section>"


def head_row(heads: Sequence[str], first_number: int) -> str:
    """The head of a table; columns from first_number on hold numbers."""
    kinds = [""] * first_number + [' class="number"'] * (len(heads) - first_number)
    cells = (f"<th{kind}>{text(head)}</th>" for head, kind in zip(heads, kinds, strict=True))
    return f"<thead><tr>{''.join(cells)}</tr></thead>"


def number(value: str, name: str = "", below: str = "") -> str:
    """A cell; name: what it is, where the phone's layout has no head; below: a smaller second line."""
    named = f' data-name="{text(name)}"' if name else ""
    second = f'<br><span class="soft">{text(below)}</span>' if below else ""
    return f'<td class="number"{named}>{text(value)}{second}</td>'


def _x(fraction: float) -> str:
    return f"{100 * fraction:.6g}%"


def _title(value: str) -> str:
    return f"<title>{text(value)}</title>" if value else ""
