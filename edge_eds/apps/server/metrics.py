"""What the server counts, in the text format of Prometheus. Each server has a registry of its own."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """Counters of one server; safe to use from any thread."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "edge_eds_requests", "HTTP requests by path and status.", ["path", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "edge_eds_request_seconds", "Time of an HTTP request.", ["path"], buckets=_SECONDS, registry=self._registry
        )
        self._tokens = Counter("edge_eds_tokens", "Tokens by kind.", ["kind"], registry=self._registry)
        self._answers = Counter("edge_eds_answers", "Answers by how they ended.", ["end"], registry=self._registry)
        self._gates = Counter(
            "edge_eds_gate", "Answers by what the gate decided.", ["decision"], registry=self._registry
        )
        self._waiting = Gauge("edge_eds_waiting", "Answers that wait for a slot.", registry=self._registry)
        self._running = Gauge("edge_eds_running", "Answers that are being made.", registry=self._registry)

    def watch(self, waiting: Callable[[], int], running: Callable[[], int]) -> None:
        """Where the two gauges are read."""
        self._waiting.set_function(waiting)
        self._running.set_function(running)

    def requested(self, path: str, status: int, seconds: float) -> None:
        """An HTTP request has been answered; `path` is that of a route, of which there are few."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def answered(self, n_prompt: int, n_cached: int, n_new: int, end: str, gate: str | None) -> None:
        """An answer is complete; gate None: it was not to be steered."""
        self._tokens.labels("prompt").inc(n_prompt - n_cached)
        self._tokens.labels("prompt_cached").inc(n_cached)
        self._tokens.labels("completion").inc(n_new)
        self._gates.labels(gate or "plain").inc()
        self.ended(end)

    def ended(self, end: str) -> None:
        """An answer has ended: stop, length, cancelled, timeout or error."""
        self._answers.labels(end).inc()

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self._registry)
