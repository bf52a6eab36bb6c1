"""Where and how hard to steer: a schedule, found by steering the model itself.

A layer that classifies well need not be one that causes the answer, so layers are chosen by what descending there does:

    1. The candidate layers are cut into a few depths. At each, schedules that begin there are searched by the first
       token alone (optuna's TPE): how likely it is that a wrong answer begins as the right one would, less what happens
       to answers that were right as they are, less a little for force.
    2. The best one of each depth by its judged answers. The first token does not tell how an answer goes on: what is
       written in a low layer is read by every layer above and every token after, where a high one turns the first words
       and the refusal comes back.
    3. The best of these with more force, which is longer steps and no energy to stop at, and then with other numbers of
       steered tokens, by its judged answers as well: what turns the first token need not be enough to keep a refusal
       from coming back. The smallest force wins among those that do nearly as well as the best.

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
    """n_wrong, n_alone: prompts that a trial on the first token asks; n_answered: wrong ones that are answered instead.
    finalists: depths, each of which gives one. first_trials: schedules tried on the first token, at all depths
    together, round_size of them at a time. forces: what the best one's step is multiplied with. tokens: numbers of
    steered tokens and decays; all finalists answer with the first of them, the best one with all. max_new_tokens: of
    these answers. tolerance: share of answers that a smaller force may lose against the best.
    """

    n_wrong: int = 48
    n_alone: int = 32
    n_answered: int = 96
    first_trials: int = 96
    round_size: int = 12
    finalists: int = 4
    forces: tuple[float, ...] = (1.0, 1.4, 1.8, 2.4)
    tokens: tuple[tuple[int, float], ...] = ((2, 0.5), (1, 1.0), (2, 0.8), (3, 0.5), (3, 0.8))
    max_layers: int = 4
    max_steps: int = 6
    stop_at: tuple[float | None, ...] = (None, 0.25, 0.5, 0.75)
    step_size: tuple[float, float] = (0.01, 0.12)
    max_new_tokens: int = 32
    tolerance: float = 0.02


@dataclass(frozen=True)
class Finalist:
    """A schedule that answered, with the shares of wrong answers mended and of right ones spoiled, and how far the
    right ones' first tokens diverge from the plain model's, in nats.
    """

    schedule: Schedule
    mended: float
    spoiled: float
    kl: float

    @property
    def value(self) -> float:
        """What finalists are ranked by."""
        return self.mended - self.spoiled - KL_WEIGHT * self.kl


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
    (n_tokens, decay), *other_tokens = settings.tokens
    depths = np.array_split(np.arange(len(bed.trained.steer_layers)), settings.finalists)
    best = [
        _first_token_search(bed, head, sample, settings, depth.tolist(), seed, on_progress)
        for depth in depths
        if len(depth)
    ]
    best = [replace(one, n_tokens=n_tokens, decay=decay) for one in best]
    answered = replace(sample, wrong=sampled(at_stake.wrong, settings.n_answered, seed))
    finalists = _answered(bed, head, answered, best, settings, on_progress)
    winner = finalists[0].schedule
    forced = [replace(winner, step_size=round(force * winner.step_size, 4), stop_at=None) for force in settings.forces]
    others = [one for one in forced if one != winner]
    finalists = _ranked(finalists + _answered(bed, head, answered, others, settings, on_progress))
    winner = finalists[0].schedule
    others = [replace(winner, n_tokens=n_tokens, decay=decay) for n_tokens, decay in other_tokens]
    finalists = _ranked(finalists + _answered(bed, head, answered, others, settings, on_progress))
    near = [one.schedule for one in finalists if one.value >= finalists[0].value - settings.tolerance]
    return min(near, key=lambda schedule: schedule.force), finalists


def sampled(indices: IndexArray, n: int, seed: int) -> IndexArray:
    """At most n of the indices, ascending; the same ones for the same seed."""
    return np.sort(np.random.default_rng(seed).permutation(indices)[:n])


def _answered(
    bed: TuneBed,
    head: str,
    sample: AtStake,
    schedules: Sequence[Schedule],
    settings: SearchSettings,
    on_progress: Callable[[str], None] | None,
) -> list[Finalist]:
    """What the schedules make of the answers, best first."""
    if not schedules:
        return []
    if on_progress:
        on_progress(f"answers under {len(schedules)} schedules for E_{head}")
    indices, n_wrong = np.concatenate([sample.wrong, sample.alone]), len(sample.wrong)
    good, bad = ("answer", "refusal") if head == "fr" else ("refusal", "answer")
    finalists = []
    # At the first token the numbers of tokens make no difference.
    first_tokens = bed.first_tokens(indices, head, [replace(one, n_tokens=1, decay=1.0) for one in schedules])
    all_labels = bed.verdicts(indices, head, schedules, settings.max_new_tokens)
    for schedule, labels, (_, kl) in zip(schedules, all_labels, first_tokens, strict=True):
        mended = float((labels[:n_wrong] == good).mean())
        spoiled, kl_alone = 0.0, 0.0
        if len(sample.alone):
            spoiled = float(np.isin(labels[n_wrong:], (bad, "degenerate")).mean())
            kl_alone = float(kl[n_wrong:].mean())
        finalists.append(Finalist(schedule, mended, spoiled, kl_alone))
    return _ranked(finalists)


def _ranked(finalists: Sequence[Finalist]) -> list[Finalist]:
    return sorted(finalists, key=lambda one: (-one.value, one.schedule.force))


def _first_token_search(
    bed: TuneBed,
    head: str,
    sample: AtStake,
    settings: SearchSettings,
    depth: Sequence[int],
    seed: int,
    on_progress: Callable[[str], None] | None,
) -> Schedule:
    """The best schedule whose first layer is one of a depth, given as indices into the candidate layers."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    indices = np.concatenate([sample.wrong, sample.alone])
    n_trials = max(1, settings.first_trials // settings.finalists)
    values: dict[Schedule, float] = {}
    layers = bed.trained.steer_layers
    for done in range(0, n_trials, settings.round_size):
        if on_progress:
            on_progress(
                f"schedules from layer {layers[depth[0]]} on by their first token for E_{head}: {done} of {n_trials}"
            )
        trials = [study.ask() for _ in range(min(settings.round_size, n_trials - done))]
        schedules = [_suggest(trial, bed.trained, settings, depth) for trial in trials]
        for trial, schedule, (odds, kl) in zip(
            trials, schedules, bed.first_tokens(indices, head, schedules), strict=True
        ):
            values[schedule] = _value(head, schedule, odds[: len(sample.wrong)], kl[len(sample.wrong) :])
            study.tell(trial, values[schedule])
    return max(values, key=lambda schedule: values[schedule])


def _suggest(
    trial: optuna.Trial, trained: TrainedEnergies, settings: SearchSettings, depth: Sequence[int]
) -> Schedule:
    layers, ranks = trained.steer_layers, list(trained.by_rank)
    first = trial.suggest_int("first", int(depth[0]), int(depth[-1]))
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
