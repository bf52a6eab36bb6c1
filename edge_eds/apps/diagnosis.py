"""Looks at everything that edge-eds needs, from Python to a steered answer, and says what to do about what is wrong.

Takes what names a model; gives findings one by one, so that those of a broken installation come before what breaks.
Imports stand inside the functions here: an import that fails is one of the things looked for. The self-test runs in
a process of its own (self_test.py), since a llama.cpp that was built for another CPU kills its process.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_eds.errors import EdgeError, MissingEnergyError
from edge_eds.files import size_text

if TYPE_CHECKING:
    from edge_eds.apps.settings import SessionOptions

OK, REMARK, PROBLEM = "ok", "remark", "problem"  # a remark can be lived with
_PACKAGE = "edge-eds"
_ENOUGH_DISK = 1_000_000_000  # bytes; a small model takes as much
_SELF_TEST_SECONDS = 300  # a large model from a slow disk
_EXTRAS = ("demo", "serve", "hf", "train", "plots", "llm")  # dev is for those who work on edge-eds
_GGML_PROPERTY = re.compile(r"(\w+) = 1\b")
# llama.cpp's name of an instruction set -> Linux' name; its absence from a build costs speed where the CPU has it
_CPU_FLAGS = {
    "SSSE3": "ssse3", "AVX": "avx", "AVX2": "avx2", "FMA": "fma", "F16C": "f16c", "BMI2": "bmi2",
    "AVX_VNNI": "avx_vnni", "AVX512": "avx512f", "AVX512_VBMI": "avx512vbmi", "AVX512_VNNI": "avx512_vnni",
    "AVX512_BF16": "avx512_bf16", "AMX_INT8": "amx_int8", "NEON": "asimd", "DOTPROD": "asimddp",
    "MATMUL_INT8": "i8mm", "SVE": "sve",
}  # fmt: skip
_WORTH_A_BUILD = ("AVX2", "FMA", "AVX512", "DOTPROD", "MATMUL_INT8")
_REBUILD = "pip install --force-reinstall --no-cache-dir --no-binary llama-cpp-python llama-cpp-python"
_WITHOUT_AMX = 'CMAKE_ARGS="-DCMAKE_C_FLAGS=-mno-amx-int8 -DCMAKE_CXX_FLAGS=-mno-amx-int8"'


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. status: "ok", "remark" or "problem". advice: what to do; "" where nothing is."""

    name: str
    status: str
    text: str
    advice: str = ""
    data: dict[str, Any] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """As `doctor --json` shows it."""
        return asdict(self)


def diagnose(model: str | None, lora: Path | None, energy: str) -> Iterator[Finding]:
    """Look at everything, the most basic first; what cannot work because of an earlier problem is left out."""
    yield _python()
    yield from _packages()
    core = _native_core()
    yield core
    yield _cpu()
    llama = _llama_cpp()
    yield llama
    if core.status == PROBLEM or llama.status == PROBLEM:
        return
    yield _backends()
    yield from _instructions()
    yield from _folders()
    yield from _models(model, lora, energy)


# -- what is installed


def _python() -> Finding:
    text = f"{platform.python_version()} on {platform.system()} {platform.machine()}, {sys.executable}"
    return Finding("Python", OK, text, data={"python": platform.python_version(), "platform": platform.platform()})


def _packages() -> Iterator[Finding]:
    """What edge-eds requires, compared with what is there; and which extras are complete."""
    from packaging.requirements import Requirement

    installed, wrong, missing = {_PACKAGE: metadata.version(_PACKAGE)}, [], dict.fromkeys(_EXTRAS, "")
    for requirement in map(Requirement, metadata.requires(_PACKAGE) or ()):
        extra = next((name for name in _EXTRAS if requirement.marker and _is_for(requirement.marker, name)), None)
        if extra is None and requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue  # for another system, or an extra that users do not need
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            version = ""
        fits = bool(version) and requirement.specifier.contains(version, prereleases=True)
        if version:
            installed[requirement.name] = version
        if extra is None and not fits:
            wrong.append(f"{requirement.name} is {version or 'missing'}, expected {requirement.specifier}")
        elif extra is not None and not fits:
            missing[extra] = missing[extra] or requirement.name
    told = ("edge-eds", "llama-cpp-python", "numpy", "onnx", "onnxruntime", "gguf")
    text = ", ".join(f"{name} {installed[name]}" for name in told if name in installed)
    if wrong:
        yield Finding("packages", PROBLEM, "; ".join(wrong), "pip install --upgrade edge-eds", dict(installed))
    else:
        yield Finding("packages", OK, text, data=dict(installed))
    absent = [f"{extra} (no {name})" for extra, name in missing.items() if name]
    there = ", ".join(extra for extra, name in missing.items() if not name) or "none"
    advice = "to add one: pip install 'edge-eds[NAME]'" if absent else ""
    text = there + (f"; not installed: {', '.join(absent)}" if absent else "")
    yield Finding("extras", OK, text, advice, {extra: not name for extra, name in missing.items()})


