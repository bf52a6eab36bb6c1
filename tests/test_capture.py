"""`edge-eds capture` and its files: what is in them is what `EdgeLlama.capture` gives, read with others' tools."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tracemalloc
from collections import namedtuple
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pytest
from command_line import assert_one_line, edge_eds
from runtime_examples import N_EMBD, N_LAYER, STEERED_LAYERS
from safetensors import safe_open
from steered_model import steered_model

from edge_eds import EdgeLlama
from edge_eds.apps.layer_ranges import parse_layers, ranges
from edge_eds.energy.fingerprint import ModelFingerprint
from edge_eds.errors import InputError
from edge_eds.runtime.state_file import StateShape, state_file

KINDS = (".safetensors", ".npz")
PROMPTS = ("What is a hook?", "How do I shoot a film?", "hi")

Arrays = dict[str, npt.NDArray[Any]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return steered_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def llm(model: Path) -> Iterator[EdgeLlama]:
    with closing(EdgeLlama(model, n_ctx=1024, n_threads=1, n_threads_batch=1, verbose=False)) as llm:
        yield llm


def read(path: Path) -> tuple[dict[str, str], Arrays]:
    """Metadata and arrays, by the tools that users have."""
    if path.suffix == ".npz":
        with np.load(path) as file:
            arrays = {name: file[name] for name in file}
        return json.loads(str(arrays.pop("metadata"))), arrays
    with safe_open(path, "np") as file:
        return file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)


def captured(model: Path, out: Path, *options: object) -> tuple[dict[str, str], Arrays]:
    outcome = edge_eds("capture", model, "-o", out, "--threads", 1, *options)
    assert outcome.code == 0, outcome.stderr
    assert outcome.stdout == ""
    assert [file for file in out.parent.iterdir() if file.suffix == ".tmp"] == []
    return read(out)


def given(*prompts: str) -> list[str]:
    return [word for prompt in prompts for word in ("-p", prompt)]


# -- what is in the file ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("positions", ["all", "last"])
def test_the_file_holds_what_the_session_captures(
    model: Path, llm: EdgeLlama, tmp_path: Path, kind: str, positions: str
) -> None:
    out = tmp_path / f"states{kind}"
    _, arrays = captured(model, out, *given(*PROMPTS), "--positions", positions, "--layers", "1-3,5")
    assert set(arrays) == {"row.prompt", "row.position", "row.token", *(f"layer.{il}" for il in (1, 2, 3, 5))}
    for number, prompt in enumerate(PROMPTS):
        tokens = llm.chat_tokens(prompt)
        rows = arrays["row.prompt"] == number
        kept = slice(None) if positions == "all" else slice(-1, None)
        assert arrays["row.token"][rows].tolist() == tokens[kept]
        assert arrays["row.position"][rows].tolist() == list(range(len(tokens)))[kept]
        expected = llm.capture(tokens, [1, 2, 3, 5], positions=positions)  # type: ignore[arg-type]
        for il, states in expected.items():
            assert arrays[f"layer.{il}"].dtype == np.float32
            assert np.array_equal(arrays[f"layer.{il}"][rows], states)


def test_the_metadata_says_what_made_it(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "states.safetensors"
    metadata, _ = captured(model, out, *given(*PROMPTS), "--layers", "2")
    assert json.loads(metadata["prompts"]) == list(PROMPTS)
    assert json.loads(metadata["layers"]) == [2]
    assert ModelFingerprint.from_json(metadata["fingerprint"]) == ModelFingerprint.from_gguf(model)
    assert (metadata["positions"], metadata["energy"], metadata["strength"]) == ("last", "none", "0")
    assert metadata["edge-eds"] and metadata["llama-cpp-python"]
    in_npz, _ = captured(model, tmp_path / "states.npz", *given(*PROMPTS), "--layers", "2")
    assert in_npz == metadata


def test_a_text_longer_than_a_batch_comes_whole(model: Path, llm: EdgeLlama, tmp_path: Path) -> None:
    """llama.cpp decodes 512 rows at a time."""
    text = "the answer is in the other thing. " * 40
    _, arrays = captured(model, tmp_path / "s.npz", "-p", text, "--raw", "--positions", "all", "--layers", "0,5")
    tokens = llm.tokenize(text.encode(), special=True)
    assert len(tokens) > 512
    assert arrays["row.token"].tolist() == tokens
    for il, states in llm.capture(text, [0, 5]).items():
        assert np.array_equal(arrays[f"layer.{il}"], states)


def test_the_model_is_captured_unsteered_unless_asked_otherwise(model: Path, tmp_path: Path) -> None:
    plain, steered, half = (
        captured(model, tmp_path / "s.npz", "-p", "hi", *options)[1]
        for options in ((), ("--energy", "auto"), ("--energy", "auto", "--strength", 0.5))
    )
    for il in range(N_LAYER):
        name, is_steered = f"layer.{il}", il >= min(STEERED_LAYERS)
        assert np.array_equal(plain[name], steered[name]) != is_steered
        assert np.array_equal(half[name], steered[name]) != is_steered
    metadata, _ = captured(model, tmp_path / "s.npz", "-p", "hi", "--energy", "auto", "--strength", 0.5)
    assert (metadata["energy"], metadata["strength"]) == ("tiny.energy.onnx", "0.5")


def test_prompts_of_files(model: Path, llm: EdgeLlama, tmp_path: Path) -> None:
    """A column of prompts, matched pairs (harmless halves first), and conversations."""
    single, pairs, talks = tmp_path / "single.csv", tmp_path / "pairs.jsonl", tmp_path / "talks.jsonl"
    single.write_text("id,prompt\n1,one\n2,two\n")
    pairs.write_text('{"benign": "kind 1", "harmful": "bad 1"}\n{"benign": "kind 2", "harmful": "bad 2"}\n')
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    messages.append({"role": "user", "content": "c"})
    talks.write_text(json.dumps({"messages": messages}) + "\n")
    options = [word for path in (single, pairs, talks) for word in ("--prompts", path)]
    metadata, arrays = captured(model, tmp_path / "s.npz", "-p", "zero", *options, "--system", "Be kind.")
    texts = ["zero", "one", "two", "kind 1", "kind 2", "bad 1", "bad 2", messages]
    assert json.loads(metadata["prompts"]) == texts
    system = {"role": "system", "content": "Be kind."}
    for number, text in enumerate(texts):
        asked = [system, {"role": "user", "content": text}] if isinstance(text, str) else [system, *text]
        expected = llm.capture(llm.chat_tokens(asked), [3], positions="last")[3]
        assert np.array_equal(arrays["layer.3"][number : number + 1], expected)


def test_people_read_what_will_be_written_and_programs_what_was(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.safetensors"
    call = ("capture", model, *given("hi", "ho"), "-o", out, "--layers", "1-2", "--threads", 1)
    told = edge_eds(*call)
    assert told.stdout == ""
    assert f"layers 1-2, the last token of 2 prompts, float32 (2, {N_EMBD})" in told.stderr
    document = json.loads(edge_eds(*call, "--json").stdout)
    assert document["bytes"] == out.stat().st_size
    assert (document["layers"], document["n_rows"], document["n_embd"]) == ([1, 2], 2, N_EMBD)


# -- memory and disk ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_larger_than_what_is_allocated(tmp_path: Path, kind: str) -> None:
    shape = StateShape((0, 1), 20_000, 256)
    portion = {il: np.full((500, 256), il + 1, dtype=np.float32) for il in (0, 1)}
    tracemalloc.start()
    with state_file(tmp_path / f"s{kind}", shape) as writer:
        for first in range(0, 20_000, 500):
            writer.add(portion, 0, first, range(500))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (tmp_path / f"s{kind}").stat().st_size >= 2 * 20_000 * 256 * 4 == 40_960_000
    assert peak < 20_000_000
    _, arrays = read(tmp_path / f"s{kind}")
    assert (arrays["layer.0"] == 1).all() and (arrays["layer.1"] == 2).all()
    assert arrays["row.position"].tolist() == list(range(20_000))


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_disk_does_not_hold_is_refused_before_it_is_begun(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 500, 500))
    outcome = edge_eds("capture", model, "-p", "hi", "-o", tmp_path / f"s{kind}")
    assert_one_line(outcome, ("500 bytes left", "--layers"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_disk_that_fills_leaves_what_was_there(tmp_path: Path, kind: str) -> None:
    class Full:
        """A disk without room for anything but the beginning."""

        def __init__(self, file: IO[bytes]) -> None:
            self.seek = file.seek

        def write(self, _: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / f"s{kind}"
    path.write_bytes(b"what was there")
    rows = {0: np.zeros((1, 8), np.float32)}
    with pytest.raises(InputError, match="No space left"), state_file(path, StateShape((0,), 1, 8)) as writer:
        writer._file = Full(writer._file)  # type: ignore[assignment]
        writer.add(rows, 0, 0, [1])
    with pytest.raises(ZeroDivisionError), state_file(path, StateShape((0,), 1, 8)) as writer:
        writer.add(rows, 0, 0, [1 // 0])
    assert path.read_bytes() == b"what was there"
    assert list(tmp_path.iterdir()) == [path]


# -- bad input ----------------------------------------------------------------------------------------------

BAD = {
    "layer-beyond": (("--layers", "3-6"), ("--layers 3-6", "0 to 5")),
    "layers-backwards": (("--layers", "3-1"), ("3-1", "0 to 5")),
    "layers-words": (("--layers", "some"), ("'some' is no layer", "8-16")),
    "positions": (("--positions", "first"), ("--positions is first", "last or all")),
    "kind-of-file": (("-o", "states.csv"), ("states.csv", ".safetensors or .npz")),
    "no-folder": (("-o", "nowhere/s.npz"), ("nowhere/s.npz", "no folder")),
    "no-regular-file": (("-o", "FIFO"), ("is no file",)),
    "empty-prompt": (("-p", " "), ("a prompt is empty",)),
    "empty-stdin": (("-p", "-"), ("a prompt is empty",)),
    "system-in-text": (("--raw", "--system", "Be kind."), ("--system", "--raw")),
    "too-long": (("-p", "x" * 2000), ("prompt 2 takes", "--ctx")),
    "no-such-file": (("--prompts", "nowhere.csv"), ("nowhere.csv", "no such file")),
    "strength-of-nothing": (("--strength", "2"), ("--strength 2", "--energy none")),
}


@pytest.mark.parametrize(("options", "words"), list(BAD.values()), ids=list(BAD))
def test_bad_input_is_one_line(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], words: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("FIFO.npz")
    call = ["capture", model, "-p", "hi", "-o", "s.npz", *(word.replace("FIFO", "FIFO.npz") for word in options)]
    assert_one_line(edge_eds(*call), words)
    assert [path.name for path in tmp_path.iterdir()] == ["FIFO.npz"]


def test_without_prompts_or_a_file_it_is_wrong_usage(model: Path, tmp_path: Path) -> None:
    assert edge_eds("capture", model, "-o", tmp_path / "s.npz").code == 2
    assert edge_eds("capture", model, "-p", "hi").code == 2


@pytest.mark.parametrize("layers", [(0,), (1, 2, 3), (0, 2, 3, 5), (1, 5)])
def test_layers_are_read_as_they_are_shown(layers: tuple[int, ...]) -> None:
    assert parse_layers(ranges(layers), 6) == layers


def test_all_layers() -> None:
    assert parse_layers("all", 4) == (0, 1, 2, 3)
    assert parse_layers(" 2 , 0-1", 4) == (0, 1, 2)
