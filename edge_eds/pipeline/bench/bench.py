"""The bench as one stage: settings and a loaded model in, a report out that is the document of `bench --json`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edge_eds.energy.file import EnergyFile
from edge_eds.energy.fingerprint import ModelFingerprint
from edge_eds.errors import SettingsError
from edge_eds.pipeline.bench.contender import Test
from edge_eds.pipeline.bench.contenders import Steered
from edge_eds.pipeline.bench.contexts import BenchLlama
from edge_eds.pipeline.bench.energies import Work, work_per_token
from edge_eds.pipeline.bench.lineup import VARIANTS, Bed, check_variants, lined_up
from edge_eds.pipeline.bench.machine import LoadSeen, OtherLoad, cpu_name, load_now
from edge_eds.pipeline.bench.ratios import quotient
from edge_eds.pipeline.bench.runner import Result, Tell, measure
from edge_eds.pipeline.evaluate import versions

MAX_REPETITIONS = 10_000
OURS, PEERS = "steer-15x3", ("python-onnx", "transformers")  # the same steering, done in three ways


@dataclass(frozen=True)
class BenchSettings:
    """What is measured; checked when made.

    n_prompt, n_gen: sizes of the tests of prompts and of new tokens; 0 and nothing leave that kind out.
    """

    variants: tuple[str, ...] = VARIANTS
    n_prompt: tuple[int, ...] = (512,)
    n_gen: tuple[int, ...] = (64,)
    repetitions: int = 6

    def __post_init__(self) -> None:
        check_variants(self.variants)
        if not 1 <= self.repetitions <= MAX_REPETITIONS:
            raise SettingsError(f"-r is {self.repetitions}, expected 1 to {MAX_REPETITIONS}")
        if not self.tests:
            raise SettingsError("nothing to measure: -p and -n are both 0")

    @property
    def tests(self) -> tuple[Test, ...]:
        """Prompts first."""
        prompts = [Test("pp", n) for n in self.n_prompt if n]
        return tuple(dict.fromkeys([*prompts, *(Test("tg", n) for n in self.n_gen if n)]))

    @property
    def n_ctx(self) -> int:
        """Tokens that the longest test needs room for."""
        return max(test.n_ctx for test in self.tests)


@dataclass(frozen=True)
class BenchReport:
    """What was measured.

    floors: variant -> the least work that its steering takes for a token.
    """

    results: tuple[Result, ...]
    left_out: dict[str, str]
    floors: dict[str, Work]
    n_threads: int
    cpu_time: bool
    load: LoadSeen

    def to_json(self) -> dict[str, Any]:
        """The document, without the model's name."""
        return {
            "results": [self._row(result) for result in self.results],
            "left_out": self.left_out,
            "cost_of_ours_to": self._costs(),
            "threads": self.n_threads,
            "clock": clock_name(self.cpu_time),
            **conditions(self.load),
        }

    def _row(self, result: Result) -> dict[str, Any]:
        time, ratio, extra = result.seconds, result.ratio, result.extra
        low, high = result.spread
        n_steered = result.test.n if result.test.kind == "tg" else 1
        row: dict[str, Any] = {
            "variant": result.variant,
            "test": result.test.name,
            "median_ms": 1e3 * time.value,
            "quartiles_ms": [1e3 * low, 1e3 * high],
            "tokens_per_second": result.test.n / time.value,
            "ratio_to_plain": ratio.value,
            "ratio_low": ratio.low,
            "ratio_high": ratio.high,
            "confidence": ratio.confidence,
            "extra_us": [1e6 * value / n_steered for value in (extra.value, extra.low, extra.high)],
            "pairs": len(result.pairs),
        }
        floor = self.floors.get(result.variant)
        if floor is not None:
            row["floor"] = {"bytes": floor.n_bytes, "multiply_adds": floor.multiply_adds}
        return row

    def _costs(self) -> dict[str, dict[str, dict[str, float | None]]]:
        """peer -> test -> what our steering costs as a part of what the peer's does."""
        found = {(result.variant, result.test.name): result for result in self.results}
        costs: dict[str, dict[str, dict[str, float | None]]] = {}
        for (variant, test), result in found.items():
            ours = found.get((OURS, test))
            if variant in PEERS and ours is not None:
                value, low, high = quotient(ours.extra, result.extra)
                costs.setdefault(variant, {})[test] = {"value": value, "low": low, "high": high}
        return costs


def clock_name(cpu_time: bool) -> str:
    """What seconds are."""
    return "cpu" if cpu_time else "wall"


def conditions(load: LoadSeen) -> dict[str, Any]:
    """What the numbers of a document depend on beside the model."""
    return {
        "machine": {"cpu": cpu_name(), "cpus": os.cpu_count()},
        "busy_cpus_of_others": asdict(load),
        "versions": versions(),
    }


def random_tokens(n: int, n_vocab: int) -> list[int]:
    """n tokens, always the same ones."""
    return [int(token) for token in np.random.default_rng(0).integers(0, n_vocab, n)]


def bench(
    llm: BenchLlama,
    fingerprint: ModelFingerprint,
    energy: EnergyFile | None,
    settings: BenchSettings,
    n_threads: int,
    tell: Tell = lambda *_: None,
) -> BenchReport:
    """Measure what the settings name.

    Raises:
        SteeringError: what a variant is there for did not happen.
        ModelError: no memory for another context.
    """
    bed = Bed(llm, fingerprint, energy, random_tokens(settings.n_ctx, llm.n_vocab()), n_threads)
    before, load = load_now(), OtherLoad()
    with lined_up(bed, settings.variants) as lineup:
        results = measure(lineup.plain, lineup.contenders, settings.tests, settings.repetitions, tell)
        steered = [contender for contender in lineup.contenders if isinstance(contender, Steered)]
        floors = {one.name: work_per_token(one.file) for one in steered if one.file.energies is not None}
    # After the programs of contenders have ended: only then they count as ours.
    return BenchReport(tuple(results), lineup.left_out, floors, n_threads, llm.cpu_time, LoadSeen(before, load.cpus()))


def names(text: str) -> tuple[str, ...]:
    """The names of a list: ("a", "b") of "a, b"."""
    return tuple(part for part in (part.strip() for part in text.split(",")) if part)


def sizes(option: str, text: str) -> tuple[int, ...]:
    """The numbers of a list: (512, 128) of "512,128".

    Raises:
        SettingsError: no whole numbers of tokens.
    """
    parts: Sequence[str] = names(text)
    if not all(part.isascii() and part.isdigit() and len(part) < 8 for part in parts):
        raise SettingsError(f"{option} is {text}, expected numbers of tokens such as 512 or 512,128")
    return tuple(map(int, parts))
