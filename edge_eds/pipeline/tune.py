"""Energies -> steering: the layers, the force and the gate's bounds, found by steering the model itself.

Takes trained energies and the collection that they were trained on; gives complete settings. The test split is never
touched. Two questions, for E_fr and for E_jb:

    Where and how hard?  schedule_search.py, on validation prompts, with the gate held open. The first head that can be
                         tuned decides; both are descended with one schedule.
    When?                The gate's bounds: as many wrong answers mended as can be, while refusals of harmful prompts do
                         not fall in total (what E_fr loses, E_jb wins back) and hardly a benign answer turns into a
                         refusal. On prompts of both splits, by the gate's out-of-fold scores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from edge_eds.energy.settings import SteeringSpec
from edge_eds.pipeline.collect import Collection
from edge_eds.pipeline.gate_front import OPEN, GatePoint, choose_point, gate_front, reached
from edge_eds.pipeline.memo import Memo
from edge_eds.pipeline.schedule_search import Finalist, SearchSettings, sampled, search_schedule
from edge_eds.pipeline.train import TrainedEnergies
from edge_eds.pipeline.tune_bed import Schedule, TuneBed
from edge_eds.runtime.batch import BatchRunner

MIN_TUNED = 8  # fewer wrong answers than this cannot be tuned on
MAX_SHOWN_LOSS = 0.15  # bounds that steer more of the right answers than this are not looked at
UNTOUCHED = "untouched"  # in place of a label: no bound in question steers it


@dataclass(frozen=True)
class TuneSettings:
    """n_bound: prompts of each kind that the bounds are chosen on, answered with max_new_tokens. max_lost: share of
    true refusals that E_fr may lose in any case. won_back: share of the jailbroken answers that E_jb mends which E_fr
    may lose in their place. max_new_refusals: share of answered benign prompts that may be refused instead.
    threshold_quantile: share of the wrong answers whose energy may lie under the threshold, to be left alone, where
    there is no outlook: with a recurrent state, and where refusals begin like answers.
    """

    seed: int = 0
    search: SearchSettings = field(default_factory=SearchSettings)
    n_bound: int = 400
    max_new_tokens: int = 32
    max_lost: float = 0.02
    won_back: float = 0.75
    max_new_refusals: float = 0.01
    threshold_quantile: float = 0.05


@dataclass(frozen=True)
class HeadReport:
    """How one head was tuned, and what its bound mends and loses on n_wrong and n_right prompts."""

    head: str
    n_wrong: int  # refused benign (fr) or answered harmful (jb) prompts
    n_right: int  # refused harmful (fr) or answered benign (jb) prompts
    finalists: Sequence[Finalist]
    front: Sequence[GatePoint]
    chosen: GatePoint


@dataclass(frozen=True)
class TuneReport:
    """What tuning did. spec None: nothing was found that helps. rank: that of the energies to steer with."""

    spec: SteeringSpec | None
    rank: int = 0
    heads: Sequence[HeadReport] = field(default_factory=tuple)


def tune(
    runner: BatchRunner,
    collection: Collection,
    trained: TrainedEnergies,
    settings: TuneSettings | None = None,
    on_progress: Callable[[str], None] | None = None,
    memo: Memo | None = None,
) -> TuneReport:
    """Find out where, how hard and when to steer.

    Args:
        on_progress: called with what is tried next.
        memo: what an earlier run of the same tuning had finished.
    """
    settings = settings or TuneSettings()
    bed = TuneBed(runner, collection, trained, settings.threshold_quantile, memo or Memo(None, None))
    reports: dict[str, HeadReport] = {}
    schedule: Schedule | None = None
    for head in trained.heads:
        if len(bed.at_stake(head, validation_only=True).wrong) < MIN_TUNED:
            continue
        finalists: Sequence[Finalist] = ()
        if schedule is None:
            schedule, finalists = search_schedule(bed, head, settings.search, settings.seed, on_progress)
        if on_progress:
            on_progress(f"the gate's bound for E_{head}")
        reports[head] = _bound(bed, head, schedule, finalists, settings)
    if "fr" in reports and "jb" in reports:
        reports["fr"] = _balanced(bed, reports["fr"], reports["jb"], settings)
    reports = {head: report for head, report in reports.items() if report.chosen.mended > 0}
    if not reports or schedule is None:
        return TuneReport(None)
    return TuneReport(_final_spec(bed, schedule, reports), schedule.rank, tuple(reports.values()))


def _bound(
    bed: TuneBed, head: str, schedule: Schedule, finalists: Sequence[Finalist], settings: TuneSettings
) -> HeadReport:
    """The head's front over the gate's bounds, and the point that mends the most within what it may lose.

    Only prompts that some bound in question steers are answered: that is a few of the right ones.
    """
    at_stake = bed.at_stake(head, validation_only=False)
    wrong, right = (sampled(part, settings.n_bound, settings.seed) for part in (at_stake.wrong, at_stake.right))
    scores = bed.trained.gate_scores
    in_question = reached(head, scores, scores[right], max(MAX_SHOWN_LOSS, 2 * settings.max_lost))
    asked = np.concatenate([wrong[in_question[wrong]], right[in_question[right]]])
    labels = np.full(len(scores), UNTOUCHED)
    labels[asked] = bed.verdicts(asked, head, [schedule], settings.max_new_tokens)[0]
    changed = labels == ("answer" if head == "fr" else "refusal")
    # Of a harmful prompt, everything but a refusal is a refusal lost.
    spoiled = ~np.isin(labels, ("refusal", UNTOUCHED)) if head == "fr" else changed
    front = gate_front(head, scores[wrong], changed[wrong], scores[right], spoiled[right])
    chosen = choose_point(front, settings.max_new_refusals if head == "jb" else settings.max_lost)
    return HeadReport(head, len(wrong), len(right), finalists, front, chosen)


def _balanced(bed: TuneBed, fr: HeadReport, jb: HeadReport, settings: TuneSettings) -> HeadReport:
    """E_fr may lose what E_jb surely wins back: true refusals as a whole must not fall."""
    answered = len(bed.at_stake("jb", validation_only=False).wrong)
    refused = len(bed.at_stake("fr", validation_only=False).right)
    won_back = settings.won_back * jb.chosen.mended * answered / max(refused, 1)
    return replace(fr, chosen=choose_point(fr.front, max(settings.max_lost, won_back)))


def _final_spec(bed: TuneBed, schedule: Schedule, reports: Mapping[str, HeadReport]) -> SteeringSpec:
    benign = reports["fr"].chosen.bound if "fr" in reports else -OPEN
    harmful = reports["jb"].chosen.bound if "jb" in reports else OPEN
    spec = bed.spec_of(schedule)
    return replace(
        spec,
        gate=replace(bed.trained.gate, benign=min(benign, harmful), harmful=harmful),
        heads=tuple(reports),
        thresholds={
            head: {il: by_layer[il] for il in schedule.layers}
            for head, by_layer in spec.thresholds.items()
            if head in reports
        },
        targets={head: by_layer for head, by_layer in spec.targets.items() if head in reports and by_layer},
    )
