"""Numbers as people read them in reports: per cent, intervals, points, p values."""

from __future__ import annotations

from collections.abc import Iterable

from edge_eds.pipeline.statistics import Rate

NOTHING = "-"  # where there is no number to show


def percent(rate: float) -> str:
    """A rate 0..1 with one decimal, which is left out where it is 0."""
    return f"{100 * rate:.1f}".removesuffix(".0")


def interval(rate: Rate) -> str:
    """The interval of a rate, in per cent."""
    return f"{100 * rate.low:.1f} to {100 * rate.high:.1f}"


def signed_interval(difference: Rate) -> str:
    """The interval of a difference, in points."""
    return f"{_signed(difference.low)} to {_signed(difference.high)}"


def points(difference: Rate) -> str:
    """A difference of rates."""
    return f"{_signed(difference.value)} points"


def p_value(p: float) -> str:
    """Two digits, and no more zeros than anybody reads."""
    return "< 0.001" if p < 0.001 else f"{p:.2g}"


def change(values: Iterable[str]) -> str:
    """Plain and steered, or plain alone."""
    return " → ".join(values)


def _signed(part: float) -> str:
    return f"{round(100 * part, 1) + 0:+.1f}"  # + 0: no minus before a zero
