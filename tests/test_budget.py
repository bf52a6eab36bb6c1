"""A fit within a time: what may be done grows with the time and the model's speed, and stays within it."""

from __future__ import annotations

import pytest

from edge_eds.errors import SettingsError
from edge_eds.pipeline.budget import DEFAULT, MIN_PROMPTS, Budget, parse_budget, parse_duration
from edge_eds.pipeline.tune import TuneSettings
from edge_eds.pipeline.verdict import VerdictSettings


@pytest.mark.parametrize(
    ("text", "seconds"), [("10m", 600), ("1h", 3600), ("1.5h", 5400), ("90s", 90), (" 20 ", 1200), ("100h", 360000)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "fast", "-10m", "10 minutes", "nan", "inf", "0m", "1s", "1e3h", "101h"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="such as 10m"):
        parse_duration(text)


def test_what_a_user_may_ask_for() -> None:
    assert parse_budget("1h") == Budget(3600.0) and parse_budget(" all ") is None
    default = parse_budget(None)
    assert default is not None and default.flexible and default.seconds == 900
    with pytest.raises(SettingsError, match="or 'all'"):
        parse_budget("everything")


def answers(tune: TuneSettings) -> float:
    """Answers of a whole search and its bounds, as a rough count from its sizes."""
    search = tune.search
    tokens = 39.0  # of an answer: 22 of the prompt, and 17 or fewer new ones
    first = search.first_trials * (search.n_wrong + search.n_alone) * (22 / search.round_size + 2)
    n_answered = search.finalists + len(search.forces) + len(search.tokens) - 1
    answered = n_answered * (search.n_answered + search.n_alone) * (22 / 3 + 0.85 * search.max_new_tokens)
    bound = 2 * 1.15 * tune.n_bound * (22 + 0.85 * tune.max_new_tokens)
    return (first + answered + bound) / tokens


@pytest.mark.parametrize("minutes", [10, 60, 240])
@pytest.mark.parametrize("speed", [1.0, 5.0, 40.0])
def test_the_stages_together_fit_the_time(minutes: int, speed: float) -> None:
    now = 0.0
    budget = Budget(60.0 * minutes, clock=lambda: now).started()
    n_prompts = budget.n_prompts(speed)
    now = n_prompts / speed
    tune = budget.tune(TuneSettings(), speed)
    now += answers(tune) / speed
    if minutes > 10 or speed > 1:  # below that every stage has its smallest size
        assert now < budget.seconds
        now += budget.verdict(VerdictSettings(), speed).n * 3 * 3 * (22 + 0.85 * 32) / 39 / speed
        assert now < 1.1 * budget.seconds


def test_more_time_is_more_work() -> None:
    sizes = []
    for minutes in (10, 30, 60, 120):
        budget = Budget(60.0 * minutes, clock=lambda: 0.0).started()
        tune = budget.tune(TuneSettings(), 2.0)
        sizes.append((budget.n_prompts(2.0), tune.n_bound, tune.search.first_trials))
        assert tune.search.first_trials % tune.search.round_size == 0
    assert sizes == sorted(sizes) and len(set(sizes)) == 4


def test_a_budget_that_teaches_nothing_says_what_would_do() -> None:
    budget = Budget(600.0)
    with pytest.raises(SettingsError, match=r"10 minutes is enough for 24 prompts .* expected at least 101m"):
        budget.sufficient(0.1)
    enough = Budget(60.0 * 101)
    assert enough.sufficient(0.1) == enough and enough.n_prompts(0.1) >= MIN_PROMPTS


def test_the_default_takes_as_long_as_a_slow_model_needs_and_lets_nothing_grow() -> None:
    slow = DEFAULT.sufficient(0.1)
    assert slow.seconds > DEFAULT.seconds and slow.n_prompts(0.1) == MIN_PROMPTS
    assert DEFAULT.sufficient(5.0) == DEFAULT
    full, verdict = TuneSettings(), VerdictSettings()
    fast = Budget(DEFAULT.seconds, flexible=True, clock=lambda: 0.0).started()
    assert fast.tune(full, 1e6) == full and fast.verdict(verdict, 1e6) == verdict
    asked_for = Budget(DEFAULT.seconds, clock=lambda: 0.0).started()
    assert asked_for.tune(full, 1e6).search.first_trials > full.search.first_trials
    assert asked_for.verdict(verdict, 1e6).n > verdict.n
