"""Slots: each of several answers in one batch is what it would be alone, with its own settings; rows are reused."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama_cpp import LLAMA_POOLING_TYPE_NONE, Llama
from runtime_examples import (
    ALWAYS,
    GATE_LAYERS,
    N_LAYER,
    STEERED_LAYERS,
    TinyModel,
    answer,
    make_energies,
    make_prompt,
)

from edge_eds import EdgeLlama, Steering
from edge_eds.energy.file import EnergyFile
from edge_eds.energy.settings import GateSpec
from edge_eds.errors import InputError, PromptTooLongError, SettingsError, SteeringError
from edge_eds.runtime import program as program_module
from edge_eds.runtime import slots as slots_module
from edge_eds.runtime.energies import ModelFiles
from edge_eds.runtime.sampling import TokenSampling
from edge_eds.runtime.slots import Answering, Slots, Task

N_CTX, N_NEW = 128, 8
SESSION: dict[str, Any] = {"n_ctx": N_CTX, "n_threads": 1, "n_threads_batch": 1, "verbose": False}
WILD = TokenSampling(temperature=1.5, top_k=0, top_p=1.0, min_p=0.0, seed=7)


@pytest.fixture(scope="module")
def path(tiny: TinyModel) -> Path:
    return tiny("llama", n_layer=N_LAYER)


@pytest.fixture(scope="module")
def energy(path: Path) -> EnergyFile:
    return make_energies(path, step_size=0.5)


@pytest.fixture
def slots(path: Path, energy: EnergyFile) -> Iterator[Slots]:
    with closing(open_slots(path, energy, n_parallel=3)) as slots:
        yield slots


def open_slots(path: Path, energy: EnergyFile | None = None, **settings: Any) -> Slots:
    return Slots(ModelFiles(path), energy=energy, **{"n_ctx": N_CTX, "n_threads": 1, **settings})


def task(prompt: Sequence[int], n: int = N_NEW, **settings: Any) -> Task:
    return Task(tuple(prompt), n, **settings)


def finish(slots: Slots, *tasks: Task) -> list[Answering]:
    """Answer all tasks, as many at a time as there are slots."""
    waiting, answers = list(tasks), []
    while waiting or slots.active:
        while waiting and slots.n_free:
            answers.append(slots.begin(waiting.pop(0)))
        slots.step()
    return answers


def by_session(path: Path, energy: EnergyFile, prompt: Sequence[int], strength: float = 0.0) -> list[int]:
    """Greedy tokens of an EdgeLlama."""
    with closing(EdgeLlama(path, energy=energy, **SESSION)) as llm, llm.steered(Steering(strength=strength)):
        return answer(llm, prompt, n=N_NEW).tokens


# -- one answer ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [0.0, 0.4, 1.0])
def test_a_single_answer_is_that_of_a_session(path: Path, energy: EnergyFile, strength: float) -> None:
    prompt = make_prompt(30)
    with closing(open_slots(path, energy)) as slots:
        (found,) = finish(slots, task(prompt, strength=strength))
    assert found.tokens == by_session(path, energy, prompt, strength)
    assert found.finish_reason == "length"


def test_sampling_is_that_of_llama_cpp_python(path: Path) -> None:
    settings = {"top_k": 30, "top_p": 0.9, "min_p": 0.01, "presence_penalty": 0.5, "frequency_penalty": 0.3}
    prompt = make_prompt(12)
    with closing(Llama(str(path), seed=11, **SESSION)) as llm:
        expected = list(itertools.islice(llm.generate(prompt, temp=1.2, **settings), N_NEW))
    with closing(open_slots(path)) as slots:
        sampling = TokenSampling(temperature=1.2, seed=11, **settings)
        assert finish(slots, task(prompt, sampling=sampling))[0].tokens == expected


def test_a_seed_repeats_an_answer_and_another_does_not(slots: Slots) -> None:
    def tokens(seed: int) -> list[int]:
        sampling = TokenSampling(temperature=1.5, top_k=0, top_p=1.0, min_p=0.0, seed=seed)
        return finish(slots, task(make_prompt(9), 20, sampling=sampling))[0].tokens

    assert tokens(1) == tokens(1)
    assert tokens(1) != tokens(2)


def test_logit_bias_forces_and_forbids(slots: Slots) -> None:
    (forced,) = finish(slots, task(make_prompt(9), sampling=TokenSampling(logit_bias={77: 100.0})))
    assert set(forced.tokens) == {77}
    (free,) = finish(slots, task(make_prompt(9)))
    (forbidden,) = finish(slots, task(make_prompt(9), sampling=TokenSampling(logit_bias={free.tokens[0]: -100.0})))
    assert forbidden.tokens[0] != free.tokens[0]


def test_the_presence_penalty_counts_the_answer_alone(slots: Slots) -> None:
    """A token of the prompt may come; one of the answer does not come again."""
    bias = dict.fromkeys((70, 71, 72), 30.0)
    prompt = [*make_prompt(9), 70, 71, 72]
    # 30 above the rest, and a penalty of 2 for each that has come: they take turns.
    (found,) = finish(slots, task(prompt, 3, sampling=TokenSampling(logit_bias=bias, presence_penalty=2.0)))
    (free,) = finish(slots, task(prompt, 3, sampling=TokenSampling(logit_bias=bias)))
    assert set(found.tokens) <= set(bias)
    assert len(set(found.tokens)) >= len(set(free.tokens))


def test_log_probabilities_are_those_of_the_model_before_sampling(path: Path) -> None:
    prompt = make_prompt(20)
    with closing(open_slots(path)) as slots:
        (found,) = finish(slots, task(prompt, sampling=WILD, n_logprobs=3))
    with closing(EdgeLlama(path, energy=None, **SESSION)) as llm:
        llm.eval(prompt)
        for token, logprobs in zip(found.tokens, found.logprobs, strict=True):
            logits = np.ctypeslib.as_array(llm._ctx.get_logits(), (llm.n_vocab(),)).astype(np.float64)
            expected = logits - np.logaddexp.reduce(logits)
            assert logprobs.logprob == pytest.approx(expected[token], abs=1e-3)
            assert [other for other, _ in logprobs.top] == list(np.argsort(-expected)[:3])
            assert [p for _, p in logprobs.top] == sorted((p for _, p in logprobs.top), reverse=True)
            llm.eval([token])


def test_an_answer_ends_with_the_context(slots: Slots) -> None:
    (found,) = finish(slots, task(make_prompt(100), 1000))
    # the last token needs no row of its own
    assert (found.finish_reason, len(found.tokens)) == ("length", N_CTX - 100 + 1)


def test_a_token_that_ends_the_text_ends_the_answer(slots: Slots) -> None:
    eos = slots.session.token_eos()
    (found,) = finish(slots, task(make_prompt(9), sampling=TokenSampling(logit_bias={eos: 100.0})))
    assert (found.finish_reason, found.tokens) == ("stop", [])


def test_a_grammar_is_followed(slots: Slots) -> None:
    sampling = TokenSampling(temperature=1.0, grammar='root ::= "yes"')
    (found,) = finish(slots, task(make_prompt(9), 20, sampling=sampling))
    assert b"".join(map(slots.piece, found.tokens)) == b"yes"
    assert found.finish_reason == "stop"


@pytest.mark.parametrize(
    ("settings", "kind", "words"),
    [
        ({"prompt": make_prompt(N_CTX)}, PromptTooLongError, (str(N_CTX), "--ctx")),
        ({"prompt": []}, SteeringError, ("empty",)),
        ({"sampling": TokenSampling(grammar="root ::= (")}, InputError, ("grammar",)),
        ({"sampling": TokenSampling(logit_bias={9999: 1.0})}, InputError, ("9999", "319")),
        ({"strength": 1e9}, SettingsError, ("strength",)),
    ],
    ids=["long", "empty", "grammar", "bias", "strength"],
)
def test_what_cannot_be_begun_is_said_before(
    slots: Slots, settings: dict[str, Any], kind: type[Exception], words: Sequence[str]
) -> None:
    wrong = Task(**{"prompt": tuple(make_prompt(5)), "max_new_tokens": 1, **settings})
    with pytest.raises(kind) as caught:
        slots.check(wrong)
    assert all(word in str(caught.value) for word in words)
    assert slots.n_free == 3


def test_steering_without_energies_is_refused(path: Path) -> None:
    with closing(open_slots(path)) as slots, pytest.raises(SettingsError, match="energies"):
        slots.check(task(make_prompt(5), strength=1.0))


def test_recurrent_models_answer_one_at_a_time(tiny: TinyModel) -> None:
    with pytest.raises(SettingsError, match="--parallel 1"):
        open_slots(tiny("mamba"), n_parallel=2)
    path = tiny("mamba")
    first, second = make_prompt(20), make_prompt(20)[:15] + make_prompt(9, seed=1)
    with closing(open_slots(path)) as slots:
        found = [finish(slots, task(prompt))[0].tokens for prompt in (first, second, first)]
    with closing(EdgeLlama(path, energy=None, **SESSION)) as llm:
        expected = [answer(llm, prompt, n=N_NEW).tokens for prompt in (first, second)]
    assert found == [*expected, expected[0]]


# -- several at a time --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_batch", "engine"), [(512, "native"), (16, "native"), (512, "onnx")])
def test_nothing_passes_from_one_answer_to_another(
    path: Path, energy: EnergyFile, n_batch: int, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts of all lengths with all kinds of settings, three at a time, are answered as each would be alone."""
    monkeypatch.setattr(slots_module, "_N_BATCH", n_batch)
    tasks = [
        task(make_prompt(n, seed=i), strength=strength, sampling=sampling)
        for i, (n, strength, sampling) in enumerate(
            zip(
                (40, 7, 1, 25, 60, 12, 33, 2),
                (1.0, 0.0, 0.3, 1.0, 0.0, 2.0, 0.3, 1.0),
                (TokenSampling(), WILD) * 4,
                strict=True,
            )
        )
    ]
    with monkeypatch.context() as patch, closing(open_slots(path, energy, n_parallel=3)) as slots:
        patch.setattr(program_module, "takes_native", lambda file: engine == "native")
        together = finish(slots, *tasks)
    for one, found in zip(tasks, together, strict=True):
        with closing(open_slots(path, energy)) as slots:
            (alone,) = finish(slots, one)
        assert found.tokens == alone.tokens
        assert found.trace.gate == alone.trace.gate
        assert found.trace.touched_tokens == alone.trace.touched_tokens == (3 if one.strength else 0)
        np.testing.assert_allclose(
            np.sort(found.trace.records["energy_after"]), np.sort(alone.trace.records["energy_after"]), atol=0.05
        )


