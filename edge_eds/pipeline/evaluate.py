"""Measures a model on suites of prompts, plain and steered: the same prompts, greedy answers, the same judge.

Takes a model, its energies and suites; gives rates with 95 % intervals, a paired test, the divergence of the
first token, and what the gate decided. A steered answer that differs does so because of steering alone.
"""

from __future__ import annotations

import json
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import llama_cpp
import numpy as np

import edge_eds
from edge_eds.energy.file import EnergyFile
from edge_eds.energy.gguf_header import read_gguf_header
from edge_eds.energy.settings import Steering
from edge_eds.errors import PromptTooLongError, SettingsError
from edge_eds.pipeline.eval_report import GATE_DECISIONS, Comparison, EvalReport, Measure, SuiteReport
from edge_eds.pipeline.judge import LABELS, Verdict, judge
from edge_eds.pipeline.statistics import kl_divergence, mcnemar, wilson
from edge_eds.pipeline.suites import Suite, SuitePrompt
from edge_eds.runtime.batch import BatchRunner, Generation
from edge_eds.runtime.energies import ModelFiles

DEFAULT_MAX_NEW_TOKENS = 64
MIN_CTX = 256  # tokens of one prompt with its answer
_CTX_STEP = 64
_MAX_CACHE_TOKENS = 65536  # of all sequences together; beyond it fewer are decoded side by side
# First-token logits of so many prompts are in memory at once, plain and steered: 2 * 64 * n_vocab floats.
_CHUNK = 64

Progress = Callable[[str, str, int, int], None]  # suite, "plain" | "steered", answers done, answers in all


@dataclass(frozen=True)
class EvalSettings:
    """What to measure.

    energy None measures the plain model alone. threads None is llama.cpp's own choice. limit and seed say how
    the suites were sampled, energy_path where the energies came from: for the record.
    """

    model: ModelFiles
    suites: tuple[Suite, ...]
    energy: EnergyFile | None = None
    energy_path: Path | None = None
    steering: Steering = field(default_factory=Steering)
    max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS
    threads: int | None = None
    n_parallel: int = 16
    limit: int | None = None
    seed: int = 0
    chat_format: str | None = None

    def __post_init__(self) -> None:
        if not self.suites:
            raise SettingsError("there is no suite to measure on")
        for name in ("max_new_tokens", "n_parallel"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} is {getattr(self, name)}, expected at least 1")


class Runner(Protocol):
    """What evaluate asks of edge_eds.runtime.batch.BatchRunner."""

    def chat_tokens(self, prompt: str) -> list[int]:
        """Tokens of a user's prompt in the chat format."""

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        steering: Steering | None = None,
        want_logits: bool = False,
        on_done: Callable[[int, Generation], None] | None = None,
    ) -> list[Generation]:
        """Greedy answers, in the order of the prompts."""


def evaluate(settings: EvalSettings, progress: Progress | None = None) -> EvalReport:
    """Load the model and measure every suite.

    Raises:
        ModelError, EnergyFileError: the model cannot be loaded, or the energies are not its own.
        PromptTooLongError: a prompt for which the model has no room.
        SteeringError: steering was asked for and did not happen.
    """
    record = _settings_json(settings)  # first, since it is here that settings out of reach are refused
    with _runner_that_fits(settings) as runner:
        reports = [measure_suite(runner, suite, settings, progress) for suite in settings.suites]
    return EvalReport(
        suites=tuple(reports),
        model=settings.model.name,
        energy=None if settings.energy is None else str(settings.energy_path or "given"),
        settings=record,
        versions=versions(),
    )


def measure_suite(
    runner: Runner,
    suite: Suite,
    settings: EvalSettings,
    progress: Progress | None = None,
) -> SuiteReport:
    """Answer one suite plainly and, with energies, steered; judge and compare."""
    variants = ("plain",) if settings.energy is None else ("plain", "steered")
    answers: dict[str, list[_Answer]] = {variant: [] for variant in variants}
    seconds = dict.fromkeys(variants, 0.0)
    divergences: list[float] = []
    for start in range(0, len(suite.prompts), _CHUNK):
        prompts = suite.prompts[start : start + _CHUNK]
        tokens = [runner.chat_tokens(prompt.text) for prompt in prompts]
        logits: list[list[Any]] = []
        for variant in variants:
            count = _Counter(progress, suite.name, variant, start, len(suite.prompts))
            began = time.perf_counter()
            generations = runner.generate(
                tokens,
                max_new_tokens=settings.max_new_tokens,
                steering=settings.steering if variant == "steered" else None,
                want_logits=len(variants) > 1,
                on_done=count,
            )
            seconds[variant] += time.perf_counter() - began
            logits.append([generation.first_logits for generation in generations])
            answers[variant] += [
                _Answer.of(prompt, generation)
                for prompt, generation in zip(prompts, generations, strict=True)
            ]
        if len(variants) > 1:
            divergences += [kl_divergence(*both) for both in zip(*logits, strict=True)]
    measures = {variant: _measure(answers[variant], seconds[variant]) for variant in variants}
    comparison = None if len(variants) == 1 else _compare(answers["plain"], answers["steered"], divergences)
    return SuiteReport(
        name=suite.name,
        intent=suite.intent,
        n=len(suite.prompts),
        source=suite.source,
        plain=measures["plain"],
        steered=measures.get("steered"),
        comparison=comparison,
        transcripts=tuple(_transcript(suite, i, answers, divergences) for i in range(len(suite.prompts))),
    )


