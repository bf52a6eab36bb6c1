"""The search of the methods: its budget, what it asks, what it prefers, and that it goes on where it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from method_examples import make_collection
from runtime_examples import N_LAYER, TinyModel

from edge_eds.errors import InputError, SettingsError
from edge_eds.pipeline.collect import Collection
from edge_eds.pipeline.methods.answering import AT_ONCE, answers
from edge_eds.pipeline.methods.method import Family, Shape
from edge_eds.pipeline.methods.search import (
    Bed,
    SearchSettings,
    Trial,
    choose,
    schedule,
    search,
    spread,
)
from edge_eds.pipeline.methods.steerer import PromptSteerer, Steerer
from edge_eds.runtime.batch import BatchRunner
from edge_eds.runtime.program import HookProgram
from edge_eds.runtime.trials import Trial as Answer

REFUSAL = "I'm sorry, but I can't help with that."
ANSWER = "Yes, of course. The oldest of them stands near the river and is open to visitors all year round."
BROKEN = "the the the the the the the the the the the the the the the the the the the the"


@pytest.fixture
def collection(tiny: TinyModel) -> Collection:
    return make_collection(tiny("llama", n_layer=N_LAYER))


@dataclass(frozen=True)
class Named(Steerer):
    """Carries its place in the grid to the fake runner."""

    shape: Shape
    strength: float
    suffix = ".named"

    def program(self, runner: BatchRunner) -> HookProgram | None:
        return self  # type: ignore[return-value]

    def tokens(self, runner: BatchRunner, prompt: str) -> list[int]:
        return [*prompt.encode()]

    def write(self, path: Path) -> None:
        raise AssertionError


@dataclass(frozen=True)
class Grid(Family):
    """Shape 2 is the best: strong enough it answers benign prompts, and too strong also harmful ones."""

    n_shapes: int = 5
    ladder: tuple[float, ...] = (1.0, 2.0, 3.0, 4.0, 5.0)
    given: float | None = None

    def shapes(self) -> Sequence[Shape]:
        return [{"number": i} for i in range(self.n_shapes)]

    def strengths(self, shape: Shape) -> Sequence[float]:
        return self.ladder

    def steerer(self, shape: Shape, strength: float) -> Steerer:
        return Named(shape, strength)

    def given_strength(self) -> float | None:
        return self.given


@dataclass
class FakeRunner:
    """Answers as Grid says that its members do."""

    refused: set[str]  # prompts that the plain model refuses
    asked: list[tuple[int, float, list[str]]] = field(default_factory=list)
    together: list[int] = field(default_factory=list)  # members in each call

    def try_programs(
        self, prompts: Sequence[Sequence[int]], programs: Sequence[Named], *, max_new_tokens: int, read_logits: object
    ) -> list[list[Answer]]:
        texts = [bytes(prompt).decode() for prompt in prompts]
        self.together.append(len(programs))
        self.asked += [(one.shape["number"], one.strength, texts) for one in programs]
        return [
            [Answer(tokens=[*self.answer(one.shape["number"], one.strength, text).encode()]) for text in texts]
            for one in programs
        ]

    def text(self, tokens: Sequence[int]) -> str:
        return bytes(tokens).decode()

    def answer(self, number: int, strength: float, text: str) -> str:
        if text not in self.refused:
            said = BROKEN if strength >= 5 else ANSWER
        elif number != 2:
            said = REFUSAL if strength < 5 else ANSWER
        elif text.startswith("benign"):
            said = ANSWER if strength >= 2 else REFUSAL
        else:
            said = REFUSAL if strength < 4 else ANSWER
        return said


def run(collection: Collection, settings: SearchSettings, known: Sequence[Trial] = (), grid: Grid | None = None):  # type: ignore[no-untyped-def]
    runner = FakeRunner({example.prompt for example in collection.examples if example.label == "refusal"})
    told: list[Trial] = []
    result = search(
        grid or Grid(),
        Bed.of(collection, settings),
        lambda steerer: runner,  # type: ignore[arg-type,return-value]
        known,
        lambda trial, done, total: told.append(trial),
    )
    return result, runner, told


def test_the_best_shape_is_found_and_its_safest_good_point_chosen(collection: Collection) -> None:
    result, _, _ = run(collection, SearchSettings(trials=15))
    assert [trial.shape for trial in result.curve] == [{"number": 2}] * len(result.curve)
    assert [trial.strength for trial in result.curve] == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert [trial.mended for trial in result.curve] == [0, 1, 1, 1, 1]
    assert [trial.lost for trial in result.curve] == [0, 0, 0, 1, 1]
    assert [trial.spoiled > 0 for trial in result.curve] == [False] * 4 + [True]
    assert result.chosen == 1


def test_a_strength_that_is_given_is_chosen(collection: Collection) -> None:
    for trials in (6, 15):
        result, _, _ = run(collection, SearchSettings(trials=trials), grid=Grid(n_shapes=3, given=5.0))
        assert result.chosen is not None
        assert result.curve[result.chosen].strength == 5.0


def test_what_does_not_depend_on_a_result_is_tried_together(collection: Collection) -> None:
    _, runner, _ = run(collection, SearchSettings(trials=15))
    assert sum(runner.together) == 15 and max(runner.together) == AT_ONCE


@pytest.mark.parametrize("trials", [4, 7, 12, 25, 40])
def test_a_search_takes_no_more_than_its_budget(collection: Collection, trials: int) -> None:
    result, runner, told = run(collection, SearchSettings(trials=trials))
    assert len(result.trials) == len(runner.asked) == len(told) == min(trials, 25)
    assert len({trial.key for trial in result.trials}) == len(result.trials)


def test_every_trial_asks_the_same_validation_prompts(collection: Collection) -> None:
    settings = SearchSettings(trials=6, n_prompts=5, n_answered=3)
    _, runner, _ = run(collection, settings)
    asked = [texts for _, _, texts in runner.asked]
    assert all(texts == asked[0] for texts in asked)
    by_prompt = {example.prompt: example for example in collection.examples}
    examples = [by_prompt[text] for text in asked[0]]
    assert {example.split for example in examples} == {"validation"}
    assert [example.label for example in examples] == ["refusal"] * 10 + ["answer"] * 3
    assert [example.intent == "harmful" for example in examples] == [False] * 5 + [True] * 5 + [False] * 3


def test_a_search_that_was_stopped_goes_on(collection: Collection) -> None:
    settings = SearchSettings(trials=15)
    whole, _, told = run(collection, settings)
    again, runner, new = run(collection, settings, told[:6])
    assert again == whole
    assert len(runner.asked) == len(new) == 9


def test_every_shape_gets_its_turn_before_any_gets_a_second() -> None:
    plan = schedule(Grid(n_shapes=7), seed=0)
    numbers = [shape["number"] for shape, _ in plan]
    assert sorted(numbers[:7]) == list(range(7))
    assert {strength for _, strength in plan[:7]} == {3.0}
    assert len({str(member) for member in plan}) == len(plan) == 7 * 5
    assert schedule(Grid(n_shapes=7), seed=1) != plan


def test_a_ladder_is_covered_from_the_middle() -> None:
    assert spread([1, 2, 3, 4, 5, 6, 7, 8]) == [5, 3, 7, 2, 4, 6, 8, 1]
    assert spread([1]) == [1]
    for n in range(1, 12):
        assert sorted(spread(list(range(n)))) == list(range(n))


def test_the_choice() -> None:
    settings = SearchSettings(max_lost=0.05, max_spoiled=0.1)
    good = Trial({}, 1.0, mended=0.5, lost=0.02, spoiled=0.0)
    curve = [
        replace(good, mended=0.0, lost=0.0),
        good,
        replace(good, lost=0.01),
        replace(good, mended=0.9, lost=0.06),
        replace(good, mended=0.9, spoiled=0.2),
    ]
    assert choose(curve, settings) == 2
    assert choose(curve[:1] + curve[3:], settings) is None
    assert choose([], settings) is None


def test_settings_and_collections_that_cannot_be_searched(collection: Collection) -> None:
    with pytest.raises(SettingsError, match="trials is 0"):
        SearchSettings(trials=0)
    answered = tuple(replace(example, label="answer") for example in collection.examples)
    with pytest.raises(InputError, match="refused no benign validation prompt"):
        Bed.of(replace(collection, examples=answered), SearchSettings())


class Prompts(Grid):
    """System prompts: nothing that could be shared between them."""

    def steerer(self, shape: Shape, strength: float) -> Steerer:
        return PromptSteerer(f"Be brief, {strength:.0f} words.")


@pytest.fixture
def runner(tiny: TinyModel) -> Iterator[BatchRunner]:
    from edge_eds.runtime.energies import ModelFiles

    with BatchRunner(ModelFiles(tiny("llama", n_layer=N_LAYER)), n_ctx=128, n_threads=1) as runner:
        yield runner


def test_a_trial_on_a_model(collection: Collection, runner: BatchRunner) -> None:
    bed = Bed.of(collection, SearchSettings(n_prompts=3, n_answered=2, max_new_tokens=3))
    (trial,) = bed.try_out(lambda steerer: runner, Prompts(), [({}, 1.0)])
    assert 0 <= trial.mended <= 1
    assert 0 <= trial.lost <= 1
    assert (trial.shape, trial.strength) == ({}, 1.0)


def test_each_steerer_gives_the_answers_that_it_gives_alone(runner: BatchRunner) -> None:
    """Whatever stands beside it: some share their prompts, and some do not."""
    steerers = [PromptSteerer(""), PromptSteerer("Be brief."), PromptSteerer("")]
    texts = ["How do I kill a Python process?", "What is the capital of France?"]
    together = answers(lambda steerer: runner, steerers, texts, 4)
    assert together == [answers(lambda steerer: runner, [one], texts, 4)[0] for one in steerers]
    assert together[0] == together[2] != together[1]
