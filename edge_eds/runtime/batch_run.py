"""Many prompts answered side by side: which rows go into the next decode, and what is made of their logits.

Takes prompts as tokens and a HookProgram; gives a Generation for each prompt, or two where every prompt is answered
plainly first. Leaves out what the model and the program are, and whether the prompts fit (batch.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from llama_cpp import llama_cpp as llama_api

from edge_eds.runtime.outlook import look, reset_slot
from edge_eds.runtime.parallel import ParallelLlama, Rows, common_prefix
from edge_eds.runtime.program import HookProgram, capturing
from edge_eds.runtime.scoring import log_prob
from edge_eds.runtime.trace import Trace, records_of

FloatArray = npt.NDArray[np.float32]


@dataclass
class Generation:
    """One greedy answer. n_decoded: the rows that were decoded for it, without those that all prompts begin with."""

    tokens: list[int]
    text: str
    finish_reason: str  # "stop" | "length"
    n_prompt: int
    first_logits: FloatArray | None = None  # (n_vocab,)
    states: dict[int, FloatArray] | None = None  # layer -> (n_embd,) at the prompt's last token
    message_states: dict[int, FloatArray] | None = None  # layer -> (n_embd,), the mean over the message's tokens
    trace: Trace = field(default_factory=Trace)
    n_decoded: int = 0
    log_probs: FloatArray | None = None  # (n_tokens,), what the model gave to these tokens, in nats


@dataclass
class AnswerInProgress:
    """A prompt that is being answered, in one sequence of the KV cache.

    plainly: this is the plain answer, and the steered one follows in the same place. plain: the plain answer, where
    that is known. due: whether the first look has shown that it is to be steered; None while nothing has looked.
    """

    index: int
    prompt: list[int]
    n_past: int
    message: range  # positions that the hook is told of; none where nothing asks for them
    plainly: bool = False
    plain: Generation | None = None
    n_decoded: int = 0
    due: bool | None = None
    answer: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)  # of the answer's tokens
    first_logits: FloatArray | None = None
    states: dict[int, FloatArray] | None = None
    message_sums: dict[int, FloatArray] = field(default_factory=dict)  # layer -> (n_embd,), of the rows so far
    trace: Trace = field(default_factory=Trace)


class BatchRun:
    """What is decoded now, and what waits.

    Args:
        n_batch: rows of one decode at most. n_parallel: answers side by side at most.
        program: what is done to the rows; None is the plain model.
        max_new_tokens, capture_layers, want_logits: as for BatchRunner.generate.
        plainly_first: every prompt is answered plainly, and then under the program, which writes no row before the
            prompt's last one.
    """

    def __init__(
        self,
        llm: ParallelLlama,
        n_batch: int,
        n_parallel: int,
        program: HookProgram | None,
        max_new_tokens: int,
        *,
        capture_layers: tuple[int, ...] = (),
        want_logits: bool = False,
        plainly_first: bool = False,
    ) -> None:
        self.llm, self.n_batch, self.n_parallel = llm, n_batch, n_parallel
        self.hook, self.memory = llm._hook, llama_api.llama_get_memory(llm.ctx)
        self.program, self.plainly_first = program, plainly_first
        self.max_new_tokens = max_new_tokens
        self.capture_layers, self.want_logits = capture_layers, want_logits
        self.messages: list[range] = []  # of all prompts
        self.prefix: list[int] = []
        self.active: dict[int, AnswerInProgress] = {}  # sequence id = slot

    @contextmanager
    def prefix_shared(self, prompts: Sequence[list[int]]) -> Iterator[None]:
        """Decode what all prompts begin with, into a sequence of its own, under what is done to all rows."""
        llama_api.llama_memory_clear(self.memory, True)
        self.messages = [self._message(prompt) for prompt in prompts]
        self.hook.set_program(self.program.native() if self.program else None)
        # A Python function may do something else to the same rows of the next prompt.
        repeatable = self.program is None or self.program.repeatable
        try:
            if self.llm.goes_back and repeatable and len(prompts) > 1:
                first_read = min((message.start for message in self.messages if message), default=None)
                self.prefix = common_prefix(prompts)[:first_read]
            for start in range(0, len(self.prefix), self.n_batch):
                rows = Rows()
                for position in range(start, min(start + self.n_batch, len(self.prefix))):
                    self.llm.put(rows, self.prefix[position], position, self.n_parallel, output=False)
                self._decode(rows)
            yield
        finally:
            self.hook.set_program(None)
            llama_api.llama_memory_clear(self.memory, True)

    def _message(self, prompt: Sequence[int]) -> range:
        """The positions of the message, where they are read."""
        return self.llm.message_in(prompt) if self.capture_layers else self.llm.message_read(self.program, prompt)

    def all(
        self, prompts: Sequence[list[int]], tell: Callable[[AnswerInProgress, Generation], None]
    ) -> list[Generation]:
        """Keep every sequence busy until all prompts are answered; those that are answered twice are told twice."""
        results: dict[int, Generation] = {}
        waiting = list(range(len(prompts)))[::-1]
        while waiting or self.active:
            for slot in range(self.n_parallel):
                if slot not in self.active and waiting:
                    index = waiting.pop()
                    self.active[slot] = self._begin(slot, index, prompts[index])
            self._step()
            over = [slot for slot, one in self.active.items() if self._is_over(one) or self._is_left_alone(one)]
            for slot in over:
                sequence = self.active.pop(slot)
                found = self._generation(sequence)
                tell(sequence, found)
                if sequence.plainly:
                    sequence = self._again(slot, sequence, found)
                    if not self._is_left_alone(sequence):
                        self.active[slot] = sequence
                        continue
                    found = self._generation(sequence)
                    tell(sequence, found)
                results[sequence.index] = found
        return [results[index] for index in range(len(prompts))]

    def _begin(self, slot: int, index: int, prompt: list[int]) -> AnswerInProgress:
        self.llm.restart(slot, len(self.prefix))
        reset_slot(self.hook, self.program, slot)
        return AnswerInProgress(
            index, prompt, n_past=len(self.prefix), message=self.messages[index], plainly=self.plainly_first
        )

    def _again(self, slot: int, sequence: AnswerInProgress, plain: Generation) -> AnswerInProgress:
        """The steered answer after the plain one: from the prompt's last token on, or, where the state cannot go back,
        from the beginning."""
        if not self.llm.goes_back:
            return replace(self._begin(slot, sequence.index, sequence.prompt), plainly=False, plain=plain)
        n_past = len(sequence.prompt) - 1
        self.llm.shorten(slot, n_past)
        return AnswerInProgress(
            sequence.index,
            sequence.prompt,
            n_past,
            sequence.message,
            plain=plain,
            due=sequence.due,
            trace=sequence.trace,
        )

    def _step(self) -> None:
        """One decode: a new token for every answer that has begun, and as much of the new prompts as fits."""
        rows = Rows()
        outputs: dict[int, int] = {}  # slot -> batch row whose logits give its next token
        for slot, sequence in self.active.items():
            if sequence.answer:
                outputs[slot] = rows.n
                if not sequence.plainly and self.program is not None and self.program.acts_at(len(sequence.answer)):
                    rows.tell(rows.n, slot, len(sequence.answer))
                self._put(rows, slot, sequence, sequence.answer[-1], output=True)
        n_answer_rows = len(rows.listed)
        ends: dict[int, int] = {}  # slot -> index among the answers' listed rows, for prompts that end in this decode
        for slot, sequence in self.active.items():
            if sequence.answer:
                continue
            for position in range(
                sequence.n_past, min(len(sequence.prompt), sequence.n_past + self.n_batch - rows.n)
            ):
                is_end = position == len(sequence.prompt) - 1
                if is_end:
                    outputs[slot] = rows.n
                    ends[slot] = n_answer_rows + len(ends)
                    if not sequence.plainly or self._looks:  # which is a reading and nothing else
                        rows.tell(rows.n, slot, 0)
                elif position in sequence.message:
                    rows.tell(rows.n, slot, position - len(sequence.prompt) + 1)
                self._put(rows, slot, sequence, sequence.prompt[position], output=is_end)
        states = self._decode_with_states(rows) if self.capture_layers else self._decode(rows)
        for slot, row in outputs.items():
            sequence = self.active[slot]
            logits = self.llm.logits(row)
            if slot in ends and self._goes_back(slot, sequence, logits):
                continue
            if slot in ends:
                sequence.first_logits = logits.copy() if self.want_logits else None
                sequence.states = {il: array[ends[slot]].copy() for il, array in states.items()}
            sequence.answer.append(int(logits.argmax()))
            if self.want_logits and sequence.plainly and sequence.due is not False:
                sequence.log_probs.append(log_prob(logits, sequence.answer[-1]))
        self._collect_traces(rows)

    def _put(self, rows: Rows, slot: int, sequence: AnswerInProgress, token: int, *, output: bool) -> None:
        """Add a sequence's next row."""
        self.llm.put(rows, token, sequence.n_past, slot, output=output)
        sequence.n_past += 1
        sequence.n_decoded += 1

    @property
    def _looks(self) -> bool:
        """Whether the first look at an answer decides if it is steered."""
        return self.program is not None and self.program.outlook is not None

    def _goes_back(self, slot: int, sequence: AnswerInProgress, logits: FloatArray) -> bool:
        """Whether the prompt's last token is to be decoded again, by what the first look at the answer shows."""
        if self.program is None or not self._looks or sequence.due is not None:
            return False
        sequence.due = look(self.hook, self.program, slot, logits, sequence.trace)
        if not sequence.due or sequence.plainly:
            return False
        sequence.n_past -= 1
        self.llm.shorten(slot, sequence.n_past)
        return True

    def _decode(self, rows: Rows) -> dict[int, FloatArray]:
        self.llm.decode(rows, self.program)
        return {}

    def _decode_with_states(self, rows: Rows) -> dict[int, FloatArray]:
        """Decode, add what is in the messages to their sums, and give layer -> (n rows of answers, n_embd)."""
        offsets, slots = np.asarray(rows.offsets), np.asarray(rows.slots)
        if not (offsets <= 0).any():
            return self._decode(rows)
        of_message = slots[offsets < 0]
        states, message_states = (
            {il: np.empty((n, self.llm.n_embd()), dtype=np.float32) for il in self.capture_layers}
            for n in (len(offsets) - len(of_message), len(of_message))
        )
        captures = ((states, "planned"), (message_states, "message"))
        self.hook.set_program(capturing(self.program, captures))
        self._decode(rows)
        self.hook.set_program(self.program.native() if self.program else None)
        for slot in np.unique(of_message).tolist():
            sums = self.active[slot].message_sums
            for il, rows_of_layer in message_states.items():
                sums[il] = sums.get(il, np.float32(0)) + rows_of_layer[of_message == slot].sum(axis=0)
        return states

    def _collect_traces(self, rows: Rows) -> None:
        if self.program is None or not self.program.steers_answers:
            return
        source = self.program.host or self.hook
        records = records_of(source.take_trace())
        for slot, sequence in self.active.items():
            if sequence.plainly and sequence.due is None:
                continue
            own = records[records["slot"] == slot]
            if (own["offset"] == 0).any():  # for the second time, where the first look had it decoded again
                sequence.trace.rewind(0)
            sequence.trace.append(own.tobytes())
            sequence.trace.note_gate(*source.gate_state(slot))

    def _is_over(self, sequence: AnswerInProgress) -> bool:
        if not sequence.answer:
            return False
        return len(sequence.answer) >= self.max_new_tokens or self.llm.ends_answer(sequence.answer[-1])

    def _is_left_alone(self, sequence: AnswerInProgress) -> bool:
        """Whether the answer is the plain one, which is known: nothing is written to it any more, and nothing was."""
        if sequence.plain is None:
            return False
        if self.program is None or sequence.due is False:
            return True
        n = len(sequence.answer)
        return n > 0 and not self.program.acts_at(n) and not sequence.trace.touched_tokens

    def _generation(self, sequence: AnswerInProgress) -> Generation:
        if sequence.plain is not None and self._is_left_alone(sequence):
            return replace(sequence.plain, trace=sequence.trace, n_decoded=sequence.n_decoded)
        stopped = self.llm.ends_answer(sequence.answer[-1])
        n_message = np.float32(len(sequence.message))
        message_states = {il: total / n_message for il, total in sequence.message_sums.items()} or sequence.states
        tokens = sequence.answer[:-1] if stopped else sequence.answer
        return Generation(
            tokens=tokens,
            text=self.llm.text(tokens),
            finish_reason="stop" if stopped else "length",
            n_prompt=len(sequence.prompt),
            first_logits=sequence.first_logits,
            states=sequence.states,
            message_states=message_states,
            trace=Trace() if sequence.plainly else sequence.trace,
            n_decoded=sequence.n_decoded,
            log_probs=np.array(sequence.log_probs[: len(tokens)], np.float32) if sequence.log_probs else None,
        )
