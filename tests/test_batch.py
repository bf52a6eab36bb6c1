"""BatchRunner: many sequences in one batch answer, and are steered, as each of them would alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runtime_examples import (
    ALWAYS,
    N_EMBD,
    N_LAYER,
    NEVER,
    STEERED_LAYERS,
    TinyModel,
    answer,
    make_energies,
    make_prompt,
)

from edge_eds import EdgeLlama, Steering
from edge_eds.energy.network import HEADS
from edge_eds.errors import FingerprintError, PromptTooLongError, SettingsError, SteeringError
from edge_eds.runtime import batch as batch_module
from edge_eds.runtime.batch import BatchRunner
from edge_eds.runtime.batch_run import Generation
from edge_eds.runtime.energies import ModelFiles
from edge_eds.runtime.interventions import AblateDirection, AddVector, EnergyDescent, Intervention
from edge_eds.runtime.trace import Trace

N_CTX, N_NEW = 96, 5
LAYERS = (0, 2, 4)
SESSION: dict[str, Any] = {"n_ctx": N_CTX, "n_threads": 1, "n_threads_batch": 1, "verbose": False}
# Of different lengths, in no order; the first two begin alike, and the fourth is one token.
PROMPTS = [
    make_prompt(23), make_prompt(23)[:19] + make_prompt(6, seed=1), make_prompt(7, seed=2),
    make_prompt(1, seed=3), make_prompt(61, seed=4), make_prompt(12, seed=5), make_prompt(30, seed=6),
    make_prompt(2, seed=7),
]  # fmt: skip
SYSTEM = make_prompt(17, seed=8)
PREFIXED = [SYSTEM + prompt for prompt in PROMPTS]
# The cache is in half precision here, and rounds what was computed in other pieces: three digits.
TOLERANCE = 0.05


def open_runner(path: Path, **settings: Any) -> BatchRunner:
    return BatchRunner(ModelFiles(path), **{"n_ctx": N_CTX, "n_threads": 1, **settings})


@pytest.fixture(params=[512, 16], ids=["whole", "pieces"])
def n_batch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Rows of one decode: more than all prompts together have, and fewer than most of them."""
    monkeypatch.setattr(batch_module, "_N_BATCH", request.param)
    return int(request.param)


@pytest.fixture
def path(tiny: TinyModel) -> Path:
    return tiny("llama", n_layer=N_LAYER)


@pytest.fixture
def runner(path: Path) -> Iterator[BatchRunner]:
    with open_runner(path, n_parallel=3, energy=make_energies(path)) as runner:
        yield runner


def one_at_a_time(path: Path, prompts: Sequence[list[int]], steering: Steering | None) -> list[Generation]:
    """The same by a session: what BatchRunner has to reproduce."""
    found = []
    with closing(EdgeLlama(path, energy=make_energies(path), **SESSION)) as llm:
        for prompt in prompts:
            with llm.steered(steering or Steering(strength=0)):
                llm.reset()
                tokens, logits = answer(llm, prompt, n=N_NEW)
                trace = llm.last_trace
            captured = llm.capture(prompt, LAYERS)
            states = {il: rows[-1] for il, rows in captured.items()}
            message = slice(0, max(len(prompt) - 1, 1))  # these prompts are no chats
            means = {il: rows[message].mean(axis=0) for il, rows in captured.items()}
            found.append(Generation(tokens, "", "length", len(prompt), logits[0], states, means, trace))
    return found


def assert_same(found: Sequence[Generation], expected: Sequence[Generation], atol: float = TOLERANCE) -> None:
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.tokens == b.tokens
        assert a.n_prompt == b.n_prompt
        np.testing.assert_allclose(a.first_logits, b.first_logits, atol=atol)
        assert_same_trace(a.trace, b.trace, atol)


def assert_same_trace(found: Trace, expected: Trace, atol: float) -> None:
    assert found.gate == expected.gate
    if expected.gate_score is None:
        assert found.gate_score is None
    else:
        assert found.gate_score == pytest.approx(expected.gate_score, abs=atol)
    a, b = (np.sort(trace.records, order=["offset", "layer", "head"]) for trace in (found, expected))
    for name in ("offset", "layer", "head", "steps"):
        assert a[name].tolist() == b[name].tolist()
    np.testing.assert_allclose(a["energy_before"], b["energy_before"], atol=atol)
    np.testing.assert_allclose(a["energy_after"], b["energy_after"], atol=atol)


