"""What an intervention does to rows, on real llama.cpp: which rows, how much, and what if it cannot."""

from __future__ import annotations

import ctypes
import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pytest
from energy_examples import make_head, make_subspace
from llama_cpp import Llama
from llama_cpp import llama_cpp as llama_api
from runtime_examples import (
    ARCHITECTURES,
    N_EMBD,
    N_LAYER,
    RANK,
    SETTINGS,
    Floats,
    TinyModel,
    answer,
    evaluate,
    last_logits,
    make_energies,
    make_prompt,
    tolerance,
)

from edge_eds import EdgeLlama, Steering
from edge_eds.energy.network import LayerEnergy
from edge_eds.errors import SettingsError, SteeringError
from edge_eds.runtime.interventions import AblateDirection, AddLowRank, AddVector, EnergyDescent

PROMPT = make_prompt(23)
THEN = make_prompt(4, seed=1)
VECTOR = np.random.default_rng(5).normal(size=N_EMBD).astype(np.float32)
MIDDLE = 3
BATCHES = [(512, 512), (512, 3), (16, 7), (7, 512), (1, 1)]


@pytest.fixture
def llm(tiny: TinyModel) -> Iterator[EdgeLlama]:
    """An unsteered session of a llama model."""
    with closing(EdgeLlama(tiny("llama", n_layer=N_LAYER), energy=None, **SETTINGS)) as llm:
        yield llm


# -- values


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_adding_a_vector_is_llama_cpps_control_vector(tiny: TinyModel, arch: str) -> None:
    """Bit for bit, at every layer that can be steered; control vectors cannot name layer 0."""
    path = tiny(arch, n_layer=N_LAYER)
    settings = {**SETTINGS, "n_batch": 16, "n_ubatch": 7}
    with (
        closing(EdgeLlama(path, energy=None, **settings)) as llm,
        closing(Llama(str(path), **settings)) as plain,
    ):
        without = evaluate(plain, PROMPT, THEN)
        for il in range(1, N_LAYER - 1):
            # (n_layer - 1, n_embd): the rows of layers 1 to n_layer - 1
            data = np.zeros((N_LAYER - 1, N_EMBD), dtype=np.float32)
            data[il - 1] = VECTOR
            assert set_control_vector(plain, data) == 0
            expected = evaluate(plain, PROMPT, THEN)
            assert not np.array_equal(expected, without)
            with llm.intervening({il: AddVector(VECTOR)}):
                assert np.array_equal(evaluate(llm, PROMPT, THEN), expected), f"layer {il}"


def set_control_vector(llm: Llama, data: Floats) -> int:
    pointer = data.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    return int(llama_api.llama_set_adapter_cvec(llm.ctx, pointer, data.size, N_EMBD, 1, N_LAYER - 1))


def test_several_vectors_are_one_control_vector(tiny: TinyModel) -> None:
    path = tiny("llama", n_layer=N_LAYER)
    data = np.random.default_rng(1).normal(size=(N_LAYER - 1, N_EMBD)).astype(np.float32)
    data[-1] = 0  # the last layer cannot be steered
    with (
        closing(EdgeLlama(path, energy=None, **SETTINGS)) as llm,
        closing(Llama(str(path), **SETTINGS)) as plain,
    ):
        set_control_vector(plain, data)
        with llm.intervening({il: AddVector(data[il - 1]) for il in range(1, N_LAYER - 1)}):
            assert np.array_equal(evaluate(llm, PROMPT, THEN), evaluate(plain, PROMPT, THEN))


def test_scaling_a_vector_and_taking_it_back(llm: EdgeLlama) -> None:
    plain = evaluate(llm, PROMPT)
    with llm.intervening({MIDDLE: AddVector(VECTOR, scale=2.5)}):
        scaled = evaluate(llm, PROMPT)
    with llm.intervening({MIDDLE: AddVector(VECTOR * np.float32(2.5))}):
        assert np.array_equal(evaluate(llm, PROMPT), scaled)
    with llm.intervening({MIDDLE: [AddVector(VECTOR), AddVector(VECTOR, scale=-1)]}):
        assert np.abs(evaluate(llm, PROMPT) - plain).max() < tolerance("llama")
    assert np.abs(scaled - plain).max() > 100 * tolerance("llama")


