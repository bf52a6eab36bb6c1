"""The header of a GGUF file, read in milliseconds: metadata, tensor table, and whether the file is whole.

Takes a path; gives the scalar metadata, a digest of each array (the vocabulary is compared, never used) and the
tensor table. Leaves out array values and tensor data. gguf.GGUFReader gives these too, but takes seconds for the
vocabulary of a small model, which a chat would wait for at every start.

Format: the GGUF specification of ggml, versions 2 and 3, little-endian.
"""

from __future__ import annotations

import hashlib
import mmap
import struct
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from edge_eds.energy.gguf_types import GGML_QUANT_SIZES, GGMLQuantizationType
from edge_eds.errors import ModelError

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True)
class ArrayDigest:
    """Stands for a metadata array: how many items it has, and the SHA-256 of its bytes as they lie in the file."""

    length: int
    sha256: str


@dataclass(frozen=True)
class TensorInfo:
    """One row of the tensor table."""

    name: str
    shape: tuple[int, ...]  # ggml order: fastest dimension first
    type: str  # for example "Q4_1"
    n_bytes: int


@dataclass(frozen=True)
class GgufHeader:
    """What stands before the tensor data of a GGUF file."""

    path: Path
    metadata: dict[str, Any]  # scalars and strings; arrays as ArrayDigest
    tensors: tuple[TensorInfo, ...]

    @property
    def architecture(self) -> str:
        """For example "llama"; "" where the file does not say."""
        return str(self.metadata.get("general.architecture", ""))

    def arch_value(self, key: str) -> Any:
        """Metadata under the architecture's own prefix: arch_value("block_count") reads "llama.block_count"."""
        return self.metadata.get(f"{self.architecture}.{key}")


class _Cursor:
    """Reads forward through the mapped file; running off its end is a truncated file."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self.data, self.path, self.at = data, path, 0

    def skip(self, n_bytes: int) -> None:
        if n_bytes < 0 or self.at + n_bytes > len(self.data):
            raise ModelError(
                f"{self.path}: truncated GGUF: its header goes on past the end of the file "
                f"({len(self.data)} bytes); download or copy it again"
            )
        self.at += n_bytes

    def scalar(self, code: str) -> Any:
        start, size = self.at, struct.calcsize("<" + code)
        self.skip(size)
        return struct.unpack_from("<" + code, self.data, start)[0]

    def string(self) -> str:
        n_bytes = self.scalar("Q")
        start = self.at
        self.skip(n_bytes)
        return bytes(self.data[start : self.at]).decode("utf-8", errors="replace")

    def value(self, kind: int) -> Any:
        if kind in _SCALARS:
            return self.scalar(_SCALARS[kind])
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self.array()
        raise ModelError(
            f"{self.path}: metadata of unknown type {kind}: not a GGUF that this version can read"
        )

    def array(self) -> ArrayDigest:
        kind, length = self.scalar("I"), self.scalar("Q")
        start = self.at
        if kind in _SCALARS:
            self.skip(length * struct.calcsize("<" + _SCALARS[kind]))
        elif kind == _STRING:
            self.skip_strings(length)
        else:
            raise ModelError(f"{self.path}: metadata with arrays of type {kind}: expected numbers or strings")
        return ArrayDigest(length, hashlib.sha256(self.data[start : self.at]).hexdigest())

    def skip_strings(self, length: int) -> None:
        unpack, data, at, end = struct.Struct("<Q").unpack_from, self.data, self.at, len(self.data) - 8
        for _ in range(length):
            if at > end:
                break
            at += 8 + unpack(data, at)[0]
        self.skip(at - self.at if at <= len(data) else len(data) + 1)


def read_gguf_header(path: str | Path) -> GgufHeader:
    """Read the header of a GGUF file and check that the file is as long as its tensor table says.

    A file that has not changed is read once: the vocabulary takes a while.

    Raises:
        ModelError: no such file, a directory, not a GGUF, or truncated; one line that says which.
    """
    path = Path(path)
    try:
        found = path.stat()
        return _read(path, found.st_size, found.st_mtime_ns, found.st_ino)
    except FileNotFoundError as error:
        raise ModelError(f"{path}: no such file; expected the path of a GGUF model") from error
    except IsADirectoryError as error:
        raise ModelError(f"{path}: is a directory; expected the path of a GGUF file in it") from error
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error


@lru_cache(maxsize=8)
def _read(path: Path, size: int, *version: int) -> GgufHeader:
    """version: with the size what tells a file from another one of this path, which is read again."""
    with path.open("rb") as file:
        if size < 24:
            raise ModelError(f"{path}: not a GGUF file: {size} bytes are too few for a header")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _parse(data, path)


def _parse(data: mmap.mmap, path: Path) -> GgufHeader:
    if data[:4] != b"GGUF":
        raise ModelError(
            f"{path}: not a GGUF file: expected it to begin with b'GGUF', found {bytes(data[:4])!r}"
        )
    cursor = _Cursor(data, path)
    cursor.skip(4)
    version = cursor.scalar("I")
    if version not in (2, 3):
        raise ModelError(f"{path}: GGUF version {version}; expected 2 or 3 (little-endian)")
    n_tensors, n_metadata = cursor.scalar("Q"), cursor.scalar("Q")
    metadata: dict[str, Any] = {}
    for _ in range(n_metadata):
        key = cursor.string()
        metadata[key] = cursor.value(cursor.scalar("I"))
    tensors = []
    end_of_data = 0
    for _ in range(n_tensors):
        name = cursor.string()
        shape = tuple(cursor.scalar("Q") for _ in range(cursor.scalar("I")))
        tensor_type, offset = cursor.scalar("I"), cursor.scalar("Q")
        kind, n_bytes = _tensor_size(path, name, shape, tensor_type)
        end_of_data = max(end_of_data, offset + n_bytes)
        tensors.append(TensorInfo(name, shape, kind, n_bytes))
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1:
        raise ModelError(f"{path}: damaged GGUF: general.alignment is {alignment!r}, expected a number > 0")
    expected = -(-cursor.at // alignment) * alignment + end_of_data
    if tensors and len(data) < expected:
        raise ModelError(
            f"{path}: truncated GGUF: expected at least {expected} bytes, found {len(data)}; download or copy it again"
        )
    return GgufHeader(path, metadata, tuple(tensors))


def _tensor_size(path: Path, name: str, shape: tuple[int, ...], tensor_type: int) -> tuple[str, int]:
    try:
        kind = GGMLQuantizationType(tensor_type)
    except ValueError:
        # A type newer than the gguf package: llama.cpp decides whether it can load it.
        return f"type-{tensor_type}", 0
    block, block_bytes = GGML_QUANT_SIZES[kind]
    n_elements = 1
    for dimension in shape:
        n_elements *= dimension
    if n_elements % block:
        raise ModelError(
            f"{path}: tensor {name} has {n_elements} elements, not a multiple of {kind.name}'s {block}"
        )
    return kind.name, n_elements // block * block_bytes
