"""Optional dependencies, asked for before any work is done."""

from __future__ import annotations

from importlib.util import find_spec

from edge_eds.errors import MissingExtraError


def require(package: str, extra: str) -> None:
    """MissingExtraError unless the package of this extra is installed."""
    if find_spec(package) is None:
        raise MissingExtraError(package, extra)
