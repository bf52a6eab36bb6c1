"""How much a fit may do within a time: sizes of its stages, from how fast the model answers.

Takes seconds and a clock; gives settings. Everything is counted in answers of the length that collecting makes: a
stage gets a share of the answers that still fit. Without a budget the stages keep their full sizes.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from edge_eds.errors import SettingsError
from edge_eds.pipeline.tune import TuneSettings
from edge_eds.pipeline.verdict import VerdictSettings

MIN_PROMPTS = 240  # fewer teach a gate nothing that holds on other prompts
_COLLECT, _VERDICT = 0.4, 0.12  # shares of the whole time
_FIRST_TOKENS, _FINALISTS, _BOUND = 0.3, 0.3, 0.4  # shares of what tuning gets
_MOST = {"first_trials": 480, "finalists": 6}
_NEW_TOKENS = 20  # of an answer as it is counted here
_HEADS = 2
_DURATION = re.compile(r"(?P<number>\d{1,6}(\.\d{1,3})?)(?P<unit>[smh]?)")
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_SHORTEST, _LONGEST = 60.0, 360000.0


@dataclass(frozen=True)
class Budget:
    """seconds: for all stages. begun: when they began."""

    seconds: float
    clock: Callable[[], float] = time.monotonic
    begun: float = 0.0

    @classmethod
    def start(cls, seconds: float, clock: Callable[[], float] = time.monotonic) -> Budget:
        """A budget that runs from now on."""
        return cls(seconds, clock, clock())

    def __str__(self) -> str:
        return f"{self.seconds / 60:.0f} minutes"

    @property
    def left(self) -> float:
        """Seconds."""
        return self.seconds - (self.clock() - self.begun)

    def n_prompts(self, answers_per_second: float) -> int:
        """Prompts that can be collected.

        Raises:
            SettingsError: too few for anything to be learned, with the budget that would do.
        """
        n = int(_COLLECT * self.seconds * answers_per_second)
        if n < MIN_PROMPTS:
            needed = MIN_PROMPTS / (_COLLECT * answers_per_second) / 60
            raise SettingsError(
                f"a budget of {self.seconds / 60:.0f} minutes is enough for {n} prompts of this model here, and fewer "
                f"than {MIN_PROMPTS} teach nothing; expected at least {needed + 1:.0f}m"
            )
        return n

    def tune(self, settings: TuneSettings, answers_per_second: float) -> TuneSettings:
        """Sizes of the search in what is left, the verdict's share taken off."""
        answers = max(self.left - _VERDICT * self.seconds, 0.0) * answers_per_second
        search = settings.search
        asked = search.n_wrong + search.n_alone  # prompts of one trial
        per_trial = asked / _NEW_TOKENS * 2  # one token each, and the prompts once for each round
        per_answered = asked * search.max_new_tokens / _NEW_TOKENS
        rounds = int(_FIRST_TOKENS * answers / per_trial) // search.round_size
        # Schedules that answer: one of each depth, and the best one with other numbers of tokens.
        n_answered = int(_FINALISTS * answers / per_answered)
        finalists = _between((n_answered + 1) // 2, 1, _MOST["finalists"])
        sizes = replace(
            search,
            first_trials=_between(rounds, 1, _MOST["first_trials"] // search.round_size) * search.round_size,
            finalists=finalists,
            tokens=search.tokens[: max(1, n_answered + 1 - finalists)],
        )
        per_bound = 2 * _HEADS * settings.max_new_tokens / _NEW_TOKENS  # right and wrong answers of both heads
        n_bound = _between(int(_BOUND * answers / per_bound), 60, 2000)
        return replace(settings, search=sizes, n_bound=n_bound)

    def verdict(self, settings: VerdictSettings, answers_per_second: float) -> VerdictSettings:
        """How many prompts of each kind can be asked in what is left."""
        per_prompt = 2 * 3 * 1.5 * settings.max_new_tokens / _NEW_TOKENS  # two answers, three kinds, and scored
        return replace(settings, n=_between(int(self.left * answers_per_second / per_prompt), 20, 400))


def parse_duration(text: str) -> float:
    """Seconds of "90s", "10m", "1.5h" or a number of minutes.

    Raises:
        SettingsError: anything else, or nothing that a fit could be done in.
    """
    found = _DURATION.fullmatch(text.strip())
    seconds = float(found["number"]) * _UNITS[found["unit"] or "m"] if found else 0.0
    if not _SHORTEST <= seconds <= _LONGEST:
        raise SettingsError(f"the budget is {text!r}, expected a time from 1m to 100h, such as 10m, 1h or 4h")
    return seconds


def _between(n: int, low: int, high: int) -> int:
    return max(low, min(n, high))
