"""Many programs on the same prompts: each prompt is decoded once, and its last token once for every program.

What steers an answer is done at the prompt's last token and after it, so everything before that is the same under every
program, and most of the work of trying one; what all prompts begin with is decoded once for all, and so is an answer
that several programs leave to the plain model. Takes prompts as tokens and programs; gives greedy answers and what the
caller reads off the first token's logits. Leaves out programs that edit prompt rows or read them in different ways
(program.py's share_prompts), and recurrent models, whose state cannot go back to before the prompt's last token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from llama_cpp import llama_cpp as llama_api

from edge_eds.runtime.outlook import hold, look, reset_slot
from edge_eds.runtime.parallel import ParallelLlama, Rows, common_prefix
from edge_eds.runtime.program import HookProgram
from edge_eds.runtime.trace import Trace

FloatArray = npt.NDArray[np.float32]
ReadLogits = Callable[[int, FloatArray], float]  # prompt's index, logits (n_vocab,) of the first new token


@dataclass
class Trial:
    """One prompt under one program. first: what `read_logits` gave for the first new token's logits."""

    first: float = 0.0
    tokens: list[int] = field(default_factory=list)  # the answer, without its end token


def try_programs(
    llm: ParallelLlama,
    n_batch: int,
    n_parallel: int,
    prompts: Sequence[Sequence[int]],
    programs: Sequence[HookProgram | None],
    *,
    max_new_tokens: int,
    read_logits: ReadLogits,
) -> list[list[Trial]]:
    """A trial of every prompt (inner) under every program (outer); the timeline is empty afterwards.

    Args:
        prompts: each fits the context of one sequence together with its answer.
        programs: they share their prompts; None is the plain model.

    Raises:
        SteeringError: what a program asks for did not happen.
    """
    trials = [[Trial() for _ in prompts] for _ in programs]
    reader = next((program for program in programs if program is not None and program.reads_message), None)
    messages = [llm.message_read(reader, prompt) for prompt in prompts]
    n_prefix = 0
    if len(prompts) > 1:  # what is read of a message is read where it is decoded: in the slot of its prompt
        n_prefix = len(common_prefix(prompts)[: min((message.start for message in messages if message), default=None)])
    with _emptied(llm):
        _decode(llm, n_batch, {n_parallel: prompts[0][:n_prefix]} if n_prefix else {}, 0)
        for start in range(0, len(prompts), n_parallel):
            asked = range(start, min(start + n_parallel, len(prompts)))
            llm._hook.set_program(reader.native() if reader else None)
            for slot in range(len(asked)):
                reset_slot(llm._hook, reader, slot)
                llm.restart(slot, n_prefix)
            held = {slot: prompts[i][:-1] for slot, i in enumerate(asked)}
            _decode(llm, n_batch, held, n_prefix, reader, {slot: messages[i] for slot, i in enumerate(asked)})
            decoded = _DecodedPrompts(llm, prompts[start : asked.stop], start, reader, read_logits)
            for program, its in zip(programs, trials, strict=True):
                decoded.answer(program, its[start : asked.stop], max_new_tokens)
    return trials


@contextmanager
def _emptied(llm: ParallelLlama) -> Iterator[None]:
    """The KV cache, empty before and after, and no program in force."""
    memory = llama_api.llama_get_memory(llm.ctx)
    llama_api.llama_memory_clear(memory, True)
    llm._hook.set_program(None)
    try:
        yield
    finally:
        llm._hook.set_program(None)
        llama_api.llama_memory_clear(memory, True)


def _decode(
    llm: ParallelLlama,
    n_batch: int,
    sequences: Mapping[int, Sequence[int]],
    start: int,
    reader: HookProgram | None = None,
    messages: Mapping[int, range] | None = None,
) -> None:
    """Decode the sequences, which nothing is done to, each from its token `start` to the one before its prompt's last.

    messages: positions in each sequence that `reader`, which the hook has been set to, reads.
    """
    rows = Rows()
    for sequence_id, tokens in sequences.items():
        for position in range(start, len(tokens)):
            if messages is not None and position in messages[sequence_id]:
                rows.tell(rows.n, sequence_id, position - len(tokens))
            llm.put(rows, tokens[position], position, sequence_id, output=False)
            if rows.n == n_batch:
                llm.decode(rows, reader)
                rows = Rows()
    if rows.n:
        llm.decode(rows, reader)


@dataclass
class _DecodedPrompts:
    """Prompts in the slots 0, 1, ..., decoded but for their last tokens, which one program after the other answers.

    prompts: tokens, by slot.
    start: index of the first of them among all prompts.
    reader: what read their messages.
    plain: by slot the plain answers that are known by now.
    """

    llm: ParallelLlama
    prompts: Sequence[Sequence[int]]
    start: int
    reader: HookProgram | None
    read_logits: ReadLogits
    plain: dict[int, list[int]] = field(default_factory=dict)

    def answer(self, program: HookProgram | None, trials: Sequence[Trial], max_new_tokens: int) -> None:
        """Answer each prompt in its slot's trial, and forget the answers' rows."""
        hook = self.llm._hook
        hook.set_program(program.native() if program else None)
        running = list(range(len(self.prompts)))
        for slot in running:  # a first token has the gate read again, and what was read of the message stays
            (hold if self.reader else reset_slot)(hook, program, slot)
        left_alone = set(running) if program is None else set()
        for offset in range(max_new_tokens):
            left_alone |= self._step(program, offset, running, trials)
            for slot in left_alone.intersection(running, self.plain):
                trials[slot].tokens = list(self.plain[slot])
                running.remove(slot)
            if not running:
                break
        self.plain |= {slot: trials[slot].tokens for slot in left_alone}
        for slot in range(len(self.prompts)):
            self._forget_answer(slot)
        if program is not None:
            (program.host or hook).take_trace()

    def _step(
        self, program: HookProgram | None, offset: int, running: list[int], trials: Sequence[Trial]
    ) -> set[int]:
        """One new token in each slot that is still answering; the others leave the list.

        Returns:
            The slots that the first look leaves to the plain model.
        """
        pending, left_alone = list(running), set()
        looks = offset == 0 and program is not None and program.outlook is not None
        while pending:
            rows = Rows()
            for slot in pending:
                prompt = self.prompts[slot]
                rows.tell(rows.n, slot, offset)
                token = trials[slot].tokens[-1] if offset else prompt[-1]
                self.llm.put(rows, token, len(prompt) - 1 + offset, slot, output=True)
            self.llm.decode(rows, program)
            again = []
            for row, slot in enumerate(pending):
                logits = self.llm.logits(row)
                if looks and program is not None and look(self.llm._hook, program, slot, logits, Trace()):
                    self._forget_answer(slot)
                    again.append(slot)
                    continue
                if looks:
                    left_alone.add(slot)
                if offset == 0:
                    trials[slot].first = self.read_logits(self.start + slot, logits)
                token = int(logits.argmax())
                if self.llm.ends_answer(token):
                    running.remove(slot)
                else:
                    trials[slot].tokens.append(token)
            pending, looks = again, False
        return left_alone

    def _forget_answer(self, slot: int) -> None:
        self.llm.shorten(slot, len(self.prompts[slot]) - 1)
