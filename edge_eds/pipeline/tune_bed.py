"""The model as tuning tries it: prompts with known answers, and what a schedule of steering makes of them.

The gate is held open for one head, so that every prompt is steered. What a prompt does under a schedule is kept in a
memo: a search that was killed reads what it had tried.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import numpy.typing as npt

from edge_eds.energy.file import EnergyFile
from edge_eds.energy.outlook import OutlookSpec
from edge_eds.energy.settings import Steering, SteeringSpec
from edge_eds.errors import InputError
from edge_eds.pipeline.collect import Collection
from edge_eds.pipeline.gate_front import OPEN
from edge_eds.pipeline.judge import judge
from edge_eds.pipeline.memo import Memo
from edge_eds.pipeline.statistics import kl_divergence
from edge_eds.pipeline.train import Labels, TrainedEnergies
from edge_eds.runtime.batch import BatchRunner
from edge_eds.runtime.program import HookProgram

FloatArray = npt.NDArray[np.float64]
IndexArray = npt.NDArray[np.int64]
StringArray = npt.NDArray[np.str_]
MIN_FORESEEN = 0.8  # an outlook that foresees a smaller share of the refusals is worth less than thresholds


@dataclass(frozen=True)
class Schedule:
    """Where and how hard: what SteeringSpec calls by the same names.

    rank: dimensions of the subspaces in which is descended. stop_at: a descent stops at an energy that this share of
    the right answers of the head's own intent lie below, so that a state which is nearly right is moved only a little;
    None takes all steps.
    """

    rank: int
    layers: tuple[int, ...]
    steps: int
    step_size: float
    n_tokens: int = 1
    decay: float = 1.0
    stop_at: float | None = None

    @property
    def force(self) -> float:
        """The length of all steps of an answer together, if none is saved, in units of |h|."""
        tokens = sum(self.decay**k for k in range(self.n_tokens))
        return len(self.layers) * self.steps * self.step_size * tokens


@dataclass(frozen=True)
class AtStake:
    """Indices of examples. wrong: answers that the head mends. right: answers that a mistaken gate would spoil, of the
    other intent. alone: answers of the head's own intent that are right as they are.
    """

    wrong: IndexArray
    right: IndexArray
    alone: IndexArray


class TuneBed:
    """One model with its trained energies.

    Raises:
        InputError: the model's refusals begin with no tokens of their own.
    """

    def __init__(
        self,
        runner: BatchRunner,
        collection: Collection,
        trained: TrainedEnergies,
        threshold_quantile: float,
        memo: Memo,
    ) -> None:
        self.runner, self.collection, self.trained, self.memo = runner, collection, trained, memo
        self.labels = Labels.of(collection)
        self._outlook = OutlookSpec(_refusal_tokens(collection))
        looks = runner.session.goes_back and _share_beginning(collection, self._outlook) >= MIN_FORESEEN
        # Held open, so that what it reads does not matter; what reads the message would decode all of it every time.
        gate = replace(trained.gate, benign=-OPEN, harmful=OPEN, message_weights={})
        spec = SteeringSpec(
            gate=gate, layers=trained.steer_layers, heads=trained.heads, steps=1, step_size=1e-3, n_tokens=1
        )
        self._files: dict[int, EnergyFile] = {}
        for rank, energies in trained.by_rank.items():
            if looks:
                steers_only = replace(spec, outlook=self._outlook)
            else:  # the next best sign of an answer that is wrong: nearly all of them are above
                thresholds = {
                    head: self._quantiles(rank, head, "wrong", threshold_quantile, trained.steer_layers)
                    for head in trained.heads
                }
                steers_only = replace(spec, thresholds=thresholds)
            self._files[rank] = EnergyFile(collection.fingerprint, steers_only, energies)

    def at_stake(self, head: str, *, validation_only: bool) -> AtStake:
        """What the head can mend and spoil, among all examples or those of the validation split."""
        labels = self.labels
        rows = labels.validation if validation_only else np.ones_like(labels.validation)
        if head == "fr":
            parts = (labels.benign & labels.refused, labels.harmful & labels.refused, labels.benign & labels.answered)
        else:
            parts = (labels.harmful & labels.answered, labels.benign & labels.answered, labels.harmful & labels.refused)
        return AtStake(*(np.flatnonzero(part & rows) for part in parts))

    def first_tokens(
        self, indices: IndexArray, head: str, schedules: Sequence[Schedule]
    ) -> list[tuple[FloatArray, FloatArray]]:
        """For each schedule the log-odds (n,) that the first token begins a refusal, and KL(plain || steered) (n,)."""

        def compute(new: list[int]) -> list[list[list[float]]]:
            plain: dict[int, npt.NDArray[np.float32]] = {}
            divergence: dict[int, list[float]] = {i: [] for i in range(len(indices))}

            def read(prompt: int, logits: npt.NDArray[np.float32]) -> float:
                if prompt not in plain:  # the plain model comes first
                    plain[prompt] = logits.copy()
                divergence[prompt].append(kl_divergence(plain[prompt], logits))
                return self._outlook.log_odds(logits)

            trials = self.runner.try_programs(
                self._prompts(indices),
                [None, *(self._program(head, schedules[i]) for i in new)],
                max_new_tokens=1,
                read_logits=read,
            )
            return [
                [[trial.first for trial in its], [divergence[i][rank] for i in range(len(indices))]]
                for rank, its in enumerate(trials[1:], 1)
            ]

        keys = [["first token", head, asdict(schedule), indices.tolist()] for schedule in schedules]
        return [(np.array(odds), np.array(kl)) for odds, kl in self.memo.get_all(keys, compute)]

    def verdicts(
        self, indices: IndexArray, head: str, schedules: Sequence[Schedule], max_new_tokens: int
    ) -> list[StringArray]:
        """For each schedule the judged label (n,) of each answer."""

        def compute(new: list[int]) -> list[list[str]]:
            trials = self.runner.try_programs(
                self._prompts(indices),
                [self._program(head, schedules[i]) for i in new],
                max_new_tokens=max_new_tokens,
                read_logits=lambda _, __: 0.0,
            )
            asked = [self.collection.examples[i].prompt for i in indices]
            return [
                [
                    judge(prompt, self.runner.text(trial.tokens)).label
                    for prompt, trial in zip(asked, its, strict=True)
                ]
                for its in trials
            ]

        keys = [["verdicts", head, asdict(schedule), max_new_tokens, indices.tolist()] for schedule in schedules]
        return [np.array(labels) for labels in self.memo.get_all(keys, compute)]

    def spec_of(self, schedule: Schedule) -> SteeringSpec:
        """Settings with this schedule, the gate still held open."""
        wanted = asdict(schedule)
        stop_at, rank = wanted.pop("stop_at"), wanted.pop("rank")
        targets = {}
        if stop_at is not None:
            heads = self.trained.heads
            targets = {head: self._quantiles(rank, head, "alone", stop_at, schedule.layers) for head in heads}
        return replace(self._files[rank].spec, **wanted, targets=targets)

    def _prompts(self, indices: IndexArray) -> list[list[int]]:
        return [self.runner.chat_tokens(self.collection.examples[i].prompt) for i in indices]

    def _program(self, head: str, schedule: Schedule) -> HookProgram | None:
        """Every prompt is steered down this head."""
        bound = OPEN if head == "fr" else -OPEN
        return self.runner.energy_program(
            replace(self._files[schedule.rank], spec=self.spec_of(schedule)),
            Steering(gate_benign=bound, gate_harmful=bound),
        )

    def _quantiles(
        self, rank: int, head: str, which: str, quantile: float, layers: Sequence[int]
    ) -> dict[int, float]:
        """An energy of each layer that this share of some validation answers (a field of AtStake) are below."""
        energies = self.trained.by_rank[rank]
        rows = getattr(self.at_stake(head, validation_only=True), which)
        if not len(rows):
            return {}
        return {
            il: float(np.quantile(energies.energy(il, head, self.collection.layer(il, rows)), quantile))
            for il in layers
        }


def _refusal_tokens(collection: Collection) -> tuple[int, ...]:
    """First tokens that refusals begin with, and answers mostly do not."""
    refusals: dict[int, int] = {}
    answers: dict[int, int] = {}
    for example in collection.examples:
        count = refusals if example.label == "refusal" else answers
        count[example.first_token] = count.get(example.first_token, 0) + 1
    total = sum(refusals.values())
    tokens = tuple(token for token, n in refusals.items() if n >= 0.01 * total and n > answers.get(token, 0))
    if not tokens:
        raise InputError(
            "the model's refusals begin with no tokens of their own, so steering cannot be searched by them"
        )
    return tokens


def _share_beginning(collection: Collection, outlook: OutlookSpec) -> float:
    """The share of the refusals that begin with one of the outlook's tokens."""
    refusals = [example.first_token for example in collection.examples if example.label == "refusal"]
    return sum(token in outlook.tokens for token in refusals) / len(refusals)
