"""The outlook: an answer is steered where the plain model is about to do wrong, and keeps its bits everywhere else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runtime_examples import (
    ALWAYS,
    N_LAYER,
    NEVER,
    SETTINGS,
    STEERED_LAYERS,
    Answer,
    TinyModel,
    answer,
    make_energies,
    make_prompt,
)

from edge_eds import EdgeLlama, Steering
from edge_eds.energy.file import EnergyFile
from edge_eds.energy.outlook import OutlookSpec
from edge_eds.energy.settings import SteeringSpec
from edge_eds.errors import SettingsError, SteeringError
from edge_eds.runtime.batch import BatchRunner
from edge_eds.runtime.energies import ModelFiles
from edge_eds.runtime.slots import Slots, Task

PROMPTS = [make_prompt(n, seed=40 + n) for n in (9, 23, 5, 31, 14, 2)]
TOKENS = tuple(range(60, 140))
N_NEW = 4
BENIGN, HARMFUL = {"gate_benign": ALWAYS, "gate_harmful": ALWAYS}, {"gate_benign": NEVER, "gate_harmful": NEVER}
UNCERTAIN = {"gate_benign": NEVER, "gate_harmful": ALWAYS}


@pytest.fixture(scope="module")
def path(tiny: TinyModel) -> Path:
    return tiny("llama", n_layer=N_LAYER)


@pytest.fixture(scope="module")
def leads(path: Path) -> list[float]:
    """What the plain model holds out for each prompt."""
    with closing(EdgeLlama(path, energy=None, **SETTINGS)) as llm:
        return [OutlookSpec(TOKENS).lead(answer(llm, prompt, 1).logits[0]) for prompt in PROMPTS]


@pytest.fixture(scope="module")
def outlook(leads: list[float]) -> OutlookSpec:
    """Half of the prompts are about to be refused: the bound lies in the middle of the others, away from rounding."""
    low, high = sorted(leads)[len(leads) // 2 - 1 : len(leads) // 2 + 1]
    assert high - low > 0.05
    return OutlookSpec(TOKENS, (low + high) / 2)


def energies(path: Path, outlook: OutlookSpec | None, **changes: Any) -> EnergyFile:
    file = make_energies(path, step_size=0.5, **changes)
    return replace(file, spec=replace(file.spec, outlook=outlook))


def answers(
    path: Path, energy: EnergyFile | None, wish: Steering, **settings: Any
) -> list[tuple[Answer, int, str | None]]:
    """Each prompt's answer by a session, with the tokens that were touched and the gate."""
    found = []
    with closing(EdgeLlama(path, energy=energy, **{**SETTINGS, **settings})) as llm:
        for prompt in PROMPTS:
            with llm.steered(wish):
                found.append((answer(llm, prompt, N_NEW), llm.last_trace.touched_tokens, llm.last_trace.gate))
    return found


@pytest.mark.parametrize("engine", ["native", "onnx"])
@pytest.mark.parametrize("reads_message", [False, True])
@pytest.mark.parametrize("bounds", [BENIGN, HARMFUL, UNCERTAIN])
def test_steers_what_is_about_to_go_wrong_and_leaves_the_rest_its_bits(
    path: Path, outlook: OutlookSpec, leads: list[float], bounds: dict[str, float], reads_message: bool, engine: str
) -> None:
    wish = Steering(**bounds, engine=engine)
    # One row a decode: then the prompt's last token is computed alike whether or not it is decoded again.
    one = {"n_batch": 1, "n_ubatch": 1}
    looking = answers(path, energies(path, outlook, reads_message=reads_message), wish, **one)
    always = answers(path, energies(path, None, reads_message=reads_message), wish, **one)
    plain = answers(path, None, Steering(strength=0), **one)
    refuses = [value >= outlook.bound for value in leads]
    assert any(refuses) and not all(refuses)
    for i, (found, n_touched, gate) in enumerate(looking):
        due = {"benign": refuses[i], "harmful": not refuses[i]}.get(gate or "", False)
        assert found.same_bits(always[i][0] if due else plain[i][0])
        assert n_touched == (always[i][1] if due else 0)
        assert always[i][1] > 0 or gate == "uncertain"


