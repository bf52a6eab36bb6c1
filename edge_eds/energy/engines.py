"""The engines that evaluate energies: "native" (the C++ core) and "onnx" (ONNX Runtime).

Both give E (n,) and dE/dh (n, n_embd) of rows H (n, n_embd) float32, and agree within float tolerance; the
closed form in network.py is their reference. "native" takes graphs of the form that we export, "onnx" takes
any ONNX model with our input and outputs. "auto" means native where the file allows it. Nothing falls back in
silence: an engine that was named and cannot be used is an error. ONNX Runtime is imported when the first
OnnxEngine is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from edge_eds.energy.file import EnergyFile
from edge_eds.energy.graph_names import INPUT, energy_output, gradient_output
from edge_eds.energy.network import EnergyModel, Float32Array, FloatArray, LayerEnergy
from edge_eds.energy.settings import ENGINES
from edge_eds.errors import EnergyFileError, SettingsError

if TYPE_CHECKING:
    import onnxruntime

    from edge_eds import _native


class EnergyEngine(Protocol):
    """What every engine can do. H (n, n_embd); KeyError for a layer or head that there is not."""

    name: str

    def energy(self, il: int, head: str, H: FloatArray) -> Float32Array:
        """E (n,)."""

    def energy_and_gradient(self, il: int, head: str, H: FloatArray) -> tuple[Float32Array, Float32Array]:
        """E (n,) and dE/dh (n, n_embd)."""


def make_engine(file: EnergyFile, engine: str = "auto") -> NativeEngine | OnnxEngine:
    """The engine of that name for the energies of `file`.

    EnergyFileError when "native" is asked for a graph of another form than we export; SettingsError for an
    unknown name.
    """
    if engine not in ENGINES:
        raise SettingsError(f"engine is {engine!r}, expected one of {', '.join(ENGINES)}")
    if engine == "onnx" or (engine == "auto" and not takes_native(file)):
        return OnnxEngine(file)
    if file.energies is None:
        raise EnergyFileError(
            "the engine native takes only energies of the form that edge-eds exports: choose the engine onnx"
        )
    return NativeEngine(file.energies)


def takes_native(file: EnergyFile) -> bool:
    """Whether the native core can evaluate the energies of `file`."""
    return file.energies is not None


def native_layer_energy(layer: LayerEnergy) -> _native.LayerEnergy:
    """The energies of one layer as the native core holds them."""
    from edge_eds import _native

    subspace = None
    if layer.subspace is not None:
        subspace = (layer.subspace.mu, layer.subspace.P, layer.subspace.s)
    heads: dict[str, list[tuple[Any, ...]]] = {
        name: [*((block.W, block.b, block.gamma, block.beta) for block in head.hidden), (head.w, head.c)]
        for name, head in layer.heads.items()
    }
    return _native.LayerEnergy(layer.n_embd, subspace, heads)


class NativeEngine:
    """The C++ core. `layers` {il: _native.LayerEnergy} are what a steering program takes."""

    name = "native"

    def __init__(self, model: EnergyModel) -> None:
        self.layers = {il: native_layer_energy(layer) for il, layer in model.layers.items()}

    def energy(self, il: int, head: str, H: FloatArray) -> Float32Array:
        return self.layers[il].energy(head, _rows(H))

    def energy_and_gradient(self, il: int, head: str, H: FloatArray) -> tuple[Float32Array, Float32Array]:
        return self.layers[il].energy_and_gradient(head, _rows(H))


class OnnxEngine:
    """ONNX Runtime on one thread.

    One runtime session for each output, or pair of outputs, that is asked for, made at the first request from
    that part of the graph alone: a session evaluates every node of its graph, whichever outputs are fetched.
    """

    name = "onnx"

    def __init__(self, file: EnergyFile) -> None:
        import onnxruntime

        self._runtime: Any = onnxruntime
        self._proto = file.to_onnx()
        self._heads = file.heads
        self._sessions: dict[tuple[str, ...], onnxruntime.InferenceSession] = {}

    def energy(self, il: int, head: str, H: FloatArray) -> Float32Array:
        (energy,) = self._run(il, head, H, (energy_output(il, head),))
        return energy

    def energy_and_gradient(self, il: int, head: str, H: FloatArray) -> tuple[Float32Array, Float32Array]:
        outputs = (energy_output(il, head), gradient_output(il, head))
        energy, gradient = self._run(il, head, H, outputs)
        return energy, gradient

    def _run(self, il: int, head: str, H: FloatArray, outputs: tuple[str, ...]) -> list[Float32Array]:
        if head not in self._heads.get(il, ()):
            raise KeyError(f"no energy {head!r} for layer {il}")
        H = _rows(H)
        session = self._sessions.get(outputs)
        try:
            if session is None:
                session = self._sessions[outputs] = self._session(outputs)
            results: list[Float32Array] = session.run(list(outputs), {INPUT: H})
        except _runtime_errors(self._runtime) as e:
            reason = str(e).splitlines()[0]
            raise EnergyFileError(f"ONNX Runtime cannot evaluate {outputs[-1]}: {reason}") from e
        for name, result, shape in zip(outputs, results, ((len(H),), H.shape), strict=False):
            if result.shape != shape or result.dtype != np.float32:
                raise EnergyFileError(
                    f"output {name} is {result.dtype} {result.shape}, expected float32 of shape {shape}"
                )
        return results

    def _session(self, outputs: tuple[str, ...]) -> onnxruntime.InferenceSession:
        from edge_eds.energy.graph import extract

        options = self._runtime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors only: warnings would go to stderr of a chat
        part = extract(self._proto, outputs).SerializeToString()
        return self._runtime.InferenceSession(part, options, providers=["CPUExecutionProvider"])


def _runtime_errors(runtime: Any) -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises for a graph that it cannot load or run."""
    state = runtime.capi.onnxruntime_pybind11_state
    names = (
        "Fail",
        "InvalidArgument",
        "InvalidGraph",
        "InvalidProtobuf",
        "NotImplemented",
        "RuntimeException",
    )
    return tuple(getattr(state, name) for name in names)


def _rows(H: FloatArray) -> Float32Array:
    return np.ascontiguousarray(H, dtype=np.float32)