def assert_same_states(found: Generation, expected: Generation, layers: Sequence[int] = LAYERS) -> None:
    assert found.states is not None and found.message_states is not None
    assert expected.states is not None and expected.message_states is not None
    for il in layers:
        assert found.states[il].dtype == np.float32
        np.testing.assert_allclose(found.states[il], expected.states[il], atol=TOLERANCE)
        np.testing.assert_allclose(found.message_states[il], expected.message_states[il], atol=TOLERANCE)


# -- the same as one at a time


@pytest.mark.parametrize("n_parallel", [1, 3, 8])
@pytest.mark.parametrize("prompts", [PROMPTS, PREFIXED], ids=["mixed", "prefix"])
def test_plain_answers(path: Path, n_batch: int, n_parallel: int, prompts: list[list[int]]) -> None:
    expected = one_at_a_time(path, prompts, None)
    with open_runner(path, n_parallel=n_parallel) as runner:
        found = runner.generate(prompts, max_new_tokens=N_NEW, want_logits=True, capture_layers=LAYERS)
    assert_same(found, expected)
    for a, b in zip(found, expected, strict=True):
        assert_same_states(a, b)
        assert a.trace.gate is None


@pytest.mark.parametrize(("n_parallel", "engine"), [(1, "native"), (3, "native"), (8, "native"), (3, "onnx")])
def test_each_answer_is_steered_by_its_own_gate(path: Path, n_batch: int, n_parallel: int, engine: str) -> None:
    prompts = PROMPTS + PREFIXED[::-1]
    ungated = one_at_a_time(path, prompts, Steering(gate_benign=NEVER, gate_harmful=ALWAYS))
    scores = sorted(generation.trace.gate_score or 0.0 for generation in ungated)
    # between two scores, so that a difference in the last digit does not decide
    benign, harmful = (scores[4] + scores[5]) / 2, (scores[10] + scores[11]) / 2
    steering = Steering(gate_benign=benign, gate_harmful=harmful, engine=engine)
    expected = one_at_a_time(path, prompts, steering)
    decisions = [generation.trace.gate for generation in expected]
    assert [decisions.count(gate) for gate in ("benign", "uncertain", "harmful")] == [5, 6, 5]
    with open_runner(path, n_parallel=n_parallel, energy=make_energies(path)) as runner:
        plain = runner.generate(prompts, max_new_tokens=N_NEW, want_logits=True)
        found = runner.generate(
            prompts, max_new_tokens=N_NEW, want_logits=True, steering=steering, capture_layers=LAYERS
        )
    assert_same(found, expected)
    for generation, without in zip(found, plain, strict=True):
        heads = {HEADS[head] for head in generation.trace.descents["head"]}
        head = {"benign": {"fr"}, "harmful": {"jb"}, "uncertain": set()}[generation.trace.gate or ""]
        assert heads == head
        changed = np.abs(generation.first_logits - without.first_logits).max() > 10 * TOLERANCE
        assert changed == bool(head)