def test_energies_of_an_answer_that_is_left_alone_are_read_all_the_same(path: Path, outlook: OutlookSpec) -> None:
    with closing(EdgeLlama(path, energy=energies(path, outlook), **SETTINGS)) as llm:
        for prompt in PROMPTS:
            answer(llm, prompt, N_NEW)
            at_end = llm.last_trace.descents
            at_end = at_end[at_end["offset"] == 0]
            assert at_end["layer"].tolist() == list(STEERED_LAYERS)
            assert llm.last_trace.records["offset"].tolist().count(0) == len(STEERED_LAYERS) + 2  # and two of the gate


@pytest.mark.parametrize("engine", ["native", "onnx"])
@pytest.mark.parametrize("reads_message", [False, True])
def test_side_by_side_as_one_at_a_time(path: Path, outlook: OutlookSpec, reads_message: bool, engine: str) -> None:
    energy, wish = energies(path, outlook, reads_message=reads_message), Steering(engine=engine)
    alone = answers(path, energy, wish)
    assert {n > 0 for _, n, _ in alone} == {True, False}
    with BatchRunner(ModelFiles(path), n_ctx=96, n_threads=1, n_parallel=4, energy=energy) as runner:
        batched = runner.generate(PROMPTS, max_new_tokens=N_NEW, steering=wish, want_logits=True)
        program = runner.energy_program(energy, wish)
        ends: dict[int, list[np.ndarray]] = {}
        trials = runner.try_programs(
            PROMPTS, [None, program, program], max_new_tokens=N_NEW, read_logits=_keeping(ends)
        )
    for i, (found, n_touched, _) in enumerate(alone):
        assert batched[i].trace.touched_tokens == n_touched
        first = batched[i].first_logits
        assert first is not None and np.abs(first - found.logits[0]).max() < 0.05  # half precision in the cache
        plain, once, again = ends[i]
        assert np.array_equal(once, again)
        assert np.abs(once - found.logits[0]).max() < 0.05
        assert np.array_equal(plain, once) == (n_touched == 0)
        assert trials[1][i].tokens == trials[2][i].tokens


@pytest.mark.parametrize("engine", ["native", "onnx"])
@pytest.mark.parametrize("reads_message", [False, True])
@pytest.mark.parametrize("n_tokens", [0, 2])
def test_what_is_left_alone_is_the_plain_answer_and_not_decoded_again(
    path: Path, outlook: OutlookSpec, n_tokens: int, reads_message: bool, engine: str
) -> None:
    energy = energies(path, outlook, n_tokens=n_tokens, reads_message=reads_message)
    with BatchRunner(ModelFiles(path), n_ctx=96, n_threads=1, n_parallel=4, energy=energy) as runner:
        wish = Steering(engine=engine)
        alone = runner.generate(PROMPTS, max_new_tokens=N_NEW, steering=wish, want_logits=True)
        told: list[str] = []
        plain, found = runner.generate_both(
            PROMPTS, max_new_tokens=N_NEW, steering=wish, want_logits=True, on_done=told.append
        )
        assert sorted(told) == ["plain"] * len(PROMPTS) + ["steered"] * len(PROMPTS)
        assert {one.trace.touched_tokens > 0 for one in alone} == {True, False}
        for prompt, own, without, one in zip(PROMPTS, alone, plain, found, strict=True):
            assert (one.trace.touched_tokens, one.trace.gate) == (own.trace.touched_tokens, own.trace.gate)
            assert one.trace.refusal_in_sight == own.trace.refusal_in_sight is not None
            assert without.trace.gate is None and not len(without.trace.records)
            assert (without.log_probs is None) == (not own.trace.touched_tokens)
            if own.trace.touched_tokens:
                (scored,) = runner.log_probs([prompt], [without.tokens])
                np.testing.assert_allclose(without.log_probs, scored, atol=0.05)
                assert one.n_decoded == N_NEW and one.first_logits is not without.first_logits
                assert np.abs(one.first_logits - own.first_logits).max() < 0.05  # half precision in the cache
            else:
                assert one.n_decoded == 0 and one.first_logits is without.first_logits
                assert (one.tokens, one.text, one.finish_reason) == (without.tokens, without.text, "length")


