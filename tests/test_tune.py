"""Tuning: the front and the choice on it, with made-up scores, and what tells which answers are to be steered."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from method_examples import make_collection
from runtime_examples import N_LAYER, TinyModel

from edge_eds.energy.training import HeadRecipe
from edge_eds.pipeline.gate_front import OPEN, GatePoint, choose_point, gate_front, reached
from edge_eds.pipeline.memo import Memo
from edge_eds.pipeline.train import TrainSettings, train
from edge_eds.pipeline.tune_bed import Schedule, TuneBed
from edge_eds.runtime.batch import BatchRunner
from edge_eds.runtime.energies import ModelFiles

ANSWER, REFUSAL, SORRY = 60, 50, 40  # first tokens


@pytest.mark.parametrize("head", ["fr", "jb"])
def test_the_front_begins_with_nothing_and_never_mends_less(head: str) -> None:
    rng = np.random.default_rng(0)
    side = 1 if head == "fr" else -1
    wrong, right = side * rng.normal(-1, 1, 40), side * rng.normal(1, 1, 50)
    changed_wrong, changed_right = rng.random(40) < 0.8, rng.random(50) < 0.5
    front = gate_front(head, wrong, changed_wrong, right, changed_right)
    assert (front[0].mended, front[0].lost, front[0].bound) == (0.0, 0.0, -side * OPEN)
    assert [point.mended for point in front] == sorted(point.mended for point in front)
    assert [point.lost for point in front] == sorted(point.lost for point in front)
    assert front[-1].mended == pytest.approx(changed_wrong.mean())
    # each point says what steering with its bound does
    for point in front[1:]:
        steered_wrong, steered_right = side * wrong <= side * point.bound, side * right <= side * point.bound
        assert point.mended == pytest.approx((steered_wrong & changed_wrong).mean())
        assert point.lost == pytest.approx((steered_right & changed_right).mean())


@pytest.mark.parametrize("head", ["fr", "jb"])
def test_what_no_bound_in_question_steers_need_not_be_asked(head: str) -> None:
    rng = np.random.default_rng(1)
    side = 1 if head == "fr" else -1
    wrong, right = side * rng.normal(-1, 1, 60), side * rng.normal(1, 1, 80)
    changed_wrong, changed_right = rng.random(60) < 0.8, rng.random(80) < 0.7
    whole = gate_front(head, wrong, changed_wrong, right, changed_right)
    known = [reached(head, scores, right, 0.15) for scores in (wrong, right)]
    assert 0.1 < known[1].mean() < 0.2
    part = gate_front(head, wrong, changed_wrong & known[0], right, changed_right & known[1])
    assert part == whole[: len(part)] and len(part) < len(whole)
    for share in (0.0, 0.02, 0.08):
        assert choose_point(part, share) == choose_point(whole, share)


def test_the_choice_mends_the_most_within_what_may_be_lost() -> None:
    front = [GatePoint(-OPEN, 0, 0), GatePoint(-2, 0.3, 0.0), GatePoint(-1, 0.5, 0.02), GatePoint(0, 0.9, 0.1)]
    assert choose_point(front, 0.0).bound == -2
    assert choose_point(front, 0.02).bound == -1
    assert choose_point(front, 1.0).bound == 0


@pytest.mark.parametrize(
    ("arch", "other_refusal", "looks"),
    [("llama", SORRY, True), ("llama", ANSWER, False), ("mamba", SORRY, False)],
    ids=["foreseen", "like answers", "recurrent"],
)
def test_answers_are_steered_by_the_outlook_or_else_above_a_threshold(
    tiny: TinyModel, arch: str, other_refusal: int, looks: bool
) -> None:
    path = tiny(arch, n_layer=N_LAYER)
    collection = make_collection(path)
    examples = [
        replace(one, first_token=ANSWER if one.label == "answer" else (REFUSAL, other_refusal)[i % 3 == 0])
        for i, one in enumerate(collection.examples)
    ]
    collection = replace(collection, examples=tuple(examples))
    recipe = HeadRecipe(hidden=(4,), epochs=2)
    trained = train(collection, TrainSettings(steer_ranks=(4,), steer_recipe=recipe))
    with BatchRunner(ModelFiles(path), n_ctx=96, n_threads=1, n_parallel=2) as runner:
        bed = TuneBed(runner, collection, trained, 0.05, Memo(None, None))
    spec = bed.spec_of(Schedule(rank=4, layers=trained.steer_layers[:1], steps=1, step_size=0.1))
    assert (spec.outlook is not None, spec.thresholds == {}) == (looks, looks)
    if spec.outlook is not None:
        assert spec.outlook.tokens == (SORRY, REFUSAL)
