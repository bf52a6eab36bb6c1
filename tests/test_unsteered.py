"""Where nothing is to be edited, every bit is plain llama.cpp's: observing, strength 0, idle energies, after a
`with`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pytest
from llama_cpp import Llama
from runtime_examples import (
    ALWAYS,
    ARCHITECTURES,
    N_LAYER,
    NEVER,
    SETTINGS,
    STEERED_LAYERS,
    Answer,
    TinyModel,
    answer,
    evaluate,
    last_logits,
    make_energies,
    make_prompt,
)

from edge_eds import EdgeLlama, Steering
from edge_eds.runtime.interventions import AddVector

PROMPT = make_prompt(41)
STEERABLE = range(N_LAYER - 1)
# Half precision is llama.cpp's default for the cache, and what a user compares with.
DEFAULT_CACHE = {name: value for name, value in SETTINGS.items() if not name.startswith("type_")}
OFF = Steering(strength=0)

# The prompt in one decode, and in several of several micro-batches.
WHOLE = {**DEFAULT_CACHE, "n_batch": 512, "n_ubatch": 512}
PIECES = {**DEFAULT_CACHE, "n_batch": 16, "n_ubatch": 7}
pytestmark = pytest.mark.parametrize(
    ("arch", "settings"),
    [
        *(pytest.param(arch, PIECES, id=f"{arch}-pieces") for arch in ARCHITECTURES),
        *(pytest.param(arch, WHOLE, id=f"{arch}-whole") for arch in ("llama", "gemma3", "mamba")),
    ],
)


@pytest.fixture
def plain(tiny: TinyModel, arch: str, settings: dict[str, Any]) -> Answer:
    """What llama-cpp-python's own class answers."""
    with closing(Llama(str(tiny(arch, n_layer=N_LAYER)), **settings)) as llm:
        return answer(llm, PROMPT)


@pytest.fixture
def steered(tiny: TinyModel, arch: str, settings: dict[str, Any], plain: Answer) -> Iterator[EdgeLlama]:
    """A session that steers, and has just done so on the same prompt."""
    path = tiny(arch, n_layer=N_LAYER)
    with closing(EdgeLlama(path, energy=make_energies(path), **settings)) as llm:
        assert answer(llm, PROMPT).is_far(plain), "steering does nothing here: the test cannot fail"
        yield llm


def test_a_session_without_energies(tiny: TinyModel, arch: str, settings: dict[str, Any], plain: Answer) -> None:
    with closing(EdgeLlama(tiny(arch, n_layer=N_LAYER), energy=None, **settings)) as llm:
        assert answer(llm, PROMPT).same_bits(plain)


def test_strength_zero(steered: EdgeLlama, plain: Answer) -> None:
    with steered.steered(OFF):
        assert answer(steered, PROMPT).same_bits(plain)
    assert answer(steered, PROMPT).is_far(plain)


def test_strength_zero_from_the_start(tiny: TinyModel, arch: str, settings: dict[str, Any], plain: Answer) -> None:
    path = tiny(arch, n_layer=N_LAYER)
    with closing(EdgeLlama(path, energy=make_energies(path), steering=OFF, **settings)) as llm:
        assert answer(llm, PROMPT).same_bits(plain)


@pytest.mark.parametrize("engine", ["native", "onnx"])
def test_a_gate_that_is_not_sure(steered: EdgeLlama, plain: Answer, engine: str) -> None:
    """The gate's layers are read at the prompt's end, and nothing is written."""
    with steered.steered(Steering(gate_benign=NEVER, gate_harmful=ALWAYS, engine=engine)):
        assert answer(steered, PROMPT).same_bits(plain)
        assert steered.last_trace.gate == "uncertain"
        assert len(steered.last_trace.records) > 0


@pytest.mark.parametrize("engine", ["native", "onnx"])
def test_energies_under_their_thresholds(
    tiny: TinyModel, arch: str, settings: dict[str, Any], plain: Answer, engine: str
) -> None:
    """Every energy is read at every steered token, and no row is written."""
    path = tiny(arch, n_layer=N_LAYER)
    energies = make_energies(path, thresholds={"fr": dict.fromkeys(STEERED_LAYERS, 1e6)})
    with closing(EdgeLlama(path, energy=energies, steering=Steering(engine=engine), **settings)) as llm:
        assert answer(llm, PROMPT).same_bits(plain)
        assert [token.offset for token in llm.last_trace.tokens()] == [0, 1, 2]
        assert llm.last_trace.touched_tokens == 0


