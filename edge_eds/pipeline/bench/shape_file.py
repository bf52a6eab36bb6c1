"""Writes a GGUF of a shape, with random weights: a file in the user's cache, whole or not at all.

Takes a shape; gives the path. A tensor's blocks are cut out of one random stretch for each type, so that five gigabytes
take seconds. Random bits are the weights of the right type and spread: hidden states stay finite, and nothing is said
that means anything. The vocabulary has the real size and a tokenizer of bytes. What does not fit the memory or the disk
is refused before a byte is written.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as Type
from gguf import GGUFWriter, LlamaFileType, TokenType
from gguf.constants import GGML_QUANT_SIZES
from gguf.gguf_writer import WriterState
from gguf.vocab import bytes_to_unicode
from platformdirs import user_cache_path

from edge_eds.errors import InputError
from edge_eds.files import replacing, size_text
from edge_eds.pipeline.bench.machine import Room, room
from edge_eds.pipeline.bench.shapes import Shape, TensorPlan

FORMAT = 1  # goes up when the same shape gives other bytes
RUNNING_BYTES = 1_000_000_000  # contexts and Python beside the weights
_VOCABULARY_BYTES = 100  # a token, at most
_STRETCH = 65521  # blocks in a stretch: a prime, so that rows of a matrix do not fall on the same blocks
_FORGOTTEN = 600.0  # a draft that nobody has written to for so many seconds was left by a killed program
_END, _START = "<|end|>", "<|start|>"
Bytes = npt.NDArray[np.uint8]


def shapes_folder() -> Path:
    """Where files of shapes are kept."""
    return Path(user_cache_path("edge-eds", appauthor=False)) / "shapes"


def shape_file(
    shape: Shape, folder: Path | None = None, available: Callable[[Path], Room] = room
) -> tuple[Path, bool]:
    """(path, whether it was written now): the file of this shape, from the cache or made now.

    Raises:
        InputError: it does not fit the memory or the disk, or cannot be written.
    """
    folder = shapes_folder() if folder is None else folder
    path = folder / f"{shape.name}-q4_k_m-{FORMAT}.gguf"
    there = path.is_file()
    _require_room(shape, path, there, available(folder))
    if there:
        return path, False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for draft in folder.glob(f"{path.name}.*.tmp"):
            if time.time() - draft.stat().st_mtime > _FORGOTTEN:
                draft.unlink(missing_ok=True)
        write_shape(shape, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error
    return path, True


def write_shape(shape: Shape, path: Path, seed: int = 0) -> None:
    """Write the GGUF to `path`; the same arguments give the same bytes.

    Raises:
        OSError: as the system gives it; `path` is then as it was.
    """
    plans = shape.tensors()
    stretches = _Stretches(seed)
    with replacing(path) as draft:
        writer = _OpenFileWriter(draft, shape)
        for plan in plans:
            writer.add_tensor_info(plan.name, plan.shape, np.dtype(np.float32), plan.n_bytes, raw_dtype=plan.type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for plan in plans:
            writer.write_tensor_data(stretches.tensor(plan))


def _require_room(shape: Shape, path: Path, there: bool, available: Room) -> None:
    n_file = shape.n_bytes + _VOCABULARY_BYTES * shape.n_vocab
    n_memory = shape.n_bytes + RUNNING_BYTES
    if available.memory is not None and n_memory > available.memory:
        raise InputError(
            f"the shape {shape.name} takes {size_text(n_memory)} of memory to run and {size_text(available.memory)} "
            "are free; choose a smaller --shape, or end other programs"
        )
    if not there and available.disk is not None and n_file > available.disk:
        raise InputError(
            f"the shape {shape.name} takes {size_text(n_file)} on the disk and {size_text(available.disk)} are free in "
            f"{path.parent}; choose a smaller --shape, or make room"
        )


class _OpenFileWriter(GGUFWriter):
    """Writes into a file that is open already, with a shape's metadata and vocabulary."""

    def __init__(self, file: BinaryIO, shape: Shape) -> None:
        super().__init__(None, shape.architecture)
        self._file = file
        self.add_name(f"{shape.name} shape with random weights")
        self.add_file_type(LlamaFileType.MOSTLY_Q4_K_M)
        self.add_block_count(shape.n_layer)
        self.add_context_length(shape.n_ctx_train)
        self.add_embedding_length(shape.n_embd)
        self.add_feed_forward_length(shape.n_ff)
        self.add_head_count(shape.n_head)
        self.add_head_count_kv(shape.n_head_kv)
        self.add_key_length(shape.n_head_dim)
        self.add_value_length(shape.n_head_dim)
        self.add_rope_dimension_count(shape.n_head_dim)
        self.add_rope_freq_base(shape.rope_base)
        self.add_layer_norm_rms_eps(1e-5)
        self.add_vocab_size(shape.n_vocab)
        self._add_vocabulary(shape.n_vocab)

    def open_output_file(self, path: Path | None = None) -> None:
        self.fout: list[Any] = [self._file]
        self.state = WriterState.EMPTY

    def _add_vocabulary(self, n_vocab: int) -> None:
        known = [_END, _START, *bytes_to_unicode().values()]
        kinds = [TokenType.CONTROL] * 2 + [TokenType.NORMAL] * (len(known) - 2)
        n_unused = n_vocab - len(known)
        if n_unused < 0:
            raise ValueError(f"n_vocab is {n_vocab}, expected at least {len(known)}")
        self.add_tokenizer_model("gpt2")
        self.add_tokenizer_pre("gpt-2")
        self.add_token_list([*known, *(f"<unused{i}>" for i in range(n_unused))])
        self.add_token_types([*kinds, *[TokenType.UNUSED] * n_unused])
        self.add_token_merges(["t h"])  # llama.cpp wants one at least
        self.add_eos_token_id(known.index(_END))
        self.add_bos_token_id(known.index(_START))
        self.add_add_bos_token(False)


