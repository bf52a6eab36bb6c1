"""A session is one timeline: an answer depends on its prompt and on the settings in force, on nothing before.

Everything that llama_cpp.Llama can do besides is still there.
"""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bad_gguf import lora_adapter
from energy_examples import make_head, make_subspace
from llama_cpp import Llama, LlamaDiskCache, LlamaRAMCache
from llama_cpp.llama_speculative import LlamaPromptLookupDecoding
from runtime_examples import (
    ALWAYS,
    ARCHITECTURES,
    N_EMBD,
    N_LAYER,
    NEVER,
    RANK,
    SETTINGS,
    STEERED_LAYERS,
    Answer,
    TinyModel,
    answer,
    counted_rows,
    evaluate,
    make_energies,
    make_prompt,
)

from edge_eds import EdgeLlama, Steering
from edge_eds.energy.network import LayerEnergy
from edge_eds.errors import EdgeError, FingerprintError, ModelError, PromptTooLongError, SettingsError, SteeringError
from edge_eds.runtime.chat_prompt import render_chat
from edge_eds.runtime.interventions import AblateDirection, AddVector, EnergyDescent

PROMPT = make_prompt(30)
PROMPTS = {
    "the prompt": PROMPT,
    "longer": PROMPT + make_prompt(9, seed=1),
    "shorter": PROMPT[:-4],
    "another end": PROMPT[:-3] + make_prompt(5, seed=2),
    "the same end": make_prompt(3, seed=3) + PROMPT[3:],
    "one token": PROMPT[:1],
}
VECTOR = np.random.default_rng(5).normal(size=N_EMBD).astype(np.float32)
ENERGY = LayerEnergy(3, make_subspace(N_EMBD, RANK, 3), {"fr": make_head(RANK, (16,), True, 9)})
DESCENT = EnergyDescent(ENERGY)

Setting = Callable[[EdgeLlama], AbstractContextManager[Any]]
# Each is entered anew for every answer, as a program would do that switches between them.
SWITCHED: dict[str, Setting] = {
    "as tuned": lambda llm: nullcontext(),
    "off": lambda llm: llm.steered(Steering(strength=0)),
    "half": lambda llm: llm.steered(Steering(strength=0.5)),
    "every token": lambda llm: llm.steered(Steering(n_tokens=0)),
    "onnx": lambda llm: llm.steered(Steering(engine="onnx")),
    "not sure": lambda llm: llm.steered(Steering(gate_benign=NEVER, gate_harmful=ALWAYS)),
    "vector": lambda llm: llm.intervening({2: AddVector(VECTOR)}),
    "answer vector": lambda llm: llm.intervening({2: AddVector(3 * VECTOR, rows="answer")}),
    "ablation": lambda llm: llm.intervening({1: AblateDirection(VECTOR)}),
    "descent": lambda llm: llm.intervening({3: DESCENT}),
    "function": lambda llm: llm.intervening({2: lambda rows: rows * np.float32(1.1)}),
}


def open_session(path: Path, **settings: Any) -> EdgeLlama:
    return EdgeLlama(path, energy=make_energies(path), **{**SETTINGS, **settings})


@pytest.fixture
def path(tiny: TinyModel) -> Path:
    return tiny("llama", n_layer=N_LAYER)


@pytest.fixture
def llm(path: Path) -> Iterator[EdgeLlama]:
    with closing(open_session(path)) as llm:
        yield llm


# -- an answer is a function of its prompt and the settings


class References:
    """Answers of sessions that have answered nothing before."""

    def __init__(self, path: Path, **settings: Any) -> None:
        self._open = lambda: open_session(path, **settings)
        self._known: dict[tuple[str, str], Answer] = {}

    def __call__(self, setting: str, prompt: str) -> Answer:
        if (setting, prompt) not in self._known:
            with closing(self._open()) as llm, SWITCHED[setting](llm):
                self._known[setting, prompt] = answer(llm, PROMPTS[prompt])
        return self._known[setting, prompt]


