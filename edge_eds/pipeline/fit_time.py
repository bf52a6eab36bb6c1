"""How long a fit takes, told before anything is loaded."""

from __future__ import annotations

from pathlib import Path

from edge_eds.pipeline.bench.machine import n_cpus

DEFAULT_SECONDS = 15 * 60
# What the smallest fit takes on the default model with two threads; it grows with the weights, read for each token.
_LEAST_SECONDS, _BYTES, _THREADS = 5 * 60, 98_000_000, 2


def fit_time(gguf: Path, threads: int | None) -> str:
    """About how long `fit` takes for a model file on this machine if nobody says, in words."""
    least = _LEAST_SECONDS * gguf.stat().st_size / _BYTES * _THREADS / (threads or n_cpus())
    seconds = max(DEFAULT_SECONDS, least)
    if seconds < 90 * 60:
        return f"about {5 * round(seconds / 300)} minutes"
    return f"about {round(seconds / 3600)} hours"
