"""The gate reads the message: which tokens that is, and that however they are decoded it reads the same."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runtime_examples import (
    ALWAYS,
    N_LAYER,
    SETTINGS,
    TinyModel,
    answer,
    counted_rows,
    evaluate,
    make_energies,
    make_prompt,
    tolerance,
)

from edge_eds import EdgeLlama, Steering
from edge_eds.energy.file import EnergyFile
from edge_eds.errors import EnergyFileError
from edge_eds.runtime import batch as batch_module
from edge_eds.runtime import message as message_module
from edge_eds.runtime.batch import BatchRunner
from edge_eds.runtime.energies import ModelFiles
from edge_eds.runtime.program import share_prompts
from edge_eds.runtime.slots import Slots, Task

TEXTS = ["what is a bird", "why?", "tell me, in a few words of one line, why it is that birds of one kind sing at noon"]
ENGINES = ["native", "onnx"]


@pytest.fixture(scope="module")
def path(tiny: TinyModel) -> Path:
    return tiny("llama", n_layer=N_LAYER)


@pytest.fixture(scope="module")
def energies(path: Path) -> EnergyFile:
    return make_energies(path, reads_message=True)


def session(path: Path, energies: EnergyFile | None = None, **settings: Any) -> EdgeLlama:
    return EdgeLlama(path, energy=energies, **{**SETTINGS, **settings})


def score_of(llm: EdgeLlama, energies: EnergyFile, prompt: Sequence[int], message: range) -> float:
    """What the gate has to read, from captured rows and the closed form."""
    gate, model = energies.spec.gate, energies.energies
    assert gate is not None and model is not None
    rows = llm.capture(prompt, gate.layers)
    end, read = slice(len(prompt) - 1, None), slice(message.start, message.stop) if message else slice(-1, None)
    score = gate.bias
    for il in gate.layers:
        score += gate.weights[il] * model.energy(il, "harm", rows[il][end])[0]
        score += gate.message_weights[il] * model.energy(il, "harm_message", rows[il][read]).mean()
    return float(score)


# -- which tokens


def test_the_message_of_a_chat_is_its_last_one(path: Path) -> None:
    with closing(session(path)) as llm:
        for earlier in ([], [{"role": "system", "content": "Be kind."}], [
            {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"},
        ]):  # fmt: skip
            for text in TEXTS:
                prompt = llm.chat_tokens([*earlier, {"role": "user", "content": text}])
                message = llm.message_in(prompt)
                assert llm.detokenize(prompt[message.start : message.stop]).decode() == f"user\n{text}"


def test_a_text_that_is_no_chat_is_all_message_but_its_end(path: Path) -> None:
    with closing(session(path)) as llm:
        assert llm.message_in(make_prompt(20)) == range(19)
        assert not llm.message_in(make_prompt(1))
        end_of_turn = llm.tokenize(b"<|im_end|>", add_bos=False, special=True)
        assert llm.message_in([*make_prompt(5), *end_of_turn, *make_prompt(4)]) == range(6, 9)


def test_of_a_long_message_the_last_tokens_are_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(message_module, "MAX_MESSAGE_TOKENS", 12)
    with closing(session(path)) as llm:
        assert llm.message_in(make_prompt(100)) == range(87, 99)


# -- what is read


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("arch", ["llama", "gemma3", "qwen3moe", "mamba", "jamba"])
def test_the_score_does_not_depend_on_how_a_prompt_is_cut(tiny: TinyModel, arch: str, engine: str) -> None:
    path = tiny(arch, n_layer=N_LAYER)
    energies = make_energies(path, reads_message=True)
    for n_batch, n_ubatch in [(512, 512), (16, 7), (1, 1)] if engine == "native" else [(16, 7)]:
        with closing(session(path, energies, n_batch=n_batch, n_ubatch=n_ubatch)) as llm:
            for text in TEXTS:
                prompt = llm.chat_tokens(text)
                with llm.steered(Steering(engine=engine)):
                    answer(llm, prompt, n=2)
                    trace = llm.last_trace
                expected = score_of(llm, energies, prompt, llm.message_in(prompt))
                assert trace.gate_score == pytest.approx(expected, abs=tolerance(arch))
                assert trace.touched_tokens and trace.gate == "benign"


@pytest.mark.parametrize("engine", ENGINES)
def test_a_prompt_of_one_token_is_its_own_message(path: Path, energies: EnergyFile, engine: str) -> None:
    with closing(session(path, energies)) as llm, llm.steered(Steering(engine=engine)):
        evaluate(llm, make_prompt(1))
        assert llm.last_trace.gate_score == pytest.approx(
            score_of(llm, energies, make_prompt(1), range(0)), abs=tolerance("llama")
        )


@pytest.mark.parametrize("engine", ENGINES)
def test_what_lies_in_the_cache_does_not_change_the_score(
    path: Path, energies: EnergyFile, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(session(path, energies)) as llm, llm.steered(Steering(engine=engine)):
        prompts = [llm.chat_tokens(text) for text in TEXTS]
        prompts += [prompts[2], llm.chat_tokens([
            {"role": "user", "content": TEXTS[2]}, {"role": "assistant", "content": "so"},
            {"role": "user", "content": TEXTS[0]},
        ])]  # fmt: skip
        for prompt in [*prompts, prompts[2][:-1]]:
            with counted_rows(llm, monkeypatch) as n_rows:
                answer(llm, prompt, n=2)
            trace = llm.last_trace
            message = llm.message_in(prompt)
            alone = session(path, energies)
            with closing(alone), alone.steered(Steering(engine=engine)):
                answer(alone, prompt, n=2)
                assert trace.gate_score == pytest.approx(alone.last_trace.gate_score, abs=tolerance("llama"))
            if prompt is prompts[3]:  # asked just before: nothing in front of the message is decoded again
                assert n_rows[0] == len(prompt) - message.start


@pytest.mark.parametrize("engine", ENGINES)
def test_a_decode_that_failed_can_be_run_again(
    path: Path, energies: EnergyFile, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = make_prompt(30)
    with closing(session(path, energies, n_batch=8)) as llm, llm.steered(Steering(engine=engine)):
        decode, n_decodes = llm._ctx.decode, 0

        def failing(batch: Any) -> None:
            nonlocal n_decodes
            n_decodes += 1
            decode(batch)
            if n_decodes == 3:
                raise RuntimeError("after its rows were read")

        monkeypatch.setattr(llm._ctx, "decode", failing)
        with pytest.raises(RuntimeError):
            llm.eval(prompt)
        llm.eval(prompt[llm.n_tokens :])
        assert llm.last_trace.gate_score == pytest.approx(
            score_of(llm, energies, prompt, range(29)), abs=tolerance("llama")
        )


@pytest.mark.parametrize("engine", ENGINES)
def test_capture_of_what_is_steered_reads_the_message(path: Path, energies: EnergyFile, engine: str) -> None:
    with closing(session(path, energies)) as llm:
        prompt = llm.chat_tokens(TEXTS[0])
        score = score_of(llm, energies, prompt, llm.message_in(prompt))
        plain = llm.capture(prompt, [4], positions="last")[4]
        for bound, is_steered in ((score - 0.01, False), (score + 0.01, True)):
            with llm.steered(Steering(engine=engine, gate_benign=bound, gate_harmful=ALWAYS)):
                found = llm.capture(prompt, [4], positions="last", steered=True)[4]
            assert (not np.array_equal(found, plain)) == is_steered


# -- several at a time


def one_at_a_time(path: Path, energies: EnergyFile, strength: float) -> list[tuple[list[int], float | None]]:
    found = []
    for text in TEXTS:
        with closing(session(path, energies)) as llm, llm.steered(Steering(strength=strength)):
            tokens = answer(llm, llm.chat_tokens(text), n=4).tokens
            found.append((tokens, llm.last_trace.gate_score))
    return found


@pytest.mark.parametrize("n_batch", [512, 16])
@pytest.mark.parametrize("engine", ENGINES)
def test_in_a_batch_every_answer_has_its_own_message(
    path: Path, energies: EnergyFile, engine: str, n_batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_module, "_N_BATCH", n_batch)
    with BatchRunner(ModelFiles(path), n_parallel=2, n_ctx=256, n_threads=1, energy=energies) as runner:
        prompts = [runner.chat_tokens(text) for text in TEXTS]
        found = runner.generate(prompts, max_new_tokens=4, steering=Steering(engine=engine), capture_layers=[1])
        plain = runner.generate(prompts, max_new_tokens=1, capture_layers=[1])
        program = runner.energy_program(energies, Steering(engine=engine))
        tried = runner.try_programs(prompts, [program], max_new_tokens=4, read_logits=lambda _, __: 0.0)
    for a, b, (tokens, score) in zip(found, plain, one_at_a_time(path, energies, 1.0), strict=True):
        assert a.tokens == tokens
        assert a.trace.gate_score == pytest.approx(score, abs=0.05)
        assert a.message_states is not None and b.message_states is not None
        np.testing.assert_allclose(a.message_states[1], b.message_states[1], atol=0.05)
    assert [trial.tokens for trial in tried[0]] == [generation.tokens for generation in found]


def test_programs_that_read_the_message_alike_are_tried_on_the_same_prompts(
    path: Path, energies: EnergyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever else they do: what is read of a message belongs to it, not to the program that was there."""
    with BatchRunner(ModelFiles(path), n_parallel=2, n_ctx=256, n_threads=1, energy=energies) as runner:
        prompts = [runner.chat_tokens(text) for text in TEXTS]
        answers = runner.generate(prompts, max_new_tokens=1, steering=Steering())
        low, high, _ = sorted(one.trace.gate_score for one in answers if one.trace.gate_score is not None)
        some = Steering(gate_benign=(low + high) / 2, gate_harmful=(low + high) / 2)
        wishes = (Steering(), some, Steering(strength=0.5, gate_benign=ALWAYS, gate_harmful=ALWAYS))
        programs = [runner.energy_program(energies, wish) for wish in wishes]
        alone = [
            runner.generate(prompts, max_new_tokens=3, steering=program, want_logits=True)
            for program in (programs[1], None, *programs)
        ]
        monkeypatch.setattr(runner, "generate", None)  # it would decode the prompts again
        tried = runner.try_programs(
            prompts, [programs[1], None, *programs], max_new_tokens=3, read_logits=lambda _, row: float(row.max())
        )
    for its, generations in zip(tried, alone, strict=True):
        for trial, generation in zip(its, generations, strict=True):
            assert generation.first_logits is not None
            assert trial.first == pytest.approx(generation.first_logits.max(), abs=0.05)
            assert trial.tokens[:1] == generation.tokens[:1]
    assert len({tuple(trial.first for trial in its) for its in tried}) == 4  # 1 and 3 are the same, no others