@pytest.mark.parametrize(
    ("arch", "engine", "n_parallel"), [("llama", "native", 3), ("llama", "onnx", 8), ("mamba", "native", 3)]
)
def test_answered_twice_as_each_time_alone(
    tiny: TinyModel, n_batch: int, arch: str, engine: str, n_parallel: int
) -> None:
    """Without an outlook: that nothing was written is known when the energies act no more."""
    path, wish = tiny(arch, n_layer=N_LAYER), Steering(gate_benign=NEVER, gate_harmful=ALWAYS, engine=engine)
    settings: dict[str, Any] = {"max_new_tokens": N_NEW, "want_logits": True}
    with open_runner(path, n_parallel=n_parallel, energy=make_energies(path, n_tokens=3)) as runner:
        scores = sorted(one.trace.gate_score for one in runner.generate(PREFIXED, steering=wish, **settings))
        wish = replace(wish, gate_benign=(scores[2] + scores[3]) / 2, gate_harmful=(scores[4] + scores[5]) / 2)
        told: list[str] = []
        plain, steered = runner.generate_both(PREFIXED, steering=wish, on_done=told.append, **settings)
        assert sorted(told) == ["plain"] * len(PREFIXED) + ["steered"] * len(PREFIXED)
        assert_same(plain, runner.generate(PREFIXED, **settings))
        touched = [one.trace.touched_tokens for one in steered]
        assert sorted(touched) == [0, 0, 3, 3, 3, 3, 3, 3]
        for own, without, one in zip(runner.generate(PREFIXED, steering=wish, **settings), plain, steered, strict=True):
            if one.trace.touched_tokens:
                assert_same([one], [own])
            else:
                assert (one.tokens, one.text, one.finish_reason) == (without.tokens, without.text, "length")
                assert one.first_logits is without.first_logits
                assert one.trace.gate == own.trace.gate == "uncertain"
        n_again = [1 if arch == "llama" else len(prompt) for prompt in PREFIXED]  # rows of the prompt
        assert [one.n_decoded for one in steered] == [
            n + (N_NEW if its else 3) - 1 for n, its in zip(n_again, touched, strict=True)
        ]
        for one, same in zip(*runner.generate_both(PREFIXED, steering=Steering(strength=0), **settings), strict=True):
            assert one.tokens == same.tokens and same.n_decoded == 0 and same.trace.gate is None


@pytest.mark.parametrize("arch", ["qwen3", "gemma3", "phi3", "qwen3moe", "gpt2", "mamba", "jamba", "lfm2"])
def test_other_architectures(tiny: TinyModel, arch: str, n_batch: int) -> None:
    path = tiny(arch, n_layer=N_LAYER)
    for steering in (None, Steering()):
        expected = one_at_a_time(path, PREFIXED, steering)
        with open_runner(path, n_parallel=3, energy=make_energies(path)) as runner:
            found = runner.generate(
                PREFIXED, max_new_tokens=N_NEW, want_logits=True, steering=steering, capture_layers=LAYERS
            )
        assert_same(found, expected)
        for a, b in zip(found, expected, strict=True):
            assert_same_states(a, b, [il for il in LAYERS if steering is None or il < min(STEERED_LAYERS)])


def test_states_are_those_after_the_steering_of_their_layer(path: Path, runner: BatchRunner) -> None:
    steering = Steering(layers=(4,), gate_benign=ALWAYS)
    plain = runner.generate(PROMPTS, max_new_tokens=1, capture_layers=(3, 4))
    steered = runner.generate(PROMPTS, max_new_tokens=1, capture_layers=(3, 4), steering=steering)
    energies = make_energies(path).energies
    for before, after in zip(plain, steered, strict=True):
        assert np.abs(before.states[3] - after.states[3]).max() < TOLERANCE
        (record,) = after.trace.descents
        for generation, name in ((before, "energy_before"), (after, "energy_after")):
            energy = energies.energy(4, "fr", generation.states[4][None])[0]
            assert energy == pytest.approx(record[name], abs=TOLERANCE)


