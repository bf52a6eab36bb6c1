"""Measures a model on suites of prompts, plain and steered: the same prompts, greedy answers, the same judge.

Takes a model, its energies and suites; gives an EvalReport. A steered answer that differs does so because of steering
alone. What is made of the answers is in measures.py.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt

import edge_eds
from edge_eds.energy.file import EnergyFile
from edge_eds.energy.gguf_header import read_gguf_header
from edge_eds.energy.settings import Steering
from edge_eds.errors import PromptTooLongError, SettingsError
from edge_eds.pipeline.eval_report import EvalReport, SuiteReport
from edge_eds.pipeline.measures import Answer, Change, by_category, compare, measure
from edge_eds.pipeline.statistics import kl_divergence
from edge_eds.pipeline.suites import Suite
from edge_eds.runtime.batch import BatchRunner
from edge_eds.runtime.batch_run import Generation
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


def evaluate(
    settings: EvalSettings,
    progress: Progress | None = None,
    on_open: Callable[[BatchRunner], None] | None = None,
) -> EvalReport:
    """Load the model and measure every suite.

    Args:
        on_open: called with the loaded model, before it answers anything.

    Raises:
        ModelError, EnergyFileError: the model cannot be loaded, or the energies are not its own.
        PromptTooLongError: a prompt for which the model has no room.
        SteeringError: steering was asked for and did not happen.
    """
    record = _settings_json(settings)  # first, since it is here that settings out of reach are refused
    with _runner_that_fits(settings) as runner:
        if on_open is not None:
            on_open(runner)
        reports = [measure_suite(runner, suite, settings, progress) for suite in settings.suites]
    return EvalReport(
        suites=tuple(reports),
        model=settings.model.name,
        energy=None if settings.energy is None else str(settings.energy_path or "given"),
        settings=record,
        versions=versions(),
    )


def measure_suite(
    runner: BatchRunner,
    suite: Suite,
    settings: EvalSettings,
    progress: Progress | None = None,
) -> SuiteReport:
    """Answer one suite plainly and, with energies, steered; judge and compare."""
    variants = ("plain",) if settings.energy is None else ("plain", "steered")
    answers: dict[str, list[Answer]] = {variant: [] for variant in variants}
    done = dict.fromkeys(variants, 0)
    seconds = 0.0
    changes: list[Change] = []

    def told(variant: str) -> None:
        done[variant] += 1
        if progress is not None:
            progress(suite.name, variant, done[variant], len(suite.prompts))

    for start in range(0, len(suite.prompts), _CHUNK):
        prompts = suite.prompts[start : start + _CHUNK]
        tokens = [runner.chat_tokens(prompt.conversation) for prompt in prompts]
        began = time.perf_counter()
        found = _generations(runner, tokens, settings, told)
        seconds += time.perf_counter() - began
        for variant, generations in zip(variants, found, strict=True):
            answers[variant] += [
                Answer.of(prompt, generation) for prompt, generation in zip(prompts, generations, strict=True)
            ]
        if len(found) > 1:
            changes += _changes(runner, tokens, *found)
    plain, steered = answers["plain"], answers.get("steered")
    n_decoded = sum(answer.n_decoded for its in answers.values() for answer in its)
    return SuiteReport(
        name=suite.name,
        intent=suite.intent,
        n=len(suite.prompts),
        source=suite.source,
        seconds=seconds,
        tokens_per_second=n_decoded / seconds if seconds > 0 else 0.0,
        plain=measure(plain),
        steered=None if steered is None else measure(steered),
        comparison=None if steered is None else compare(plain, steered, changes),
        categories=by_category(suite.prompts, plain, steered),
        jailbroken=suite.jailbroken,
        transcripts=tuple(_transcript(suite, i, answers, changes) for i in range(len(suite.prompts))),
    )


def versions() -> dict[str, str]:
    """{package: version} of what the numbers depend on."""
    return {
        "edge-eds": edge_eds.__version__,
        "llama-cpp-python": llama_cpp.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def _generations(
    runner: BatchRunner, prompts: Sequence[Sequence[int]], settings: EvalSettings, told: Callable[[str], None]
) -> tuple[list[Generation], ...]:
    """The answers to the prompts: plain ones, and steered ones where there are energies."""
    n = settings.max_new_tokens
    if settings.energy is None:
        return (runner.generate(prompts, max_new_tokens=n, on_done=lambda *_: told("plain")),)
    return runner.generate_both(
        prompts, max_new_tokens=n, steering=settings.steering, want_logits=True, on_done=told
    )


def _changes(
    runner: BatchRunner, prompts: Sequence[Sequence[int]], plain: Sequence[Generation], steered: Sequence[Generation]
) -> list[Change]:
    """What needs the logits, and the plain model, of two answers to the same prompts."""
    changed = [i for i, (a, b) in enumerate(zip(plain, steered, strict=True)) if a.tokens != b.tokens]
    log_probs = runner.log_probs([prompts[i] for i in changed], [steered[i].tokens for i in changed])
    scored = {i: (_kept(plain[i].log_probs), its) for i, its in zip(changed, log_probs, strict=True)}
    return [
        Change(kl_divergence(_kept(a.first_logits), _kept(b.first_logits)), scored.get(i))
        for i, (a, b) in enumerate(zip(plain, steered, strict=True))
    ]


def _kept(numbers: npt.NDArray[np.float32] | None) -> npt.NDArray[np.float32]:
    assert numbers is not None  # they were asked for
    return numbers


@contextmanager
def _runner_that_fits(settings: EvalSettings) -> Iterator[BatchRunner]:
    """A runner whose sequences have room for the longest prompt of all suites and its answer."""
    prompts = [(suite.name, prompt) for suite in settings.suites for prompt in suite.prompts]
    trained = read_gguf_header(settings.model.gguf).arch_value("context_length")
    n_ctx = MIN_CTX
    while True:
        with _open(settings, n_ctx) as runner:
            longest, name, id = max(
                (len(runner.chat_tokens(prompt.conversation)), name, prompt.id) for name, prompt in prompts
            )
            needed = longest + settings.max_new_tokens
            if isinstance(trained, int) and needed > trained:
                raise PromptTooLongError(
                    f"suite {name}, prompt {id}: it and its answer take {needed} tokens, but {settings.model.name} "
                    f"was trained for {trained}; shorten it, leave it out or ask for fewer new tokens"
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
    suite: Suite, i: int, answers: dict[str, list[Answer]], changes: Sequence[Change]
) -> dict[str, Any]:
    prompt = suite.prompts[i]
    line: dict[str, Any] = {
        "suite": suite.name,
        "intent": suite.intent,
        "id": prompt.id,
        "category": prompt.category,
    }
    line["prompt"] = prompt.text
    if prompt.messages:
        line["messages"] = list(prompt.messages)
    line |= {variant: its[i].to_json(variant == "steered") for variant, its in answers.items()}
    return line | ({"kl": changes[i].divergence} if changes else {})


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
