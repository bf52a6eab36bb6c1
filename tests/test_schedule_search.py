"""The search for a schedule, on a made-up model in which high layers turn first tokens and low ones whole answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edge_eds.pipeline.schedule_search import SearchSettings, search_schedule
from edge_eds.pipeline.tune_bed import AtStake, FloatArray, IndexArray, Schedule, StringArray

LAYERS = tuple(range(17, 28))
SETTINGS = SearchSettings(n_wrong=20, n_alone=10, first_trials=48, finalists=4)


@dataclass
class MadeUpBed:
    """Of the wrong answers, `lasting(schedule)` are mended; the higher the first layer, the better the first token."""

    damage: float = 0.0
    lasts_from: float = 0.0  # a step as long as this lasts
    asked: list[Schedule] = field(default_factory=list)  # schedules that answered
    tried: list[Schedule] = field(default_factory=list)
    trained: Any = field(default_factory=lambda: SimpleNamespace(steer_layers=LAYERS, by_rank={32: None, 64: None}))

    def at_stake(self, head: str, *, validation_only: bool) -> AtStake:
        assert validation_only
        return AtStake(wrong=np.arange(40), right=np.arange(40, 60), alone=np.arange(60, 80))

    def first_tokens(
        self, indices: IndexArray, head: str, schedules: Sequence[Schedule]
    ) -> list[tuple[FloatArray, FloatArray]]:
        self.tried += schedules
        return [
            (np.full(len(indices), 10.0 - one.layers[0]), np.full(len(indices), self.damage)) for one in schedules
        ]

    def verdicts(
        self, indices: IndexArray, head: str, schedules: Sequence[Schedule], max_new_tokens: int
    ) -> list[StringArray]:
        self.asked += schedules
        return [np.array(["answer" if i < 40 * self.lasting(one) or i >= 60 else "refusal" for i in indices])
                for one in schedules]  # fmt: skip

    def lasting(self, schedule: Schedule) -> float:
        if schedule.layers[0] >= 20:
            return 0.4
        return 0.9 if schedule.step_size >= self.lasts_from else 0.6


def search(bed: MadeUpBed, settings: SearchSettings = SETTINGS, seed: int = 0) -> tuple[Schedule, Any]:
    return search_schedule(bed, "fr", settings, seed)  # type: ignore[arg-type]


def test_whole_answers_decide_between_the_depths() -> None:
    bed = MadeUpBed()
    chosen, finalists = search(bed)
    assert chosen.layers[0] < 20
    assert finalists[0].mended > max(one.mended for one in finalists if one.schedule.layers[0] >= 20)
    # by the first token alone it would have been another
    assert max(one.layers[0] for one in bed.tried) > 23


def test_every_depth_has_one_finalist_and_the_best_is_asked_with_more_force_and_every_number_of_tokens() -> None:
    bed = MadeUpBed()
    _, finalists = search(bed)
    assert len(finalists) == len(bed.asked)
    by_depth, forced, others = bed.asked[:4], bed.asked[4:-4], bed.asked[-4:]
    best = max(by_depth, key=bed.lasting)
    wanted = [force for force in SETTINGS.forces if force > 1 or best.stop_at is not None]
    assert [one.step_size / best.step_size for one in forced] == pytest.approx(wanted, rel=0.01)
    assert {replace(one, step_size=best.step_size) for one in forced} == {replace(best, stop_at=None)}
    edges = [part[0] for part in np.array_split(np.array(LAYERS), 4)]
    assert [int(np.searchsorted(edges, one.layers[0], side="right")) for one in by_depth] == [1, 2, 3, 4]
    assert {(one.n_tokens, one.decay) for one in by_depth} == {SETTINGS.tokens[0]}
    assert [(one.n_tokens, one.decay) for one in others] == list(SETTINGS.tokens[1:])
    assert {replace(one, n_tokens=1, decay=1.0) for one in others} == {replace(best, n_tokens=1, decay=1.0)}


def test_more_force_is_taken_where_answers_need_it_and_only_there() -> None:
    enough, _ = search(MadeUpBed())
    weak = MadeUpBed(lasts_from=1.5 * enough.step_size)
    chosen, _ = search(weak)
    assert weak.lasting(chosen) == 0.9 and chosen.step_size > enough.step_size


def test_of_equals_the_smallest_force_is_chosen() -> None:
    chosen, finalists = search(MadeUpBed())
    equals = [one.schedule.force for one in finalists if one.value == finalists[0].value]
    assert len(equals) > 1 and chosen.force == min(equals)


def test_damage_to_right_answers_counts_against_a_finalist() -> None:
    _, finalists = search(MadeUpBed(damage=0.4))
    assert {one.kl for one in finalists} == {0.4}
    assert finalists[0].value == pytest.approx(finalists[0].mended - 0.5 * 0.4)


def test_the_same_seed_gives_the_same_search_and_another_one_another() -> None:
    one, same, other = (MadeUpBed() for _ in range(3))
    assert search(one)[0] == search(same)[0] and one.tried == same.tried
    search(other, seed=1)
    assert other.tried != one.tried


@pytest.mark.parametrize(("finalists", "tokens"), [(1, ((1, 1.0),)), (30, ((2, 0.5),))])
def test_the_smallest_and_more_depths_than_layers(finalists: int, tokens: tuple[tuple[int, float], ...]) -> None:
    bed = MadeUpBed()
    chosen, found = search(bed, replace(SETTINGS, finalists=finalists, forces=(), tokens=tokens))
    assert chosen in [one.schedule for one in found]
    assert len(bed.asked) == min(finalists, len(LAYERS))