def test_a_shared_prefix_is_decoded_once(path: Path, runner: BatchRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    n_rows: list[int] = []
    decode = runner.session._ctx.decode

    def counting(batch: Any) -> None:
        n_rows.append(batch.batch.n_tokens)
        decode(batch)

    monkeypatch.setattr(runner.session._ctx, "decode", counting)
    runner.generate(PREFIXED, max_new_tokens=1)
    assert sum(n_rows) == len(SYSTEM) + sum(map(len, PROMPTS))
    n_rows.clear()
    runner.generate(PREFIXED[:1], max_new_tokens=1)
    assert sum(n_rows) == len(PREFIXED[0])
    n_rows.clear()
    runner.generate([SYSTEM, SYSTEM, SYSTEM], max_new_tokens=1)
    assert sum(n_rows) == len(SYSTEM) - 1 + 3


# -- other programs than the energies in use

VECTOR = np.random.default_rng(5).normal(size=N_EMBD).astype(np.float32)


def shifted_back(rows: np.ndarray) -> np.ndarray:
    return rows - VECTOR


@pytest.mark.parametrize(
    "interventions",
    [
        {1: AddVector(VECTOR, 2.0), 3: AddVector(VECTOR, -1.0)},
        {3: AddVector(VECTOR, 2.0, rows="answer")},
        {1: [AblateDirection(VECTOR), AddVector(VECTOR, 3.0)], 4: AblateDirection(VECTOR, 0.5, rows="answer")},
        {2: shifted_back},
    ],
    ids=["all rows", "answer rows", "several", "function"],
)
def test_interventions(
    path: Path, n_batch: int, interventions: dict[int, Intervention | Sequence[Intervention]]
) -> None:
    """As a session under the same interventions, the rows of the shared prefix too."""
    with closing(EdgeLlama(path, energy=None, **SESSION)) as llm:
        expected = []
        for prompt in PREFIXED:
            with llm.intervening(interventions):
                llm.reset()
                tokens, logits = answer(llm, prompt, n=N_NEW)
            expected.append(Generation(tokens, "", "length", len(prompt), logits[0]))
    with open_runner(path, n_parallel=3) as runner:
        plain = runner.generate(PREFIXED, max_new_tokens=N_NEW, want_logits=True)
        found = runner.generate(
            PREFIXED,
            max_new_tokens=N_NEW,
            want_logits=True,
            steering=runner.intervention_program(interventions),
        )
    assert_same(found, expected)
    for a, b in zip(found, plain, strict=True):
        assert np.abs(a.first_logits - b.first_logits).max() > 10 * TOLERANCE


def test_a_program_of_energies_is_these_energies_whatever_is_in_use(path: Path, runner: BatchRunner) -> None:
    ungated = make_energies(path, gated=False)
    settings: dict[str, Any] = {"max_new_tokens": N_NEW, "want_logits": True}
    in_use = runner.generate(PROMPTS, steering=Steering(), **settings)
    program = runner.energy_program(ungated, Steering(strength=0.5))
    found = runner.generate(PROMPTS, steering=program, **settings)
    assert_same(runner.generate(PROMPTS, steering=Steering(), **settings), in_use, atol=0)
    runner.use_energy(ungated)
    assert_same(runner.generate(PROMPTS, steering=Steering(strength=0.5), **settings), found, atol=0)
    assert {generation.trace.gate for generation in found} == {"ungated"}
    assert runner.energy_program(ungated, Steering(strength=0)) is None


def test_a_descent_that_is_an_intervention_leaves_its_trace(path: Path, runner: BatchRunner) -> None:
    energies = make_energies(path).energies
    assert energies is not None
    program = runner.intervention_program({3: EnergyDescent(energies.layers[3], "fr")})
    for generation in runner.generate(PROMPTS, max_new_tokens=N_NEW, steering=program):
        assert generation.trace.touched_tokens == N_NEW


def test_programs_that_are_refused(path: Path, tiny: TinyModel, runner: BatchRunner) -> None:
    with pytest.raises(FingerprintError):
        runner.energy_program(make_energies(tiny("qwen3", n_layer=N_LAYER)))
    with pytest.raises(SteeringError, match="cannot edit layer 5"):
        runner.intervention_program({N_LAYER - 1: AddVector(VECTOR)})
    with pytest.raises(SettingsError, match="wide"):
        runner.intervention_program({1: AddVector(VECTOR[:-1])})


# -- results


def test_results_come_in_the_order_of_the_prompts_and_are_told_as_they_end(runner: BatchRunner) -> None:
    told: list[tuple[int, Generation]] = []
    found = runner.generate(PROMPTS, max_new_tokens=N_NEW, on_done=lambda *done: told.append(done))
    assert [generation.n_prompt for generation in found] == list(map(len, PROMPTS))
    assert sorted(index for index, _ in told) == list(range(len(PROMPTS)))
    assert all(found[index] is generation for index, generation in told)
    for generation in found:
        assert generation.first_logits is None
        assert not generation.states
        assert generation.finish_reason == "length"
        assert len(generation.tokens) == N_NEW
        text = runner.session.detokenize(generation.tokens)
        assert generation.text == text.decode("utf-8", errors="replace")


def test_the_same_again(runner: BatchRunner) -> None:
    """Nothing of a run is left for the next."""
    settings: dict[str, Any] = {"max_new_tokens": N_NEW, "want_logits": True}
    plain = runner.generate(PROMPTS, **settings)
    steered = runner.generate(PROMPTS, steering=Steering(), **settings)
    assert_same(runner.generate(PROMPTS, **settings), plain, atol=0)
    assert_same(runner.generate(PROMPTS, steering=Steering(strength=0), **settings), plain, atol=0)
    assert_same(runner.generate(PROMPTS, steering=Steering(), **settings), steered, atol=0)
    assert [generation.trace.touched_tokens for generation in steered] == [3] * len(PROMPTS)


def test_an_answer_that_ends_by_itself(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The token that ends it is not part of it, and its place is free for the next."""
    with open_runner(path, n_parallel=3) as runner:
        whole = runner.generate(PROMPTS, max_new_tokens=N_NEW)
        ends = {generation.tokens[2] for generation in whole[:4]}
        monkeypatch.setattr(runner.session, "ends_answer", lambda token: token in ends)
        stopped = runner.generate(PROMPTS, max_new_tokens=N_NEW)
    for a, b in zip(stopped, whole, strict=True):
        n = next((i for i, token in enumerate(b.tokens) if token in ends), None)
        assert a.tokens == b.tokens[:n]
        assert a.finish_reason == ("length" if n is None else "stop")
    assert sum(generation.finish_reason == "stop" for generation in stopped) >= 4


def test_chat_tokens(runner: BatchRunner) -> None:
    tokens = runner.chat_tokens("What is this?")
    assert tokens == runner.chat_tokens([{"role": "user", "content": "What is this?"}])
    text = "<|im_start|>user\nWhat is this?<|im_end|>\n<|im_start|>assistant\n"
    assert tokens == runner.session.tokenize(text.encode(), add_bos=False, special=True)


def test_no_prompts(runner: BatchRunner) -> None:
    assert runner.generate([], max_new_tokens=1) == []


def test_prompts_of_other_sequence_types(runner: BatchRunner) -> None:
    expected = runner.generate(PROMPTS[:3], max_new_tokens=2)
    found = runner.generate([tuple(PROMPTS[0]), PROMPTS[1], np.array(PROMPTS[2])], max_new_tokens=2)
    assert [generation.tokens for generation in found] == [generation.tokens for generation in expected]


# -- what goes wrong


def test_a_prompt_that_is_too_long(runner: BatchRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found before anything is decoded; one that just fits is answered to its end."""
    fits = make_prompt(N_CTX - N_NEW, seed=9)
    found = runner.generate([fits] * 4, max_new_tokens=N_NEW)
    assert [len(generation.tokens) for generation in found] == [N_NEW] * 4
    monkeypatch.setattr(runner.session._ctx, "decode", lambda batch: pytest.fail("decoded"))
    with pytest.raises(PromptTooLongError, match=f"prompt 3: .*{N_CTX}"):
        runner.generate([*PROMPTS[:2], [*fits, 5], PROMPTS[2]], max_new_tokens=N_NEW)


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"prompts": [[5], []]}, SteeringError, "empty"),
        ({"max_new_tokens": 0}, SettingsError, "max_new_tokens"),
        ({"capture_layers": (N_LAYER - 1,)}, SteeringError, "cannot capture layer 5: .*last layer"),
        ({"capture_layers": (N_LAYER,)}, SteeringError, "cannot capture layer 6"),
        ({"steering": Steering(layers=(1,))}, SettingsError, "layer 1"),
    ],
)
def test_what_is_refused(runner: BatchRunner, changes: dict[str, Any], error: Any, match: str) -> None:
    arguments = {"prompts": PROMPTS, "max_new_tokens": N_NEW, **changes}
    with pytest.raises(error, match=match):
        runner.generate(arguments.pop("prompts"), **arguments)