def test_ablation_leaves_nothing_of_a_direction(llm: EdgeLlama) -> None:
    before = llm.capture(PROMPT)
    unit = VECTOR.astype(np.float64) / np.linalg.norm(VECTOR)
    with llm.intervening({MIDDLE: AblateDirection(7 * VECTOR)}):
        ablated = llm.capture(PROMPT)
    with llm.intervening({MIDDLE: AblateDirection(VECTOR, amount=0.5)}):
        halved = llm.capture(PROMPT)
    along = before[MIDDLE] @ unit  # (n_tokens,)
    assert np.abs(along).max() > 0.1
    assert np.abs(ablated[MIDDLE] @ unit).max() < 1e-5
    np.testing.assert_allclose(halved[MIDDLE], before[MIDDLE] - 0.5 * np.outer(along, unit), atol=1e-5)
    np.testing.assert_allclose(ablated[MIDDLE], before[MIDDLE] - np.outer(along, unit), atol=1e-5)


def test_a_low_rank_map_adds_what_the_row_says(llm: EdgeLlama) -> None:
    rng = np.random.default_rng(3)
    up, down, bias = rng.normal(size=(N_EMBD, 2)), rng.normal(size=(2, N_EMBD)), np.array([0.5, -2.0])
    before = llm.capture(PROMPT, [MIDDLE])[MIDDLE].astype(np.float64)
    with llm.intervening({MIDDLE: AddLowRank(up, down, bias, scale=0.3)}):
        after = llm.capture(PROMPT, [MIDDLE])[MIDDLE]
    np.testing.assert_allclose(after, before + 0.3 * (before @ down.T + bias) @ up.T, atol=1e-4)


def test_ablation_and_addition_are_low_rank_maps(llm: EdgeLlama) -> None:
    unit = VECTOR / np.linalg.norm(VECTOR)
    none = np.zeros((1, N_EMBD))
    for one, other in (
        (AblateDirection(VECTOR), AddLowRank(-unit[:, None], unit[None])),
        (AddVector(VECTOR, rows="answer"), AddLowRank(VECTOR[:, None], none, np.ones(1), rows="answer")),
    ):
        with llm.intervening({MIDDLE: one}):
            expected = evaluate(llm, PROMPT, THEN)
        with llm.intervening({MIDDLE: other}):
            assert np.abs(evaluate(llm, PROMPT, THEN) - expected).max() < tolerance("llama")


def test_a_low_rank_map_that_is_none() -> None:
    up, down = np.ones((N_EMBD, 2)), np.ones((2, N_EMBD))
    for bad in ((down, down), (up, up), (up, down[0]), (up, down, np.ones(3)), (up[:, :0], down[:0])):
        with pytest.raises(SettingsError, match="expected up"):
            AddLowRank(*bad)
    with pytest.raises(SettingsError, match="finite"):
        AddLowRank(up, down * np.nan)


def test_a_function_gives_what_the_same_intervention_gives(llm: EdgeLlama) -> None:
    def in_place(rows: Floats) -> None:
        rows += VECTOR

    with llm.intervening({MIDDLE: AddVector(VECTOR)}):
        expected = evaluate(llm, PROMPT, THEN)
    with llm.intervening({MIDDLE: in_place}):
        assert np.array_equal(evaluate(llm, PROMPT, THEN), expected)
    with llm.intervening({MIDDLE: lambda rows: rows + VECTOR}):
        assert np.array_equal(evaluate(llm, PROMPT, THEN), expected)


def test_interventions_of_a_layer_come_in_the_order_given(llm: EdgeLlama) -> None:
    add, ablate = AddVector(VECTOR), AblateDirection(VECTOR)
    with llm.intervening({MIDDLE: [add, ablate]}):
        added_first = llm.capture(PROMPT, [MIDDLE])[MIDDLE]
    with llm.intervening({MIDDLE: (ablate, add)}):
        ablated_first = llm.capture(PROMPT, [MIDDLE])[MIDDLE]
    np.testing.assert_allclose(ablated_first - added_first, np.tile(VECTOR, (len(PROMPT), 1)), atol=1e-5)


def descent(il: int = MIDDLE, **settings: Any) -> EnergyDescent:
    energy = LayerEnergy(il, make_subspace(N_EMBD, RANK, il), {"fr": make_head(RANK, (16,), True, 9)})
    return EnergyDescent(energy, **{"steps": 4, "step_size": 0.1, **settings})


