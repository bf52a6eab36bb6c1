"""log_probs of BatchRunner: what the unsteered model gives to each token of an answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from runtime_examples import N_LAYER, TinyModel, evaluate, make_energies, make_prompt

from edge_eds import EdgeLlama, Steering
from edge_eds.errors import PromptTooLongError, SteeringError
from edge_eds.runtime import batch as batch_module
from edge_eds.runtime import scoring
from edge_eds.runtime.batch import BatchRunner
from edge_eds.runtime.energies import ModelFiles

N_CTX = 96
PROMPTS = [make_prompt(23), make_prompt(1, seed=1), make_prompt(60, seed=2), make_prompt(5, seed=3)]
SYSTEM = make_prompt(5, seed=7)
PREFIXED = [SYSTEM + prompt for prompt in PROMPTS]
ANSWERS = [make_prompt(9, seed=4), make_prompt(4, seed=5), [], make_prompt(30, seed=6)]
TOLERANCE = 0.02  # the cache is in half precision and rounds what was computed in other pieces


@pytest.fixture
def path(tiny: TinyModel) -> Path:
    return tiny("llama", n_layer=N_LAYER)


@pytest.fixture(params=[(512, 128), (16, 128), (512, 7)], ids=["whole", "pieces", "few outputs"])
def _pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_module, "_N_BATCH", request.param[0])
    monkeypatch.setattr(scoring, "_MAX_OUTPUTS", request.param[1])


@pytest.mark.usefixtures("_pieces")
@pytest.mark.parametrize("prompts", [PROMPTS, PREFIXED], ids=["apart", "one beginning"])
@pytest.mark.parametrize("n_parallel", [1, 3])
def test_every_token_has_the_log_probability_that_a_session_gives_it(
    path: Path, n_parallel: int, prompts: list[list[int]]
) -> None:
    with BatchRunner(ModelFiles(path), n_ctx=N_CTX, n_threads=1, n_parallel=n_parallel) as runner:
        found = runner.log_probs(prompts, ANSWERS)
    assert [len(log_probs) for log_probs in found] == [len(answer) for answer in ANSWERS]
    llm = EdgeLlama(path, energy=None, n_ctx=N_CTX, n_threads=1, n_threads_batch=1, verbose=False)
    for prompt, answer, log_probs in zip(prompts, ANSWERS, found, strict=True):
        if answer:
            logits = evaluate(llm, prompt, answer[:-1]).astype(np.float64)
            expected = logits[np.arange(len(answer)), answer] - np.log(np.exp(logits).sum(axis=1))
            np.testing.assert_allclose(log_probs, expected, atol=TOLERANCE)
    llm.close()


def test_nothing_is_steered_and_the_next_answers_are_as_before(path: Path) -> None:
    with BatchRunner(ModelFiles(path), n_ctx=N_CTX, n_threads=1, energy=make_energies(path)) as runner:
        before = runner.log_probs(PROMPTS, ANSWERS)
        steered = runner.generate(PROMPTS, max_new_tokens=4, steering=Steering())
        after = runner.log_probs(PROMPTS, ANSWERS)
        again = runner.generate(PROMPTS, max_new_tokens=4, steering=Steering())
    assert all(np.array_equal(*both) for both in zip(before, after, strict=True))
    assert [generation.tokens for generation in steered] == [generation.tokens for generation in again]


def test_a_recurrent_model_is_scored_one_by_one(tiny: TinyModel) -> None:
    path = tiny("mamba", n_layer=N_LAYER)
    with BatchRunner(ModelFiles(path), n_ctx=N_CTX, n_threads=1) as runner:
        together = runner.log_probs(PREFIXED, ANSWERS)
        alone = [runner.log_probs([prompt], [answer])[0] for prompt, answer in zip(PREFIXED, ANSWERS, strict=True)]
    for both in zip(together, alone, strict=True):
        np.testing.assert_allclose(*both, atol=TOLERANCE)


def test_an_empty_prompt_is_refused(path: Path) -> None:
    with (
        BatchRunner(ModelFiles(path), n_ctx=N_CTX, n_threads=1) as runner,
        pytest.raises(SteeringError, match="a prompt is empty"),
    ):
        runner.log_probs([[1], []], [[2], [2]])


def test_an_answer_without_room_is_refused(path: Path) -> None:
    with (
        BatchRunner(ModelFiles(path), n_ctx=N_CTX, n_threads=1) as runner,
        pytest.raises(PromptTooLongError, match="prompt 2: 90 tokens and an answer of 7, but a sequence holds 96"),
    ):
        runner.log_probs([[1], [1] * 90], [[2], [2] * 7])
