"""What is measured, and on what: a test, and a contender that can be timed at it."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Literal

from edge_eds.errors import SettingsError
from edge_eds.pipeline.bench.contexts import BenchLlama

WARM_TOKENS = 4  # that stand before those that are timed one by one
Kind = Literal["pp", "tg", "an", "st"]


@dataclass(frozen=True)
class Test:
    """pp: n tokens in one go, from an empty cache. tg: n tokens one by one, after a prompt of WARM_TOKENS.
    an: n prompts answered. st: a program started, n times.

    at_once: tg so many tokens in each decode; their rows are steered together, as those of a batch of answers.
    """

    __test__: ClassVar[bool] = False  # pytest takes every class of this name for one of its own
    kind: Kind
    n: int
    at_once: int = 1

    def __post_init__(self) -> None:
        if self.n < 1:
            raise SettingsError(f"a test of {self.n} tokens: expected at least 1")

    @property
    def name(self) -> str:
        return f"{self.kind}{self.n}" + (f"@{self.at_once}" if self.at_once > 1 else "")

    @property
    def n_ctx(self) -> int:
        """Tokens that it needs room for."""
        return self.n if self.kind == "pp" else WARM_TOKENS + self.n

    @classmethod
    def of(cls, name: str) -> Test:
        """The test of that name, one token a decode; ValueError for anything else."""
        match = re.fullmatch(r"(pp|tg)([0-9]+)", name)
        if match is None:
            raise ValueError(f"{name!r} is no test")
        return cls("pp" if match[1] == "pp" else "tg", int(match[2]))


class Contender(ABC):
    """Something that can be timed. kinds: the tests that it takes part in."""

    name: str
    kinds: tuple[Kind, ...] = ("pp", "tg")

    @abstractmethod
    def seconds(self, test: Test) -> float:
        """Run the test once.

        Raises:
            SteeringError: what the contender is there for did not happen.
        """

    def close(self) -> None:
        """Give back what it holds."""
        return None


class Decoding(Contender):
    """A contender that decodes in this process. tokens: random ones, the same for every contender."""

    def __init__(self, name: str, llm: BenchLlama, tokens: list[int]) -> None:
        self.name, self.llm, self.tokens = name, llm, tokens

    def seconds(self, test: Test) -> float:
        with self.in_force():
            self.llm.empty()
            if test.kind == "pp":
                start = self.llm.clock()
                self.prompt(self.tokens[: test.n])
            else:
                self.before_tokens(self.tokens[:WARM_TOKENS])
                self.llm.wait()
                start = self.llm.clock()
                for at in range(WARM_TOKENS, WARM_TOKENS + test.n, test.at_once):
                    self.more(self.tokens[at : at + test.at_once])
            self.llm.wait()
            passed = self.llm.clock() - start
            self.check(test)
        return passed

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Set up before the clock runs, and taken back after it."""
        yield

    @abstractmethod
    def prompt(self, tokens: list[int]) -> None:
        """Decode a prompt."""

    def before_tokens(self, tokens: list[int]) -> None:
        """Decode the prompt that stands before tokens that come one by one."""
        self.prompt(tokens)

    def more(self, tokens: list[int]) -> None:
        """Decode what comes next, in one decode."""
        self.prompt(tokens)

    def check(self, test: Test) -> None:
        """After the clock has stopped: SteeringError unless what was to happen did."""
        return None