@pytest.mark.parametrize("covariance", [True, False])
@pytest.mark.parametrize("relative", [True, False])
def test_a_descent_is_the_closed_form(llm: EdgeLlama, covariance: bool, relative: bool) -> None:
    """The energy before is that of the captured row; the row after is what the closed form makes of it."""
    step = {"steps": 4, "step_size": 0.1, "covariance": covariance, "relative": relative, "max_shift": 0.3}
    before = llm.capture(PROMPT, [MIDDLE])[MIDDLE]
    edit = descent(**step)
    expected = edit.energy.descend("fr", before[-1:], **step)
    with llm.intervening({MIDDLE: edit}):
        after = llm.capture(PROMPT, [MIDDLE])[MIDDLE]
        evaluate(llm, PROMPT)
        assert len(llm.last_trace.records) == 1  # the capture's own was dropped
        (token,) = llm.last_trace.tokens()
        assert llm.last_trace.gate == "ungated"
    np.testing.assert_allclose(after[-1:], expected.H, rtol=1e-4, atol=1e-5)
    assert np.array_equal(after[:-1], before[:-1])
    assert token.energy_before == pytest.approx(float(expected.energy_before[0]), rel=1e-4)
    assert token.energy_after == pytest.approx(float(expected.energy_after[0]), rel=1e-4)
    assert token.energy_after < token.energy_before


def test_a_descent_leaves_rows_at_its_threshold(llm: EdgeLlama) -> None:
    plain = evaluate(llm, PROMPT)
    with llm.intervening({MIDDLE: descent()}):
        assert not np.array_equal(evaluate(llm, PROMPT), plain)
        energy = llm.last_trace.records["energy_before"][0]
    with llm.intervening({MIDDLE: descent(threshold=float(energy))}):
        assert np.array_equal(evaluate(llm, PROMPT), plain)
    with llm.intervening({MIDDLE: descent(threshold=float(np.nextafter(energy, np.float32(-np.inf))))}):
        assert not np.array_equal(evaluate(llm, PROMPT), plain)


# -- rows


@pytest.mark.parametrize(("n_batch", "n_ubatch"), BATCHES)
@pytest.mark.parametrize("arch", ["llama", "gemma3", "qwen3moe", "mamba", "lfm2"])
@pytest.mark.parametrize("rows", ["all", "answer"])
def test_rows_do_not_depend_on_how_a_prompt_is_cut(
    tiny: TinyModel, arch: str, rows: Any, n_batch: int, n_ubatch: int
) -> None:
    path = tiny(arch, n_layer=N_LAYER)
    interventions = {1: AddVector(3 * VECTOR, rows=rows), MIDDLE: AblateDirection(VECTOR, rows=rows)}

    def run(n_batch: int, n_ubatch: int) -> tuple[dict[int, Floats], Floats]:
        settings = {**SETTINGS, "n_batch": n_batch, "n_ubatch": n_ubatch}
        with closing(EdgeLlama(path, energy=None, **settings)) as llm, llm.intervening(interventions):
            return llm.capture(PROMPT, range(N_LAYER - 1)), evaluate(llm, PROMPT, THEN)

    captured, logits = run(n_batch, n_ubatch)
    expected, expected_logits = run(512, 512)
    for il, values in captured.items():
        assert np.abs(values - expected[il]).max() < tolerance(arch), f"layer {il}"
    assert np.abs(logits - expected_logits).max() < tolerance(arch)


@pytest.mark.parametrize(("n_batch", "n_ubatch"), BATCHES)
def test_answer_rows_begin_at_the_prompts_last(tiny: TinyModel, n_batch: int, n_ubatch: int) -> None:
    """At the last layer that can be edited nothing of the edit has come back through later layers yet."""
    il = N_LAYER - 2
    settings = {**SETTINGS, "n_batch": n_batch, "n_ubatch": n_ubatch}
    with closing(EdgeLlama(tiny("llama", n_layer=N_LAYER), energy=None, **settings)) as llm:
        before = llm.capture(PROMPT, [il])[il]
        with llm.intervening({il: AddVector(VECTOR, rows="answer")}):
            after = llm.capture(PROMPT, [il])[il]
    assert np.array_equal(after[:-1], before[:-1])
    assert np.array_equal(after[-1], before[-1] + VECTOR)


def test_a_function_is_given_every_row_once(tiny: TinyModel) -> None:
    given: list[Floats] = []
    settings = {**SETTINGS, "n_batch": 16, "n_ubatch": 7}
    with closing(EdgeLlama(tiny("llama", n_layer=N_LAYER), energy=None, **settings)) as llm:
        expected = llm.capture(PROMPT, [MIDDLE])[MIDDLE]
        with llm.intervening({MIDDLE: given.append}):
            evaluate(llm, PROMPT, THEN)
    assert [len(rows) for rows in given] == [7, 7, 2, 7, 1, 1, 1, 1]
    assert np.array_equal(np.concatenate(given)[: len(PROMPT)], expected)


