"""Recorded hidden states: what comes out of the blocks of a model while it reads a text.

Takes a session and tokens; gives rows of `l_out-<il>`, the residual stream after block il, either as a Capture or,
for texts and models of any size, piece by piece as llama.cpp decodes them. The session's timeline is empty
afterwards. Leaves out files (state_file.py), and states of answers while they are generated (batch.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from edge_eds.errors import SettingsError, SteeringError
from edge_eds.runtime.hooks import armed
from edge_eds.runtime.outlook import look
from edge_eds.runtime.program import HookProgram, capturing
from edge_eds.runtime.trace import Trace

if TYPE_CHECKING:
    from edge_eds.runtime.session import EdgeLlama

FloatArray = npt.NDArray[np.float32]
Positions = Literal["all", "last"]
POSITIONS: tuple[Positions, ...] = ("all", "last")
_SLOT = 0  # a session has one timeline, so one answer at a time


class Capture(dict[int, FloatArray]):
    """layer -> float32 (n_rows, n_embd), the residual stream after that block.

    tokens: the token of each row, int32 (n_rows,): all that were read, or the last of them alone.
    """

    def __init__(self, states: Mapping[int, FloatArray], tokens: npt.ArrayLike) -> None:
        super().__init__(states)
        self.tokens: npt.NDArray[np.int32] = np.asarray(tokens, dtype=np.int32)

    def __repr__(self) -> str:
        """Shapes and sizes, in place of thousands of numbers."""
        n = len(self.tokens)
        lines = [f"Capture of {n} token{'' if n == 1 else 's'} at {len(self)} layer{'' if len(self) == 1 else 's'}"]
        for il, rows in self.items():
            norms = np.linalg.norm(rows, axis=1)
            size = f"{norms.min():.4g}" if n == 1 else f"{norms.min():.4g} to {norms.max():.4g}"
            lines.append(f"  {il:>3}  {rows.dtype} {rows.shape}  |h| {size}")
        return "\n".join(lines)


@dataclass(frozen=True)
class CapturedPiece:
    """Rows of one decode. first: position of the first of them in the text. states: layer -> (n_rows, n_embd)."""

    first: int
    states: Mapping[int, FloatArray]


def capture(
    llm: EdgeLlama, tokens: Sequence[int], layers: Sequence[int], positions: Positions, program: HookProgram | None
) -> Capture:
    """All pieces of `captured_pieces` in one.

    Raises:
        As `captured_pieces`.
    """
    pieces = captured_pieces(llm, tokens, layers, positions, program)
    kept = list(tokens) if positions == "all" else list(tokens[-1:])
    states = {il: np.empty((len(kept), llm.n_embd()), dtype=np.float32) for il in layers}
    start = 0 if positions == "all" else len(tokens) - 1
    for piece in pieces:
        for il, rows in piece.states.items():
            states[il][piece.first - start :][: len(rows)] = rows
    return Capture(states, kept)


def captured_pieces(
    llm: EdgeLlama, tokens: Sequence[int], layers: Sequence[int], positions: Positions, program: HookProgram | None
) -> Iterator[CapturedPiece]:
    """Decode tokens from an empty cache, and give the rows of each decode; their buffers serve the next one too.

    Args:
        layers: layer indices.
        positions: "all" tokens, or the "last" one alone.
        program: what is done to the rows before they are captured, with the last token as the prompt's end.

    Raises:
        SteeringError: a layer whose output cannot be read, with the reason; no tokens.
        SettingsError: unknown positions.
        PromptTooLongError: more tokens than the context holds.
    """
    if positions not in POSITIONS:
        raise SettingsError(f"positions: expected {' or '.join(map(repr, POSITIONS))}, found {positions!r}")
    check_readable(llm, layers)
    if not tokens:
        raise SteeringError("cannot capture an empty text: it has no tokens")
    llm._check_length(len(tokens), "the rows to capture")
    return _decoded(llm, tokens, layers, positions, program)


def check_readable(llm: EdgeLlama, layers: Sequence[int]) -> None:
    """Refuse layers whose rows cannot be read; the last one can be, although it cannot be steered.

    Raises:
        SteeringError: with the reason.
    """
    last = len(llm.layers) - 1
    llm._check_layers([il for il in layers if il != last], "capture")
    if last in layers and llm.layers[last].unreadable:
        raise SteeringError(f"cannot capture layer {last}: {llm.layers[last].unreadable}")


def _decoded(
    llm: EdgeLlama, tokens: Sequence[int], layers: Sequence[int], positions: Positions, program: HookProgram | None
) -> Iterator[CapturedPiece]:
    n_rows = min(llm.n_batch, len(tokens)) if positions == "all" else 1
    buffers = {il: np.empty((n_rows, llm.n_embd()), dtype=np.float32) for il in layers}
    told = [*llm.message_read(program, tokens), len(tokens) - 1]
    llm.reset()
    llm._ctx.kv_cache_clear()
    llm._forget_gate()
    try:
        for start in range(0, len(tokens), llm.n_batch):
            chunk = tokens[start : start + llm.n_batch]
            at_end = start + len(chunk) == len(tokens)
            if positions == "all":
                states, scope, first = {il: rows[: len(chunk)] for il, rows in buffers.items()}, "all", start
            else:  # "planned": the answer's rows, which is the last token alone
                states, scope, first = buffers if at_end else {}, "planned", len(tokens) - 1
            _decode(llm, program, chunk, start, [p - start for p in told], len(tokens) - 1, states, scope)
            if at_end and program is not None and look(llm._hook, program, _SLOT, llm.logits(-1), Trace()):
                llm._ctx.kv_cache_seq_rm(-1, len(tokens) - 1, -1)
                last = {il: rows[len(rows) - 1 :] for il, rows in states.items()}
                _decode(llm, program, chunk[-1:], len(tokens) - 1, [0], len(tokens) - 1, last, scope)
            if states:
                yield CapturedPiece(first, states)
    finally:
        llm._hook.take_trace()
        if program is not None and program.host is not None:
            program.host.take_trace()
        llm._set_program(llm._program)
        llm._ctx.kv_cache_clear()


def _decode(
    llm: EdgeLlama,
    program: HookProgram | None,
    chunk: Sequence[int],
    start: int,
    told: Sequence[int],
    end: int,
    states: dict[int, FloatArray],
    scope: str,
) -> None:
    """One decode of the tokens from position `start` on, with what `program` does and the states it leaves.

    told: rows of the chunk that the hook is told of; others are passed over. end: the prompt's last position.
    """
    llm._hook.set_program(capturing(program, [(states, scope)]))
    # The last layer's rows are pruned to the outputs, so it is read with every row an output.
    llm._batch.set_batch(batch=chunk, n_past=start, logits_all=len(llm.layers) - 1 in states)
    rows = np.asarray([row for row in told if 0 <= row < len(chunk)], dtype=np.int32)
    slots, offsets = np.full_like(rows, _SLOT), rows + start - end
    with armed(llm._hook, program, len(chunk), rows, slots, offsets):
        llm._ctx.decode(llm._batch)
