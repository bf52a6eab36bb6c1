"""Energies -> steering: the layers, the force and the gate's bounds, found by steering the model itself.

Takes trained energies and the collection that they were trained on; gives complete settings. Works on the
validation prompts only, never on the test split. Three questions in turn, for E_fr and then for E_jb:

    1. Where? The window of layers at which a descent moves the next-token refusal log-odds the most, with the
    gate
       held open: down on refused benign prompts for E_fr, up on answered harmful prompts for E_jb.
    2. How hard? The smallest force that changes nearly as many answers as the largest one tried.
    3. When? The gate's bounds: as many wrong answers mended as can be, while refusals of harmful prompts do not
       fall in total (what E_fr loses, E_jb wins back) and hardly a benign answer turns into a refusal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from edge_eds.energy.file import EnergyFile
from edge_eds.energy.settings import Steering, SteeringSpec
from edge_eds.errors import InputError
from edge_eds.pipeline.collect import Collection
from edge_eds.pipeline.judge import judge
from edge_eds.pipeline.train import Labels, TrainedEnergies, gate_scores
from edge_eds.runtime.batch import BatchRunner, Generation

OPEN = 1e6  # a bound on the gate's score (log-odds) that no prompt reaches
MIN_TUNED = 8  # fewer wrong answers than this cannot be tuned on
FloatArray = npt.NDArray[np.float64]
IndexArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class TuneSettings:
    """max_lost: share of true refusals that E_fr may lose in any case. won_back: share of the jailbroken answers
    that E_jb mends on validation which E_fr may lose in their place. max_new_refusals: share of answered benign
    prompts that may be refused instead. n_search: prompts that layers and force are searched on.
    max_new_tokens: judged answers.
    """

    seed: int = 0
    n_search: int = 64
    max_new_tokens: int = 16
    max_lost: float = 0.02
    won_back: float = 0.75
    max_new_refusals: float = 0.01
    window: int = 3
    steps: int = 3
    step_sizes: tuple[float, ...] = (0.04, 0.07, 0.12)
    n_tokens: tuple[int, ...] = (1, 2, 3)
    decay: float = 0.6
    search_step_size: float = 0.05
    threshold_quantile: float = 0.05


@dataclass(frozen=True)
class GatePoint:
    """One choice of a bound: what it mends and what it loses, as fractions of the validation prompts at
    stake."""

    bound: float
    mended: float
    lost: float


@dataclass(frozen=True)
class HeadReport:
    """How one head was tuned. layer_effects: window's first layer -> mean change of the refusal log-odds."""

    head: str
    n_wrong: int  # refused benign (fr) or answered harmful (jb) prompts
    n_right: int  # refused harmful (fr) or answered benign (jb) prompts
    layer_effects: Mapping[int, float]
    forces: Sequence[tuple[float, int, float]]  # (step_size, n_tokens, share of wrong answers changed)
    front: Sequence[GatePoint]
    chosen: GatePoint


@dataclass(frozen=True)
class TuneReport:
    """What tuning did. spec None: nothing was found that helps."""

    spec: SteeringSpec | None
    heads: Sequence[HeadReport] = field(default_factory=tuple)


@dataclass(frozen=True)
class _Force:
    layers: tuple[int, ...]
    step_size: float
    n_tokens: int


class _Bed:
    """The validation prompts on the model, with the gate held open for one head."""

    def __init__(
        self, runner: BatchRunner, collection: Collection, trained: TrainedEnergies, settings: TuneSettings
    ) -> None:
        self.runner, self.collection, self.trained, self.settings = runner, collection, trained, settings
        self.labels = Labels.of(collection)
        self.refusal_tokens = _refusal_tokens(collection)
        spec = SteeringSpec(
            gate=replace(trained.gate, benign=-OPEN, harmful=OPEN),
            layers=trained.steer_layers,
            heads=trained.heads,
            steps=settings.steps,
            step_size=settings.search_step_size,
            thresholds=_thresholds(collection, trained, self.labels, settings.threshold_quantile),
            n_tokens=1,
            decay=settings.decay,
        )
        self.file = EnergyFile(collection.fingerprint, spec, trained.energies)
        runner.use_energy(self.file)

    def steering(self, head: str, force: _Force) -> Steering:
        """Every prompt is steered down this head."""
        bound = OPEN if head == "fr" else -OPEN
        return Steering(
            layers=force.layers,
            step_size=force.step_size,
            n_tokens=force.n_tokens,
            gate_benign=bound,
            gate_harmful=bound,
        )

    def generate(
        self, indices: IndexArray, steering: Steering | None, max_new_tokens: int, want_logits: bool = False
    ) -> list[Generation]:
        prompts = [self.runner.chat_tokens(self.collection.examples[i].prompt) for i in indices]
        return self.runner.generate(
            prompts, max_new_tokens=max_new_tokens, steering=steering, want_logits=want_logits
        )

    def log_odds(self, indices: IndexArray, steering: Steering | None) -> FloatArray:
        """Log-odds (n,) that the first token begins a refusal."""
        logits = [
            generation.first_logits for generation in self.generate(indices, steering, 1, want_logits=True)
        ]
        return np.array([refusal_log_odds(row, self.refusal_tokens) for row in logits if row is not None])

    def refused(self, indices: IndexArray, steering: Steering | None) -> npt.NDArray[np.bool_]:
        """Whether each answer (n,) refuses."""
        generations = self.generate(indices, steering, self.settings.max_new_tokens)
        examples = [self.collection.examples[i] for i in indices]
        return np.array(
            [
                judge(example.prompt, generation.text).label == "refusal"
                for example, generation in zip(examples, generations, strict=True)
            ]
        )


