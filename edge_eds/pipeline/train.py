"""A collection -> energies: which layers, their subspaces, and the heads that the gate and the steering use.

Takes states with judged answers (collect.py); gives an EnergyModel with, on the gate's layers, E_harm, and on every
candidate layer for steering, E_fr and E_jb, and a calibrated gate. How strongly and where to steer is found by steering
the model itself (tune.py): a layer that classifies well need not be one that causes the answer.

    E_harm  low: benign, high: harmful
    E_fr    low: benign and answered, high: benign and refused
    E_jb    low: harmful and refused, high: harmful and answered
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edge_eds.energy.calibration import auc, calibrate, fit_logistic
from edge_eds.energy.network import EnergyModel, HeadWeights, LayerEnergy, Subspace
from edge_eds.energy.settings import GateSpec
from edge_eds.energy.training import HeadRecipe, fit_subspace, train_head
from edge_eds.errors import InputError
from edge_eds.pipeline.collect import Collection

MIN_CLASS = 8  # fewer examples than this of a class, in training or validation, teach nothing
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class TrainSettings:
    """gate_rank, steer_rank: dimensions of the subspaces. gate_layers: how many layers the gate reads.

    steer_from, steer_to: the candidate layers for steering, as fractions of the depth.
    """

    seed: int = 0
    gate_rank: int = 128
    steer_rank: int = 32
    gate_layers: int = 4
    gate_to: float = 0.7
    steer_from: float = 0.45
    steer_to: float = 0.9
    gate_recipe: HeadRecipe = field(default_factory=lambda: HeadRecipe(hidden=(64,), dropout=0.3, weight_decay=0.1))
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
    """energies: all trained heads. gate: reads E_harm. scores: AUC on validation, {head: {il: auc}} and "gate"."""

    energies: EnergyModel
    gate: GateSpec
    heads: tuple[str, ...]  # of "fr" and "jb"
    steer_layers: tuple[int, ...]
    scores: Mapping[str, Mapping[str, float]]


def train(
    collection: Collection,
    settings: TrainSettings | None = None,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> TrainedEnergies:
    """Train all energies of one model.

    Args:
        on_progress: called with (heads done, heads in all, what comes next).

    Raises:
        InputError: too few examples of a class.
    """
    settings = settings or TrainSettings()
    labels = Labels.of(collection)
    tasks = head_tasks(labels)
    if "harm" not in tasks:
        raise InputError(f"the collection needs at least {MIN_CLASS} benign and harmful prompts in each split")
    steered_heads = tuple(head for head in ("fr", "jb") if head in tasks)
    n_layer = collection.fingerprint.n_layer
    steer_layers = _between(collection.layers, n_layer, settings.steer_from, settings.steer_to)
    gate_candidates = [il for il in _between(collection.layers, n_layer, 0.2, settings.gate_to)]
    jobs = len(gate_candidates) + len(steer_layers) * len(steered_heads)
    done = 0

    def next_job(what: str) -> None:
        nonlocal done
        if on_progress:
            on_progress(done, jobs, what)
        done += 1

    harm: dict[int, tuple[Subspace, HeadWeights, float]] = {}
    for il in gate_candidates:
        next_job(f"gate, layer {il}")
        harm[il] = _fit_head(collection, il, tasks["harm"], labels, settings.gate_rank, settings.gate_recipe, settings.seed)
    gate_layers = _choose_gate_layers(collection, harm, labels, settings.gate_layers)
    layers = {il: LayerEnergy(il, harm[il][0], {"harm": harm[il][1]}) for il in gate_layers}
    scores: dict[str, dict[str, float]] = {"harm": {str(il): harm[il][2] for il in gate_candidates}}
    for il in steer_layers:
        subspace = layers[il].subspace if il in layers else None
        heads: dict[str, HeadWeights] = dict(layers[il].heads) if il in layers else {}
        for head in steered_heads:
            next_job(f"{head}, layer {il}")
            subspace, heads[head], score = _fit_head(
                collection, il, tasks[head], labels, settings.steer_rank, settings.steer_recipe, settings.seed, subspace
            )
            scores.setdefault(head, {})[str(il)] = score
        if heads:
            layers[il] = LayerEnergy(il, subspace, heads)
    energies = EnergyModel(collection.fingerprint.n_embd, layers)
    gate, gate_auc = _fit_gate(collection, energies, gate_layers, labels)
    scores["gate"] = {"auc": gate_auc}
    return TrainedEnergies(energies, gate, steered_heads, tuple(steer_layers), scores)


def gate_scores(collection: Collection, energies: EnergyModel, gate: GateSpec) -> npt.NDArray[np.float64]:
    """The gate's score (n,) of every example: the log-odds of harm, benign and harmful equally frequent."""
    score = np.full(len(collection.examples), gate.bias)
    for il, weight in gate.weights.items():
        score += weight * energies.energy(il, "harm", collection.layer(il)).astype(np.float64)
    return score


def _between(layers: Sequence[int], n_layer: int, low: float, high: float) -> list[int]:
    return [il for il in layers if low * n_layer <= il <= high * n_layer]


def _fit_head(
    collection: Collection,
    il: int,
    task: HeadTask,
    labels: Labels,
    rank: int,
    recipe: HeadRecipe,
    seed: int,
    subspace: Subspace | None = None,
) -> tuple[Subspace, HeadWeights, float]:
    states = collection.layer(il)
    if subspace is None:
        n_train = int(labels.train.sum())
        subspace = fit_subspace(states[labels.train], min(rank, n_train - 1, states.shape[1]))
    z = subspace.project(states)
    train_rows, valid_rows = task.rows & labels.train, task.rows & labels.validation
    trained = train_head(z[train_rows], task.bad[train_rows], z[valid_rows], task.bad[valid_rows], recipe, seed)
    return subspace, calibrate(trained.weights, z[valid_rows], task.bad[valid_rows]), trained.auc


def _choose_gate_layers(
    collection: Collection,
    harm: Mapping[int, tuple[Subspace, HeadWeights, float]],
    labels: Labels,
    n_layers: int,
) -> list[int]:
    """Forward selection: each layer that joins raises the AUC of the sum of E_harm on validation the most."""
    rows = labels.validation
    energies = {il: head.energy(space.project(collection.layer(il, rows))) for il, (space, head, _) in harm.items()}
    chosen: list[int] = []
    total = np.zeros(int(rows.sum()))
    best = 0.0
    while len(chosen) < min(n_layers, len(energies)):
        value, il = max((auc(total + energies[il], labels.harmful[rows]), il) for il in energies if il not in chosen)
        if value <= best:
            break
        best, total = value, total + energies[il]
        chosen.append(il)
    return sorted(chosen)


def _fit_gate(
    collection: Collection, energies: EnergyModel, gate_layers: Sequence[int], labels: Labels
) -> tuple[GateSpec, float]:
    """Join the layers' E_harm into one calibrated score; its bounds stay at 0 until they are tuned."""
    rows = labels.validation
    readings = np.column_stack([energies.energy(il, "harm", collection.layer(il, rows)) for il in gate_layers])
    # One weight for the mean of all: weights of their own would be fitted to few prompts.
    bias, (weight,) = fit_logistic(readings.mean(axis=1, keepdims=True), labels.harmful[rows])
    share = float(weight) / len(gate_layers)
    gate = GateSpec(bias=bias, weights={il: share for il in gate_layers}, benign=0.0, harmful=0.0)
    return gate, auc(readings.mean(axis=1), labels.harmful[rows])