def _is_for(marker: Any, extra: str) -> bool:
    return bool(marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""}))


def _native_core() -> Finding:
    try:
        from edge_eds import _native
    except ImportError as error:
        again = "pip install --force-reinstall --no-deps edge-eds"
        return Finding("native core", PROBLEM, f"cannot be loaded: {error}", again)
    try:
        kernels = _native.kernels()
    except ValueError as error:  # a form was asked for that this CPU does not have
        return Finding("native core", PROBLEM, str(error), "unset EDGE_EDS_KERNELS: the best form is found by itself")
    return Finding("native core", OK, f"{kernels} kernels, {_native.__file__}", data={"kernels": kernels})


# -- the machine


def _cpu() -> Finding:
    from edge_eds.pipeline.bench.machine import cpu_name, n_cpus, room

    memory = room(Path.home()).memory
    free = "" if memory is None else f", {size_text(memory)} of memory free"
    data = {"name": cpu_name(), "cpus": n_cpus(), "features": sorted(_cpu_features()), "memory": memory}
    has = [name for name, flag in _CPU_FLAGS.items() if flag in _cpu_features()]
    shown = f" ({', '.join(has)})" if has else ""
    return Finding("CPU", OK, f"{n_cpus()} x {cpu_name()}{shown}{free}", data=data)


def _cpu_features() -> set[str]:
    """What Linux says that the CPU can do; nothing elsewhere."""
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            name, _, flags = line.partition(":")
            if name.strip() in ("flags", "Features"):
                return set(flags.split())
    except OSError:
        pass
    return set()


# -- llama.cpp


def _llama_cpp() -> Finding:
    try:
        import llama_cpp
        from llama_cpp import llama_cpp as llama_api

        from edge_eds.runtime.seam import ggml_functions
    except (ImportError, OSError, RuntimeError) as error:  # what llama-cpp-python raises where its library is missing
        return Finding("llama.cpp", PROBLEM, f"cannot be loaded: {error}", _REBUILD)
    try:
        ggml_functions()
    except EdgeError as error:
        return Finding("llama.cpp", PROBLEM, str(error), _REBUILD)
    info = llama_api.llama_print_system_info().decode("utf-8", errors="replace").strip(" |")
    library = str(llama_api._lib._name)
    text = f"llama-cpp-python {llama_cpp.__version__}, {library}"
    return Finding("llama.cpp", OK, text, data={"version": llama_cpp.__version__, "library": library, "build": info})


def _backends() -> Finding:
    """The devices that this build of llama.cpp can compute on."""
    from llama_cpp import llama_cpp as llama_api

    devices = _devices()
    gpu = bool(llama_api.llama_supports_gpu_offload())
    text = ", ".join(f"{name} ({description})" for name, description in devices) or "the CPU"
    data = {"devices": [name for name, _ in devices], "gpu_offload": gpu}
    advice = "" if gpu else "for a GPU, build llama-cpp-python with its backend, e.g. CMAKE_ARGS=-DGGML_CUDA=on"
    return Finding("backends", OK, text, advice, data)


def _devices() -> list[tuple[str, str]]:
    """(name, description) of ggml's devices; none where this build does not export the registry."""
    from edge_eds.runtime.seam import find_function

    pointer = ctypes.c_void_p
    wanted = {"count": (ctypes.c_size_t, []), "get": (pointer, [ctypes.c_size_t]),
              "name": (ctypes.c_char_p, [pointer]), "description": (ctypes.c_char_p, [pointer])}  # fmt: skip
    functions = {}
    for name, (result, arguments) in wanted.items():
        function = find_function(f"ggml_backend_dev_{name}")
        if function is None:
            return []
        function.restype, function.argtypes = result, arguments
        functions[name] = function
    devices = [functions["get"](i) for i in range(functions["count"]())]
    return [(functions["name"](one).decode(), functions["description"](one).decode()) for one in devices]


def _instructions() -> Iterator[Finding]:
    """Whether llama.cpp was built for this CPU; nothing is said where the system does not tell what the CPU can do."""
    features, built = _cpu_features(), _built_for()
    if not features or not built & set(_CPU_FLAGS):
        return
    beyond = [name for name, flag in _CPU_FLAGS.items() if name in built and flag not in features]
    unused = [name for name in _WORTH_A_BUILD if name not in built and _CPU_FLAGS[name] in features]
    data = {"built_for": sorted(built & set(_CPU_FLAGS)), "beyond_the_cpu": beyond, "unused": unused}
    name = "instructions"
    if beyond:
        text = f"llama.cpp was built for {', '.join(beyond)}, which this CPU lacks: it will crash"
        yield Finding(name, PROBLEM, text, f"build it here: {_REBUILD}", data)
    elif unused:
        text = f"llama.cpp was built without {', '.join(unused)}, which this CPU has: it is slower than it could be"
        yield Finding(name, REMARK, text, f"build it here: CMAKE_ARGS=-DGGML_NATIVE=ON {_REBUILD}", data)
    else:
        yield Finding(name, OK, f"llama.cpp uses {', '.join(data['built_for'])}", data=data)


