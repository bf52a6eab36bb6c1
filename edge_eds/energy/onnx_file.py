"""An ONNX model on disk, read and checked: whole, external data included, no weight NaN or infinite.

Takes a path; gives the model. Left out: what the model means (graph.py) and our metadata in it (file.py).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto, numpy_helper

from edge_eds.errors import EnergyFileError

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
_FIRST_BYTE = b"\x08"  # field 1 (ir_version), a varint: what every ONNX file in use begins with


def read_onnx(path: Path) -> onnx.ModelProto:
    """The model at `path`. EnergyFileError with one line for a file that cannot be used."""
    try:
        data = path.read_bytes()
    except OSError as e:
        raise EnergyFileError(f"{path}: cannot be read: {e.strerror or e}") from e
    try:
        proto = onnx.load_model_from_string(data)
        onnx.load_external_data_for_model(proto, str(path.parent))
    except DecodeError as e:
        if data[:1] == _FIRST_BYTE:
            raise EnergyFileError(
                f"{path}: is truncated or damaged ({len(data)} bytes); copy it again"
            ) from e
        raise EnergyFileError(f"{path}: is not an ONNX file") from e
    except (OSError, onnx.checker.ValidationError) as e:
        raise EnergyFileError(f"{path}: its external data cannot be read: {e}") from e
    if not proto.graph.node or not proto.opset_import:
        raise EnergyFileError(f"{path}: is not an ONNX file")
    return proto


def require_finite(proto: onnx.ModelProto) -> None:
    """EnergyFileError, which names the weights, unless every float in the model is finite."""
    constants = [a.t for node in proto.graph.node for a in node.attribute if node.op_type == "Constant"]
    for tensor in [*proto.graph.initializer, *constants]:
        if tensor.data_type not in _FLOATS:
            continue
        try:
            values = numpy_helper.to_array(tensor)
        except ValueError as e:
            raise EnergyFileError(f"weights {tensor.name or '(constant)'} are damaged: {e}") from e
        if not np.isfinite(values).all():
            raise EnergyFileError(
                f"weights {tensor.name or '(constant)'} are NaN or infinite; fit the energies again"
            )