def test_observing_every_layer(steered: EdgeLlama, plain: Answer) -> None:
    """A function that looks at every row of every layer, and returns what it was given or nothing."""
    seen: dict[int, list[int]] = {il: [] for il in STEERABLE}

    def look(il: int) -> Any:
        def function(rows: np.ndarray) -> np.ndarray | None:
            seen[il].append(len(rows))
            return rows.copy() if il % 2 else None

        return function

    with steered.intervening({il: look(il) for il in STEERABLE}):
        assert answer(steered, PROMPT).same_bits(plain)
    assert all(sum(counts) == len(PROMPT) + 5 for counts in seen.values())


def test_capture(tiny: TinyModel, arch: str, settings: dict[str, Any], steered: EdgeLlama) -> None:
    """The steering that is set takes no part in it."""
    captured = steered.capture(PROMPT, layers=STEERABLE)
    with closing(EdgeLlama(tiny(arch, n_layer=N_LAYER), energy=None, **settings)) as llm:
        expected = llm.capture(PROMPT, layers=STEERABLE)
    assert all(np.array_equal(captured[il], expected[il]) for il in STEERABLE)


def test_logits_of_a_capture(
    tiny: TinyModel, arch: str, settings: dict[str, Any], steered: EdgeLlama, plain: Answer
) -> None:
    steered.capture(PROMPT, layers=STEERABLE)
    n_vocab = steered.n_vocab()
    logits = np.ctypeslib.as_array(steered._ctx.get_logits(), (n_vocab,)).copy()
    assert np.array_equal(logits, plain.logits[0])


def test_leaving_steered(steered: EdgeLlama, plain: Answer) -> None:
    with steered.steered(OFF):
        with steered.steered(Steering(strength=0.7)):
            assert answer(steered, PROMPT).is_far(plain)
        assert answer(steered, PROMPT).same_bits(plain)
        with pytest.raises(KeyError), steered.steered(Steering(strength=0.7)):
            answer(steered, PROMPT)
            raise KeyError
        assert answer(steered, PROMPT).same_bits(plain)


def test_leaving_intervening(steered: EdgeLlama, plain: Answer) -> None:
    interventions = {2: AddVector(np.ones(steered.n_embd()))}
    with steered.steered(OFF):
        with steered.intervening(interventions):
            assert answer(steered, PROMPT).is_far(plain)
        assert answer(steered, PROMPT).same_bits(plain)
        with pytest.raises(KeyError), steered.intervening(interventions):
            answer(steered, PROMPT)
            raise KeyError
        assert answer(steered, PROMPT).same_bits(plain)


def test_leaving_in_the_middle_of_an_answer(steered: EdgeLlama, plain: Answer) -> None:
    with steered.steered(OFF):
        with steered.steered(Steering(strength=0.7)):
            next(steered.generate(PROMPT, temp=0.0))
        assert answer(steered, PROMPT).same_bits(plain)


def test_low_level_evaluation(tiny: TinyModel, arch: str, settings: dict[str, Any], steered: EdgeLlama) -> None:
    then = make_prompt(5, seed=1)
    with closing(Llama(str(tiny(arch, n_layer=N_LAYER)), **settings)) as llm:
        expected = evaluate(llm, PROMPT, then)
    with closing(EdgeLlama(tiny(arch, n_layer=N_LAYER), energy=None, **settings)) as llm:
        llm.eval(PROMPT)  # without reset: what the probe decoded has left nothing behind
        assert np.array_equal(last_logits(llm), expected[0])
    assert not np.array_equal(evaluate(steered, PROMPT, then), expected)
    with steered.steered(OFF):
        assert np.array_equal(evaluate(steered, PROMPT, then), expected)


def test_completions_and_chats(tiny: TinyModel, arch: str, settings: dict[str, Any], steered: EdgeLlama) -> None:
    """Text, too, is plain after a steered answer to the same prompt."""
    messages = [{"role": "user", "content": "How do I kill a Python process?"}]
    sampling = {"max_tokens": 12, "temperature": 0.8, "seed": 5}

    def texts(llm: Llama) -> list[str]:
        completion = llm.create_completion("the answer is", **sampling)
        chat = llm.create_chat_completion(messages, **sampling)
        return [completion["choices"][0]["text"], chat["choices"][0]["message"]["content"]]

    with closing(Llama(str(tiny(arch, n_layer=N_LAYER)), **settings)) as llm:
        expected = texts(llm)
    assert texts(steered) != expected
    with steered.steered(OFF):
        assert texts(steered) == expected