def _built_for() -> set[str]:
    """llama.cpp's names of the instruction sets that this build of it uses."""
    from llama_cpp import llama_cpp as llama_api

    return set(_GGML_PROPERTY.findall(llama_api.llama_print_system_info().decode("utf-8", errors="replace")))


# -- folders and models


def _folders() -> Iterator[Finding]:
    from platformdirs import user_cache_path

    from edge_eds.runtime.energies import user_energy_folder
    from edge_eds.runtime.hub import cache_folder

    cache = Path(user_cache_path(_PACKAGE, appauthor=False))
    yield _folder("cache", cache, "free it by deleting the folder; fit and bench fill it again")
    yield _folder("energies in", user_energy_folder(), "")
    hub = cache_folder()
    if hub is not None:
        yield _folder("hub cache", hub, "choose another folder with HF_HOME")


def _folder(name: str, folder: Path, when_full: str) -> Finding:
    """What lies in a folder that need not exist yet, and whether something can be written there."""
    from edge_eds.pipeline.bench.machine import room

    there = folder
    while not there.exists():
        there = there.parent
    used = sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0
    data = {"path": str(folder), "bytes": used}
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        advice = f"let this user write to {there}, or set another home or cache folder"
        return Finding(name, PROBLEM, f"{folder}: {there} cannot be written", advice, data)
    free = room(there).disk or 0
    text = f"{folder}, {size_text(used) if used else 'nothing'} in it, {size_text(free)} free"
    if free < _ENOUGH_DISK:
        return Finding(name, REMARK, text, when_full, data)
    return Finding(name, OK, text, data=data)


def _models(model: str | None, lora: Path | None, energy: str) -> Iterator[Finding]:
    from edge_eds.apps.session import check_files, find_energies
    from edge_eds.apps.settings import SessionOptions
    from edge_eds.energy.file import EnergyFile
    from edge_eds.energy.fingerprint import ModelFingerprint

    name = "model" if model or lora else "default model"
    try:
        options = SessionOptions(model, lora, energy)
        files = options.files()
        check_files(files)
    except EdgeError as error:
        advice = "" if model or lora else "or name a model of your own: edge-eds doctor model.gguf"
        yield Finding(name, PROBLEM, str(error), advice)
        return
    yield Finding(name, OK, files.name, data={"path": str(files.gguf), "lora": files.lora and str(files.lora)})
    try:
        path = find_energies(options, files)
        if path is not None:
            EnergyFile.load(path).check_fingerprint(ModelFingerprint.from_gguf(files.gguf, files.lora))
        yield Finding("energies", OK, "none wanted" if path is None else str(path))
    except MissingEnergyError as error:
        yield Finding("energies", REMARK, str(error))
        options = SessionOptions(model, lora, "none")
    except EdgeError as error:
        yield Finding("energies", PROBLEM, str(error), "`edge-eds inspect` shows which fit; `edge-eds fit` makes some")
        options = SessionOptions(model, lora, "none")
    yield _self_test(options)


def _self_test(options: SessionOptions) -> Finding:
    """A steered answer, decoded for real in a process of its own."""
    from edge_eds.apps.self_test import UNFIT

    asked = json.dumps({"model": options.model, "lora": options.lora and str(options.lora), "energy": options.energy})
    call = [sys.executable, "-m", "edge_eds.apps.self_test", asked]
    name = "self-test"
    # Threads that wait for each other by spinning would take a busy machine for a slow one.
    environment = {"OMP_WAIT_POLICY": "passive", **os.environ}
    try:
        done = subprocess.run(call, capture_output=True, text=True, timeout=_SELF_TEST_SECONDS, env=environment)
    except subprocess.TimeoutExpired:
        return Finding(name, PROBLEM, f"did not end within {_SELF_TEST_SECONDS} seconds", "try a smaller model")
    if done.returncode == UNFIT:
        return Finding(name, PROBLEM, done.stderr.strip(), "`edge-eds inspect` shows what can be done with this model")
    if done.returncode < 0 or done.returncode > 128:
        text = f"llama.cpp ended its process (status {done.returncode})"
        # Some virtual machines announce AMX and fault on its first instruction.
        without = f"{_WITHOUT_AMX} " if "AMX_INT8" in _built_for() else ""
        return Finding(name, PROBLEM, text, f"build it for this machine: {without}{_REBUILD}")
    if done.returncode:
        last = (done.stderr.strip() or "no reason given").splitlines()[-1]
        return Finding(name, PROBLEM, last, "this is a defect: please report it with the output of `edge-eds doctor`")
    seen = json.loads(done.stdout)
    return Finding(name, OK, seen.pop("text"), data=seen)