def tune(
    runner: BatchRunner,
    collection: Collection,
    trained: TrainedEnergies,
    settings: TuneSettings | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> TuneReport:
    """Find out where, how hard and when to steer.

    Args:
        on_progress: called with what is tried next.
    """
    settings = settings or TuneSettings()
    bed = _Bed(runner, collection, trained, settings)
    scores = gate_scores(collection, trained.energies, trained.gate)
    reports: dict[str, HeadReport] = {}
    force: _Force | None = None
    for head in trained.heads:
        wrong, right = _at_stake(bed.labels, head)
        if len(wrong) < MIN_TUNED:
            continue
        sample = _sample(wrong, settings.n_search, settings.seed)
        effects: dict[int, float] = {}
        forces: list[tuple[float, int, float]] = []
        if force is None:  # the first head that can be tuned decides; both are descended with one schedule
            effects = _layer_effects(bed, head, sample, on_progress)
            force, forces = _choose_force(
                bed, head, sample, _window(trained, min(effects, key=_key(effects)), settings), on_progress
            )
        if on_progress:
            on_progress(f"the gate's bound for E_{head}")
        steering = bed.steering(head, force)
        changed_wrong = bed.refused(wrong, steering) != (head == "fr")
        changed_right = bed.refused(right, steering) != (head == "fr")
        front = gate_front(head, scores[wrong], changed_wrong, scores[right], changed_right)
        chosen = choose_point(front, settings.max_new_refusals if head == "jb" else settings.max_lost)
        reports[head] = HeadReport(head, len(wrong), len(right), effects, forces, front, chosen)
    if "fr" in reports and "jb" in reports:
        reports["fr"] = _balanced(reports["fr"], reports["jb"], settings)
    reports = {head: report for head, report in reports.items() if report.chosen.mended > 0}
    if not reports or force is None:
        return TuneReport(None)
    return TuneReport(_final_spec(bed, force, reports), tuple(reports.values()))


def _balanced(fr: HeadReport, jb: HeadReport, settings: TuneSettings) -> HeadReport:
    """E_fr may lose what E_jb surely wins back: true refusals as a whole must not fall."""
    won_back = settings.won_back * jb.chosen.mended * jb.n_wrong / max(fr.n_right, 1)
    return replace(fr, chosen=choose_point(fr.front, max(settings.max_lost, won_back)))


def choose_point(front: Sequence[GatePoint], max_lost: float) -> GatePoint:
    """The point that mends the most among those that lose at most max_lost; the safer one of equals."""
    allowed = (point for point in front if point.lost <= max_lost)
    return max(allowed, key=lambda point: (point.mended, -point.lost))


def refusal_log_odds(logits: npt.NDArray[np.float32], refusal_tokens: IndexArray) -> float:
    """log p(refusal) - log p(anything else) for the next token, logits (n_vocab,)."""
    values = logits.astype(np.float64)
    mask = np.zeros(len(values), dtype=bool)
    mask[refusal_tokens] = True
    return float(np.logaddexp.reduce(values[mask]) - np.logaddexp.reduce(values[~mask]))


def _refusal_tokens(collection: Collection) -> IndexArray:
    """First tokens that refusals begin with, and answers mostly do not."""
    refusals: dict[int, int] = {}
    answers: dict[int, int] = {}
    for example in collection.examples:
        count = refusals if example.label == "refusal" else answers
        count[example.first_token] = count.get(example.first_token, 0) + 1
    total = sum(refusals.values())
    tokens = [token for token, n in refusals.items() if n >= 0.01 * total and n > answers.get(token, 0)]
    if not tokens:
        raise InputError(
            "the model's refusals begin with no tokens of their own, so steering cannot be searched by them"
        )
    return np.array(sorted(tokens))


def _thresholds(
    collection: Collection, trained: TrainedEnergies, labels: Labels, quantile: float
) -> dict[str, dict[int, float]]:
    """Energies that nearly all wrong answers are above: below them nothing is written."""
    thresholds: dict[str, dict[int, float]] = {}
    for head in trained.heads:
        wrong, _ = _at_stake(labels, head)
        thresholds[head] = {
            il: float(np.quantile(trained.energies.energy(il, head, collection.layer(il, wrong)), quantile))
            for il in trained.steer_layers
        }
    return thresholds


def _at_stake(labels: Labels, head: str) -> tuple[IndexArray, IndexArray]:
    """Validation prompts answered wrongly, which a head mends, and those that a mistaken gate would spoil."""
    if head == "fr":
        wrong, right = labels.benign & labels.refused, labels.harmful & labels.refused
    else:
        wrong, right = labels.harmful & labels.answered, labels.benign & labels.answered
    return np.flatnonzero(wrong & labels.validation), np.flatnonzero(right & labels.validation)


def _sample(indices: IndexArray, n: int, seed: int) -> IndexArray:
    return np.sort(np.random.default_rng(seed).permutation(indices)[:n])


def _key(effects: Mapping[int, float]) -> Callable[[int], float]:
    return lambda first: effects[first]


def _window(trained: TrainedEnergies, first: int, settings: TuneSettings) -> tuple[int, ...]:
    """Every second layer from `first` on."""
    at = trained.steer_layers.index(first)
    return trained.steer_layers[at : at + 2 * settings.window : 2][: settings.window]


def _layer_effects(
    bed: _Bed, head: str, sample: IndexArray, on_progress: Callable[[str], None] | None
) -> dict[int, float]:
    """First layer of each window -> mean change of the refusal log-odds in the wanted direction (low is
    good).
    """
    plain = bed.log_odds(sample, None)
    sign = 1 if head == "fr" else -1
    effects = {}
    layers = bed.trained.steer_layers
    for first in layers[: max(1, len(layers) - 2 * (bed.settings.window - 1))]:
        if on_progress:
            on_progress(f"layers from {first} on for E_{head}")
        force = _Force(_window(bed.trained, first, bed.settings), bed.settings.search_step_size, 1)
        effects[first] = sign * float((bed.log_odds(sample, bed.steering(head, force)) - plain).mean())
    return effects


def _choose_force(
    bed: _Bed,
    head: str,
    sample: IndexArray,
    layers: tuple[int, ...],
    on_progress: Callable[[str], None] | None,
) -> tuple[_Force, list[tuple[float, int, float]]]:
    """The smallest force that changes at least 95 % of what the most effective one changes."""
    grid = [
        _Force(layers, step_size, n_tokens)
        for step_size in bed.settings.step_sizes
        for n_tokens in bed.settings.n_tokens
    ]
    shares = []
    for force in grid:
        if on_progress:
            on_progress(f"steps of {force.step_size:g} |h| at {force.n_tokens} tokens for E_{head}")
        shares.append(float((bed.refused(sample, bed.steering(head, force)) != (head == "fr")).mean()))
    good = [i for i, share in enumerate(shares) if share >= 0.95 * max(shares)]
    best = min(
        good,
        key=lambda i: (grid[i].step_size * sum(bed.settings.decay**k for k in range(grid[i].n_tokens)), i),
    )
    return grid[best], [(f.step_size, f.n_tokens, share) for f, share in zip(grid, shares, strict=True)]


def gate_front(
    head: str,
    wrong_scores: FloatArray,
    changed_wrong: npt.NDArray[np.bool_],
    right_scores: FloatArray,
    changed_right: npt.NDArray[np.bool_],
) -> list[GatePoint]:
    """Every bound that matters, from the safest (nothing is steered) on."""
    side = 1 if head == "fr" else -1  # fr steers scores at or below its bound, jb those at or above
    bounds = [-side * OPEN, *sorted(set(wrong_scores[changed_wrong].tolist()), reverse=side < 0)]
    return [
        GatePoint(
            bound=float(bound),
            mended=float((changed_wrong & (side * wrong_scores <= side * bound)).mean()),
            lost=float((changed_right & (side * right_scores <= side * bound)).mean())
            if len(right_scores)
            else 0.0,
        )
        for bound in bounds
    ]


def _final_spec(bed: _Bed, force: _Force, reports: Mapping[str, HeadReport]) -> SteeringSpec:
    benign = reports["fr"].chosen.bound if "fr" in reports else -OPEN
    harmful = reports["jb"].chosen.bound if "jb" in reports else OPEN
    spec = bed.file.spec
    assert spec.gate is not None
    return replace(
        spec,
        gate=replace(spec.gate, benign=min(benign, harmful), harmful=harmful),
        layers=force.layers,
        heads=tuple(reports),
        step_size=force.step_size,
        n_tokens=force.n_tokens,
        thresholds={head: {il: spec.thresholds[head][il] for il in force.layers} for head in reports},
    )