@pytest.mark.parametrize(("arch", "n_batch"), [*((arch, 16) for arch in ARCHITECTURES), ("llama", 512), ("jamba", 512)])
def test_any_sequence_of_settings(tiny: TinyModel, arch: str, n_batch: int) -> None:
    """Bit for bit when the settings have changed; within tolerance when rows of the same settings are reused."""
    path = tiny(arch, n_layer=N_LAYER)
    settings = {"n_batch": n_batch, "n_ubatch": 7}
    reference = References(path, **settings)
    rng = np.random.default_rng(len(arch) + n_batch)
    before = ""
    with closing(open_session(path, **settings)) as llm:
        for _ in range(40):
            setting, prompt = rng.choice(list(SWITCHED)), rng.choice(list(PROMPTS))
            if rng.random() < 0.3 and before:
                setting = before
            with SWITCHED[setting](llm):
                found = answer(llm, PROMPTS[prompt], n=6)
            expected = reference(setting, prompt)
            what = f"{setting}, {prompt} after {before}"
            if setting != before:
                assert found.same_bits(expected), what
            assert found.is_close(expected, arch), what
            before = setting


@pytest.mark.parametrize("arch", ["llama", "gemma3", "mamba", "jamba"])
def test_settings_that_change_in_the_middle_of_an_answer(tiny: TinyModel, arch: str) -> None:
    """What is decoded then counts for neither; the answers after it are as ever."""
    path = tiny(arch, n_layer=N_LAYER)
    reference = References(path)
    ways = ("off", "vector", "every token")
    with closing(open_session(path)) as llm:
        for first in ways:
            for second in ("off", "vector", "function"):
                with SWITCHED[first](llm):
                    stream = llm.generate(PROMPT, temp=0.0)
                    next(stream)
                with SWITCHED[second](llm):
                    next(stream)
                    next(stream)
                stream.close()
                for last in (first, second):
                    with SWITCHED[last](llm):
                        found = answer(llm, PROMPT)
                    assert found.is_close(reference(last, "the prompt"), arch), f"{first}, {second}, {last}"


def test_rows_of_the_prompt_alone_are_not_taken_for_ready_logits(llm: EdgeLlama) -> None:
    """Plain rows up to the prompt's end, then edited ones: the logits that lie ready are not the prompt's."""
    with llm.steered(Steering(strength=0)):
        llm.reset()
        llm.eval(PROMPT)
        with llm.intervening({2: AddVector(VECTOR)}):
            llm.eval(make_prompt(3, seed=4))
        found = answer(llm, PROMPT)
        llm.reset()
        assert found.is_close(answer(llm, PROMPT))


def test_rows_that_take_the_place_of_others(llm: EdgeLlama) -> None:
    """The timeline shortened by hand, as users of `eval` do, and gone on with under other settings."""
    with llm.steered(Steering(strength=0)):
        expected = answer(llm, PROMPT)
        llm.n_tokens = 10
        with llm.intervening({2: AddVector(VECTOR)}):
            llm.eval(PROMPT[10:])
        assert answer(llm, PROMPT).is_close(expected)


@pytest.mark.parametrize("arch", ["llama", "gemma3", "phi3", "mamba", "lfm2"])
def test_states_that_are_saved_and_loaded(tiny: TinyModel, arch: str) -> None:
    """A state brings back rows of the settings that it was saved under, whatever is in force then."""
    path = tiny(arch, n_layer=N_LAYER)
    reference = References(path)
    names = ("as tuned", "off", "vector", "half")
    with closing(open_session(path)) as llm, closing(open_session(path)) as other:
        states = {}
        for name in names:
            with SWITCHED[name](llm):
                answer(llm, PROMPT)
                states[name] = llm.save_state()
        for session in (llm, other):
            for saved in names:
                for name in names:
                    for prompt in ("the prompt", "longer"):
                        session.load_state(states[saved])
                        with SWITCHED[name](session):
                            found = answer(session, PROMPTS[prompt])
                        assert found.is_close(reference(name, prompt), arch), f"{saved}, {name}, {prompt}"


