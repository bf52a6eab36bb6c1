"""What a measurement needs to know of the machine: free memory, free disk, and who else is computing.

Everything is read when asked for. A number that a system does not tell is None, and nobody guesses one.
"""

from __future__ import annotations

import os
import platform
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from edge_eds.runtime.memory import free_memory

QUIET_CPUS = 0.1  # other programs may take this much of one CPU before a measurement is called disturbed


@dataclass(frozen=True)
class Room:
    """Bytes that can be had; None: the system does not say."""

    memory: int | None
    disk: int | None


def room(folder: Path) -> Room:
    """Free memory, and free disk where `folder` is or will be."""
    while not folder.is_dir():
        folder = folder.parent
    return Room(free_memory(), shutil.disk_usage(folder).free)


def n_cpus() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_name() -> str:
    """The CPU as the system calls it."""
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


class OtherLoad:
    """How many CPUs other programs kept busy since this was made; children that have ended count as ours."""

    def __init__(self) -> None:
        self._busy, self._own, self._time = _busy_seconds(), _own_seconds(), time.monotonic()

    def cpus(self) -> float | None:
        """Mean over the time since; None where the system does not say."""
        busy, own, passed = _busy_seconds(), _own_seconds(), time.monotonic() - self._time
        if busy is None or self._busy is None or passed <= 0:
            return None
        return max(0.0, ((busy - self._busy) - (own - self._own)) / passed)


def load_now(seconds: float = 0.5) -> float | None:
    """CPUs that other programs keep busy, looked at for a moment."""
    load = OtherLoad()
    time.sleep(seconds)
    return load.cpus()


def load_warning(cpus: float | None, when: str) -> str | None:
    """One line for people where the machine is, or was, not ours alone."""
    if cpus is None:
        return f"this system does not say how busy it {when}: see to it that nothing else runs"
    if cpus <= QUIET_CPUS:
        return None
    return f"other programs kept {cpus:.1f} of {os.cpu_count()} CPUs busy {when}: the numbers are not to be relied on"


@dataclass(frozen=True)
class LoadSeen:
    """CPUs that other programs kept busy before and during a measurement; None: the system does not say."""

    before: float | None
    during: float | None


def _busy_seconds() -> float | None:
    """CPU seconds that all programs have used since the system started; waiting for a disk is none."""
    try:
        ticks = [int(word) for word in Path("/proc/stat").read_text("ascii").split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        return None
    idle, iowait = ticks[3:5]
    return (sum(ticks) - idle - iowait) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
