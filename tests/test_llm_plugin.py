"""The plugin for `llm`: with the real package, in this process, on a small model."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from command_line import edge_eds
from steered_model import steered_model

from edge_eds import EdgeLlama
from edge_eds.runtime.chat_prompt import render_chat

llm = pytest.importorskip("llm", reason="needs the package llm (extra 'llm')")

from llm.cli import cli  # noqa: E402

N_NEW = 6


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return steered_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module", autouse=True)
def _no_other_plugins() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("llm.plugins.LLM_LOAD_PLUGINS", "edge-eds")
        yield


@pytest.fixture(autouse=True)
def _own_logs(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_USER_PATH", str(home / "llm"))


@pytest.fixture(scope="module")
def model() -> Any:
    return llm.get_model("edge-eds")


@pytest.fixture
def ask(gguf: Path, model: Any) -> Callable[..., Any]:
    """ask(prompt, **options) -> response, in Python."""
    small = {"model": str(gguf), "max_tokens": N_NEW, "threads": 1}
    return lambda prompt, **options: model.prompt(prompt, **{**small, **options})


@pytest.fixture
def run(gguf: Path) -> Callable[..., Any]:
    """run(*words) -> result of `llm WORDS` with the options of `ask`; what stands in `stdin` is typed."""
    small = ("-m", "edge-eds", "-o", "model", str(gguf), "-o", "max_tokens", str(N_NEW), "-o", "threads", "1")

    def call(*words: str, stdin: str = "") -> Any:
        return CliRunner().invoke(cli, [words[0], *small, *words[1:]], input=stdin)

    return call


def logged() -> list[dict[str, Any]]:
    """What `llm logs` has, the oldest first."""
    result = CliRunner().invoke(cli, ["logs", "list", "-n", "0", "--json"])
    assert result.exit_code == 0, result.output
    return sorted(json.loads(result.stdout), key=lambda entry: entry["datetime_utc"])


def by_run(gguf: Path, prompt: str, *options: object) -> str:
    """The answer of `edge-eds run`."""
    outcome = edge_eds("run", gguf, "-p", prompt, "--max-tokens", N_NEW, "--threads", 1, *options, "--json")
    return json.loads(outcome.stdout)["text"]


def test_llm_finds_the_plugin_and_loads_no_model_for_it() -> None:
    (found,) = entry_points(group="llm", name="edge-eds")
    assert found.value == "edge_eds.apps.llm_plugin"
    heavy = "import sys, edge_eds.apps.llm_plugin; print({'llama_cpp', 'onnxruntime', 'torch'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", heavy], text=True).strip() == "set()"


def test_an_answer_is_that_of_the_command_line_and_comes_in_pieces(ask: Callable[..., Any], gguf: Path) -> None:
    pieces = list(ask("hi there"))
    assert len(pieces) > 1
    assert "".join(pieces) == by_run(gguf, "hi there")
    assert ask("hi there", strength=0).text() == by_run(gguf, "hi there", "--energy", "none") != "".join(pieces)
    sampled = by_run(gguf, "hi there", "--temperature", 2, "--seed", 7)
    assert ask("hi there", temperature=2.0, seed=7).text() == sampled


def test_energies_may_be_another_file_or_none(ask: Callable[..., Any], gguf: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "other.onnx"
    elsewhere.write_bytes(gguf.with_name("tiny.energy.onnx").read_bytes())
    for energy, name in ((str(elsewhere), "other.onnx"), ("none", None)):
        response = ask("hi", energy=energy)
        assert response.text() == by_run(gguf, "hi", "--energy", energy)
        assert response.json()["energy"] == name


def test_the_session_is_kept_while_only_the_strength_changes(ask: Callable[..., Any], model: Any) -> None:
    ask("hi").text()
    session = model._session
    ask("hi", strength=0.3, max_tokens=2).text()
    assert model._session is session and session.strength == 0.3
    ask("hi", ctx=128).text()
    assert model._session is not session and model._session.strength == 1


def test_logs_have_the_trace(run: Callable[..., Any]) -> None:
    result = run("prompt", "hi there", "-o", "strength", "0.5")
    assert result.exit_code == 0, result.output
    (entry,) = logged()
    document = entry["response_json"]
    assert (document["model"], document["energy"]) == ("tiny.gguf", "tiny.energy.onnx")
    steering = document["steering"]
    assert (steering["strength"], steering["gate"], steering["touched_tokens"]) == (0.5, "benign", 2)
    assert [token["offset"] for token in steering["tokens"]] == [0, 1]
    for layer in (layer for token in steering["tokens"] for layer in token["layers"]):
        assert layer["energy_after"] < layer["energy_before"] or layer["steps"] == 0
    assert entry["output_tokens"] == document["timings"]["completion_tokens"] >= N_NEW
    assert entry["options_json"]["strength"] == 0.5


def test_conversations_and_system_prompts_reach_the_model(run: Callable[..., Any], gguf: Path) -> None:
    """The prompt of each turn has as many tokens as the conversation so far in the model's chat format."""
    result = run("chat", "--system", "Be brief.", stdin="hi there\nand again\nexit\n")
    assert result.exit_code == 0, result.output
    assert run("prompt", "-c", "a third time").exit_code == 0
    entries = logged()
    conversation = [{"role": "system", "content": "Be brief."}]
    with closing(EdgeLlama(gguf, n_ctx=512, n_threads=1, verbose=False)) as session:
        for entry, question in zip(entries, ("hi there", "and again", "a third time"), strict=True):
            conversation.append({"role": "user", "content": question})
            assert entry["input_tokens"] == len(render_chat(session, conversation))
            conversation.append({"role": "assistant", "content": entry["response"]})