class _Stretches:
    """Random blocks of each type, made once; a tensor is cut out of them at a random place."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._blocks: dict[Type, Bytes] = {}

    def tensor(self, plan: TensorPlan) -> npt.NDArray[np.float32] | Bytes:
        """A tensor's data."""
        if plan.type is Type.F32:
            values = self._rng.normal(plan.mean, plan.std, plan.shape)
            return values.astype(np.float32)
        if plan.type not in self._blocks:
            n_bytes = GGML_QUANT_SIZES[plan.type][1]
            self._blocks[plan.type] = self._rng.integers(0, 256, (_STRETCH, n_bytes), dtype=np.uint8)
        blocks = self._blocks[plan.type]
        _SCALES[plan.type](blocks, plan.std)
        n_blocks = plan.n_bytes // blocks.shape[1]
        start = int(self._rng.integers(_STRETCH))
        n_whole, rest = divmod(start + n_blocks, _STRETCH)
        pieces = [blocks] * n_whole + [blocks[:rest]]
        pieces[0] = pieces[0][start:]
        return np.concatenate(pieces)


# -- the layouts of ggml's blocks (ggml-common.h): where the scales lie, and how wide the random bits are spread ------

_UNIFORM = 12**-0.5  # standard deviation of uniform whole numbers, as a part of how many there are


def _scale_q4_k(blocks: Bytes, std: float) -> None:
    """d, dmin in half precision, eight 6-bit scales and minima in 12 bytes, then the bits: w = d s q - dmin m."""
    scale = 48
    blocks[:, 4:16] = _six_bits(scale)
    d = std / (scale * 16 * _UNIFORM)
    blocks[:, 0:4] = np.array([d, 7.5 * d], dtype="<f2").view(np.uint8)


def _six_bits(scale: int) -> Bytes:
    """Eight scales and eight minima that are all `scale`, packed as get_scale_min_k4 reads them."""
    high, low = scale >> 4, scale & 15
    first = scale | high << 6 & 0xC0
    return np.array([first] * 8 + [low | low << 4] * 4, dtype=np.uint8)


def _scale_q6_k(blocks: Bytes, std: float) -> None:
    """192 bytes of bits, sixteen 8-bit scales, d in half precision: w = d s (q - 32)."""
    scale = 96
    blocks[:, 192:208] = scale
    blocks[:, 208:210] = np.array([std / (scale * 64 * _UNIFORM)], dtype="<f2").view(np.uint8)


def _scale_q5_0(blocks: Bytes, std: float) -> None:
    """d in half precision, then 32 times 5 bits: w = d (q - 16)."""
    blocks[:, 0:2] = np.array([std / (32 * _UNIFORM)], dtype="<f2").view(np.uint8)


def _scale_q8_0(blocks: Bytes, std: float) -> None:
    """d in half precision, then 32 bytes: w = d q."""
    blocks[:, 0:2] = np.array([std / (256 * _UNIFORM)], dtype="<f2").view(np.uint8)


_SCALES: dict[Type, Callable[[Bytes, float], None]] = {
    Type.Q4_K: _scale_q4_k,
    Type.Q6_K: _scale_q6_k,
    Type.Q5_0: _scale_q5_0,
    Type.Q8_0: _scale_q8_0,
}