def versions() -> dict[str, str]:
    """{package: version} of what the numbers depend on."""
    return {
        "edge-eds": edge_eds.__version__,
        "llama-cpp-python": llama_cpp.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


@dataclass(frozen=True)
class _Answer:
    """A judged answer, without its logits and states."""

    text: str
    verdict: Verdict
    n_tokens: int
    finish_reason: str
    gate: str | None
    gate_score: float | None
    touched_tokens: int

    @classmethod
    def of(cls, prompt: SuitePrompt, generation: Generation) -> _Answer:
        trace = generation.trace
        return cls(
            text=generation.text,
            verdict=judge(prompt.text, generation.text),
            n_tokens=len(generation.tokens),
            finish_reason=generation.finish_reason,
            gate=trace.gate,
            gate_score=trace.gate_score,
            touched_tokens=trace.touched_tokens,
        )

    def to_json(self, steered: bool) -> dict[str, Any]:
        data: dict[str, Any] = {
            "label": self.verdict.label,
            "reason": self.verdict.reason,
            "text": self.text,
            "n_tokens": self.n_tokens,
            "finish_reason": self.finish_reason,
        }
        if steered:
            data |= {"gate": self.gate, "gate_score": self.gate_score, "touched_tokens": self.touched_tokens}
        return data


@dataclass
class _Counter:
    """Turns the runner's `on_done` into progress over a whole suite."""

    progress: Progress | None
    suite: str
    variant: str
    done: int
    total: int

    def __call__(self, index: int, generation: Generation) -> None:
        self.done += 1
        if self.progress is not None:
            self.progress(self.suite, self.variant, self.done, self.total)


def _measure(answers: Sequence[_Answer], seconds: float) -> Measure:
    counts = Counter(answer.verdict.label for answer in answers)
    n_tokens = sum(answer.n_tokens for answer in answers)
    return Measure(
        rates={label: wilson(counts[label], len(answers)) for label in LABELS},
        mean_tokens=n_tokens / len(answers),
        tokens_per_second=n_tokens / seconds if seconds > 0 else 0.0,
        seconds=seconds,
    )


def _compare(
    plain: Sequence[_Answer], steered: Sequence[_Answer], divergences: Sequence[float]
) -> Comparison:
    before, after = (
        [answer.verdict.label == "refusal" for answer in answers] for answers in (plain, steered)
    )
    decisions = Counter(answer.gate for answer in steered)
    p50, p95 = np.percentile(divergences, (50, 95))
    return Comparison(
        mcnemar_p=mcnemar(before, after),
        refusals_removed=sum(b and not a for b, a in zip(before, after, strict=True)),
        refusals_added=sum(a and not b for b, a in zip(before, after, strict=True)),
        kl={
            "mean": float(np.mean(divergences)),
            "p50": float(p50),
            "p95": float(p95),
            "max": float(np.max(divergences)),
        },
        gate={decision: decisions[decision] for decision in GATE_DECISIONS},
        touched_tokens=sum(answer.touched_tokens for answer in steered) / len(steered),
    )


@contextmanager
def _runner_that_fits(settings: EvalSettings) -> Iterator[BatchRunner]:
    """A runner whose sequences have room for the longest prompt of all suites and its answer."""
    texts = [prompt.text for suite in settings.suites for prompt in suite.prompts]
    trained = read_gguf_header(settings.model.gguf).arch_value("context_length")
    n_ctx = MIN_CTX
    while True:
        with _open(settings, n_ctx) as runner:
            needed = max(len(runner.chat_tokens(text)) for text in texts) + settings.max_new_tokens
            if isinstance(trained, int) and needed > trained:
                raise PromptTooLongError(
                    f"the longest prompt and its answer take {needed} tokens, but {settings.model.name} was "
                    f"trained for {trained}; shorten it or ask for fewer new tokens"
                )
            if needed <= n_ctx:
                yield runner
                return
        n_ctx = -(-needed // _CTX_STEP) * _CTX_STEP  # only the loaded tokenizer could tell


def _open(settings: EvalSettings, n_ctx: int) -> BatchRunner:
    return BatchRunner(
        settings.model,
        n_parallel=max(1, min(settings.n_parallel, _MAX_CACHE_TOKENS // n_ctx)),
        n_ctx=n_ctx,
        n_threads=settings.threads,
        energy=settings.energy,
        chat_format=settings.chat_format,
    )


def _transcript(
    suite: Suite, i: int, answers: dict[str, list[_Answer]], divergences: Sequence[float]
) -> dict[str, Any]:
    prompt = suite.prompts[i]
    line: dict[str, Any] = {
        "suite": suite.name,
        "intent": suite.intent,
        "id": prompt.id,
        "category": prompt.category,
    }
    line["prompt"] = prompt.text
    line |= {variant: its[i].to_json(variant == "steered") for variant, its in answers.items()}
    return line | ({"kl": divergences[i]} if divergences else {})


def _settings_json(settings: EvalSettings) -> dict[str, Any]:
    data: dict[str, Any] = {
        "max_new_tokens": settings.max_new_tokens,
        "limit": settings.limit,
        "seed": settings.seed,
        "threads": settings.threads,
        "sampling": "greedy",
    }
    if settings.energy is not None:
        spec, strength = settings.energy.resolve(settings.steering)
        data |= {
            "strength": strength,
            "steering": json.loads(spec.to_json()),
            "asked_for": asdict(settings.steering),
        }
    return data