def test_each_gate_decides_for_its_own_answer(path: Path) -> None:
    """With bounds between the scores of two prompts, one is steered and the other is not, in one batch."""
    prompts = [make_prompt(20), make_prompt(20, seed=1)]
    with closing(open_slots(path, make_energies(path), n_parallel=2)) as slots:
        scores = [found.trace.gate_score for found in finish(slots, *(task(p, strength=1.0) for p in prompts))]
    assert None not in scores
    middle = sum(scores) / 2  # type: ignore[arg-type]
    gate = GateSpec(bias=0.5, weights={1: 1.0, 2: -0.5}, benign=middle, harmful=ALWAYS)
    with closing(open_slots(path, make_energies(path, gate=gate), n_parallel=2)) as slots:
        found = finish(slots, *(task(p, strength=1.0) for p in prompts))
    assert sorted((answer.trace.gate, answer.trace.touched_tokens) for answer in found) == [
        ("benign", 3), ("uncertain", 0),
    ]  # fmt: skip


def test_steering_of_every_token_leaves_nobody_waiting(path: Path) -> None:
    """Programs that are wanted at every token take turns."""
    energy = make_energies(path, n_tokens=0)
    with closing(open_slots(path, energy, n_parallel=3)) as slots:
        tasks = [task(make_prompt(9, seed=i), 12, strength=s) for i, s in enumerate((1.0, 0.5, 0.25))]
        answers = [slots.begin(one) for one in tasks]
        for _ in range(12):
            slots.step()
        assert max(len(a.tokens) for a in answers) - min(len(a.tokens) for a in answers) <= 1
        while slots.active:
            slots.step()
    assert [found.trace.touched_tokens for found in answers] == [12, 12, 12]


