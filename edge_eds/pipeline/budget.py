"""How much a fit may do within a time: sizes of its stages, from how fast the model answers.

Takes seconds and a clock; gives settings. Everything is counted in answers of the length that collecting makes: a
stage gets a share of the answers that still fit. Without a budget the stages keep their full sizes, which more time
than they need lets grow.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from edge_eds.errors import SettingsError
from edge_eds.pipeline.fit_time import DEFAULT_SECONDS
from edge_eds.pipeline.tune import TuneSettings
from edge_eds.pipeline.verdict import VerdictSettings

MIN_PROMPTS = 240  # fewer teach a gate nothing that holds on other prompts
_COLLECT, _VERDICT = 0.4, 0.12  # shares of the whole time
_RESERVE = 0.02  # of the whole time: the last stage plans without it, as nothing after it makes up for what is late
_FIRST_TOKENS, _FINALISTS, _BOUND = 0.3, 0.4, 0.3  # shares of what tuning gets
_MOST = {"first_trials": 480, "finalists": 6}
_NEW_TOKENS = 20  # of an answer as it is counted here
_PROMPT = 0.55  # of what such an answer costs: the prompt, without what all prompts begin with
_TOGETHER = 3  # schedules that answer together, at least where there are more
_HEADS = 2
_IN_QUESTION = 1.15  # of one wrong and one right answer: what some bound steers, at most
_FEW = 8  # fewer schedules that answer than this are asked fewer prompts
_DURATION = re.compile(r"(?P<number>\d{1,6}(\.\d{1,3})?)(?P<unit>[smh]?)")
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_SHORTEST, _LONGEST = 60.0, 360000.0
EVERYTHING = "all"


@dataclass(frozen=True)
class Budget:
    """seconds: for all stages. flexible: nobody asked for it, so a model that is too slow for it gets more time, and no
    stage grows beyond its full size. begun: when the time began to run, by the clock.
    """

    seconds: float
    flexible: bool = False
    clock: Callable[[], float] = time.monotonic
    begun: float = 0.0

    def started(self, begun: float | None = None) -> Budget:
        """The same, running since `begun`, or from now on."""
        return replace(self, begun=self.clock() if begun is None else begun)

    def __str__(self) -> str:
        return f"{self.seconds / 60:.0f} minutes"

    @property
    def left(self) -> float:
        """Seconds."""
        return self.seconds - (self.clock() - self.begun)

    def sufficient(self, answers_per_second: float) -> Budget:
        """The same, or a longer one, in which enough prompts for something to be learned can be collected.

        Raises:
            SettingsError: it is too short and not flexible; tells the budget that would do.
        """
        needed = (MIN_PROMPTS + 1) / (_COLLECT * answers_per_second)
        if self.seconds >= needed:
            return self
        if self.flexible:
            return replace(self, seconds=needed)
        raise SettingsError(
            f"a budget of {self} is enough for {self.n_prompts(answers_per_second)} prompts of this model here, and "
            f"fewer than {MIN_PROMPTS} teach nothing; expected at least {needed / 60 + 1:.0f}m"
        )

    def n_prompts(self, answers_per_second: float) -> int:
        """Prompts that can be collected."""
        return int(_COLLECT * self.seconds * answers_per_second)

    def tune(self, settings: TuneSettings, answers_per_second: float) -> TuneSettings:
        """Sizes of the search in what is left, the verdict's share taken off."""
        answers = max(self.left - _VERDICT * self.seconds, 0.0) * answers_per_second
        search = settings.search
        most = {name: getattr(search, name) if self.flexible else n for name, n in _MOST.items()}
        # the first token alone, and mostly twice: steered where it was about to go wrong
        per_trial = (search.n_wrong + search.n_alone) * _cost(2, search.round_size)
        rounds = int(_FIRST_TOKENS * answers / per_trial) // search.round_size
        # Schedules that answer: one of each depth, and the best one with more force and other numbers of tokens.
        per_prompt = _cost(search.max_new_tokens, _TOGETHER)
        n_asked = search.n_answered
        n_schedules = int(_FINALISTS * answers / ((n_asked + search.n_alone) * per_prompt))
        if n_schedules < _FEW:
            n_asked = min(n_asked, search.n_wrong)
            n_schedules = int(_FINALISTS * answers / ((n_asked + search.n_alone) * per_prompt))
        finalists = _between((n_schedules + 1) // 2, 1, most["finalists"])
        others = max(n_schedules - finalists, 0)
        forces = search.forces[: others // 2]
        sizes = replace(
            search,
            n_answered=n_asked,
            first_trials=_between(rounds, 1, most["first_trials"] // search.round_size) * search.round_size,
            finalists=finalists,
            forces=forces,
            tokens=search.tokens[: 1 + others - len(forces)],
        )
        per_bound = _HEADS * _IN_QUESTION * _cost(settings.max_new_tokens)
        n_bound = _between(int(_BOUND * answers / per_bound), 60, settings.n_bound if self.flexible else 2000)
        return replace(settings, search=sizes, n_bound=n_bound)

    def verdict(self, settings: VerdictSettings, answers_per_second: float) -> VerdictSettings:
        """How many prompts of each kind can be asked in what is left."""
        # three kinds; steered answers that are left alone are not decoded again, changed ones are scored
        per_prompt = 3 * 2 * _cost(settings.max_new_tokens)
        n = int((self.left - _RESERVE * self.seconds) * answers_per_second / per_prompt)
        return replace(settings, n=_between(n, 20, settings.n if self.flexible else 400))


def parse_budget(text: str | None) -> Budget | None:
    """What a user asks for: a time; nothing, which is DEFAULT; or EVERYTHING, which is no budget.

    Raises:
        SettingsError: neither.
    """
    if text is None:
        return DEFAULT
    return None if text.strip() == EVERYTHING else Budget(parse_duration(text))


def parse_duration(text: str) -> float:
    """Seconds of "90s", "10m", "1.5h" or a number of minutes.

    Raises:
        SettingsError: anything else, or nothing that a fit could be done in.
    """
    found = _DURATION.fullmatch(text.strip())
    seconds = float(found["number"]) * _UNITS[found["unit"] or "m"] if found else 0.0
    if not _SHORTEST <= seconds <= _LONGEST:
        raise SettingsError(
            f"the budget is {text!r}, expected a time from 1m to 100h, such as 10m, 1h or 4h, or {EVERYTHING!r}"
        )
    return seconds


DEFAULT = Budget(DEFAULT_SECONDS, flexible=True)


def _cost(max_new_tokens: int, n_sharing: int = 1) -> float:
    """What an answer costs, counted in answers, where so many share a prompt."""
    return _PROMPT / n_sharing + (1 - _PROMPT) * max_new_tokens / _NEW_TOKENS


def _between(n: int, low: int, high: int) -> int:
    return max(low, min(n, high))
