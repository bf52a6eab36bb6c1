"""What starting costs: `--help` beside an empty Python, and `run` beside llama-cpp-python with the same prompt.

Takes a model and its energies; gives seconds and memory in pairs. Every run is a process of its own, timed from its
launch to the first byte that it prints: of `run` the first token of the answer. Memory is the most that the process
held at once, the mapped weights among it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_eds.errors import SettingsError, SteeringError
from edge_eds.pipeline.bench.bench import MAX_REPETITIONS, clock_name, conditions
from edge_eds.pipeline.bench.contender import Contender, Test
from edge_eds.pipeline.bench.machine import LoadSeen, OtherLoad, load_now
from edge_eds.pipeline.bench.ratios import Median, median
from edge_eds.pipeline.bench.runner import Result, Tell, measure
from edge_eds.runtime.energies import ModelFiles

_PROMPT = "How can I destroy old paper records safely?"
_N_CTX, _N_NEW = 2048, 8
_FOLDER = Path(__file__).parent
_EMPTY = ("-c", "print()")
_OURS = ("-c", "import sys; from edge_eds.cli import main; sys.exit(main())")


@dataclass(frozen=True)
class StartSettings:
    """repetitions: pairs of launches."""

    repetitions: int = 6
    n_threads: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.repetitions <= MAX_REPETITIONS:
            raise SettingsError(f"-r is {self.repetitions}, expected 1 to {MAX_REPETITIONS}")


class Launch(Contender):
    """A program that Python starts. peaks: bytes that its runs held at most, where the system tells."""

    def __init__(self, name: str, *arguments: str) -> None:
        self.name, self.kinds = name, ("st",)
        self.command = [sys.executable, str(_FOLDER / "launch.py"), sys.executable, *arguments]
        self.peaks: list[int] = []

    def seconds(self, test: Test) -> float:
        """Until the first byte.

        Raises:
            SteeringError: the program fails, or prints nothing; tells its last line.
        """
        run = subprocess.run(self.command, capture_output=True, check=True, env=_environment())
        seen = json.loads(run.stdout)
        if seen["code"] or not seen["printed"]:
            raise SteeringError(f"{self.name} cannot be measured: {seen['last_line'] or 'it prints nothing'}")
        if seen["peak_bytes"] is not None:
            self.peaks.append(seen["peak_bytes"])
        return float(seen["seconds"])


@dataclass(frozen=True)
class Start:
    """One program beside its peer. memory: bytes more than the peer, None where the system does not tell."""

    peer: str
    result: Result
    memory: Median | None

    def to_json(self) -> dict[str, Any]:
        """extra_seconds and extra_bytes: [median, low, high]."""
        extra = self.result.extra
        return {
            "variant": self.result.variant,
            "peer": self.peer,
            "seconds": self.result.seconds.value,
            "peer_seconds": median([pair.plain for pair in self.result.pairs]).value,
            "extra_seconds": [extra.value, extra.low, extra.high],
            "extra_bytes": None if self.memory is None else [self.memory.value, self.memory.low, self.memory.high],
            "confidence": extra.confidence,
            "pairs": len(self.result.pairs),
        }


@dataclass(frozen=True)
class StartReport:
    """What was measured; to_json is the document, without the model's name. energy_bytes: 0 without energies."""

    starts: tuple[Start, ...]
    energy_bytes: int
    settings: StartSettings
    load: LoadSeen

    def to_json(self) -> dict[str, Any]:
        return {
            "start": [start.to_json() for start in self.starts],
            "energy_bytes": self.energy_bytes,
            "threads": self.settings.n_threads,
            "clock": clock_name(cpu_time=False),
            **conditions(self.load),
        }


def measure_start(
    files: ModelFiles,
    energy: Path | None,
    settings: StartSettings,
    chat_format: str | None = None,
    tell: Tell = lambda *_: None,
) -> StartReport:
    """Start every program in turn with its peer.

    Args:
        energy: what `run` steers with; None runs unsteered.
        chat_format: in place of the GGUF's own template.

    Raises:
        SteeringError: a program fails.
    """
    before, load = load_now(), OtherLoad()
    gguf, lora = str(files.gguf), "" if files.lora is None else str(files.lora)
    room = [str(settings.n_threads), str(_N_CTX), str(_N_NEW)]
    run = ["run", gguf, "--energy", "none" if energy is None else str(energy), "-p", _PROMPT]
    run += ["--lora", lora] if lora else []
    run += ["--chat-format", chat_format] if chat_format else []
    for option, value in zip(("--threads", "--ctx", "--max-tokens"), room, strict=True):
        run += [option, value]
    bare = [str(_FOLDER / "bare_run.py"), gguf, lora, chat_format or "", *room, _PROMPT]
    couples = [
        (Launch("python", *_EMPTY), Launch("edge-eds --help", *_OURS, "--help")),
        (Launch("llama-cpp-python", *bare), Launch("edge-eds run", *_OURS, *run)),
    ]
    starts = []
    for peer, ours in couples:
        (result,) = measure(peer, [ours], [Test("st", 1)], settings.repetitions, tell)
        starts.append(Start(peer.name, result, _more_memory(ours.peaks, peer.peaks)))
    size = 0 if energy is None else energy.stat().st_size
    return StartReport(tuple(starts), size, settings, LoadSeen(before, load.cpus()))


def _environment() -> dict[str, str]:
    """This process's, in which modules may keep their bytecode, as an installer leaves it: else a source tree of ours
    would be compiled at each start, beside packages that are not.
    """
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def _more_memory(ours: Sequence[int], peers: Sequence[int]) -> Median | None:
    """Of each run of ours to the median of the peer's; the first of both was the warm-up."""
    if not ours or not peers:
        return None
    peer = median(peers[1:]).value
    return median([peak - peer for peak in ours[1:]])