def test_energies_that_are_not_there_or_of_another_model(path: Path, tiny: TinyModel) -> None:
    other = make_energies(tiny("qwen3", n_layer=N_LAYER))
    with pytest.raises(FingerprintError):
        open_runner(path, energy=other)
    with open_runner(path, n_parallel=2) as runner:
        with pytest.raises(SteeringError, match="no energies"):
            runner.generate(PROMPTS, max_new_tokens=1, steering=Steering())
        with pytest.raises(FingerprintError):
            runner.use_energy(other)
        runner.use_energy(make_energies(path))
        assert runner.generate(PROMPTS, max_new_tokens=1, steering=Steering())[0].trace.touched_tokens == 1


@pytest.mark.parametrize("n_parallel", [0, -1, 512])
def test_a_number_of_sequences_out_of_range(path: Path, n_parallel: int) -> None:
    with pytest.raises(SettingsError, match="n_parallel"):
        open_runner(path, n_parallel=n_parallel)


class OurError(Exception):
    """Raised in the middle of a run."""


def failing_decode(runner: BatchRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = [0]
    decode = runner.session._ctx.decode

    def fail(batch: Any) -> None:
        calls[0] += 1
        decode(batch)
        if calls[0] == 3:
            raise OurError

    monkeypatch.setattr(runner.session._ctx, "decode", fail)


def run_that_fails_in_its_decode(runner: BatchRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        failing_decode(runner, patch)
        runner.generate(PREFIXED, max_new_tokens=N_NEW, steering=Steering(), capture_layers=LAYERS)


def run_that_fails_when_told(runner: BatchRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(index: int, generation: Generation) -> None:
        raise OurError

    runner.generate(PREFIXED, max_new_tokens=N_NEW, steering=Steering(), on_done=told)


def run_that_fails_in_steering(runner: BatchRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    runner.generate(PREFIXED, max_new_tokens=N_NEW, steering=Steering(relative=False, step_size=3e38))


@pytest.mark.parametrize(
    ("fail", "error"),
    [
        (run_that_fails_in_its_decode, OurError),
        (run_that_fails_when_told, OurError),
        (run_that_fails_in_steering, SteeringError),
    ],
)
@pytest.mark.parametrize("arch", ["llama", "mamba"])
def test_a_runner_is_usable_after_a_run_that_failed(
    tiny: TinyModel,
    arch: str,
    fail: Callable[[BatchRunner, pytest.MonkeyPatch], None],
    error: type[Exception],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tiny(arch, n_layer=N_LAYER)
    settings: dict[str, Any] = {"max_new_tokens": N_NEW, "want_logits": True}
    with open_runner(path, n_parallel=3, energy=make_energies(path)) as fresh:
        plain = fresh.generate(PREFIXED, **settings)
        steered = fresh.generate(PREFIXED, steering=Steering(), **settings)
    with open_runner(path, n_parallel=3, energy=make_energies(path)) as runner:
        for steering, expected in ((Steering(), steered), (None, plain)):
            with pytest.raises(error):
                fail(runner, monkeypatch)
            assert_same(runner.generate(PREFIXED, steering=steering, **settings), expected, atol=0)


def test_two_runners_and_a_session_side_by_side(path: Path, tiny: TinyModel) -> None:
    """One runs inside of the other's `on_done`."""
    other_path = tiny("qwen3", n_layer=N_LAYER)
    with (
        open_runner(path, n_parallel=3, energy=make_energies(path)) as runner,
        open_runner(other_path, n_parallel=2, energy=make_energies(other_path)) as other,
        closing(EdgeLlama(path, energy=make_energies(path), **SESSION)) as llm,
    ):
        settings: dict[str, Any] = {"max_new_tokens": N_NEW, "want_logits": True, "steering": Steering()}
        expected, expected_other = (r.generate(PROMPTS, **settings) for r in (runner, other))
        expected_answer = answer(llm, PROMPTS[0])
        found_other: list[list[Generation]] = []

        def told(index: int, generation: Generation) -> None:
            found_other.append(other.generate(PROMPTS, **settings))
            llm.reset()
            assert answer(llm, PROMPTS[0]).same_bits(expected_answer)

        assert_same(runner.generate(PROMPTS, on_done=told, **settings), expected, atol=0)
        for found in found_other:
            assert_same(found, expected_other, atol=0)
