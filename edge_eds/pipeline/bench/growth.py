"""How the cost of steering grows: with layers, steps, rank, n_embd, rows of a decode and prompt length, and why.

Small models of several widths, real ones to llama.cpp and larger than the caches, are written to a folder that goes
away. One thing at a time is varied around 15 layers x 3 steps; the extra time of a decode is fitted by what the work
consists of, and the fit is asked about larger models, whose plain speed follows from their bytes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from edge_eds.energy.file import EnergyFile
from edge_eds.energy.fingerprint import ModelFingerprint
from edge_eds.errors import SettingsError
from edge_eds.pipeline.bench.bench import MAX_REPETITIONS, clock_name, conditions, random_tokens
from edge_eds.pipeline.bench.contender import Test
from edge_eds.pipeline.bench.contenders import Plain, Steered
from edge_eds.pipeline.bench.contexts import BenchLlama
from edge_eds.pipeline.bench.energies import FIFTEEN, EnergyForm, random_energies, work_per_token
from edge_eds.pipeline.bench.machine import LoadSeen, OtherLoad, load_now
from edge_eds.pipeline.bench.ratios import Median
from edge_eds.pipeline.bench.runner import Tell, measure
from edge_eds.pipeline.bench.shape_file import shape_file
from edge_eds.pipeline.bench.shapes import LLAMA_70B, SHAPES, Shape

_FORM = replace(FIFTEEN, n_gate=0)  # the gate is read once an answer
_N_LAYER, _N_VOCAB = 16, 512
_NOISE = 0.03  # of a cost, that no interval shows: the fit does not trust a point more than that


@dataclass(frozen=True)
class GrowthSettings:
    """What is varied; checked when made. The middle of each axis is 15 layers x 3 steps, rank 32, one row.

    n_decodes: timed in each run. ffn_weights: of each of a block's three matrices, whatever the width.
    """

    repetitions: int = 12
    n_threads: int = 1
    cpu_time: bool = False
    width: int = 2048
    layers: tuple[int, ...] = (1, 2, 4, 8, 15)
    steps: tuple[int, ...] = (1, 3, 10, 30)
    ranks: tuple[int, ...] = (8, 16, 32, 64, 128)
    widths: tuple[int, ...] = (512, 1024, 2048, 4096)
    batches: tuple[int, ...] = (1, 2, 4, 8, 16)
    prompts: tuple[int, ...] = (16, 64, 128)
    n_decodes: int = 8
    ffn_weights: int = 2**22

    def __post_init__(self) -> None:
        if not 1 <= self.repetitions <= MAX_REPETITIONS:
            raise SettingsError(f"-r is {self.repetitions}, expected 1 to {MAX_REPETITIONS}")


@dataclass(frozen=True)
class Place:
    """One point of an axis: energies of `form` on a model `n_embd` wide, at a test."""

    axis: str
    value: int
    form: EnergyForm
    n_embd: int
    test: Test


@dataclass(frozen=True)
class DecodeWork:
    """What steering adds to one decode, counted.

    layers: at which llama.cpp stops for the hook. rows: of all layers together. n_bytes: of weights, read once.
    multiply_adds: of all rows.
    """

    layers: int
    rows: int
    n_bytes: int
    multiply_adds: int

    @classmethod
    def of(cls, file: EnergyFile, rows: int) -> DecodeWork:
        """Of a decode with so many steered rows."""
        work, n_layers = work_per_token(file), len(file.spec.layers)
        return cls(n_layers, n_layers * rows, work.n_bytes, rows * work.multiply_adds)

    @property
    def terms(self) -> tuple[int, ...]:
        """As the fit takes them; the first is the decode itself, which the session prepares and traces."""
        return 1, self.layers, self.rows, self.n_bytes, self.multiply_adds


@dataclass(frozen=True)
class Point:
    """A place and what was measured there; seconds of one decode."""

    place: Place
    work: DecodeWork
    extra: Median
    ratio: Median
    plain: float


@dataclass(frozen=True)
class CostModel:
    """Extra seconds of a decode = the work's terms times these, none of which is negative."""

    seconds: tuple[float, ...]

    def extra(self, work: DecodeWork) -> float:
        """Seconds."""
        return float(np.dot(work.terms, self.seconds))

    @classmethod
    def fitted(cls, points: Sequence[Point]) -> CostModel:
        """Least squares of relative errors; of all choices of terms that get no negative price, the closest."""
        terms = np.array([point.work.terms for point in points], dtype=np.float64)
        costs = np.array([point.extra.value for point in points])
        trust = np.array([1 / _doubt(point) for point in points])
        A, b = terms * trust[:, None], costs * trust
        scale = np.abs(A).max(axis=0)
        best, least = np.zeros(terms.shape[1]), float(b @ b)
        for n in range(1, terms.shape[1] + 1):
            for chosen in map(list, combinations(range(terms.shape[1]), n)):
                found = np.linalg.lstsq(A[:, chosen] / scale[chosen], b, rcond=None)[0] / scale[chosen]
                error = float(np.sum((A[:, chosen] @ found - b) ** 2))
                if (found >= 0).all() and error < least:
                    best, least = np.zeros(terms.shape[1]), error
                    best[chosen] = found
        return cls(tuple(map(float, best)))


