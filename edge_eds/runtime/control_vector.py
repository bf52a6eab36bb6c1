"""Control vectors in the GGUF files of llama.cpp and repeng: one direction a layer, added to the residual stream.

Takes a file or directions; gives them as interventions, as the array that `llama_set_adapter_cvec` takes, or as
a file that llama.cpp loads with --control-vector. Leaves out how directions are found (pipeline/methods).

The format, as llama.cpp reads it (common.cpp, common_control_vector_load_one) and as its cvector-generator and
repeng write it: general.architecture is "controlvector"; controlvector.model_hint names the model's architecture;
controlvector.layer_count counts directions; each tensor direction.<il>, float32 (n_embd,), with il >= 1, is added
to the output of block il, the tensor l_out-<il>. Layer 0 cannot be named.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

from edge_eds.energy.gguf_header import read_gguf_header
from edge_eds.errors import InputError, SettingsError
from edge_eds.files import write_whole
from edge_eds.runtime.interventions import AddVector, Rows

ARCHITECTURE = "controlvector"
_PREFIX = "direction."
FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class ControlVector:
    """directions: layer index (1 or above) -> float32 (n_embd,), all of one width. model_hint: the model's
    architecture, for people: llama.cpp does not check it.
    """

    directions: Mapping[int, FloatArray] = field(repr=False)
    model_hint: str = ""

    def __post_init__(self) -> None:
        directions = {}
        for il in sorted(self.directions):
            if il < 1:
                raise SettingsError(f"a control vector cannot name layer {il}: expected 1 or above")
            # AddVector's own check: a vector, finite
            directions[il] = np.asarray(AddVector(self.directions[il]).vector, dtype=np.float32)
        if not directions:
            raise SettingsError("a control vector needs a direction for at least one layer")
        if len({vector.size for vector in directions.values()}) > 1:
            raise SettingsError("the directions of a control vector are not all of one width")
        object.__setattr__(self, "directions", directions)

    @property
    def n_embd(self) -> int:
        return next(iter(self.directions.values())).size

    def interventions(
        self, scale: float = 1.0, rows: Rows = "all", layers: Collection[int] | None = None
    ) -> dict[int, AddVector]:
        """What `EdgeLlama.intervening` takes: all directions, or those of some layers.

        A model's last layer cannot be steered here, and files of cvector-generator name it: leave it out with
        `layers`.
        """
        wanted = self.directions if layers is None else layers
        missing = sorted(set(wanted) - set(self.directions))
        if missing:
            raise SettingsError(f"the control vector has no direction for layer {', '.join(map(str, missing))}")
        return {il: AddVector(self.directions[il], scale, rows) for il in wanted}

    def matrix(self, n_layer: int) -> FloatArray:
        """float32 (n_layer - 1, n_embd), the directions of layers 1 to n_layer - 1: what llama_set_adapter_cvec
        takes; zeros where there is none.

        Raises:
            SettingsError: a direction for a layer that such a model does not have.
        """
        if max(self.directions) >= n_layer:
            raise SettingsError(
                f"the control vector has a direction for layer {max(self.directions)}, and the model has "
                f"the layers 0 to {n_layer - 1}"
            )
        data = np.zeros((n_layer - 1, self.n_embd), dtype=np.float32)
        for il, vector in self.directions.items():
            data[il - 1] = vector
        return data

    def save(self, path: str | Path) -> None:
        """Write the GGUF file, whole or not at all.

        Raises:
            InputError: it cannot be written.
        """
        path = Path(path)
        try:
            with tempfile.TemporaryDirectory() as folder:
                draft = Path(folder) / "draft.gguf"
                writer = gguf.GGUFWriter(draft, ARCHITECTURE)
                writer.add_string(f"{ARCHITECTURE}.model_hint", self.model_hint)
                writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(self.directions))
                for il, vector in self.directions.items():
                    writer.add_tensor(f"{_PREFIX}{il}", vector)
                writer.write_header_to_file()
                writer.write_kv_data_to_file()
                writer.write_tensors_to_file()
                writer.close()
                write_whole(path, draft.read_bytes())
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error

    @classmethod
    def load(cls, path: str | Path) -> ControlVector:
        """Read a GGUF file of llama.cpp, repeng or `save`.

        Raises:
            ModelError: no such file, not a GGUF, or truncated.
            InputError: a GGUF of another kind, or directions that llama.cpp would refuse.
        """
        header = read_gguf_header(path)
        if header.architecture != ARCHITECTURE:
            raise InputError(
                f"{path}: is no control vector; expected a GGUF whose general.architecture is {ARCHITECTURE}, "
                f"found {header.architecture or 'none'}"
            )
        layers = [_layer_of(path, tensor.name) for tensor in header.tensors]
        for tensor in header.tensors:
            if tensor.type != "F32" or len(tensor.shape) != 1:
                raise InputError(
                    f"{path}: {tensor.name} is {tensor.type} of shape {tensor.shape}; expected F32 (n_embd,)"
                )
        tensors = gguf.GGUFReader(path).tensors
        directions = {il: np.array(tensor.data, np.float32) for il, tensor in zip(layers, tensors, strict=True)}
        try:
            return cls(directions, str(header.arch_value("model_hint") or ""))
        except SettingsError as error:
            raise InputError(f"{path}: {error}") from error


def _layer_of(path: str | Path, name: str) -> int:
    index = name.removeprefix(_PREFIX)
    if not name.startswith(_PREFIX) or not index.isdecimal():
        raise InputError(f"{path}: holds a tensor {name!r}; expected {_PREFIX}<layer> alone")
    return int(index)
