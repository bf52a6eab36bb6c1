"""Tuning: the log-odds, the front and the choice on it, with made-up scores, and the whole of it on a tiny model."""

from __future__ import annotations

import numpy as np
import pytest

from edge_eds.pipeline.gate_front import OPEN, GatePoint, choose_point, gate_front, reached


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