@pytest.mark.parametrize("with_plain", [False, True])
def test_what_several_programs_leave_alone_is_decoded_for_one_of_them(
    path: Path, outlook: OutlookSpec, with_plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    energy = energies(path, outlook)
    with BatchRunner(ModelFiles(path), n_ctx=96, n_threads=1, n_parallel=4, energy=energy) as runner:
        steered = [runner.energy_program(energy, Steering(strength=strength)) for strength in (1.0, 0.5)]
        programs = [None, *steered] if with_plain else steered
        alone = [
            runner.generate(PROMPTS, max_new_tokens=N_NEW, steering=program, want_logits=True) for program in programs
        ]
        n_rows, decode = [0], runner.session._ctx.decode

        def counting(batch: Any) -> None:
            n_rows[0] += batch.batch.n_tokens
            decode(batch)

        monkeypatch.setattr(runner.session._ctx, "decode", counting)
        found = runner.try_programs(PROMPTS, programs, max_new_tokens=N_NEW, read_logits=lambda _, row: row.max())
    n_due = sum(one.trace.touched_tokens > 0 for one in alone[-1])
    assert 0 < n_due < len(PROMPTS)
    n_plain = len(PROMPTS) if with_plain else len(PROMPTS) - n_due
    n_held = sum(len(prompt) - 1 for prompt in PROMPTS)  # the prompts begin with nothing that is common to them
    n_looks = len(steered) * len(PROMPTS) - (0 if with_plain else n_plain)
    assert n_rows[0] == n_held + N_NEW * (n_plain + len(steered) * n_due) + n_looks
    for its, own in zip(found, alone, strict=True):
        for trial, one in zip(its, own, strict=True):
            assert trial.tokens == one.tokens
            assert trial.first == pytest.approx(one.first_logits.max(), abs=0.05)  # half precision in the cache


def _keeping(ends: dict[int, list[np.ndarray]]) -> Callable[[int, np.ndarray], float]:
    def read(prompt: int, logits: np.ndarray) -> float:
        ends.setdefault(prompt, []).append(logits.copy())
        return 0.0

    return read


def test_slots_as_one_at_a_time(path: Path, outlook: OutlookSpec) -> None:
    energy = energies(path, outlook)
    alone = answers(path, energy, Steering())
    with closing(Slots(ModelFiles(path), energy=energy, n_parallel=3, n_ctx=96, n_threads=1)) as slots:
        for first in range(0, len(PROMPTS), 3):
            begun = [
                slots.begin(Task(tuple(prompt), N_NEW, strength=strength))
                for prompt, strength in zip(PROMPTS[first : first + 3], (1.0, 1.0, 1.0), strict=True)
            ]
            while any(one.finish_reason is None for one in begun):
                slots.step()
            for one, (_, n_touched, gate) in zip(begun, alone[first : first + 3], strict=True):
                assert one.error is None and len(one.tokens) == N_NEW
                assert (one.trace.touched_tokens, one.trace.gate) == (n_touched, gate)


def test_the_next_answer_is_looked_at_anew(path: Path, outlook: OutlookSpec, leads: list[float]) -> None:
    due, calm = int(np.argmax(leads)), int(np.argmin(leads))
    with closing(EdgeLlama(path, energy=energies(path, outlook), **SETTINGS)) as llm:
        touched = []
        for i in (due, calm, calm, due, due, calm):
            answer(llm, PROMPTS[i], N_NEW)
            touched.append(llm.last_trace.touched_tokens > 0)
    assert touched == [True, False, False, True, True, False]


def test_a_capture_of_steered_rows_looks_first(path: Path, outlook: OutlookSpec, leads: list[float]) -> None:
    layer = STEERED_LAYERS[-1]
    with closing(EdgeLlama(path, energy=energies(path, outlook), **SETTINGS)) as llm:
        for i, prompt in enumerate(PROMPTS):
            plain = llm.capture(prompt, [layer])[layer]
            for positions in ("all", "last"):
                steered = llm.capture(prompt, [layer], positions=positions, steered=True)[layer]
                assert np.array_equal(steered[:-1], plain[:-1] if positions == "all" else steered[:-1])
                moved = np.abs(steered[-1] - plain[-1]).max()
                assert moved > 0.01 if leads[i] >= outlook.bound else moved == 0


def test_a_recurrent_model_cannot_go_back_and_says_so(tiny: TinyModel, outlook: OutlookSpec) -> None:
    path = tiny("mamba", n_layer=N_LAYER)
    with pytest.raises(SteeringError, match=r"recurrent state cannot go back.*edge-eds fit"):
        EdgeLlama(path, energy=energies(path, outlook), **SETTINGS)
    with (
        BatchRunner(ModelFiles(path), n_ctx=96, n_threads=1) as runner,
        pytest.raises(SteeringError, match="recurrent state cannot go back"),
    ):
        runner.energy_program(energies(path, outlook))


def test_tokens_that_the_model_does_not_have_are_refused(path: Path) -> None:
    with pytest.raises(SteeringError, match=r"token 100000.*has 0 to"):
        EdgeLlama(path, energy=energies(path, OutlookSpec((1, 100000))), **SETTINGS)


def test_odds_are_those_of_the_softmax() -> None:
    logits = np.log(np.array([0.1, 0.2, 0.3, 0.4], dtype=np.float32)) + np.float32(7)
    assert OutlookSpec((1, 3)).log_odds(logits) == pytest.approx(np.log(0.6 / 0.4), abs=1e-6)


def test_a_refusal_is_in_sight_where_the_likeliest_token_begins_one() -> None:
    logits = np.log(np.array([0.3, 0.4, 0.1, 0.2], dtype=np.float32)) + np.float32(7)
    assert OutlookSpec((1,)).refuses(logits) and not OutlookSpec((0, 3)).refuses(logits)  # though half of all is there
    assert OutlookSpec((1, 2)).lead(logits) == pytest.approx(np.log(0.4 / 0.3), abs=1e-6)
    assert not OutlookSpec((1, 2), 0.3).refuses(logits) and OutlookSpec((0, 3), -0.3).refuses(logits)


def test_it_is_kept_in_the_energy_file_and_older_files_have_none(path: Path, outlook: OutlookSpec) -> None:
    spec = energies(path, outlook).spec
    assert SteeringSpec.from_json(spec.to_json()) == spec
    older = replace(spec, outlook=None).to_json().replace('"outlook": null, ', "")
    assert "outlook" not in older and SteeringSpec.from_json(older).outlook is None


@pytest.mark.parametrize(
    ("tokens", "bound", "said"),
    [
        ((), 0.0, "tokens are"), ("57", 0.0, "tokens are"), ((1, -2), 0.0, "token is -2, expected at least 0"),
        ((1.5,), 0.0, "token is 1.5, expected a whole"), ((True,), 0.0, "token is True, expected a whole"),
        ((1,), float("nan"), "bound is nan"), ((1,), "0", "bound is '0'"),
    ],
)  # fmt: skip
def test_bad_values_are_named(tokens: Sequence[int], bound: float, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        OutlookSpec(tokens, bound)  # type: ignore[arg-type]


def test_there_is_none_without_a_gate(path: Path, outlook: OutlookSpec) -> None:
    with pytest.raises(SettingsError, match="an outlook and no gate"):
        energies(path, outlook, gated=False)