@dataclass(frozen=True)
class Prediction:
    """What the model says of a larger one; seconds of a new token. plain: the bytes of the weights at `bytes_per_s`."""

    shape: str
    layers: int
    steps: int
    plain: float
    extra: float


@dataclass(frozen=True)
class GrowthReport:
    """What was measured and what follows."""

    points: tuple[Point, ...]
    cost: CostModel
    bytes_per_s: float
    predictions: tuple[Prediction, ...]
    n_threads: int
    cpu_time: bool
    load: LoadSeen

    def to_json(self) -> dict[str, Any]:
        """The document of `bench --growth --json`; times in microseconds."""
        decode, layer, row, byte, multiply_add = self.cost.seconds
        return {
            "growth": [self._point(point) for point in self.points],
            "cost_model": {
                "us_per_decode": 1e6 * decode,
                "us_per_layer": 1e6 * layer,
                "us_per_row": 1e6 * row,
                "us_per_megabyte": 1e12 * byte,
                "us_per_million_multiply_adds": 1e12 * multiply_add,
            },
            "plain_bytes_per_second": self.bytes_per_s,
            "predictions": [
                {
                    "shape": said.shape,
                    "layers": said.layers,
                    "steps": said.steps,
                    "plain_ms": 1e3 * said.plain,
                    "extra_us": 1e6 * said.extra,
                    "ratio_to_plain": 1 + said.extra / said.plain,
                }
                for said in self.predictions
            ],
            "threads": self.n_threads,
            "clock": clock_name(self.cpu_time),
            **conditions(self.load),
        }

    def _point(self, point: Point) -> dict[str, Any]:
        extra, ratio = point.extra, point.ratio
        return {
            "axis": point.place.axis,
            "value": point.place.value,
            "extra_us": [1e6 * value for value in (extra.value, extra.low, extra.high)],
            "predicted_us": 1e6 * self.cost.extra(point.work),
            "ratio_to_plain": [ratio.value, ratio.low, ratio.high],
            "plain_ms": 1e3 * point.plain,
            "megabytes": point.work.n_bytes / 1e6,
            "million_multiply_adds": point.work.multiply_adds / 1e6,
        }


def measure_growth(settings: GrowthSettings, tell: Tell = lambda *_: None) -> GrowthReport:
    """Measure all axes, fit, and predict.

    Raises:
        InputError: a model does not fit the memory or the disk.
        SteeringError: steering did not happen.
    """
    places = _places(settings)
    before, load = load_now(), OtherLoad()
    found: dict[tuple[EnergyForm, int, Test], Point] = {}
    bytes_per_s = 0.0
    with tempfile.TemporaryDirectory(prefix="edge-eds-growth-") as folder:
        for n_embd in sorted({place.n_embd for place in places}):
            shape = _shape(n_embd, settings.ffn_weights)
            here = [place for place in places if place.n_embd == n_embd]
            for point in _measured(shape, Path(folder), here, settings, tell):
                found[_key(point.place)] = point
                if point.place.test.kind == "tg" and point.place.test.at_once == 1:
                    bytes_per_s = shape.n_bytes / point.plain  # of the widest, whose weights no cache holds
    points = tuple(replace(found[_key(place)], place=place) for place in places)
    cost = CostModel.fitted(list(found.values()))
    predictions, seen = _predictions(cost, bytes_per_s), LoadSeen(before, load.cpus())
    return GrowthReport(points, cost, bytes_per_s, predictions, settings.n_threads, settings.cpu_time, seen)


def _key(place: Place) -> tuple[EnergyForm, int, Test]:
    return place.form, place.n_embd, place.test


