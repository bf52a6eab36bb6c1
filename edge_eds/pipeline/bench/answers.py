"""How fast many prompts are answered: by llama-cpp-python one after the other, and by a BatchRunner side by side.

Takes a model and prompts; gives times in pairs. All answer the same prompts greedily, with the same limit, and are
loaded before the clock runs. llama-cpp-python keeps what a prompt shares with the one before it in its cache, so the
chat template's beginning is decoded once by it, too.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from llama_cpp import CreateCompletionResponse, Llama

from edge_eds.energy.file import EnergyFile
from edge_eds.energy.settings import Steering
from edge_eds.errors import SettingsError, SteeringError
from edge_eds.pipeline.bench.bench import MAX_REPETITIONS, clock_name, conditions
from edge_eds.pipeline.bench.contender import Contender, Test
from edge_eds.pipeline.bench.machine import LoadSeen, OtherLoad, load_now
from edge_eds.pipeline.bench.runner import Result, Tell, measure
from edge_eds.pipeline.prompts import builtin_prompts
from edge_eds.runtime.batch import BatchRunner
from edge_eds.runtime.batch_run import Generation
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
class AnswersReport:
    """What was measured; to_json is the document, without the model's name.

    results: beside `loop`; of_both: of two answers a prompt, beside `loop-both`, empty without energies. same_as_loop:
    {variant: answers that are word for word those of the loop that it stands beside}.
    """

    results: tuple[Result, ...]
    of_both: tuple[Result, ...]
    same_as_loop: Mapping[str, int]
    settings: AnswersSettings
    load: LoadSeen

    def to_json(self) -> dict[str, Any]:
        """times_as_many: answers in the same time as the loop gives one."""
        return {
            "answers": [
                *(self._row(result, "loop", 1) for result in self.results),
                *(self._row(result, "loop-both", 2) for result in self.of_both),
            ],
            "prompts": self.settings.n_prompts,
            "new_tokens": self.settings.n_new,
            "threads": self.settings.n_threads,
            "clock": clock_name(cpu_time=False),
            **conditions(self.load),
        }

    def _row(self, result: Result, beside: str, each: int) -> dict[str, Any]:
        ratio = result.ratio  # of times
        return {
            "variant": result.variant,
            "beside": beside,
            "answers_per_minute": 60 * each * result.test.n / result.seconds.value,
            "times_as_many": [1 / ratio.value, 1 / ratio.high, 1 / ratio.low],
            "same_as_loop": self.same_as_loop[result.variant],
            "of": each * result.test.n,
            "confidence": ratio.confidence,
            "pairs": len(result.pairs),
        }


class Answering(Contender):
    """Answers prompts. answers: the texts of the last run."""

    kinds = ("an",)
    answers: list[str]


class Loop(Answering):
    """llama-cpp-python as everybody uses it: one prompt after the other."""

    name = "loop"

    def __init__(self, llm: Llama, prompts: Sequence[list[int]], n_new: int) -> None:
        self.llm, self.prompts, self.n_new = llm, prompts, n_new

    def seconds(self, test: Test) -> float:
        start = time.perf_counter()
        completions = [
            self.llm.create_completion(prompt, max_tokens=self.n_new, temperature=0.0)
            for prompt in self.prompts[: test.n]
        ]
        passed = time.perf_counter() - start
        self.answers = _completed(completions)
        return passed


class LoopOfBoth(Answering):
    """One prompt after the other, answered by llama-cpp-python and then by a steered session.

    They are two, so that each finds in its cache what a prompt shares with the one before it.
    """

    name = "loop-both"

    def __init__(self, plain: Llama, steered: EdgeLlama, prompts: Sequence[list[int]], n_new: int) -> None:
        self.plain, self.steered, self.prompts, self.n_new = plain, steered, prompts, n_new

    def seconds(self, test: Test) -> float:
        start = time.perf_counter()
        completions = [
            llm.create_completion(prompt, max_tokens=self.n_new, temperature=0.0)
            for prompt in self.prompts[: test.n]
            for llm in (self.plain, self.steered)
        ]
        passed = time.perf_counter() - start
        texts = _completed(completions)
        self.answers = texts[::2] + texts[1::2]
        return passed


class Batched(Answering):
    """Side by side, each prompt steered by its own gate where energies are given."""

    def __init__(
        self, runner: BatchRunner, prompts: Sequence[list[int]], n_new: int, steering: Steering | None
    ) -> None:
        self.name = "batch" if steering is None else "batch-steered"
        self.runner, self.prompts, self.n_new, self.steering = runner, prompts, n_new, steering

    def seconds(self, test: Test) -> float:
        start = time.perf_counter()
        answers = self.runner.generate(self.prompts[: test.n], max_new_tokens=self.n_new, steering=self.steering)
        passed = time.perf_counter() - start
        if self.steering is not None:
            _check_gates(answers)
        self.answers = _texts(answers)
        return passed


class BatchOfBoth(Answering):
    """Side by side as well, plainly and steered, as an evaluation does it."""

    name = "batch-both"

    def __init__(self, runner: BatchRunner, prompts: Sequence[list[int]], n_new: int) -> None:
        self.runner, self.prompts, self.n_new = runner, prompts, n_new

    def seconds(self, test: Test) -> float:
        start = time.perf_counter()
        plain, steered = self.runner.generate_both(
            self.prompts[: test.n], max_new_tokens=self.n_new, steering=Steering()
        )
        passed = time.perf_counter() - start
        _check_gates(steered)
        self.answers = _texts([*plain, *steered])
        return passed


def _completed(completions: Sequence[Any]) -> list[str]:
    return [cast(CreateCompletionResponse, one)["choices"][0]["text"] for one in completions]


def _check_gates(steered: Sequence[Generation]) -> None:
    if any(answer.trace.gate is None for answer in steered):
        raise SteeringError("a gate was not read")


def _texts(answers: Sequence[Generation]) -> list[str]:
    """As llama-cpp-python gives them, which leaves out a letter that is cut off in the middle."""
    return [answer.text.replace("\ufffd", "") for answer in answers]


def measure_answers(
    files: ModelFiles,
    energy: EnergyFile | None,
    settings: AnswersSettings,
    chat_format: str | None = None,
    tell: Tell = lambda *_: None,
) -> AnswersReport:
    """Time the loop and the batch; where there are energies, the batch steered and both ways as well.

    Args:
        chat_format: in place of the GGUF's own template.

    Raises:
        ModelError: the model cannot be loaded, or has no chat template and no chat_format was chosen.
    """
    n_threads = settings.n_threads
    before, load = load_now(), OtherLoad()
    with ExitStack() as stack:
        runner = stack.enter_context(
            BatchRunner(files, n_ctx=_N_CTX, n_threads=n_threads, energy=energy, chat_format=chat_format)
        )
        prompts = [runner.chat_tokens(text) for text in _prompt_texts(settings)]
        llm = Llama(
            str(files.gguf),
            lora_path=None if files.lora is None else str(files.lora),
            n_ctx=_N_CTX,
            n_threads=n_threads,
            n_threads_batch=n_threads,
            verbose=False,
        )
        stack.callback(llm.close)
        loop = Loop(llm, prompts, settings.n_new)
        wanted = [None] if energy is None else [None, Steering()]
        batched = [Batched(runner, prompts, settings.n_new, steering) for steering in wanted]
        tests = [Test("an", settings.n_prompts)]
        results = measure(loop, [loop, *batched], tests, settings.repetitions, tell)
        same = {one.name: _n_same(one, loop) for one in (loop, *batched)}
        of_both = []
        if energy is not None:
            session = stack.enter_context(
                closing(
                    EdgeLlama(
                        files.gguf,
                        lora_path=None if files.lora is None else str(files.lora),
                        energy=energy,
                        n_ctx=_N_CTX,
                        n_threads=n_threads,
                        n_threads_batch=n_threads,
                        chat_format=chat_format,
                        verbose=False,
                    )
                )
            )
            both = LoopOfBoth(llm, session, prompts, settings.n_new)
            contenders = [both, BatchOfBoth(runner, prompts, settings.n_new)]
            of_both = measure(both, contenders, tests, settings.repetitions, tell)
            same |= {one.name: _n_same(one, both) for one in contenders}
    return AnswersReport(tuple(results), tuple(of_both), same, settings, LoadSeen(before, load.cpus()))


def _n_same(one: Answering, loop: Answering) -> int:
    return sum(text == of_loop for text, of_loop in zip(one.answers, loop.answers, strict=True))


def _prompt_texts(settings: AnswersSettings) -> list[str]:
    """Prompts of all kinds, the same ones for the same seed; some of them again where there are too few."""
    test = builtin_prompts().split("test")
    texts = [one.text for one in test.labelled()] + [one.prompt for one in test.ordinary]
    order = np.random.default_rng(settings.seed).permutation(len(texts))
    return [texts[order[i % len(texts)]] for i in range(settings.n_prompts)]