def test_a_later_system_prompt_takes_the_place_of_the_first(model: Any, gguf: Path) -> None:
    history = [llm.system("Be long and kind and wordy."), llm.user("hi"), llm.assistant("hello")]
    options = {"model": str(gguf), "max_tokens": 1, "threads": 1}
    kept = model.prompt("again", messages=history, **options)
    replaced = model.prompt("again", messages=history, system="Be brief.", **options)
    for response in (kept, replaced):
        response.text()
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    messages.append({"role": "user", "content": "again"})
    with closing(EdgeLlama(gguf, n_ctx=512, n_threads=1, verbose=False)) as session:
        for response, system in ((kept, "Be long and kind and wordy."), (replaced, "Be brief.")):
            conversation = [{"role": "system", "content": system}, *messages]
            assert response.input_tokens == len(render_chat(session, conversation))


def test_an_answer_that_is_left_half_read_leaves_the_next_one_alone(ask: Callable[..., Any], gguf: Path) -> None:
    half = iter(ask("hi there"))
    next(half)
    assert ask("hi again").text() == by_run(gguf, "hi again")
    with pytest.raises(llm.ModelError, match="another prompt was begun"):
        next(half)
    assert ask("hi there").text() == by_run(gguf, "hi there")


BAD = {
    "strength": (("strength", "-1"), "strength is -1"),
    "strength-huge": (("strength", "1e308"), "strength is"),
    "no-energy": (("energy", "none", "strength", "2"), "-o energy none asks for none"),
    "energy-missing": (("energy", "nowhere.onnx"), "nowhere.onnx: no such energy file"),
    "model-missing": (("model", "nowhere.gguf"), "nowhere.gguf: no such file"),
    "lora-missing": (("lora", "nowhere.gguf"), "nowhere.gguf: no such file"),
    "max-tokens": (("max_tokens", "0"), "-o max_tokens is 0"),
    "temperature": (("temperature", "nan"), "-o temperature is nan"),
    "ctx": (("ctx", "3"), "-o ctx is 3"),
    "chat-format": (("chat_format", "nonsense"), "nonsense"),
}


@pytest.mark.parametrize("command", ["prompt", "chat"])
@pytest.mark.parametrize(("options", "words"), BAD.values(), ids=BAD)
def test_errors_are_one_line(run: Callable[..., Any], options: tuple[str, ...], words: str, command: str) -> None:
    pairs = [word for i in range(0, len(options), 2) for word in ("-o", *options[i : i + 2])]
    result = run(command, *pairs, *(["hi"] if command == "prompt" else []), stdin="hi\nexit\n")
    assert (result.exit_code, type(result.exception)) == (1, SystemExit)
    lines = [line for line in result.stderr.splitlines() if line]
    assert len(lines) == 1 and lines[0].startswith("Error: ") and words in lines[0], result.stderr


def test_a_prompt_that_cannot_be_answered_is_one_line(run: Callable[..., Any], gguf: Path, tmp_path: Path) -> None:
    for prompt, words in (("  ", "the prompt is empty"), ("word " * 3000, "tokens and the context holds")):
        result = run("prompt", prompt)
        assert result.exit_code == 1 and words in result.stderr and len(result.stderr.splitlines()) == 1
    alone = tmp_path / "alone.gguf"
    alone.write_bytes(gguf.read_bytes())
    result = run("prompt", "hi", "-o", "model", str(alone))
    assert f"`edge-eds fit {alone}`" in result.stderr and "-o energy none chats unsteered" in result.stderr
