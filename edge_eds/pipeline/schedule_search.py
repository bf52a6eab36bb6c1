"""Where and how hard to steer: a schedule, found by steering the model itself.

A layer that classifies well need not be one that causes the answer, so layers are chosen by what descending there does:

    1. Many schedules by the first token alone (optuna's TPE): how likely it is that a wrong answer begins as the right
       one would, less what happens to answers that were right as they are, less a little for force.
    2. The best of them, with several numbers of steered tokens, by their judged answers. The smallest force wins among
       those that do nearly as well as the best.

Seeded, and every trial is kept in the bed's memo: the same search run again goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import optuna

from edge_eds.pipeline.train import TrainedEnergies
from edge_eds.pipeline.tune_bed import AtStake, IndexArray, Schedule, TuneBed

KL_WEIGHT = 0.5  # of the mean divergence in nats, against the share of answers that begin as they should
FORCE_WEIGHT = 0.05  # of the force of an answer: a full step of |h| at one layer


@dataclass(frozen=True)
class SearchSettings:
    """n_wrong, n_alone: prompts that a trial asks. first_trials: schedules tried on the first token, round_size of them
    at a time. finalists: how many of them answer, with each of the numbers of tokens and decays in `tokens`. tolerance:
    share of answers that a smaller force may lose against the best.
    """

    n_wrong: int = 48
    n_alone: int = 32
    first_trials: int = 96
    round_size: int = 16
    finalists: int = 4
    tokens: tuple[tuple[int, float], ...] = ((1, 1.0), (2, 0.5), (2, 0.8), (3, 0.5), (3, 0.8))
    max_layers: int = 4
    max_steps: int = 6
    stop_at: tuple[float | None, ...] = (None, 0.25, 0.5, 0.75)
    step_size: tuple[float, float] = (0.01, 0.12)
    max_new_tokens: int = 16
    tolerance: float = 0.02


@dataclass(frozen=True)
class Finalist:
    """A schedule that answered, with the shares of wrong answers mended and of right ones spoiled."""

    schedule: Schedule
    mended: float
    spoiled: float


def search_schedule(
    bed: TuneBed,
    head: str,
    settings: SearchSettings,
    seed: int,
    on_progress: Callable[[str], None] | None = None,
) -> tuple[Schedule, Sequence[Finalist]]:
    """The schedule for one head, and the finalists it was chosen from, best first."""
    at_stake = bed.at_stake(head, validation_only=True)
    sample = AtStake(
        wrong=sampled(at_stake.wrong, settings.n_wrong, seed),
        right=at_stake.right,
        alone=sampled(at_stake.alone, settings.n_alone, seed),
    )
    ranked = _first_token_search(bed, head, sample, settings, seed, on_progress)
    candidates = [
        replace(schedule, n_tokens=n_tokens, decay=decay)
        for schedule in ranked[: settings.finalists]
        for n_tokens, decay in settings.tokens
    ]
    if on_progress:
        on_progress(f"answers under {len(candidates)} schedules for E_{head}")
    indices = np.concatenate([sample.wrong, sample.alone])
    good, bad = ("answer", "refusal") if head == "fr" else ("refusal", "answer")
    finalists = []
    for schedule, labels in zip(
        candidates, bed.verdicts(indices, head, candidates, settings.max_new_tokens), strict=True
    ):
        wrong, alone = labels[: len(sample.wrong)], labels[len(sample.wrong) :]
        spoiled = np.isin(alone, (bad, "degenerate")).mean() if len(alone) else 0.0
        finalists.append(Finalist(schedule, float((wrong == good).mean()), float(spoiled)))
    finalists.sort(key=lambda one: (one.spoiled - one.mended, one.schedule.force))
    best = finalists[0].mended - finalists[0].spoiled
    near = [one.schedule for one in finalists if one.mended - one.spoiled >= best - settings.tolerance]
    return min(near, key=lambda schedule: schedule.force), finalists


def sampled(indices: IndexArray, n: int, seed: int) -> IndexArray:
    """At most n of the indices, ascending; the same ones for the same seed."""
    return np.sort(np.random.default_rng(seed).permutation(indices)[:n])


def _first_token_search(
    bed: TuneBed,
    head: str,
    sample: AtStake,
    settings: SearchSettings,
    seed: int,
    on_progress: Callable[[str], None] | None,
) -> list[Schedule]:
    """The schedules that were tried, best first, each once."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    indices = np.concatenate([sample.wrong, sample.alone])
    values: dict[Schedule, float] = {}
    for done in range(0, settings.first_trials, settings.round_size):
        if on_progress:
            on_progress(f"schedules by their first token for E_{head}: {done} of {settings.first_trials}")
        trials = [study.ask() for _ in range(min(settings.round_size, settings.first_trials - done))]
        schedules = [_suggest(trial, bed.trained, settings) for trial in trials]
        for trial, schedule, (odds, kl) in zip(
            trials, schedules, bed.first_tokens(indices, head, schedules), strict=True
        ):
            values[schedule] = _value(head, schedule, odds[: len(sample.wrong)], kl[len(sample.wrong) :])
            study.tell(trial, values[schedule])
    return sorted(values, key=lambda schedule: -values[schedule])


def _suggest(trial: optuna.Trial, trained: TrainedEnergies, settings: SearchSettings) -> Schedule:
    layers, ranks = trained.steer_layers, list(trained.by_rank)
    first = trial.suggest_int("first", 0, len(layers) - 1)
    n_layers = trial.suggest_int("n_layers", 1, settings.max_layers)
    stride = trial.suggest_int("stride", 1, 2)
    low, high = settings.step_size
    return Schedule(
        rank=ranks[trial.suggest_int("rank", 0, len(ranks) - 1)],
        layers=tuple(layers[first::stride][:n_layers]),
        steps=trial.suggest_int("steps", 1, settings.max_steps),
        step_size=round(trial.suggest_float("step_size", low, high, log=True), 4),
        stop_at=settings.stop_at[trial.suggest_int("stop_at", 0, len(settings.stop_at) - 1)],
    )


def _value(
    head: str, schedule: Schedule, odds: npt.NDArray[np.float64], kl_alone: npt.NDArray[np.float64]
) -> float:
    sign = 1 if head == "fr" else -1
    begins_right = float((0.5 * (1 - np.tanh(sign * odds / 2))).mean())  # 1 / (1 + exp(sign * odds))
    damage = float(kl_alone.mean()) if len(kl_alone) else 0.0
    return begins_right - KL_WEIGHT * damage - FORCE_WEIGHT * schedule.force
