"""How fast many prompts are answered: contenders of answering.py in groups, each beside a loop that does the same.

Takes a model and prompts; gives times in pairs. All are loaded before the clock runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from llama_cpp import LLAMA_POOLING_TYPE_NONE, Llama

from edge_eds.energy.file import EnergyFile
from edge_eds.energy.settings import Steering
from edge_eds.errors import SettingsError
from edge_eds.pipeline.bench.answering import (
    Answering,
    Batched,
    BatchOfBoth,
    BatchOfStates,
    Loop,
    LoopOfBoth,
    LoopOfStates,
)
from edge_eds.pipeline.bench.bench import MAX_REPETITIONS, clock_name, conditions
from edge_eds.pipeline.bench.contender import Test
from edge_eds.pipeline.bench.machine import LoadSeen, OtherLoad, load_now
from edge_eds.pipeline.bench.runner import Result, Tell, measure
from edge_eds.pipeline.prompts import builtin_prompts
from edge_eds.runtime.batch import BatchRunner
from edge_eds.runtime.energies import ModelFiles
from edge_eds.runtime.session import EdgeLlama

_N_CTX = 512


@dataclass(frozen=True)
class AnswersSettings:
    """n_prompts: of the built-in test split, asked again in every run. n_new: tokens of an answer at most."""

    n_prompts: int = 64
    n_new: int = 32
    repetitions: int = 6
    n_threads: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for option, value, most in (("--answers", self.n_prompts, 10_000), ("-n", self.n_new, _N_CTX // 2)):
            if not 1 <= value <= most:
                raise SettingsError(f"{option} is {value}, expected 1 to {most}")
        if not 1 <= self.repetitions <= MAX_REPETITIONS:
            raise SettingsError(f"-r is {self.repetitions}, expected 1 to {MAX_REPETITIONS}")


@dataclass(frozen=True)
class Group:
    """Contenders that do the same. loop: the one that they stand beside. each: answers that a prompt gets.

    same: {variant: answers that are word for word the loop's}.
    """

    loop: str
    each: int
    results: tuple[Result, ...]
    same: Mapping[str, int]

    def rows(self) -> Iterator[dict[str, Any]]:
        """times_as_many: answers in the same time as the loop gives one."""
        for result in self.results:
            ratio, n_answers = result.ratio, self.each * result.test.n  # a ratio of times
            yield {
                "variant": result.variant,
                "beside": self.loop,
                "answers_per_minute": 60 * n_answers / result.seconds.value,
                "times_as_many": [1 / ratio.value, 1 / ratio.high, 1 / ratio.low],
                "same_as_loop": self.same[result.variant],
                "of": n_answers,
                "confidence": ratio.confidence,
                "pairs": len(result.pairs),
            }


@dataclass(frozen=True)
class AnswersReport:
    """What was measured; to_json is the document, without the model's name."""

    groups: tuple[Group, ...]
    settings: AnswersSettings
    load: LoadSeen

    def to_json(self) -> dict[str, Any]:
        """{"answers": [a row a variant], "prompts", ...}."""
        return {
            "answers": [row for group in self.groups for row in group.rows()],
            "prompts": self.settings.n_prompts,
            "new_tokens": self.settings.n_new,
            "threads": self.settings.n_threads,
            "clock": clock_name(cpu_time=False),
            **conditions(self.load),
        }


def measure_answers(
    files: ModelFiles,
    energy: EnergyFile | None,
    settings: AnswersSettings,
    chat_format: str | None = None,
    tell: Tell = lambda *_: None,
) -> AnswersReport:
    """Time the answers alone, those with the prompts' states, and where there are energies both answers of each prompt.

    Args:
        chat_format: in place of the GGUF's own template.

    Raises:
        ModelError: the model cannot be loaded, or has no chat template and no chat_format was chosen.
        SteeringError: what a variant is there for did not happen.
    """
    n, n_new = settings.n_prompts, settings.n_new
    arguments: dict[str, Any] = {
        "lora_path": None if files.lora is None else str(files.lora),
        "n_ctx": _N_CTX,
        "n_threads": settings.n_threads,
        "n_threads_batch": settings.n_threads,
        "verbose": False,
    }
    before, load = load_now(), OtherLoad()
    with ExitStack() as stack:
        runner = stack.enter_context(
            BatchRunner(files, n_ctx=_N_CTX, n_threads=settings.n_threads, energy=energy, chat_format=chat_format)
        )
        prompts = [runner.chat_tokens(text) for text in _prompt_texts(settings)]
        llm = stack.enter_context(closing(Llama(str(files.gguf), **arguments)))
        loop, batch = Loop(llm, prompts, n_new), Batched(runner, prompts, n_new)
        steered = [] if energy is None else [Batched(runner, prompts, n_new, Steering())]
        groups = [_group(loop, [batch, *steered], 1, n, settings.repetitions, tell)]
        layers = runner.session.steerable_layers
        if layers:
            embedder = Llama(str(files.gguf), embedding=True, pooling_type=LLAMA_POOLING_TYPE_NONE, **arguments)
            stack.enter_context(closing(embedder))
            states = LoopOfStates(llm, embedder, prompts, n_new)
            batch_states = BatchOfStates(runner, layers, prompts, n_new)
            groups.append(_group(states, [batch_states], 1, n, settings.repetitions, tell))
        if energy is not None:
            session = EdgeLlama(files.gguf, energy=energy, chat_format=chat_format, **arguments)
            stack.enter_context(closing(session))
            both = LoopOfBoth(llm, session, prompts, n_new)
            groups.append(_group(both, [BatchOfBoth(runner, prompts, n_new)], 2, n, settings.repetitions, tell))
    return AnswersReport(tuple(groups), settings, LoadSeen(before, load.cpus()))


def _group(
    loop: Answering, others: list[Answering], each: int, n_prompts: int, repetitions: int, tell: Tell
) -> Group:
    results = measure(loop, [loop, *others], [Test("an", n_prompts)], repetitions, tell)
    same = {
        one.name: sum(text == of_loop for text, of_loop in zip(one.answers, loop.answers, strict=True))
        for one in (loop, *others)
    }
    return Group(loop.name, each, tuple(results), same)


def _prompt_texts(settings: AnswersSettings) -> list[str]:
    """Prompts of all kinds, the same ones for the same seed; some of them again where there are too few."""
    test = builtin_prompts().split("test")
    texts = [one.text for one in test.labelled()] + [one.prompt for one in test.ordinary]
    order = np.random.default_rng(settings.seed).permutation(len(texts))
    return [texts[order[i % len(texts)]] for i in range(settings.n_prompts)]
