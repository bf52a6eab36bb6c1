"""The command line as a whole: quick help, exit statuses, one line for all that is known to go wrong."""

from __future__ import annotations

import importlib
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from bad_gguf import BAD_MODELS, UNLOADABLE_MODELS, Builder, lora_adapter, without_chat_template
from command_line import PROGRAM, assert_one_line, edge_eds, start
from onnx import numpy_helper
from steered_model import steered_model
from tiny_gguf import tiny_gguf

from edge_eds import __version__
from edge_eds.cli import COMMANDS

README = Path(__file__).parents[1] / "README.md"
HEAVY = ("numpy", "llama_cpp", "onnx", "onnxruntime", "torch", "rich")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return steered_model(tmp_path_factory.mktemp("model"))


# -- help ---------------------------------------------------------------------------------------------------


def test_help_lists_every_command_with_the_line_of_its_own_help() -> None:
    text = edge_eds("--help").stdout
    for name, line in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(line)}$", text, re.MULTILINE)
        command = importlib.import_module(f"edge_eds.apps.{name}").command
        assert command.__doc__.splitlines()[0] == line
        assert line in edge_eds(name, "--help").stdout


def test_help_imports_nothing_heavy() -> None:
    """Neither the overview nor the help of any command waits for NumPy or llama.cpp."""
    script = f"""
import sys
from edge_eds.cli import COMMANDS, app
for args in [["--help"], *([name, "--help"] for name in COMMANDS)]:
    app(args, standalone_mode=False)
print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_onnx_is_imported_while_llama_cpp_loads() -> None:
    """By the thread that reads the energies, not before; and of the gguf package only its constants."""
    script = "import sys, edge_eds.apps.session; print({'onnx', 'onnxruntime', 'gguf', 'yaml'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_help_takes_less_than_a_quarter_of_a_second_more_than_python() -> None:
    def cpu_seconds(*command: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    empty = min(cpu_seconds(sys.executable, "-c", "") for _ in range(3))
    assert min(cpu_seconds(*PROGRAM, "--help") for _ in range(3)) - empty < 0.25


def test_the_help_in_the_readme_is_the_help_of_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """<!-- help: edge-eds chat --> stands before the fenced block that shows `edge-eds chat --help`."""
    monkeypatch.setenv("COLUMNS", "80")
    quoted = dict(
        re.findall(r"<!-- help: (edge-eds[^\n]*?) -->\s*```[a-z]*\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    )
    assert "edge-eds" in quoted
    for call, text in quoted.items():
        assert text.strip() == edge_eds(*call.split()[1:], "--help").stdout.strip()


def test_version() -> None:
    outcome = edge_eds("--version")
    assert (outcome.code, outcome.stderr) == (0, "")
    assert outcome.stdout == f"edge-eds {__version__}\n"
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)
    newest = re.search(r"^## (\S+)", (README.parent / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert newest is not None and newest[1] == __version__


# -- exit statuses ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("dance",),
        ("run", "--dance"),
        ("run",),
        ("run", "-p", "hi", "--threads", "two"),
        ("chat", "a", "b"),
    ],
    ids=["nothing", "unknown-command", "unknown-option", "no-prompt", "no-number", "two-models"],
)
def test_wrong_usage_is_status_2(args: tuple[str, ...]) -> None:
    outcome = edge_eds(*args)
    assert outcome.code == 2
    assert "Usage: edge-eds" in outcome.stdout + outcome.stderr


@pytest.mark.skipif(
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN, reason="the tests run in the background, where Ctrl-C is ignored"
)
def test_ctrl_c_is_status_130(model: Path) -> None:
    with start("run", model, "-p", "hi", "--ctx", 100_000, "--max-tokens", 90_000) as program:
        assert program.stdin is not None
        # The hook is armed and tokens come: seen from outside as CPU time that grows beyond the loading.
        with pytest.raises(subprocess.TimeoutExpired):
            program.wait(timeout=3)
        program.send_signal(signal.SIGINT)
        try:
            _, stderr = program.communicate(timeout=30)
        finally:
            program.kill()  # or leaving `with` would wait for an answer of 90,000 tokens
    assert program.returncode == 130
    assert "Traceback" not in stderr


def test_a_reader_that_goes_away_is_no_story(model: Path) -> None:
    with start("run", model, "-p", "hi", "--max-tokens", 4) as program:
        assert program.stdout is not None and program.stderr is not None
        program.stdout.close()
        stderr = program.stderr.read()
    assert program.returncode == 141
    assert "Traceback" not in stderr and "Exception" not in stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
@pytest.mark.parametrize("args", [("--help",), ("inspect", "MODEL", "--json")], ids=["help", "inspect"])
def test_a_full_disk_behind_stdout_is_one_line(model: Path, args: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        command = [str(model) if arg == "MODEL" else arg for arg in args]
        with start(*command, stdout=full.fileno()) as program:
            assert program.stderr is not None
            stderr = program.stderr.read()
    assert program.returncode == 1
    assert stderr.count("\n") == 1
    assert "No space left on device" in stderr


# -- bad input ----------------------------------------------------------------------------------------------

BAD_OPTIONS = {
    "threads-0": (("--threads", "0"), ("--threads is 0", "1")),
    "strength-nan": (("--strength", "nan"), ("strength is nan", "finite")),
    "strength-below-0": (("--strength", "-1"), ("strength is -1", "0")),
    "ctx-1": (("--ctx", "1"), ("--ctx is 1", "64")),
    "temperature-nan": (("--temperature", "nan"), ("--temperature is nan",)),
    "max-tokens-0": (("--max-tokens", "0"), ("--max-tokens is 0", "1")),
    "seed-below-0": (("--seed", "-5"), ("--seed is -5", "0")),
    "strength-without-energies": (
        ("--strength", "0.5", "--energy", "none"),
        ("--strength 0.5", "--energy none"),
    ),
    "compare-without-energies": (("--compare", "--energy", "none"), ("--compare needs energies",)),
    "unknown-chat-format": (("--chat-format", "klingon"), ("klingon", "chatml")),
    "missing-energy": (("--energy", "nowhere.energy.onnx"), ("nowhere.energy.onnx", "no such")),
    "missing-lora": (("--lora", "nowhere.gguf"), ("nowhere.gguf", "no such file")),
}


@pytest.mark.parametrize(("options", "words"), list(BAD_OPTIONS.values()), ids=list(BAD_OPTIONS))
def test_a_bad_option_is_one_line(model: Path, options: tuple[str, ...], words: tuple[str, ...]) -> None:
    assert_one_line(edge_eds("run", model, "-p", "hi", *options), words)
    assert_one_line(edge_eds("chat", model, *options), words)


def cases(models: Mapping[str, tuple[Builder, tuple[str, ...]]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("build", "words"), list(models.values()), ids=list(models))


@cases({**BAD_MODELS, **UNLOADABLE_MODELS})
def test_a_bad_model_is_one_line(tmp_path: Path, build: Builder, words: tuple[str, ...]) -> None:
    path = build(tmp_path)
    call = ("run", path, "-p", "hi", "--energy", "none", "--chat-format", "chatml")
    assert_one_line(edge_eds(*call), (str(path), *words))
    assert_one_line(edge_eds("inspect", path), (str(path), *words))


def test_a_model_is_no_adapter(model: Path) -> None:
    assert_one_line(edge_eds("run", model, "-p", "hi", "--lora", model), ("no LoRA adapter", str(model)))


def test_without_a_chat_template_the_fallback_is_named_and_works(tmp_path: Path) -> None:
    path = without_chat_template(tmp_path)
    call = ("run", path, "-p", "hi", "--energy", "none", "--max-tokens", 2)
    assert_one_line(edge_eds(*call), ("no chat template", "--chat-format chatml"))
    assert edge_eds(*call, "--chat-format", "chatml").code == 0


BAD_TEMPLATES = {
    "syntax": ("{% if %}", "Expected an expression"),
    "refuses": ("{{ raise_exception('tools only') }}", "tools only"),
    "undefined": ("{{ messages[0].nothing.at.all }}", "nothing"),
    "type": ("{{ messages + 1 }}", "can only concatenate list"),
}


@pytest.mark.parametrize(("template", "reason"), list(BAD_TEMPLATES.values()), ids=list(BAD_TEMPLATES))
def test_a_chat_template_that_cannot_be_used_is_one_line(tmp_path: Path, template: str, reason: str) -> None:
    path = tiny_gguf("llama", tmp_path / "tiny.gguf", n_layer=2, chat_template=template)
    for call in (("run", path, "-p", "hi"), ("capture", path, "-p", "hi", "-o", tmp_path / "states.npz")):
        assert_one_line(edge_eds(*call, "--energy", "none"), ("chat template", reason))
    if template != BAD_TEMPLATES["syntax"][0]:
        call = ("run", path, "-p", "hi", "--energy", "none", "--max-tokens", 2, "--chat-format", "chatml")
        assert edge_eds(*call).code == 0


def test_without_energies_fit_is_explained_and_energy_none_chats(tmp_path: Path, tiny: Callable[..., Path]) -> None:
    path = tiny("qwen3")
    for command in (("run", path, "-p", "hi"), ("chat", path)):
        outcome = edge_eds(*command, "--max-tokens", 2)
        assert_one_line(outcome, ("no energies", f"edge-eds fit {path}", "minutes", "--energy none"))
    assert edge_eds("chat", path, "--energy", "none", "--max-tokens", 2, stdin="hi\n").code == 0


def not_onnx(path: Path) -> None:
    path.write_bytes(b"<!DOCTYPE html>")


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:2000])


def with_nan(path: Path) -> None:
    proto = onnx.load(path)
    weights = max(proto.graph.initializer, key=lambda tensor: int(np.prod(tensor.dims)))
    broken = numpy_helper.to_array(weights).copy()
    broken.flat[0] = np.nan
    weights.CopyFrom(numpy_helper.from_array(broken, weights.name))
    onnx.save(proto, path)


def of_a_newer_format(path: Path) -> None:
    proto = onnx.load(path)
    next(entry for entry in proto.metadata_props if entry.key.endswith("format_version")).value = "999"
    onnx.save(proto, path)


def a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


BAD_ENERGIES = {
    "not-onnx": (not_onnx, ("not an ONNX file",)),
    "truncated": (truncated, ("truncated",)),
    "nan": (with_nan, ("NaN",)),
    "newer-format": (of_a_newer_format, ("999", "update")),
    "directory": (a_directory, ("directory",)),
}


@pytest.mark.parametrize(("spoil", "words"), list(BAD_ENERGIES.values()), ids=list(BAD_ENERGIES))
def test_a_bad_energy_file_is_one_line(tmp_path: Path, spoil: Callable[[Path], None], words: tuple[str, ...]) -> None:
    model = steered_model(tmp_path)
    energy = tmp_path / "tiny.energy.onnx"
    spoil(energy)
    assert_one_line(edge_eds("run", model, "-p", "hi", "--energy", energy), (str(energy), *words))
    assert_one_line(edge_eds("inspect", model, "--energy", energy), (str(energy), *words))


def test_the_energies_of_another_model_are_refused(model: Path, tiny: Callable[..., Path]) -> None:
    energy = model.with_name("tiny.energy.onnx")
    outcome = edge_eds("run", tiny("qwen3"), "-p", "hi", "--energy", energy)
    assert_one_line(outcome, ("another model", "llama", "qwen3"))


def test_llama_cpp_keeps_quiet(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """What llama.cpp itself prints when a model cannot be loaded stands in our line, and nowhere else."""
    path = UNLOADABLE_MODELS["unknown architecture"][0](tmp_path)
    outcome = edge_eds("run", path, "-p", "hi", "--energy", "none", "--chat-format", "chatml")
    assert_one_line(outcome, ("transformer9000",))
    assert capfd.readouterr() == ("", "")


def test_an_adapter_is_applied(model: Path, tmp_path: Path) -> None:
    call = ("run", model, "-p", "hi", "--energy", "none", "--max-tokens", 3)
    assert edge_eds(*call, "--lora", lora_adapter(tmp_path)).code == 0


def test_a_message_that_is_not_unicode_is_one_line(model: Path) -> None:
    with start("run", model, "-p", os.fsdecode(b"\xff\xfe")) as program:
        stdout, stderr = program.communicate()
    assert (program.returncode, stdout, stderr.count("\n")) == (1, "", 1)
    assert "UTF-8" in stderr
