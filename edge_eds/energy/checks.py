"""Checks of single settings: the value as it is to be kept, or SettingsError with one line that names it."""

from __future__ import annotations

import math
from numbers import Integral, Real

from edge_eds.errors import SettingsError


def number(name: str, value: object, low: float = -math.inf, high: float = math.inf, above: bool = False) -> float:
    """`value` as a finite float within low..high (above `low` itself when `above`)."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise SettingsError(f"{name} is {value!r}, expected a number")
    given = float(value)
    if not math.isfinite(given):
        raise SettingsError(f"{name} is {given}, expected a finite number")
    if given < low or given > high or (above and given == low):
        lower = f"above {low:g}" if above else f"at least {low:g}"
        upper = f" and at most {high:g}" if math.isfinite(high) else ""
        raise SettingsError(f"{name} is {given:g}, expected {lower}{upper}")
    return given


def integer(name: str, value: object, low: int, high: int | None = None) -> int:
    """`value` as a whole number within low..high."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise SettingsError(f"{name} is {value!r}, expected a whole number")
    given = int(value)
    if given < low or (high is not None and given > high):
        raise SettingsError(f"{name} is {given}, expected at least {low}{f' and at most {high}' if high else ''}")
    return given


def flag(name: str, value: object) -> bool:
    """`value` as true or false."""
    if not isinstance(value, bool):
        raise SettingsError(f"{name} is {value!r}, expected true or false")
    return value