def test_a_state_of_another_class_is_loaded_and_not_trusted(path: Path, llm: EdgeLlama) -> None:
    with closing(Llama(str(path), **SETTINGS)) as plain:
        answer(plain, PROMPT)
        state = plain.save_state()
    expected = answer(llm, PROMPT)
    llm.load_state(state)
    assert llm.n_tokens == state.n_tokens
    assert answer(llm, PROMPT).same_bits(expected)


def test_a_state_goes_on_where_it_was_saved(llm: EdgeLlama) -> None:
    """`eval` after `load_state` counts from the prompt's end of that state, not of the answer since."""
    then = make_prompt(5, seed=1)
    with llm.intervening({4: DESCENT}):
        expected = evaluate(llm, PROMPT, then)
        llm.reset()
        llm.eval(PROMPT)
        state = llm.save_state()
        answer(llm, PROMPTS["one token"])
        llm.load_state(state)
        for i, token in enumerate(then):
            llm.eval([token])
            assert np.abs(evaluate_last(llm) - expected[i + 1]).max() < 1e-5
        assert llm.last_trace.tokens()[-1].offset == len(then)


def evaluate_last(llm: Llama) -> np.ndarray:
    return np.ctypeslib.as_array(llm._ctx.get_logits_ith(-1), (llm.n_vocab(),)).copy()


@pytest.mark.parametrize("engine", ["native", "onnx"])
def test_a_loaded_answer_does_not_go_on_under_another_answers_gate(llm: EdgeLlama, engine: str) -> None:
    with llm.steered(Steering(n_tokens=0, engine=engine)):
        llm.eval(PROMPT)
        state = llm.save_state()
        answer(llm, PROMPTS["longer"])
        llm.load_state(state)
        with pytest.raises(SteeringError, match="gate was never read"):
            llm.eval([5])
        assert answer(llm, PROMPT).tokens