def test_programs_that_read_the_message_in_different_ways_share_nothing(path: Path, energies: EnergyFile) -> None:
    with BatchRunner(ModelFiles(path), n_parallel=2, n_ctx=256, n_threads=1, energy=energies) as runner:
        one, same = (runner.energy_program(energies, Steering(strength=strength)) for strength in (1.0, 0.5))
        other = runner.energy_program(make_energies(path, reads_message=True), Steering())
        onnx = runner.energy_program(energies, Steering(engine="onnx"))
    assert share_prompts([one, None, same])
    assert not share_prompts([one, other]) and not share_prompts([one, onnx]) and not share_prompts([onnx])


def test_slots_answer_with_several_strengths_at_once(path: Path, energies: EnergyFile) -> None:
    strengths = (0.5, 0.0, 1.0)
    expected = {strength: one_at_a_time(path, energies, strength) for strength in strengths}
    slots = Slots(ModelFiles(path), n_parallel=3, n_ctx=256, n_threads=1, energy=energies)
    with closing(slots):
        prompts = [slots.session.chat_tokens(text) for text in TEXTS]
        for _ in range(2):  # the second time their prompts lie in the cache
            for turn in range(3):
                which = [(strengths[(i + turn) % 3], i) for i in range(3)]
                answers = [slots.begin(Task(tuple(prompts[i]), 4, strength=strength)) for strength, i in which]
                while slots.active:
                    slots.step()
                for (strength, i), found in zip(which, answers, strict=True):
                    tokens, score = expected[strength][i]
                    assert found.tokens == tokens
                    assert found.trace.gate_score == (None if score is None else pytest.approx(score, abs=0.05))


def test_what_decides_is_the_message(path: Path, energies: EnergyFile) -> None:
    """Two prompts that end alike, with the gate reading nothing but the message."""
    with closing(session(path, energies)) as llm:
        scores = []
        for text in TEXTS[:2]:
            answer(llm, llm.chat_tokens(text), n=1)
            scores.append(llm.last_trace.gate_score or 0.0)
        middle = sum(scores) / 2
        assert abs(scores[0] - scores[1]) > 0.1
        with llm.steered(Steering(gate_benign=middle, gate_harmful=ALWAYS)):
            for text, score in zip(TEXTS, scores, strict=False):
                answer(llm, llm.chat_tokens(text), n=1)
                assert (llm.last_trace.gate == "benign") == (score < middle)


def test_energies_without_the_head_are_refused(path: Path) -> None:
    with pytest.raises(EnergyFileError, match="no energy harm_message"):
        make_energies(path, gate=make_energies(path, reads_message=True).spec.gate)