def test_every_token_of_an_answer_is_edited(llm: EdgeLlama) -> None:
    """After a prompt of one token, the rows of the answer are all rows."""
    il = MIDDLE
    with llm.intervening({il: AddVector(VECTOR, rows="answer")}):
        one_token = evaluate(llm, PROMPT[:1], PROMPT[1:])
    with llm.intervening({il: AddVector(VECTOR)}):
        everywhere = evaluate(llm, PROMPT[:1], PROMPT[1:])
    assert np.array_equal(one_token, everywhere)


def test_only_later_layers_see_an_edit(llm: EdgeLlama) -> None:
    before = llm.capture(PROMPT)
    with llm.intervening({MIDDLE: AddVector(VECTOR)}):
        after = llm.capture(PROMPT)
    for il in range(N_LAYER):
        assert np.array_equal(after[il], before[il]) == (il < MIDDLE)


def test_interventions_take_the_place_of_steering(tiny: TinyModel) -> None:
    path = tiny("llama", n_layer=N_LAYER)
    with closing(EdgeLlama(path, energy=None, **SETTINGS)) as plain:
        expected = answer(plain, PROMPT)
    with closing(EdgeLlama(path, energy=make_energies(path), **SETTINGS)) as llm:
        steered = answer(llm, PROMPT)
        with llm.intervening({}):
            assert answer(llm, PROMPT).same_bits(expected)
            with llm.steered(Steering()):
                assert answer(llm, PROMPT).same_bits(steered)
        assert answer(llm, PROMPT).is_close(steered)


# -- what goes wrong


class OurError(Exception):
    """Raised by an intervention."""


def raising(after: int = 0) -> Callable[[Floats], None]:
    """A function that raises at its call number `after`."""
    calls = [0]

    def function(rows: Floats) -> None:
        calls[0] += 1
        if calls[0] > after:
            raise OurError("on purpose")

    return function


FAILURES: dict[str, tuple[Callable[[], Any], type[BaseException]]] = {
    "raises": (raising, OurError),
    "raises in the second piece": (lambda: raising(after=1), OurError),
    "interrupted": (lambda: raise_interrupt, KeyboardInterrupt),
    "NaN": (lambda: lambda rows: rows * np.nan, SteeringError),
    "NaN in place": (lambda: fill_with_nan, SteeringError),
    "infinite": (lambda: lambda rows: rows + np.inf, SteeringError),
    "fewer rows": (lambda: lambda rows: rows[:-1], SteeringError),
    "narrower": (lambda: lambda rows: rows[:, :-1], SteeringError),
    "a vector": (lambda: lambda rows: rows[0], SteeringError),
    "a number": (lambda: lambda rows: 3, SteeringError),
    "text": (lambda: lambda rows: "rows", SteeringError),
}


def raise_interrupt(rows: Floats) -> None:
    raise KeyboardInterrupt


def fill_with_nan(rows: Floats) -> None:
    rows[-1, 3] = np.nan


@pytest.mark.parametrize("arch", ["llama", "mamba", "jamba"])
@pytest.mark.parametrize("failure", FAILURES)
def test_a_failing_function_raises_and_the_session_stays_usable(tiny: TinyModel, arch: str, failure: str) -> None:
    path = tiny(arch, n_layer=N_LAYER)
    settings = {**SETTINGS, "n_batch": 16, "n_ubatch": 7}
    with closing(Llama(str(path), **settings)) as plain:
        expected = answer(plain, PROMPT)
        expected_logits = evaluate(plain, PROMPT, THEN)
    make, error = FAILURES[failure]
    with closing(EdgeLlama(path, energy=None, **settings)) as llm:
        llm.create_completion(PROMPT, max_tokens=3, temperature=0)
        with pytest.raises(error), llm.intervening({MIDDLE: make()}):
            answer(llm, PROMPT)
        assert answer(llm, PROMPT).same_bits(expected)
        with llm.intervening({MIDDLE: make()}):
            with pytest.raises(error):
                evaluate(llm, PROMPT)
            with pytest.raises(error):
                llm.capture(PROMPT, [MIDDLE])
        assert np.array_equal(evaluate(llm, PROMPT, THEN), expected_logits)
        assert answer(llm, PROMPT).is_close(expected)


def test_a_function_that_fails_in_the_middle_of_an_answer(llm: EdgeLlama) -> None:
    """The tokens until then are right, and so is the same prompt asked again in the same `with`."""
    calls, failing = [0], [True]

    def function(rows: Floats) -> None:
        calls[0] += 1
        if failing[0] and calls[0] == 4:
            raise OurError

    expected = answer(llm, PROMPT)
    with llm.intervening({MIDDLE: function}):
        tokens = []
        with pytest.raises(OurError):
            for token in llm.generate(PROMPT, temp=0.0):
                tokens.append(token)
        assert tokens == expected.tokens[:3]
        failing[0] = False
        assert answer(llm, PROMPT).same_bits(expected)


