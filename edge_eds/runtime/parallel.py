"""One context that holds several sequences, and the rows of one decode: what all that decodes side by side shares.

Leaves out what is decoded when, and what is made of the logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from llama_cpp import llama_cpp as llama_api

from edge_eds.runtime.hooks import armed
from edge_eds.runtime.program import HookProgram
from edge_eds.runtime.session import EdgeLlama


@dataclass
class Rows:
    """The rows of one decode, in batch order; listed are those that the hook is told of."""

    listed: list[int] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    n: int = 0

    def tell(self, row: int, slot: int, offset: int) -> None:
        """Batch row `row` belongs to the answer of `slot`, `offset` tokens after its prompt's end; below 0 to the
        message that it answers."""
        self.listed.append(row)
        self.slots.append(slot)
        self.offsets.append(offset)


class ParallelLlama(EdgeLlama):
    """A session whose context holds several sequences in one unified KV cache."""

    def __init__(self, *args: Any, n_sequences: int, **kwargs: Any) -> None:
        self._n_sequences = n_sequences
        super().__init__(*args, **kwargs)

    def _prepare_context(self, params: llama_api.llama_context_params) -> None:
        super()._prepare_context(params)
        params.n_seq_max = self._n_sequences
        params.kv_unified = True  # rows then stay in batch order, which the hook counts on

    def put(self, rows: Rows, token: int, position: int, sequence_id: int, *, output: bool) -> None:
        """Add one row to the coming decode; its logits can be read afterwards if it is an output."""
        batch = self._batch.batch
        batch.token[rows.n] = token
        batch.pos[rows.n] = position
        batch.seq_id[rows.n][0] = sequence_id
        batch.n_seq_id[rows.n] = 1
        batch.logits[rows.n] = output
        rows.n += 1

    def restart(self, sequence_id: int, n_shared: int) -> None:
        """Empty a sequence but for n_shared tokens, which it takes over from the last sequence of the context."""
        memory = llama_api.llama_get_memory(self.ctx)
        llama_api.llama_memory_seq_rm(memory, sequence_id, -1, -1)
        if n_shared:
            llama_api.llama_memory_seq_cp(memory, self._n_sequences - 1, sequence_id, 0, n_shared)

    def shorten(self, sequence_id: int, n_kept: int) -> bool:
        """Forget a sequence's tokens from position n_kept on; False where its state cannot go back to there."""
        return bool(llama_api.llama_memory_seq_rm(llama_api.llama_get_memory(self.ctx), sequence_id, n_kept, -1))

    def ends_answer(self, token: int) -> bool:
        """Whether the model says with this token that its answer is over."""
        return bool(llama_api.llama_vocab_is_eog(llama_api.llama_model_get_vocab(self.model), token))

    def text(self, tokens: Sequence[int]) -> str:
        """Tokens of an answer as text."""
        return self.detokenize(list(tokens)).decode("utf-8", errors="replace")

    def decode(self, rows: Rows, program: HookProgram | None) -> None:
        """Decode the rows that were put, with the program that the hook has been set to.

        Raises:
            SteeringError: what the program asks for did not happen.
            RuntimeError: llama.cpp could not decode.
        """
        self._batch.batch.n_tokens = rows.n
        listed, slots, offsets = (
            np.asarray(values, dtype=np.int32) for values in (rows.listed, rows.slots, rows.offsets)
        )
        with armed(self._hook, program, rows.n, listed, slots, offsets):
            self._ctx.decode(self._batch)


def common_prefix(prompts: Sequence[Sequence[int]]) -> list[int]:
    """What all prompts begin with, one token less than the shortest: every prompt decodes its own end."""
    lists = [list(prompt) for prompt in prompts]
    shortest, longest = min(lists), max(lists)  # in lexical order: what these two share, all share
    length = 0
    while length < min(len(shortest), len(longest)) and shortest[length] == longest[length]:
        length += 1
    return shortest[: min(length, min(map(len, lists)) - 1)]
