"""The contenders that answer prompts: llama-cpp-python one after the other, and a BatchRunner side by side.

All answer the same prompts greedily, with the same limit. llama-cpp-python keeps what a prompt shares with the one
before it in its cache, so the chat template's beginning is decoded once by it, too.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from llama_cpp import CreateCompletionResponse, Llama
from llama_cpp import llama_cpp as llama_api

from edge_eds.energy.settings import Steering
from edge_eds.errors import SteeringError
from edge_eds.pipeline.bench.contender import Contender, Test
from edge_eds.runtime.batch import BatchRunner
from edge_eds.runtime.batch_run import Generation
from edge_eds.runtime.session import EdgeLlama


class Answering(Contender):
    """Answers prompts. answers: the texts of the last run."""

    kinds = ("an",)
    answers: list[str]

    def __init__(self, prompts: Sequence[list[int]], n_new: int) -> None:
        self.prompts, self.n_new = prompts, n_new

    def seconds(self, test: Test) -> float:
        start = time.perf_counter()
        found = self.run(self.prompts[: test.n])
        passed = time.perf_counter() - start
        self.answers = self.checked(found)
        return passed

    @abstractmethod
    def run(self, prompts: Sequence[list[int]]) -> Any:
        """What is timed."""

    @abstractmethod
    def checked(self, found: Any) -> list[str]:
        """The texts of the answers; SteeringError where what was to happen beside them did not."""


class Loop(Answering):
    """llama-cpp-python as everybody uses it: one prompt after the other."""

    name = "loop"

    def __init__(self, llm: Llama, prompts: Sequence[list[int]], n_new: int) -> None:
        super().__init__(prompts, n_new)
        self.llm = llm

    def run(self, prompts: Sequence[list[int]]) -> Any:
        return [_complete(self.llm, prompt, self.n_new) for prompt in prompts]

    def checked(self, found: Any) -> list[str]:
        return _completed(found)


class LoopOfStates(Loop):
    """The answer and the prompt's states as llama-cpp-python can give them: those of the last layer, as embeddings.

    embedder: a Llama made for embeddings. What `Llama.embed` does is done here with tokens, as it takes text alone and
    reads special tokens in it as words.
    """

    name = "loop-states"

    def __init__(self, llm: Llama, embedder: Llama, prompts: Sequence[list[int]], n_new: int) -> None:
        super().__init__(llm, prompts, n_new)
        self.embedder = embedder

    def run(self, prompts: Sequence[list[int]]) -> Any:
        return [(self._states(prompt), _complete(self.llm, prompt, self.n_new)) for prompt in prompts]

    def checked(self, found: Any) -> list[str]:
        _check_states([states for states, _ in found])
        return _completed([completion for _, completion in found])

    def _states(self, prompt: list[int]) -> npt.NDArray[np.float32]:
        llm = self.embedder
        llm._batch.reset()
        llm._batch.add_sequence(prompt, 0, True)
        llm._ctx.kv_cache_clear()
        llm._ctx.decode(llm._batch)
        rows = llama_api.llama_get_embeddings(llm._ctx.ctx)
        return np.array(np.ctypeslib.as_array(rows, (len(prompt), llm.n_embd())))


class LoopOfBoth(Loop):
    """The answer of llama-cpp-python, and then that of a steered session.

    They are two, so that each finds in its cache what a prompt shares with the one before it.
    """

    name = "loop-both"

    def __init__(self, llm: Llama, steered: EdgeLlama, prompts: Sequence[list[int]], n_new: int) -> None:
        super().__init__(llm, prompts, n_new)
        self.steered = steered

    def run(self, prompts: Sequence[list[int]]) -> Any:
        return [_complete(llm, prompt, self.n_new) for prompt in prompts for llm in (self.llm, self.steered)]

    def checked(self, found: Any) -> list[str]:
        texts = _completed(found)
        return texts[::2] + texts[1::2]


class Batched(Answering):
    """Side by side, each prompt steered by its own gate where there are settings."""

    def __init__(
        self, runner: BatchRunner, prompts: Sequence[list[int]], n_new: int, steering: Steering | None = None
    ) -> None:
        super().__init__(prompts, n_new)
        self.name = "batch" if steering is None else "batch-steered"
        self.runner, self.steering = runner, steering

    def run(self, prompts: Sequence[list[int]]) -> Any:
        return self.runner.generate(prompts, max_new_tokens=self.n_new, steering=self.steering)

    def checked(self, found: Any) -> list[str]:
        if self.steering is not None:
            _check_gates(found)
        return _texts(found)


class BatchOfStates(Answering):
    """Side by side, with the states of layers at each prompt's end and over its message, as `collect` keeps them."""

    name = "batch-states"

    def __init__(
        self, runner: BatchRunner, layers: Sequence[int], prompts: Sequence[list[int]], n_new: int
    ) -> None:
        super().__init__(prompts, n_new)
        self.runner, self.layers = runner, layers

    def run(self, prompts: Sequence[list[int]]) -> Any:
        return self.runner.generate(prompts, max_new_tokens=self.n_new, capture_layers=self.layers)

    def checked(self, found: Any) -> list[str]:
        for generation in found:
            for states in (generation.states, generation.message_states):
                _check_states([(states or {}).get(il) for il in self.layers])
        return _texts(found)


class BatchOfBoth(Answering):
    """Side by side, plainly and steered, as `eval` does it."""

    name = "batch-both"

    def __init__(self, runner: BatchRunner, prompts: Sequence[list[int]], n_new: int) -> None:
        super().__init__(prompts, n_new)
        self.runner = runner

    def run(self, prompts: Sequence[list[int]]) -> Any:
        return self.runner.generate_both(prompts, max_new_tokens=self.n_new, steering=Steering())

    def checked(self, found: Any) -> list[str]:
        plain, steered = found
        _check_gates(steered)
        return _texts([*plain, *steered])


def _complete(llm: Llama, prompt: list[int], n_new: int) -> Any:
    return llm.create_completion(prompt, max_tokens=n_new, temperature=0.0)


def _completed(completions: Sequence[Any]) -> list[str]:
    return [cast(CreateCompletionResponse, one)["choices"][0]["text"] for one in completions]


def _texts(answers: Sequence[Generation]) -> list[str]:
    """As llama-cpp-python gives them, which leaves out a letter that is cut off in the middle."""
    return [answer.text.replace("\ufffd", "") for answer in answers]


def _check_gates(steered: Sequence[Generation]) -> None:
    if any(answer.trace.gate is None for answer in steered):
        raise SteeringError("a gate was not read")


def _check_states(found: Sequence[npt.NDArray[np.float32] | None]) -> None:
    if any(states is None or not np.isfinite(states).all() for states in found):
        raise SteeringError("states were not captured")
