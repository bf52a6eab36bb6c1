"""Starts `edge-eds serve` as a program of its own, as whoever embeds it does, and says where it listens."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx


@dataclass
class Served:
    """A server that runs. log: its stderr so far. http: a client, for paths of the server."""

    url: str
    http: httpx.Client
    program: subprocess.Popen[str]
    log_file: Path
    port_file: Path

    @property
    def log(self) -> str:
        return self.log_file.read_text("utf-8")

    def metric(self, name: str, **labels: str) -> float:
        """The value of a counter or gauge; 0 where nothing was counted yet."""
        listed = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
        wanted = f"{name}{{{listed}}} " if labels else f"{name} "
        for line in self.http.get("/metrics").text.splitlines():
            if line.startswith(wanted):
                return float(line.removeprefix(wanted))
        return 0.0

    def wait_for(self, name: str, value: float, seconds: float = 10.0, **labels: str) -> None:
        """Until a metric has this value, or more."""
        until = time.monotonic() + seconds
        while self.metric(name, **labels) < value:
            assert time.monotonic() < until, f"{name} is {self.metric(name, **labels)}, expected {value}"
            time.sleep(0.02)

    def last_lines(self, n: int, end: str, seconds: float = 10.0) -> list[str]:
        """The last n lines of the log, once the last has `end` in it: a line is written when its answer is sent."""
        until = time.monotonic() + seconds
        while not (lines := self.log.splitlines()[-n:]) or end not in lines[-1]:
            assert time.monotonic() < until, f"the log ends with {lines}, expected {end!r}"
            time.sleep(0.005)
        return lines

    def stop(self, seconds: float = 20.0) -> int:
        """SIGTERM; returns the exit status."""
        self.program.send_signal(signal.SIGTERM)
        return self.program.wait(seconds)


@contextmanager
def served(folder: Path, model: Path, *options: object, before: str = "pass") -> Iterator[Served]:
    """A server on a free port, until the end of the block. before: Python that runs first, in the same process."""
    port_file, log_file = folder / "port", folder / "log"
    with log_file.open("w") as log:
        command = ("serve", model, "--threads", 1, "--port", 0, "--port-file", port_file, *options)
        program = subprocess.Popen(
            [sys.executable, "-c", f"{before}\nfrom edge_eds.cli import main\nmain()", *map(str, command)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            text=True,
        )
    try:
        until = time.monotonic() + 30
        while not port_file.exists():
            assert program.poll() is None, log_file.read_text("utf-8")
            assert time.monotonic() < until, "the server does not start"
            time.sleep(0.02)
        url = f"http://127.0.0.1:{port_file.read_text().strip()}"
        with httpx.Client(base_url=url, timeout=30, trust_env=False) as http:
            yield Served(url, http, program, log_file, port_file)
    finally:
        program.kill()
        program.wait(10)
