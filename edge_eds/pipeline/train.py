"""A collection -> energies: which layers, their subspaces, and the heads that the gate and the steering use.

Takes states with judged answers (collect.py); gives an EnergyModel with, on the gate's layers, E_harm, and on
every candidate layer for steering, E_fr and E_jb, and a calibrated gate. How strongly and where to steer is
found by steering the model itself (tune.py): a layer that classifies well need not be one that causes the
answer.

    E_harm  low: benign, high: harmful; E_harm_message the same over the message (gate.py)
    E_fr    low: benign and answered, high: benign and refused
    E_jb    low: harmful and refused, high: harmful and answered
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edge_eds.energy.calibration import calibrate
from edge_eds.energy.network import GATE_HEADS, EnergyModel, HeadWeights, LayerEnergy, Subspace
from edge_eds.energy.settings import GateSpec
from edge_eds.energy.training import HeadRecipe, fit_subspace, train_head
from edge_eds.errors import InputError
from edge_eds.pipeline.collect import Collection
from edge_eds.pipeline.gate import train_gate

MIN_CLASS = 8  # fewer examples than this of a class, in training or validation, teach nothing
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class TrainSettings:
    """gate_from, gate_to: the layers that the gate reads, as fractions of the depth; gate_ridges: penalties to choose
    from; gate_folds: parts of the prompts that are left out in turn. steer_ranks: dimensions of the subspaces, each of
    which tuning may take; steer_from, steer_to: the candidate layers for steering, as fractions of the depth.
    """

    seed: int = 0
    gate_from: float = 0.12
    gate_to: float = 0.55
    gate_ridges: tuple[float, ...] = (0.05, 0.12, 0.3, 0.8)
    gate_folds: int = 6
    steer_ranks: tuple[int, ...] = (32, 64)
    steer_from: float = 0.55
    steer_to: float = 0.9
    steer_recipe: HeadRecipe = field(default_factory=HeadRecipe)


@dataclass(frozen=True)
class Labels:
    """The examples of a collection by what they are and what the model made of them; bool (n,) each."""

    train: BoolArray
    validation: BoolArray
    benign: BoolArray  # ordinary requests among them
    harmful: BoolArray
    ordinary: BoolArray
    refused: BoolArray
    answered: BoolArray

    @classmethod
    def of(cls, collection: Collection) -> Labels:
        """Labels of all examples; partial answers and broken text are neither refused nor answered."""

        def where(test: Callable[[object], bool], name: str) -> BoolArray:
            return np.array([test(getattr(example, name)) for example in collection.examples], dtype=bool)

        return cls(
            train=where(lambda split: split == "train", "split"),
            validation=where(lambda split: split == "validation", "split"),
            benign=where(lambda intent: intent != "harmful", "intent"),
            harmful=where(lambda intent: intent == "harmful", "intent"),
            ordinary=where(lambda intent: intent == "ordinary", "intent"),
            refused=where(lambda label: label == "refusal", "label"),
            answered=where(lambda label: label == "answer", "label"),
        )


@dataclass(frozen=True)
class HeadTask:
    """Which examples a head is trained on, and which of them are bad (high energy)."""

    rows: BoolArray
    bad: BoolArray


def head_tasks(labels: Labels) -> dict[str, HeadTask]:
    """The heads that these examples can teach: harm always, fr and jb where both of their classes occur."""
    judged = labels.refused | labels.answered
    tasks = {
        "harm": HeadTask(labels.benign | labels.harmful, labels.harmful),
        "fr": HeadTask(labels.benign & judged, labels.refused),
        "jb": HeadTask(labels.harmful & judged, labels.answered),
    }
    return {
        name: task
        for name, task in tasks.items()
        if all(
            (task.rows & part & side).sum() >= MIN_CLASS
            for part in (labels.train, labels.validation)
            for side in (task.bad, ~task.bad)
        )
    }


@dataclass(frozen=True)
class TrainedEnergies:
    """by_rank: all trained heads, {rank of the subspaces: energies}. gate: reads E_harm, which is the same in all.
    scores: AUC on validation, {head: {il: auc}} of the rank that ranks best, and "gate", that one out of fold.
    gate_scores: (n,) the gate's score of every example, out of fold too (gate.py says why).
    """

    by_rank: Mapping[int, EnergyModel]
    gate: GateSpec
    heads: tuple[str, ...]  # of "fr" and "jb"
    steer_layers: tuple[int, ...]
    scores: Mapping[str, Mapping[str, float]]
    gate_scores: npt.NDArray[np.float64]

    @property
    def energies(self) -> EnergyModel:
        """Those of one rank; for what does not depend on it."""
        return next(iter(self.by_rank.values()))


def train(
    collection: Collection,
    settings: TrainSettings | None = None,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> TrainedEnergies:
    """Train all energies of one model.

    Args:
        on_progress: called with (heads done, heads in all, what comes next).

    Raises:
        InputError: too few examples of a class, or of refusals and answers to steer from one to the other.
    """
    settings = settings or TrainSettings()
    labels = Labels.of(collection)
    tasks = head_tasks(labels)
    if "harm" not in tasks:
        raise InputError(
            f"the collection needs at least {MIN_CLASS} benign and harmful prompts in each split"
        )
    steered_heads = tuple(head for head in ("fr", "jb") if head in tasks)
    if not steered_heads:
        refused, judged = int(labels.refused.sum()), int((labels.refused | labels.answered).sum())
        raise InputError(
            f"the model refuses {refused} of {judged} requests; to learn from, expected at least {MIN_CLASS} refused "
            f"and {MIN_CLASS} answered ones in each split, of harmless or of harmful requests"
        )
    n_layer = collection.fingerprint.n_layer
    gate = train_gate(
        collection,
        _between(collection.layers, n_layer, settings.gate_from, settings.gate_to),
        labels.harmful,
        ~labels.ordinary,
        ridges=settings.gate_ridges,
        n_folds=settings.gate_folds,
        seed=settings.seed,
    )
    scores: dict[str, dict[str, float]] = {"gate": {"auc": gate.auc}}
    steer_layers = tuple(
        il
        for il in _between(collection.layers, n_layer, settings.steer_from, settings.steer_to)
        if il > max(gate.layers)
    )
    if not steer_layers:
        raise InputError(
            f"a model of {n_layer} layers leaves none to steer above the gate's layer {max(gate.layers)}"
        )
    n_train, n_embd = int(labels.train.sum()), collection.fingerprint.n_embd
    ranks = tuple(dict.fromkeys(min(rank, n_train - 1, n_embd // 2) for rank in settings.steer_ranks))
    jobs = [(rank, il, head) for rank in ranks for il in steer_layers for head in steered_heads]
    fitted = {il: fit_subspace(collection.layer(il)[labels.train], max(ranks)) for il in steer_layers}
    subspaces = {il: subspace.in_half_precision() for il, subspace in fitted.items()}
    heads: dict[tuple[int, int], dict[str, HeadWeights]] = {}
    for done, (rank, il, head) in enumerate(jobs):
        if on_progress:
            on_progress(done, len(jobs), f"E_{head} of layer {il}, rank {rank}")
        weights, score = _fit_head(collection, il, subspaces[il].first(rank), tasks[head], labels, settings)
        heads.setdefault((rank, il), {})[head] = weights
        its = scores.setdefault(head, {})
        its[str(il)] = max(score, its.get(str(il), 0.0))
    by_rank = {
        rank: EnergyModel(
            n_embd,
            dict(gate.layers)
            | {il: LayerEnergy(il, subspaces[il].first(r), its) for (r, il), its in heads.items() if r == rank},
        )
        for rank in ranks
    }
    return TrainedEnergies(by_rank, gate.spec, steered_heads, steer_layers, scores, gate.scores)


def gate_scores(collection: Collection, energies: EnergyModel, gate: GateSpec) -> npt.NDArray[np.float64]:
    """The score (n,) that the gate gives every example; of those that it was trained on, better than it is."""
    score = np.full(len(collection.examples), gate.bias)
    for head, states_of in zip(GATE_HEADS, (collection.layer, collection.message_layer), strict=True):
        for il, weight in gate.by_head[head].items():
            score += weight * energies.energy(il, head, states_of(il)).astype(np.float64)
    return score


def _between(layers: Sequence[int], n_layer: int, low: float, high: float) -> list[int]:
    return [il for il in layers if low * n_layer <= il <= high * n_layer]


def _fit_head(
    collection: Collection,
    il: int,
    subspace: Subspace,
    task: HeadTask,
    labels: Labels,
    settings: TrainSettings,
) -> tuple[HeadWeights, float]:
    """The calibrated head and its AUC on validation."""
    z = subspace.project(collection.layer(il))
    train_rows, valid_rows = task.rows & labels.train, task.rows & labels.validation
    trained = train_head(
        z[train_rows],
        task.bad[train_rows],
        z[valid_rows],
        task.bad[valid_rows],
        settings.steer_recipe,
        settings.seed,
    )
    return calibrate(trained.weights, z[valid_rows], task.bad[valid_rows]), trained.auc