def test_steering_that_fails_ends_its_own_answer_only(path: Path) -> None:
    """Energies that overflow in float32 at one strength: the others in the batch get what they would alone."""
    energy = make_energies(path, step_size=1e35, relative=True, max_shift=0.0)
    steered, plain = make_prompt(20), make_prompt(15, seed=1)
    with closing(open_slots(path, energy, n_parallel=2)) as slots:
        bad, good = finish(slots, task(steered, strength=1000.0), task(plain))
        assert bad.finish_reason == "error"
        assert "steering did not happen" in str(bad.error)
        assert good.tokens == by_session(path, energy, plain)
        assert finish(slots, task(steered))[0].tokens == by_session(path, energy, steered)


# -- rows that are there already ----------------------------------------------------------------------------


def test_a_conversation_that_goes_on_is_not_decoded_again(slots: Slots) -> None:
    (first,) = finish(slots, task(make_prompt(40)))
    longer = [*make_prompt(40), *first.tokens, *make_prompt(5, seed=1)]
    (second,) = finish(slots, task(longer))
    assert second.n_cached == 40 + N_NEW - 1  # the last token of an answer has no row


def test_rows_are_not_shared_between_settings(path: Path, energy: EnergyFile) -> None:
    """A prompt that was answered at one strength is answered at another as if it had never been seen."""
    prompt = make_prompt(40)
    with closing(open_slots(path, energy)) as slots:
        for strength in (1.0, 0.0, 0.5, 0.0, 1.0):
            (found,) = finish(slots, task(prompt, strength=strength))
            assert found.n_cached == 0
            assert found.tokens == by_session(path, energy, prompt, strength)


