"""Whatever is wrong with a model file, people are told so in one line that names the file."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from bad_gguf import BAD_MODELS, UNLOADABLE_MODELS, Builder, lora_adapter, truncated, without_chat_template
from tiny_gguf import ARCHITECTURES

from edge_eds import EdgeLlama
from edge_eds.energy.gguf_header import read_gguf_header
from edge_eds.errors import ModelError
from edge_eds.runtime.model_file import check_chat_model, hook_shape

TinyModel = Callable[..., Path]
SETTINGS: dict[str, Any] = {"n_ctx": 128, "n_threads": 1, "n_threads_batch": 1, "verbose": False}


def cases(models: Mapping[str, tuple[Builder, tuple[str, ...]]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("build", "words"), list(models.values()), ids=list(models))


def refusal(path: Path) -> tuple[str, list[str]]:
    """The message with which a session refuses a file, and the errors of clearing away what was half made."""
    left_behind: list[str] = []
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(sys, "unraisablehook", lambda args: left_behind.append(repr(args.exc_value)))
        with pytest.raises(ModelError) as caught:
            EdgeLlama(path, energy=None, **SETTINGS)
        message = str(caught.value)
        del caught  # its traceback holds the half-made session
        gc.collect()
    return message, left_behind


def assert_clear(message: str, path: Path, words: tuple[str, ...] = ()) -> None:
    assert "\n" not in message
    assert str(path) in message
    for word in words:
        assert word in message


@cases(BAD_MODELS)
def test_the_header_alone_tells(tmp_path: Path, build: Builder, words: tuple[str, ...]) -> None:
    path = build(tmp_path)
    with pytest.raises(ModelError) as caught:
        header = read_gguf_header(path)
        check_chat_model(header)
        hook_shape(header)
    assert_clear(str(caught.value), path, words)


@cases({**BAD_MODELS, **UNLOADABLE_MODELS})
def test_a_session_refuses_it(tmp_path: Path, build: Builder, words: tuple[str, ...]) -> None:
    path = build(tmp_path)
    message, _ = refusal(path)
    assert_clear(message, path, words)


def test_a_refused_session_goes_without_a_traceback(tmp_path: Path) -> None:
    """Python prints what a half-made object's __del__ raises: the one line would not stand alone."""
    _, left_behind = refusal(lora_adapter(tmp_path))
    assert left_behind == []


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_good_model_passes(tiny: TinyModel, arch: str) -> None:
    header = read_gguf_header(tiny(arch))
    check_chat_model(header)
    assert hook_shape(header) == (4, 64)


def test_every_truncation_is_noticed(tiny: TinyModel, tmp_path: Path) -> None:
    """Wherever a download ends: in the metadata, in the vocabulary, in the tensor table, in the data."""
    whole = tmp_path / "whole.gguf"
    whole.write_bytes(tiny("llama", n_layer=1).read_bytes())
    size = whole.stat().st_size
    end_of_data = size - 32  # up to the last tensor's padding
    for n_bytes in [*range(0, 12_000, 37), *range(12_000, end_of_data, 9973), end_of_data]:
        path = truncated(whole, n_bytes)
        with pytest.raises(ModelError, match=r"not a GGUF|truncated") as caught:
            read_gguf_header(path)
        assert_clear(str(caught.value), path)


def test_a_session_opens_after_one_was_refused(tiny: TinyModel, tmp_path: Path) -> None:
    refusal(lora_adapter(tmp_path))
    with closing(EdgeLlama(tiny("llama"), energy=None, **SETTINGS)) as llm:
        answer = llm.create_completion("Hello", max_tokens=3, temperature=0)
    assert answer["choices"][0]["finish_reason"] == "length"


def test_an_adapter_in_its_own_place_is_no_error(tiny: TinyModel, tmp_path: Path) -> None:
    adapter = str(lora_adapter(tmp_path))
    with closing(EdgeLlama(tiny("llama"), energy=None, lora_path=adapter, **SETTINGS)) as llm:
        assert llm.create_completion("Hello", max_tokens=3, temperature=0)["choices"]


def test_without_a_chat_template_a_chat_is_refused_and_the_way_out_is_named(tmp_path: Path) -> None:
    path = without_chat_template(tmp_path)
    messages = [{"role": "user", "content": "Hello"}]
    with closing(EdgeLlama(path, energy=None, **SETTINGS)) as llm:
        assert not llm.has_chat_template
        with pytest.raises(ModelError) as caught:
            llm.create_chat_completion(messages=messages, max_tokens=2)
        assert_clear(str(caught.value), path, ("chat template", "--chat-format", "chatml"))
        assert llm.create_completion("Hello", max_tokens=2)["choices"]
    with closing(EdgeLlama(path, energy=None, chat_format="chatml", **SETTINGS)) as llm:
        assert llm.create_chat_completion(messages=messages, max_tokens=2)["choices"]
