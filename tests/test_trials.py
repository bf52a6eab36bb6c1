"""Trials: every program does to a prompt that is held what it does to one that is decoded for it alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from runtime_examples import ALWAYS, N_EMBD, N_LAYER, TinyModel, make_energies, make_prompt

from edge_eds import AddVector, Steering
from edge_eds.errors import PromptTooLongError, SettingsError
from edge_eds.runtime.batch import BatchRunner
from edge_eds.runtime.energies import ModelFiles
from edge_eds.runtime.program import HookProgram
from edge_eds.runtime.trials import Trial

N_CTX, N_NEW = 96, 4
PROMPTS = [make_prompt(n, seed=n) for n in (23, 7, 1, 61, 12)]
TOLERANCE = 0.05  # the cache is in half precision and rounds what was computed in other pieces
WISHES = (None, Steering(step_size=0.3, gate_benign=ALWAYS, gate_harmful=ALWAYS), Steering(strength=0.4))


@pytest.fixture(params=["llama", "mamba"])
def path(request: pytest.FixtureRequest, tiny: TinyModel) -> Path:
    return tiny(request.param, n_layer=N_LAYER)


@pytest.fixture
def runner(path: Path) -> Iterator[BatchRunner]:
    with BatchRunner(ModelFiles(path), n_ctx=N_CTX, n_threads=1, n_parallel=3, energy=make_energies(path)) as runner:
        yield runner


def programs(runner: BatchRunner, path: Path) -> list[HookProgram | None]:
    energy = make_energies(path)
    return [None if wish is None else runner.energy_program(energy, wish) for wish in WISHES]


def test_a_trial_is_what_the_program_does_alone(runner: BatchRunner, path: Path) -> None:
    logits: dict[int, list[np.ndarray]] = {i: [] for i in range(len(PROMPTS))}

    def read(prompt: int, row: np.ndarray) -> float:
        logits[prompt].append(row.copy())
        return float(row.max())

    trials = runner.try_programs(PROMPTS, programs(runner, path), max_new_tokens=N_NEW, read_logits=read)
    for rank, (program, its) in enumerate(zip(programs(runner, path), trials, strict=True)):
        alone = runner.generate(PROMPTS, max_new_tokens=N_NEW, steering=program, want_logits=True)
        for i, (trial, generation) in enumerate(zip(its, alone, strict=True)):
            assert generation.first_logits is not None
            assert np.abs(logits[i][rank] - generation.first_logits).max() < TOLERANCE
            assert trial.first == logits[i][rank].max()
            top = np.sort(generation.first_logits)
            if top[-1] - top[-2] > 2 * TOLERANCE:  # else rounding may choose
                assert trial.tokens[:1] == generation.tokens[:1]
            assert len(trial.tokens) <= N_NEW


def test_steering_in_one_trial_leaves_nothing_to_the_next(runner: BatchRunner, path: Path) -> None:
    firsts = []
    for order in ([0, 1, 0], [0, 2, 1, 0]):
        chosen = [programs(runner, path)[i] for i in order]
        trials = runner.try_programs(
            PROMPTS, chosen, max_new_tokens=N_NEW, read_logits=lambda _, row: float(row.astype(np.float64).sum())
        )
        firsts += [[trial.first for trial in its] for rank, its in zip(order, trials, strict=True) if rank == 0]
    assert np.ptp(np.array(firsts), axis=0).max() == 0


def test_steering_is_seen_in_the_first_token(runner: BatchRunner, path: Path) -> None:
    plain, steered = runner.try_programs(
        PROMPTS, programs(runner, path)[:2], max_new_tokens=1, read_logits=lambda _, row: float(row.max())
    )
    assert all(one.first != other.first for one, other in zip(plain, steered, strict=True))


def test_what_all_prompts_begin_with_is_decoded_once_and_changes_nothing(runner: BatchRunner, path: Path) -> None:
    start = make_prompt(20, seed=3)
    prompts = [[*start, *make_prompt(n, seed=n)] for n in (4, 9, 1, 17, 6)]

    def tried(some: list[list[int]]) -> list[list[Trial]]:
        return runner.try_programs(some, programs(runner, path), max_new_tokens=1, read_logits=lambda _, row: row[0])

    together = tried(prompts)
    for i, prompt in enumerate(prompts):
        alone = tried([prompt])
        for its, own in zip(together, alone, strict=True):
            assert abs(its[i].first - own[0].first) < TOLERANCE


def test_a_program_that_edits_prompts_is_tried_as_well(runner: BatchRunner, path: Path) -> None:
    """It cannot share prompts, and is not made to."""
    everywhere = runner.intervention_program({2: [AddVector(np.full(N_EMBD, 0.5, np.float32))]})
    answers = runner.intervention_program({2: [AddVector(np.full(N_EMBD, 0.5, np.float32), rows="answer")]})
    assert answers.answers_only and not everywhere.answers_only
    tried = runner.try_programs(PROMPTS, [everywhere, answers], max_new_tokens=2, read_logits=lambda _, row: row.max())
    for program, its in zip((everywhere, answers), tried, strict=True):
        alone = runner.generate(PROMPTS, max_new_tokens=2, steering=program, want_logits=True)
        assert [one.first for one in its] == [one.first_logits.max() for one in alone if one.first_logits is not None]


def test_what_does_not_fit_is_refused(runner: BatchRunner) -> None:
    with pytest.raises(PromptTooLongError, match="prompt 1"):
        runner.try_programs([make_prompt(N_CTX)], [None], max_new_tokens=1, read_logits=lambda *_: 0.0)
    with pytest.raises(SettingsError, match="max_new_tokens"):
        runner.try_programs(PROMPTS, [None], max_new_tokens=0, read_logits=lambda *_: 0.0)