def test_steered_rows_are_decoded_again_where_they_are_part_of_a_prompt(path: Path, energy: EnergyFile) -> None:
    with closing(open_slots(path, energy)) as slots:
        (first,) = finish(slots, task(make_prompt(40), strength=1.0))
        longer = [*make_prompt(40), *first.tokens, *make_prompt(5, seed=1)]
        (second,) = finish(slots, task(longer, strength=1.0))
    assert second.n_cached == 39  # all before the prompt's end, which was written to
    assert second.tokens == by_session(path, energy, longer, 1.0)


def test_a_window_that_has_moved_on_is_not_reused(tiny: TinyModel) -> None:
    path = tiny("gemma3")
    prompt = make_prompt(40)
    with closing(open_slots(path)) as slots:
        found = [finish(slots, task(p))[0].tokens for p in (prompt, prompt[:30], prompt)]
    assert found[0] == found[2]
    with closing(open_slots(path)) as slots:
        assert found[1] == finish(slots, task(prompt[:30]))[0].tokens


def test_a_cancelled_answer_frees_its_slot_and_nothing_else(slots: Slots, path: Path, energy: EnergyFile) -> None:
    first, second = slots.begin(task(make_prompt(9), 100)), slots.begin(task(make_prompt(9, seed=1)))
    for _ in range(3):
        slots.step()
    slots.cancel(first)
    assert (first.finish_reason, slots.n_free) == ("cancelled", 2)
    while slots.active:
        slots.step()
    assert second.tokens == by_session(path, energy, make_prompt(9, seed=1))
    assert len(first.tokens) == 3


def test_after_a_decode_that_failed_the_slots_can_be_used_again(
    slots: Slots, path: Path, energy: EnergyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    slots.begin(task(make_prompt(9)))
    slots.step()
    with monkeypatch.context() as patch:
        patch.setattr(slots._llm._ctx, "decode", _fail)
        with pytest.raises(RuntimeError, match="llama_decode"):
            slots.step()
    slots.reset()
    assert slots.n_free == 3
    assert finish(slots, task(make_prompt(9)))[0].tokens == by_session(path, energy, make_prompt(9))


def _fail(_: object) -> None:
    raise RuntimeError("llama_decode returned -3")


# -- states and embeddings ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "n_last"), [(1, 1), (30, 1), (100, 1), (30, 30), (100, 50)])
def test_states_are_those_that_a_session_captures(
    slots: Slots, path: Path, n: int, n_last: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots_module, "_N_BATCH", 32)
    prompt = make_prompt(n)
    layers = sorted({*GATE_LAYERS, *STEERED_LAYERS})
    going = slots.begin(task(make_prompt(9, seed=1), 100))  # an answer that goes on meanwhile
    slots.step()
    found = slots.states(prompt, layers, n_last)
    again = slots.states(prompt, layers, n_last)  # from rows that are there already
    with closing(EdgeLlama(path, energy=None, **SESSION)) as llm:
        expected = {il: rows[-n_last:] for il, rows in llm.capture(prompt, layers).items()}
    for il in layers:
        np.testing.assert_allclose(found[il], expected[il], atol=0.05)
        np.testing.assert_allclose(again[il], expected[il], atol=0.05)
    assert slots.step() == [going]


def test_embeddings_are_the_mean_of_the_last_states(slots: Slots, path: Path) -> None:
    text = "The mean of what the last layer gives."
    prompt = slots.session.tokenize(text.encode())
    going = slots.begin(task(make_prompt(9, seed=1), strength=1.0))
    slots.step()
    found = slots.embed(prompt)
    with closing(Llama(str(path), embedding=True, pooling_type=LLAMA_POOLING_TYPE_NONE, **SESSION)) as llm:
        mean = np.mean(llm.embed(text), axis=0)
    np.testing.assert_allclose(found, mean / np.linalg.norm(mean), atol=2e-3)
    assert np.linalg.norm(found) == pytest.approx(1, abs=1e-5)
    while slots.active:
        slots.step()
    alone = finish(slots, task(make_prompt(9, seed=1), strength=1.0))[0]
    assert going.tokens == alone.tokens