@pytest.mark.parametrize("kind", ["ram", "disk"])
@pytest.mark.parametrize("arch", ["llama", "mamba"])
def test_caches_of_llama_cpp_python(
    tiny: TinyModel, arch: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tiny(arch, n_layer=N_LAYER)
    sampling: dict[str, Any] = {"max_tokens": 8, "temperature": 0}

    def text(llm: EdgeLlama, setting: str, prompt: str) -> str:
        with SWITCHED[setting](llm):
            return llm.create_completion(prompt, **sampling)["choices"][0]["text"]

    prompts = ["the answer is", "the answer is this: and then", "an other thing"]
    walk = [(setting, prompt) for setting in ("as tuned", "off", "vector", "half") for prompt in prompts]
    with closing(open_session(path)) as llm:
        expected = {}
        for step in walk:
            llm.reset()
            expected[step] = text(llm, *step)
    assert len(set(expected.values())) > len(walk) / 2
    with closing(open_session(path)) as llm:
        llm.set_cache(LlamaRAMCache() if kind == "ram" else LlamaDiskCache(str(tmp_path / "cache")))
        for i in np.random.default_rng(0).permutation(len(walk) * 3) % len(walk):
            assert text(llm, *walk[i]) == expected[walk[i]], walk[i]


def test_a_function_may_change_its_mind(llm: EdgeLlama) -> None:
    """Rows of a Python function are never reused: it need not do the same again."""
    scale = [1.0]
    with llm.intervening({2: lambda rows: rows + scale[0] * VECTOR}):
        first = answer(llm, PROMPT)
        scale[0] = 3.0
        second = answer(llm, PROMPT)
    with llm.intervening({2: AddVector(VECTOR)}):
        assert first.is_close(answer(llm, PROMPT))
    with llm.intervening({2: AddVector(VECTOR, scale=3)}):
        assert second.is_close(answer(llm, PROMPT))


# -- what is reused

REUSED_UP_TO_THE_ANSWER = ("as tuned", "half", "every token", "onnx", "answer vector", "descent")


@pytest.mark.parametrize("setting", SWITCHED)
def test_a_second_turn_reuses_the_first_up_to_what_was_written(
    llm: EdgeLlama, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    with SWITCHED[setting](llm):
        first = answer(llm, PROMPT)
        turn = PROMPT + first.tokens + make_prompt(7, seed=1)
        with counted_rows(llm, monkeypatch) as n_rows:
            found = answer(llm, turn, n=1)
        llm.reset()
        assert found.is_close(answer(llm, turn, n=1))
    # Of the answer the last token was never decoded; of a steered prompt the last token was written.
    n_kept = len(PROMPT) + len(first.tokens) - 1
    if setting in REUSED_UP_TO_THE_ANSWER:
        n_kept = len(PROMPT) - 1
    if setting == "function":
        n_kept = 0
    assert sum(n_rows) == len(turn) - n_kept


@pytest.mark.parametrize("setting", ["as tuned", "off", "half", "onnx", "not sure"])
def test_settings_that_are_entered_again_are_the_same_settings(
    llm: EdgeLlama, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    with SWITCHED[setting](llm):
        answer(llm, PROMPT)
    with SWITCHED[setting](llm), counted_rows(llm, monkeypatch) as n_rows:
        answer(llm, PROMPTS["longer"], n=1)
    assert sum(n_rows) <= len(PROMPTS["longer"]) - len(PROMPT) + 1


@pytest.mark.parametrize("n_before", [1, 6])
@pytest.mark.parametrize("setting", ["as tuned", "not sure", "onnx"])
def test_the_same_prompt_is_steered_again(
    llm: EdgeLlama, monkeypatch: pytest.MonkeyPatch, setting: str, n_before: int
) -> None:
    """Its last token is decoded anew: logits that lie ready have no gate that was read for this answer."""
    with SWITCHED[setting](llm):
        first = answer(llm, PROMPT)
        trace = llm.last_trace
        llm.reset()
        answer(llm, PROMPT, n=n_before)
        with counted_rows(llm, monkeypatch) as n_rows:
            assert answer(llm, PROMPT).is_close(first)
        assert n_rows == [1] * 6
        assert llm.last_trace.gate == trace.gate
        assert len(llm.last_trace.records) == len(trace.records)


def test_the_same_prompt_without_steering_needs_no_decode(llm: EdgeLlama, monkeypatch: pytest.MonkeyPatch) -> None:
    with llm.steered(Steering(strength=0)):
        first = answer(llm, PROMPT, n=1)
        with counted_rows(llm, monkeypatch) as n_rows:
            assert answer(llm, PROMPT, n=1).same_bits(first)
    assert n_rows == []


def test_recurrent_models_start_anew_after_a_steered_answer(tiny: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their state cannot be taken back to the row before the first that was written."""
    with closing(open_session(tiny("mamba", n_layer=N_LAYER))) as llm:
        first = answer(llm, PROMPT)
        turn = PROMPT + first.tokens + make_prompt(7, seed=1)
        with counted_rows(llm, monkeypatch) as n_rows:
            answer(llm, turn, n=1)
        assert sum(n_rows) == len(turn)


# -- several sessions, and their end


def test_two_sessions_do_not_disturb_each_other(path: Path, tiny: TinyModel) -> None:
    """Two answers token by token in turn, under other settings, of the same model and of another."""
    other_path = tiny("qwen3", n_layer=N_LAYER)
    with ExitStack() as stack:
        sessions = [stack.enter_context(closing(open_session(p))) for p in (path, path, other_path)]
        plain = stack.enter_context(closing(Llama(str(path), **SETTINGS)))
        expected = [answer(llm, PROMPT) for llm in (*sessions, plain)]
        assert expected[0].same_bits(expected[1])
        settings = [{"strength": 1.0}, {"strength": 0.5}, {"strength": 1.0}]
        for llm, setting in zip(sessions, settings, strict=True):
            stack.enter_context(llm.steered(Steering(**setting)))
            llm.reset()
        with closing(open_session(path)) as alone, alone.steered(Steering(strength=0.5)):
            expected[1] = answer(alone, PROMPT)
        plain.reset()
        streams = [llm.generate(list(PROMPT), temp=0.0) for llm in (*sessions, plain)]
        tokens = [[next(stream) for stream in streams] for _ in range(6)]
        for i, stream in enumerate(streams):
            stream.close()
            assert [step[i] for step in tokens] == expected[i].tokens
        assert len({tuple(step[i] for step in tokens) for i in (0, 1, 3)}) == 3
        assert [llm.last_trace.touched_tokens for llm in sessions] == [3, 3, 3]


def test_many_sessions_come_and_go(path: Path) -> None:
    expected = None
    for i in range(20):
        llm = open_session(path)
        found = answer(llm, PROMPT, n=2)
        expected = expected or found
        assert found.same_bits(expected)
        if i % 2:
            llm.close()
            llm.close()
        gone = weakref.ref(llm)
        del llm
        gc.collect()
        assert gone() is None


def test_a_session_that_is_dropped_in_the_middle_of_an_answer(path: Path) -> None:
    llm = open_session(path)
    stream = llm.generate(PROMPT, temp=0.0)
    next(stream)
    del llm
    gc.collect()
    next(stream)
    del stream
    gc.collect()


@pytest.mark.filterwarnings("error")
def test_a_session_that_could_not_be_made_goes_quietly(tmp_path: Path, path: Path) -> None:
    """Python calls __del__ on it all the same."""
    for arguments in (
        {"model_path": tmp_path / "missing.gguf"},
        {"model_path": path, "energy": tmp_path / "missing.energy.onnx"},
        {"model_path": path, "energy": None, "steering": Steering()},
        {"model_path": path, "energy": None, "lora_path": tmp_path / "missing.gguf"},
    ):
        with pytest.raises(EdgeError):
            EdgeLlama(**{**SETTINGS, **arguments})
        gc.collect()


# -- a true subclass


def test_pickling_a_session(path: Path, llm: EdgeLlama) -> None:
    expected = answer(llm, PROMPT)
    with closing(pickle.loads(pickle.dumps(llm))) as again:
        assert isinstance(again, EdgeLlama)
        assert answer(again, PROMPT).same_bits(expected)
    with closing(EdgeLlama(path, energy=None, **SETTINGS)) as plain, closing(copy.copy(plain)) as again:
        assert again.energy_file is None
        assert answer(again, PROMPT).same_bits(answer(plain, PROMPT))


def test_pickling_keeps_the_settings(path: Path) -> None:
    settings = {"n_batch": 16, "n_ubatch": 7, "logits_all": True, "steering": Steering(strength=0.5)}
    with closing(open_session(path, **settings)) as llm, closing(pickle.loads(pickle.dumps(llm))) as again:
        assert again.steering == settings["steering"]
        assert (again.n_batch, again.context_params.n_ubatch, again._logits_all) == (16, 7, True)
        assert answer(again, PROMPT).same_bits(answer(llm, PROMPT))


def test_a_pickled_session_without_a_chat_template_still_has_none(tiny: TinyModel) -> None:
    path = tiny("llama", n_layer=N_LAYER, chat_template=None)
    with closing(EdgeLlama(path, energy=None, **SETTINGS)) as llm:
        again = pickle.loads(pickle.dumps(llm))
    with closing(again), pytest.raises(ModelError, match="chat template"):
        again.create_chat_completion([{"role": "user", "content": "hello"}])


@pytest.mark.parametrize("setting", ["as tuned", "off", "every token", "onnx", "vector", "descent"])
@pytest.mark.parametrize("arch", ["llama", "gemma3", "qwen3moe"])
def test_a_draft_model_changes_nothing(tiny: TinyModel, arch: str, setting: str) -> None:
    """Speculative decoding: drafts are steered as what they may become, and taken back where they were wrong."""
    path = tiny(arch, n_layer=N_LAYER)
    prompt = (PROMPT[:6] * 5)[:-1]
    with closing(open_session(path)) as llm, SWITCHED[setting](llm):
        expected = [token for token, _ in zip(llm.generate(prompt, temp=0.0), range(40), strict=False)]
        trace = llm.last_trace.tokens()
        again = [token for token, _ in zip(llm.generate(prompt, temp=0.0), range(40), strict=False)]
        assert again == expected
    draft = Guessing(expected, len(prompt))
    with closing(open_session(path, draft_model=draft, logits_all=True)) as llm, SWITCHED[setting](llm):
        for _ in range(2):
            found = [token for token, _ in zip(llm.generate(prompt, temp=0.0), range(40), strict=False)]
            assert found == expected
        assert draft.n_right > 3
        assert draft.n_wrong > 3
        with_draft = llm.last_trace.tokens()[: len(trace)]
    assert [token.offset for token in with_draft] == [token.offset for token in trace]
    for token, without in zip(with_draft, trace, strict=True):
        assert token.energy_before == pytest.approx(without.energy_before, abs=1e-3)
        assert token.energy_after == pytest.approx(without.energy_after, abs=1e-3)


class Guessing:
    """A draft model that knows the answer, and gets every third token of it wrong."""

    def __init__(self, tokens: list[int], n_prompt: int) -> None:
        self._tokens, self._n_prompt = tokens, n_prompt
        self.n_right = self.n_wrong = 0

    def __call__(self, input_ids: np.ndarray, /, **_: Any) -> np.ndarray:
        done = len(input_ids) - self._n_prompt
        guess = np.array(self._tokens[done : done + 4], dtype=np.intc)
        if done % 3 == 0 and len(guess) > 1:
            guess[1] = (guess[1] + 1) % 300
            self.n_wrong += 1
        else:
            self.n_right += 1
        return guess


def test_prompt_lookup_decoding(path: Path) -> None:
    prompt = "the thing and the thing and the thing and"
    sampling: dict[str, Any] = {"max_tokens": 40, "temperature": 0}
    with closing(open_session(path)) as llm:
        expected = llm.create_completion(prompt, **sampling)["choices"][0]["text"]
    draft = LlamaPromptLookupDecoding(max_ngram_size=1, num_pred_tokens=5)
    with closing(open_session(path, draft_model=draft, logits_all=True)) as llm:
        assert llm.create_completion(prompt, **sampling)["choices"][0]["text"] == expected


def test_streaming_gives_the_same_text(llm: EdgeLlama) -> None:
    messages = [{"role": "user", "content": "What is this?"}]
    sampling: dict[str, Any] = {"max_tokens": 20, "temperature": 0.9, "seed": 3}
    whole = llm.create_chat_completion(messages, **sampling)["choices"][0]["message"]["content"]
    llm.reset()
    chunks = list(llm.create_chat_completion(messages, stream=True, **sampling))
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == whole
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert llm.last_trace.touched_tokens == 3


def test_log_probabilities_are_those_of_steered_logits(path: Path) -> None:
    with closing(open_session(path, logits_all=True)) as llm:
        completion = llm.create_completion(PROMPT, max_tokens=4, temperature=0, logprobs=3)
        found = completion["choices"][0]["logprobs"]
        llm.reset()
        logits = answer(llm, PROMPT, n=4).logits.astype(np.float64)
    expected = logits.max(axis=1) - np.log(np.exp(logits).sum(axis=1))
    np.testing.assert_allclose(found["token_logprobs"], expected, atol=1e-4)


@pytest.mark.parametrize("arch", ["llama", "gemma3"])
def test_embeddings(tiny: TinyModel, arch: str) -> None:
    path = tiny(arch, n_layer=N_LAYER)
    texts = ["the first", "a second one"]
    with closing(Llama(str(path), embedding=True, **SETTINGS)) as plain:
        expected = plain.embed(texts)
    with closing(open_session(path, embedding=True)) as llm:
        assert llm.embed(texts) == expected
        answer(llm, PROMPT)
        assert llm.embed(texts) == expected


def test_generate_without_reset_goes_on(llm: EdgeLlama) -> None:
    expected = answer(llm, PROMPT)
    llm.reset()
    llm.eval(PROMPT)
    assert answer(llm, [], reset=False).same_bits(expected)
    with llm.steered(Steering(strength=0)):
        llm.reset()
        whole = answer(llm, PROMPT)
        llm.reset()
        llm.eval(PROMPT[:9])
        assert answer(llm, PROMPT[9:], reset=False).is_close(whole)


# -- bad input


def test_an_adapter(path: Path, tmp_path: Path) -> None:
    adapter = lora_adapter(tmp_path)
    with closing(Llama(str(path), lora_path=str(adapter), **SETTINGS)) as plain:
        expected = answer(plain, PROMPT)
    with closing(EdgeLlama(path, energy=None, lora_path=adapter, **SETTINGS)) as llm:
        assert answer(llm, PROMPT).same_bits(expected)
    with closing(EdgeLlama(path, energy=None, **SETTINGS)) as llm:
        assert answer(llm, PROMPT).is_far(expected)
    with pytest.raises(FingerprintError, match="lora"):
        open_session(path, lora_path=adapter)


def test_an_adapter_that_does_not_fit(path: Path, tiny: TinyModel, tmp_path: Path) -> None:
    """llama-cpp-python goes on without a word where llama.cpp refuses one, and the first decode crashes."""
    adapter = lora_adapter(tmp_path)
    for model, lora, reason in (
        (path, path, "is no LoRA adapter"),
        (tiny("qwen3"), adapter, "is an adapter for the architecture llama"),
        (tiny("llama", n_embd=96), adapter, "could not apply this adapter"),
        (path, tmp_path / "missing.gguf", "no such file"),
    ):
        with pytest.raises(ModelError, match=reason):
            EdgeLlama(model, energy=None, lora_path=lora, **SETTINGS)


@pytest.mark.parametrize("n_ctx", [40, 100, 256])
def test_a_context_that_is_full(path: Path, n_ctx: int) -> None:
    """llama.cpp rounds a context up to 256 tokens; what was asked for is what counts."""
    with closing(open_session(path, n_ctx=n_ctx)) as llm:
        for prompt in (make_prompt(n_ctx - 1), PROMPT):
            completion = llm.create_completion(prompt, max_tokens=None, temperature=0)
            # One more, which is not decoded, if the last ones are an unfinished character.
            assert completion["usage"]["total_tokens"] in (n_ctx, n_ctx + 1)
            assert completion["choices"][0]["finish_reason"] == "length"
        assert len(list(llm.generate(PROMPT, temp=0.0))) == n_ctx - len(PROMPT) + 1
        assert llm.n_tokens == n_ctx
        with pytest.raises(PromptTooLongError):
            llm.eval([5])
        with pytest.raises(PromptTooLongError):
            next(llm.generate(make_prompt(n_ctx + 1)))
        for n in (n_ctx, n_ctx + 1, 3 * n_ctx):
            for stream in (False, True):
                with pytest.raises(PromptTooLongError, match=f"holds {n_ctx}"):
                    llm.create_completion(make_prompt(n), stream=stream)
            with pytest.raises(ValueError, match="shorten the prompt"):
                llm.create_chat_completion([{"role": "user", "content": "x" * n}])
        llm.capture(make_prompt(n_ctx))
        with pytest.raises(PromptTooLongError):
            llm.capture(make_prompt(n_ctx + 1))
        assert answer(llm, PROMPT, n=2).tokens


def test_a_chat_without_a_template(tiny: TinyModel) -> None:
    path = tiny("llama", n_layer=N_LAYER, chat_template=None)
    messages = [{"role": "user", "content": "hello"}]
    with closing(open_session(path)) as llm:
        assert not llm.has_chat_template
        with pytest.raises(ModelError, match=r"no chat template.*--chat-format"):
            llm.create_chat_completion(messages)
        with pytest.raises(ModelError, match="no chat template"):
            render_chat(llm, messages)
        assert llm.create_completion("hello", max_tokens=3)["choices"][0]["text"]
    with closing(open_session(path, chat_format="chatml")) as llm:
        assert llm.create_chat_completion(messages, max_tokens=3)["choices"]
    with closing(open_session(path, chat_format="of no one")) as llm, pytest.raises(ModelError, match="of no one"):
        llm.create_chat_completion(messages)


@pytest.mark.parametrize("chat_format", [None, "chatml", "llama-2", "gemma"])
def test_rendered_chats_are_what_is_evaluated(path: Path, chat_format: str | None) -> None:
    messages = [
        {"role": "user", "content": "What is <|im_end|> this?"},
        {"role": "assistant", "content": "That."},
        {"role": "user", "content": "And then?"},
    ]
    with closing(open_session(path, chat_format=chat_format)) as llm:
        tokens = render_chat(llm, messages)
        llm.create_chat_completion(messages, max_tokens=1)
        assert llm.input_ids[: llm.n_tokens].tolist() == tokens


# -- captures


def test_a_capture_is_not_steered_and_leaves_the_settings(llm: EdgeLlama) -> None:
    expected = answer(llm, PROMPT)
    with llm.steered(Steering(strength=0)):
        plain = llm.capture(PROMPT)
    steered = llm.capture(PROMPT)
    assert all(np.array_equal(plain[il], steered[il]) for il in range(N_LAYER))
    assert answer(llm, PROMPT).same_bits(expected)


def test_what_can_be_captured(llm: EdgeLlama) -> None:
    assert list(llm.capture(PROMPT, [3, 0])) == [3, 0]
    rows = llm.capture("the answer", [2])[2]
    assert np.array_equal(rows, llm.capture(llm.tokenize(b"the answer", special=True), [2])[2])
    for layers in ([N_LAYER], [-1]):
        with pytest.raises(SteeringError, match="the model has layers 0 to"):
            llm.capture(PROMPT, layers)
    with pytest.raises(SteeringError, match="no tokens"):
        llm.capture("")
    with pytest.raises(SteeringError, match="no tokens"):
        llm.capture([])


def test_the_last_position_is_the_last_row_of_all(llm: EdgeLlama) -> None:
    """Whatever the batch size cut the text into; the last layer, whose rows are pruned, included."""
    everything = llm.capture(PROMPT)
    last = llm.capture(PROMPT, positions="last")
    assert list(last) == list(everything)
    for il, rows in last.items():
        assert rows.shape == (1, N_EMBD)
        assert np.array_equal(rows[0], everything[il][-1])
    assert last.tokens.tolist() == PROMPT[-1:]
    assert everything.tokens.tolist() == PROMPT
    with pytest.raises(SettingsError, match="'first'"):
        llm.capture(PROMPT, positions="first")  # type: ignore[arg-type]


@pytest.mark.parametrize("positions", ["all", "last"])
def test_a_steered_capture_shows_what_steering_left(llm: EdgeLlama, positions: str) -> None:
    plain, steered = (llm.capture(PROMPT, positions=positions, steered=wanted) for wanted in (False, True))
    first = min(STEERED_LAYERS)
    for il in range(N_LAYER):
        moved = (plain[il] != steered[il]).any(axis=1)
        assert moved[-1] == (il >= first)  # the end of the prompt, from the first steered layer on
        assert not moved[:-1].any()
    with llm.steered(Steering(strength=0)):
        off = llm.capture(PROMPT, positions=positions, steered=True)
    assert all(np.array_equal(plain[il], off[il]) for il in range(N_LAYER))


def test_a_steered_capture_leaves_answers_and_traces_as_they_were(llm: EdgeLlama) -> None:
    expected = answer(llm, PROMPT)
    n_records = len(llm.last_trace.records)
    assert n_records > 0
    llm.capture(PROMPT[:5], steered=True)
    assert len(llm.last_trace.records) == n_records
    assert answer(llm, PROMPT).same_bits(expected)


def test_a_capture_says_its_shapes_and_not_its_numbers(llm: EdgeLlama) -> None:
    text = repr(llm.capture(PROMPT, [0, 3]))
    assert f"{len(PROMPT)} tokens at 2 layers" in text
    assert text.count(f"float32 ({len(PROMPT)}, {N_EMBD})") == 2
    assert len(text) < 200
    assert "1 token at 1 layer" in repr(llm.capture(PROMPT, [3], positions="last"))


def test_the_tokens_of_a_chat_are_those_that_are_answered(llm: EdgeLlama) -> None:
    tokens = llm.chat_tokens("hi")
    assert tokens == llm.chat_tokens([{"role": "user", "content": "hi"}])
    llm.create_chat_completion([{"role": "user", "content": "hi"}], max_tokens=1)
    assert llm.input_ids[: llm.n_tokens].tolist() == tokens