def _places(settings: GrowthSettings) -> list[Place]:
    width, one = settings.width, Test("tg", settings.n_decodes)

    def batch(rows: int) -> Test:
        return Test("tg", rows * max(4, settings.n_decodes // rows), rows) if rows > 1 else one

    return [
        *(Place("layers", n, replace(_FORM, n_layers=n), width, one) for n in settings.layers),
        *(Place("steps", n, replace(_FORM, steps=n), width, one) for n in settings.steps),
        *(Place("rank", n, replace(_FORM, rank=n), width, one) for n in settings.ranks),
        *(Place("n_embd", n, _FORM, n, one) for n in settings.widths),
        *(Place("batch", n, _FORM, width, batch(n)) for n in settings.batches),
        *(Place("prompt", n, _FORM, width, Test("pp", n)) for n in settings.prompts),
    ]


def _shape(n_embd: int, ffn_weights: int) -> Shape:
    """A model whose plain decode is quick for its width, with more weights than caches hold."""
    head = min(64, n_embd)
    n_head = n_embd // head
    return Shape(
        f"growth-{n_embd}",
        "llama",
        n_layer=_N_LAYER,
        n_embd=n_embd,
        n_head=n_head,
        n_head_kv=max(1, n_head // 4),
        n_head_dim=head,
        n_ff=ffn_weights // n_embd,
        n_vocab=_N_VOCAB,
        n_ctx_train=4096,
        rope_base=500000.0,
    )


def _measured(
    shape: Shape, folder: Path, places: Sequence[Place], settings: GrowthSettings, tell: Tell
) -> Iterator[Point]:
    path, _ = shape_file(shape, folder)
    fingerprint = ModelFingerprint.from_gguf(path)
    n_ctx = max(place.test.n_ctx for place in places)
    with _loaded(path, n_ctx, settings.n_threads) as llm:
        llm.cpu_time = settings.cpu_time
        tokens = random_tokens(n_ctx, llm.n_vocab())
        plain = Plain("plain", llm, tokens, llm.other_context())
        for test in dict.fromkeys(place.test for place in places):
            forms = dict.fromkeys(place.form for place in places if place.test == test)
            files = [random_energies(fingerprint, form, range(shape.n_layer - 1)) for form in forms]
            steered = [Steered(f"growth {n}", llm, tokens, file) for n, file in enumerate(files)]

            def say(_: str, done: int, total: int, test: Test = test) -> None:
                tell(f"n_embd {shape.n_embd} {test.name}", done, total)

            results = measure(plain, steered, [test], settings.repetitions, say)
            n_decodes = test.n // test.at_once if test.kind == "tg" else 1
            for form, file, result in zip(forms, files, results, strict=True):
                place = next(place for place in places if (place.form, place.test) == (form, test))
                extra, plain_seconds = result.extra, np.median([pair.plain for pair in result.pairs])
                per_decode = replace(
                    extra, value=extra.value / n_decodes, low=extra.low / n_decodes, high=extra.high / n_decodes
                )
                work = DecodeWork.of(file, test.at_once)
                yield Point(place, work, per_decode, result.ratio, float(plain_seconds) / n_decodes)


@contextmanager
def _loaded(path: Path, n_ctx: int, n_threads: int) -> Iterator[BenchLlama]:
    llm = BenchLlama(
        path, energy=None, n_ctx=n_ctx, n_threads=n_threads, n_threads_batch=n_threads, verbose=False
    )
    try:
        yield llm
    finally:
        llm.close()


def _predictions(cost: CostModel, bytes_per_s: float) -> tuple[Prediction, ...]:
    said = []
    for shape in (SHAPES["llama-1b"], SHAPES["llama-8b"], LLAMA_70B):
        plain = shape.n_bytes / bytes_per_s
        for n_layers in (15, shape.n_layer - 1):
            form = replace(_FORM, n_layers=n_layers)
            fingerprint = ModelFingerprint(shape.architecture, shape.n_layer, shape.n_embd, "", "Q4_K_M", "none")
            work = DecodeWork.of(random_energies(fingerprint, form, range(shape.n_layer - 1)), 1)
            said.append(Prediction(shape.name, n_layers, form.steps, plain, cost.extra(work)))
    return tuple(dict.fromkeys(said))


def _doubt(point: Point) -> float:
    """Seconds by which a measured cost may be off."""
    return max((point.extra.high - point.extra.low) / 2, _NOISE * abs(point.extra.value), 1e-7)