@pytest.mark.parametrize("n_batch", [512, 2])
def test_what_failed_can_be_evaluated_again(tiny: TinyModel, n_batch: int) -> None:
    """The timeline ends where it ended before the decode that failed."""
    failing = [True]

    def function(rows: Floats) -> None:
        if failing[0]:
            raise OurError

    path = tiny("llama", n_layer=N_LAYER)
    with closing(EdgeLlama(path, energy=None, n_batch=n_batch, **SETTINGS)) as llm:
        llm.eval(PROMPT)
        llm.eval(THEN)
        expected = last_logits(llm)
        llm.reset()
        llm.eval(PROMPT)
        with llm.intervening({MIDDLE: function}):
            with pytest.raises(OurError):
                llm.eval(THEN)
            assert llm.n_tokens == len(PROMPT)
            failing[0] = False
            llm.eval(THEN)
        assert np.array_equal(last_logits(llm), expected)


def test_a_failed_descent_leaves_no_trace(llm: EdgeLlama) -> None:
    with llm.intervening({1: descent(1), MIDDLE: raising(after=1)}):
        answer(llm, PROMPT, n=1)
        n_records = len(llm.last_trace.records)
        with pytest.raises(OurError):
            answer(llm, make_prompt(9, seed=2), n=1)
    with llm.intervening({1: descent(1)}):
        answer(llm, PROMPT, n=1)
        assert len(llm.last_trace.records) == n_records == 1


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (N_LAYER - 1, "it is the last layer"),
        (N_LAYER, f"the model has layers 0 to {N_LAYER - 1}"),
        (-1, f"the model has layers 0 to {N_LAYER - 1}"),
    ],
)
def test_a_layer_that_cannot_be_edited(llm: EdgeLlama, layer: int, reason: str) -> None:
    expected = answer(llm, PROMPT)
    for intervention in (AddVector(VECTOR), AblateDirection(VECTOR), descent(), lambda rows: None):
        with pytest.raises(SteeringError, match=reason), llm.intervening({layer: intervention}):
            pass
    assert answer(llm, PROMPT).is_close(expected)


@pytest.mark.parametrize(
    "intervention",
    [
        AddVector(VECTOR[:-1]),
        AblateDirection(np.ones(N_EMBD + 1)),
        EnergyDescent(LayerEnergy(1, make_subspace(N_EMBD // 2, 4), {"fr": make_head(4, (), False, 0)})),
        "a text",
        None,
        VECTOR,
    ],
)
def test_an_intervention_that_does_not_fit(llm: EdgeLlama, intervention: Any) -> None:
    expected = answer(llm, PROMPT)
    with pytest.raises(SettingsError, match=f"layer {MIDDLE}"), llm.intervening({MIDDLE: intervention}):
        pass
    assert answer(llm, PROMPT).is_close(expected)


def test_descents_of_different_steps(llm: EdgeLlama) -> None:
    interventions = {1: descent(1), 2: descent(2, steps=9)}
    with pytest.raises(SettingsError, match="share"), llm.intervening(interventions):
        pass


@pytest.mark.parametrize(
    "make",
    [
        lambda: AddVector([np.nan]),
        lambda: AddVector([[1.0]]),
        lambda: AddVector([]),
        lambda: AddVector([1.0], scale=np.inf),
        lambda: AddVector([1.0], rows="prompt"),
        lambda: AblateDirection([0.0, 0.0]),
        lambda: AblateDirection([1.0], amount=np.nan),
        lambda: descent(head="jb"),
        lambda: descent(steps=0),
        lambda: descent(step_size=-1.0),
        lambda: descent(max_shift=np.nan),
        lambda: descent(threshold=np.nan),
    ],
)
def test_values_out_of_range(make: Callable[[], Any]) -> None:
    with pytest.raises(SettingsError):
        make()


def test_a_function_that_holds_its_session_can_be_collected(tiny: TinyModel) -> None:
    def session_with_a_function(inside: bool) -> Any:
        llm = EdgeLlama(tiny("llama", n_layer=N_LAYER), energy=None, **SETTINGS)
        context = llm.intervening({MIDDLE: lambda rows: rows + len(llm.layers)})
        context.__enter__()
        answer(llm, PROMPT, n=1)
        if not inside:
            context.__exit__(None, None, None)
        return weakref.ref(llm)

    for inside in (False, True):
        gone = session_with_a_function(inside)
        gc.collect()
        assert gone() is None
