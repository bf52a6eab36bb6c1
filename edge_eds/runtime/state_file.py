"""Files of hidden states, written row by row: .safetensors and NumPy's .npz, which other tools read.

Takes rows as a model is decoded; gives a file that is whole or absent. However many rows there are, a few megabytes
of memory are enough. Both kinds hold the same arrays:

    layer.<il>      float32 (n_rows, n_embd)   block outputs, one row a token
    row.prompt      int32 (n_rows,)            which prompt a row belongs to, counted from 0
    row.position    int32 (n_rows,)            where in its prompt
    row.token       int32 (n_rows,)            the token's id

and metadata as text, in the header of a safetensors file and as the array `metadata` (JSON) of an npz file.

The safetensors package is not used to write: it takes all tensors at once, and what is captured from a large model
does not fit the memory. Its format (https://github.com/huggingface/safetensors#format) is a length, a JSON header and
the bytes; the tests read every file with the package itself. Leaves out reading, which both formats have tools for.
"""

from __future__ import annotations

import json
import shutil
import struct
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from edge_eds.errors import InputError
from edge_eds.files import replacing, size_text

SUFFIXES = (".safetensors", ".npz")
_ITEM = 4  # bytes of a float32 and of an int32
_ROW_ARRAYS = ("row.prompt", "row.position", "row.token")
_MAX_HEADER = 100_000_000  # what readers of safetensors accept

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class StateShape:
    """What a file will hold. metadata: text by name."""

    layers: tuple[int, ...]
    n_rows: int
    n_embd: int
    metadata: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def n_bytes(self) -> int:
        """About how large the file will be."""
        return self.n_rows * _ITEM * (len(self.layers) * self.n_embd + len(_ROW_ARRAYS)) + len(self._header())

    def _header(self) -> bytes:
        """Length and JSON, padded so that the arrays are aligned."""
        header: dict[str, object] = {"__metadata__": dict(self.metadata)}
        at = 0
        for name, (kind, shape) in self.arrays().items():
            n_bytes = _ITEM * int(np.prod(shape))
            header[name] = {"dtype": kind, "shape": shape, "data_offsets": [at, at + n_bytes]}
            at += n_bytes
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        return struct.pack("<Q", len(text)) + text

    def arrays(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """{name: (kind, shape)} in the order in which they lie in the file."""
        rows: dict[str, tuple[str, tuple[int, ...]]] = dict.fromkeys(_ROW_ARRAYS, ("I32", (self.n_rows,)))
        return rows | {f"layer.{il}": ("F32", (self.n_rows, self.n_embd)) for il in self.layers}


class StateWriter:
    """Takes rows in any portions, in order."""

    def __init__(self, file: IO[bytes], shape: StateShape) -> None:
        self._file = file
        self._shape = shape
        self._n_written = 0
        header = shape._header()
        file.write(header)
        self.starts: dict[str, int] = {}  # array -> its first byte in the file
        at = len(header)
        for name, (_, dimensions) in shape.arrays().items():
            self.starts[name] = at
            at += _ITEM * int(np.prod(dimensions))

    def add(self, states: Mapping[int, FloatArray], prompt: int, first: int, tokens: Sequence[int]) -> None:
        """Rows of one prompt. states: layer -> (n, n_embd); first: the position of the first; tokens: (n,)."""
        n = len(tokens)
        assert set(states) == set(self._shape.layers) and self._n_written + n <= self._shape.n_rows
        self._put("row.prompt", np.full(n, prompt, dtype="<i4"), 1)
        self._put("row.position", np.arange(first, first + n, dtype="<i4"), 1)
        self._put("row.token", np.asarray(tokens, dtype="<i4"), 1)
        for il, rows in states.items():
            self._put(f"layer.{il}", np.ascontiguousarray(rows, dtype="<f4"), self._shape.n_embd)
        self._n_written += n

    def finish(self) -> None:
        """Check that the file is as full as its header says."""
        assert self._n_written == self._shape.n_rows
        self._file.flush()

    def _put(self, name: str, values: npt.NDArray[np.float32] | npt.NDArray[np.int32], width: int) -> None:
        self._file.seek(self.starts[name] + self._n_written * width * _ITEM)
        self._file.write(values.data)


def check_suffix(path: Path) -> None:
    """InputError unless the name says which kind of file it is to be."""
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path}: unknown kind of file; expected a name ending in {' or '.join(SUFFIXES)}")


def check_fits(path: Path, shape: StateShape) -> None:
    """Refuse what the disk does not hold, before any work.

    Raises:
        InputError: with both sizes and what to do.
    """
    if len(shape._header()) > _MAX_HEADER:
        raise InputError(
            f"{path}: the prompts themselves are too long to be kept in one file; capture them in several parts"
        )
    copies = 2 if path.suffix.lower() == ".npz" else 1  # its arrays are laid out in a draft first
    free = shutil.disk_usage(path.resolve().parent).free
    if shape.n_bytes * copies > free:
        raise InputError(
            f"{path}: would take {size_text(shape.n_bytes * copies)} while it is written, and the disk has "
            f"{size_text(free)} left; take fewer --layers, or --positions last"
        )


@contextmanager
def state_file(path: Path, shape: StateShape) -> Iterator[StateWriter]:
    """A writer of the file at `path`, which appears when the block ends.

    Raises:
        InputError: it cannot be written.
    """
    check_suffix(path)
    try:
        with replacing(path) as draft:
            if path.suffix.lower() == ".safetensors":
                writer = StateWriter(draft, shape)
                yield writer
                writer.finish()
                return
            with tempfile.TemporaryFile(dir=path.resolve().parent) as spool:
                writer = StateWriter(spool, shape)
                yield writer
                writer.finish()
                _to_npz(draft, spool, writer.starts, shape)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error


def _to_npz(out: BinaryIO, spool: IO[bytes], starts: Mapping[str, int], shape: StateShape) -> None:
    """Copy the arrays from where they were laid out; NumPy reads and writes them in small pieces."""
    arrays: dict[str, npt.NDArray[Any]] = {"metadata": np.array(json.dumps(dict(shape.metadata)))}
    for name, (kind, dimensions) in shape.arrays().items():
        dtype = "<f4" if kind == "F32" else "<i4"
        arrays[name] = np.memmap(spool, dtype, "r", offset=starts[name], shape=dimensions)
    np.savez(out, **arrays)  # type: ignore[arg-type]  # any of them could be allow_pickle, say NumPy's types
