"""Several answers at a time, each with its own prompt, sampling and steering, decoded in one llama.cpp batch.

A slot is one timeline of the model: a sequence of the KV cache, and the gate's decision for it. `begin` gives a free
slot a prompt, every `step` is one decode that takes all answers as far as it can, and a slot keeps its rows for the
next prompt that begins alike. Beside answers a free slot gives hidden states and embeddings of a text.

The hook runs one program a decode. Rows that are not steered (plain answers, prompts before their end, answers past
their steered tokens) go along with any; of several programs that are wanted at once, the one that has waited longest
goes first. Leaves out who asks, and what text the tokens make.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from llama_cpp import llama_cpp as llama_api
from llama_cpp._internals import LlamaSampler

from edge_eds.energy.file import EnergyFile
from edge_eds.energy.outlook import OutlookSpec
from edge_eds.energy.settings import Steering
from edge_eds.errors import ModelError, PromptTooLongError, SettingsError, SteeringError
from edge_eds.runtime.energies import ModelFiles
from edge_eds.runtime.message import NO_MESSAGE
from edge_eds.runtime.outlook import look, reset_slot
from edge_eds.runtime.parallel import ParallelLlama, Rows
from edge_eds.runtime.program import HookProgram, capturing
from edge_eds.runtime.sampling import TokenSampling, make_sampler
from edge_eds.runtime.session import EdgeLlama
from edge_eds.runtime.trace import Trace, records_of

_N_BATCH = 512
MAX_PARALLEL = 64
_PLAIN = "plain"  # what rows were made under that nothing was done to
_MAX_PROGRAMS = 32  # kept for the strengths asked for last

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TokenLogprobs:
    """Log-probabilities of the model before sampling: of the token chosen, and of the likeliest ones."""

    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Task:
    """One answer to be made. strength 0 is the plain model; n_logprobs None asks for no log-probabilities."""

    prompt: tuple[int, ...]
    max_new_tokens: int
    sampling: TokenSampling = field(default_factory=TokenSampling)
    strength: float = 0.0
    n_logprobs: int | None = None


@dataclass
class _Slot:
    """A sequence of the KV cache: its tokens, and how many of them would be made again under `origin`."""

    index: int
    rows: list[int] = field(default_factory=list)
    origin: str = _PLAIN
    n_reusable: int = 0
    last_used: int = 0
    answer: Answering | None = None


@dataclass(eq=False)
class Answering:
    """An answer that is being made.

    finish_reason: None while it goes on; "stop" (the model ended it), "length" (max_new_tokens, or the context is
    full), "cancelled" or "error" (then `error` says what happened).
    n_cached: tokens of the prompt that were in the slot already. logprobs: one for each token, where asked for.
    """

    task: Task
    n_cached: int
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    finish_reason: str | None = None
    error: SteeringError | None = None
    trace: Trace = field(default_factory=Trace)
    _slot: _Slot = field(default_factory=lambda: _Slot(-1), repr=False)
    _program: HookProgram | None = field(default=None, repr=False)
    _message: range = field(default=NO_MESSAGE, repr=False)  # positions of it in the prompt, where the gate reads it
    _looked: bool = field(default=False, repr=False)  # at what the plain model is about to do
    _sampler: LlamaSampler | None = field(default=None, repr=False)
    _last_step: int = field(default=0, repr=False)  # in which it got a token, or began

    @property
    def _n_left(self) -> int:
        """Tokens of the prompt that are not decoded yet."""
        return max(len(self.task.prompt) - len(self._slot.rows), 0)

    @property
    def _first_told(self) -> int:
        """Position of the first row of the prompt that its program does something with."""
        return self._message.start if self._message else len(self.task.prompt) - 1


@dataclass
class _Plan:
    """One decode: how many rows each answer has in it, and the program that the hook runs."""

    program: HookProgram | None = None
    parts: list[tuple[Answering, int]] = field(default_factory=list)


class Slots:
    """A model loaded for several answers at a time. One thread at a time may use it.

    Args:
        files: the GGUF and its LoRA adapter.
        n_parallel: answers decoded side by side (recurrent models: one).
        n_ctx: tokens that one prompt with its answer may have.
        n_threads: None means llama.cpp's own choice.
        energy: energies to steer with (loaded, or their path), or None.
        chat_format: for a GGUF without a chat template.

    Raises:
        ModelError, EnergyFileError: as EdgeLlama.
        SettingsError: n_parallel out of its range, or above 1 for a recurrent model.
    """

    def __init__(
        self,
        files: ModelFiles,
        *,
        n_parallel: int = 1,
        n_ctx: int = 4096,
        n_threads: int | None = None,
        energy: EnergyFile | str | None = None,
        chat_format: str | None = None,
    ) -> None:
        if not 1 <= n_parallel <= MAX_PARALLEL:
            raise SettingsError(f"the number of answers side by side is {n_parallel}, expected 1 to {MAX_PARALLEL}")
        self.n_ctx = n_ctx
        self.n_parallel = n_parallel
        self._llm = ParallelLlama(
            files.gguf,
            n_sequences=n_parallel,
            lora_path=None if files.lora is None else str(files.lora),
            energy=energy,
            steering=Steering(strength=0),
            n_ctx=n_ctx * n_parallel,
            n_batch=_N_BATCH,
            n_threads=n_threads,
            n_threads_batch=n_threads,
            chat_format=chat_format,
            verbose=False,
        )
        if n_parallel > 1 and not self._llm.goes_back:
            self._llm.close()
            raise SettingsError(
                f"{files.name} has a recurrent state, so its answers cannot be decoded side by side; expected 1 "
                f"(--parallel 1), found {n_parallel}"
            )
        self._hook = self._llm._hook
        self._hook.set_slots(n_parallel)
        self._memory = llama_api.llama_get_memory(self._llm.ctx)
        self._vocab = llama_api.llama_model_get_vocab(self._llm.model)
        self._slots = [_Slot(index) for index in range(n_parallel)]
        self._programs: dict[float, HookProgram | None] = {}
        self._in_hook: HookProgram | None = None
        self._n_steps = 0

    def close(self) -> None:
        """Free the model."""
        for answer in self.active:
            self.cancel(answer)
        self._llm.close()

    @property
    def session(self) -> EdgeLlama:
        """The session underneath, for its model facts and its tokenizer; do not decode with it."""
        return self._llm

    @property
    def active(self) -> list[Answering]:
        """The answers that go on."""
        return [slot.answer for slot in self._slots if slot.answer is not None]

    @property
    def n_free(self) -> int:
        """Slots that could begin an answer."""
        return len(self._slots) - len(self.active)

    def check(self, task: Task) -> None:
        """Raise at once what `begin` would raise. May be called from any thread.

        Raises:
            PromptTooLongError: the prompt leaves no room for an answer.
            InputError: a sampling setting that does not fit the model; an empty prompt.
            SettingsError, SteeringError: a strength that cannot be had.
        """
        self._check_prompt(task.prompt, n_new=1)
        Steering(strength=task.strength)
        if task.strength > 0 and self._llm.energy_file is None:
            raise SettingsError(f"strength is {task.strength:g}, and there are no energies to steer with; expected 0")
        make_sampler(self._llm, task.sampling, self.n_ctx).close()

    def begin(self, task: Task) -> Answering:
        """Give a free slot this answer to make.

        Raises:
            as `check`; there must be a free slot.
        """
        self._check_prompt(task.prompt, n_new=1)
        program = self._program(task.strength)
        sampler = make_sampler(self._llm, task.sampling, self.n_ctx)
        message = self._llm.message_read(program, task.prompt)
        again = task.prompt[: message.start + 1] if message else task.prompt  # the last of it is decoded in any case
        slot = self._take_slot(again, _PLAIN if program is None else program.key)
        answer = Answering(task, len(slot.rows), _slot=slot, _program=program, _message=message, _sampler=sampler)
        reset_slot(self._hook, program, slot.index)
        slot.answer = answer
        answer._last_step = self._n_steps
        return answer

    def cancel(self, answer: Answering) -> None:
        """End an answer where it is; its slot is free then."""
        if answer.finish_reason is None:
            self._end(answer, "cancelled")

    def step(self) -> list[Answering]:
        """One decode for all answers that go on; returns those with a new token and those that ended.

        Steering that fails for one answer ends that one, with its error.

        Raises:
            RuntimeError: llama.cpp could not decode; call `reset`.
        """
        self._n_steps += 1
        return self._step(self._plan(self.active))

    def piece(self, token: int) -> bytes:
        """The bytes that a token stands for; none for a special token. May be called from any thread."""
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            n = llama_api.llama_token_to_piece(self._vocab, token, buffer, size, 0, False)
            if n >= 0:
                return buffer.raw[:n]
            size = -n  # llama.cpp says how many it needs

    def reset(self) -> None:
        """End all answers, and forget all rows."""
        for answer in self.active:
            self.cancel(answer)
        llama_api.llama_memory_clear(self._memory, True)
        for slot in self._slots:
            slot.rows, slot.n_reusable = [], 0

    def states(self, tokens: Sequence[int], layers: Sequence[int], n_last: int = 1) -> dict[int, FloatArray]:
        """layer -> the block's output (n_last, n_embd) at the last tokens, without steering.

        Raises:
            PromptTooLongError: more tokens than a slot holds.
            SteeringError: a layer that cannot be read; no tokens.
        """
        self._check_prompt(tokens, n_new=0)
        self._llm._check_layers(layers, "capture")
        first = len(tokens) - n_last  # the first row that is wanted
        slot = self._take_slot(tokens[: first + 1], _PLAIN)
        found = {il: np.empty((n_last, self._llm.n_embd()), dtype=np.float32) for il in layers}
        self._use(None)
        while len(slot.rows) < len(tokens):
            start = len(slot.rows)
            chunk = tokens[start : start + _N_BATCH]
            wanted = range(max(first, start), start + len(chunk))
            rows = Rows()
            for i, token in enumerate(chunk, start):
                if i in wanted:
                    rows.tell(rows.n, slot.index, i - first)
                self._llm.put(rows, token, i, slot.index, output=i == len(tokens) - 1)
            if wanted:
                captures = {il: array[wanted.start - first : wanted.stop - first] for il, array in found.items()}
                self._hook.set_program(capturing(None, [(captures, "planned")]))
            try:
                self._llm.decode(rows, None)
            finally:
                self._hook.set_program(None)
            slot.rows += chunk
            slot.n_reusable = len(slot.rows)
        return found

    def refuses(self, prompt: Sequence[int], outlook: OutlookSpec) -> bool:
        """Whether the plain model is about to refuse this prompt.

        Raises:
            PromptTooLongError: more tokens than a slot holds.
            SteeringError: no tokens.
        """
        self.states(prompt, ())
        return outlook.refuses(self._llm.logits(-1))

    def embed(self, tokens: Sequence[int]) -> FloatArray:
        """Mean over the tokens of what the model's last layer gives, normed to length 1: (n_embd,).

        Raises:
            PromptTooLongError: more tokens than a slot holds.
            SteeringError: an empty text.
            ModelError: llama.cpp gives no embeddings for this model.
        """
        self._check_prompt(tokens, n_new=0)
        slot = self._take_slot((), _PLAIN)
        n_embd = self._llm.n_embd()
        total = np.zeros(n_embd, dtype=np.float64)
        self._use(None)
        llama_api.llama_set_embeddings(self._llm.ctx, True)
        try:
            for start in range(0, len(tokens), _N_BATCH):
                rows = Rows()
                for i, token in enumerate(tokens[start : start + _N_BATCH]):
                    self._llm.put(rows, token, start + i, slot.index, output=True)
                self._llm.decode(rows, None)
                for row in range(rows.n):
                    values = llama_api.llama_get_embeddings_ith(self._llm.ctx, row)
                    if not values:
                        raise ModelError("llama.cpp gives no embeddings for this model")
                    total += np.ctypeslib.as_array(values, shape=(n_embd,))
        finally:
            llama_api.llama_set_embeddings(self._llm.ctx, False)
            llama_api.llama_memory_seq_rm(self._memory, slot.index, -1, -1)
        norm = float(np.linalg.norm(total))
        return (total / norm if norm > 0 else total).astype(np.float32)

    # -- slots

    def _check_prompt(self, prompt: Sequence[int], n_new: int) -> None:
        if not prompt:
            raise SteeringError("the prompt is empty: it has no tokens")
        if len(prompt) + n_new > self.n_ctx:
            raise PromptTooLongError(
                f"the prompt takes {len(prompt)} tokens and the context holds {self.n_ctx}, the answer included; "
                "shorten the prompt or raise --ctx"
            )

    def _take_slot(self, prompt: Sequence[int], origin: str) -> _Slot:
        """The free slot that holds most of the prompt, shortened to what can be used of its rows."""
        free = [slot for slot in self._slots if slot.answer is None]
        assert free, "there is no free slot"
        shared = {slot.index: self._n_shared(slot, prompt, origin) for slot in free}
        slot = max(free, key=lambda slot: (shared[slot.index], -slot.last_used))
        n_kept = shared[slot.index]
        # A recurrent state cannot be taken back to an earlier row.
        if not self._llm.shorten(slot.index, n_kept):
            n_kept = 0
            llama_api.llama_memory_seq_rm(self._memory, slot.index, -1, -1)
        slot.rows = slot.rows[:n_kept]
        slot.origin, slot.n_reusable = origin, n_kept
        slot.last_used = self._n_steps
        return slot

    def _n_shared(self, slot: _Slot, prompt: Sequence[int], origin: str) -> int:
        # A window that has moved on (sliding attention) holds no longer what the first rows need.
        if slot.origin != origin or llama_api.llama_memory_seq_pos_min(self._memory, slot.index) > 0:
            return 0
        n, longest = 0, min(slot.n_reusable, len(prompt) - 1)  # the prompt's end is decoded in any case
        while n < longest and slot.rows[n] == prompt[n]:
            n += 1
        return n

    def _end(self, answer: Answering, reason: str) -> None:
        answer.finish_reason = reason
        if answer._sampler is not None:
            answer._sampler.close()
        slot = answer._slot
        slot.answer, slot.last_used = None, self._n_steps
        written = answer.trace.descents
        written = written["offset"][written["steps"] > 0]
        # Rows from the first that was written on would not come out like this as part of a longer prompt.
        end = len(answer.task.prompt) - 1 + int(written.min()) if len(written) else len(slot.rows)
        slot.n_reusable = min(end, len(slot.rows))

    # -- programs

    def _program(self, strength: float) -> HookProgram | None:
        if strength not in self._programs:
            if len(self._programs) >= _MAX_PROGRAMS:
                self._programs.pop(next(iter(self._programs)))
            self._programs[strength] = self._llm._steering_program(Steering(strength=strength))
        return self._programs[strength]

    def _use(self, program: HookProgram | None) -> None:
        if program is not self._in_hook:
            self._hook.set_program(None if program is None else program.native())
            self._in_hook = program

    def _steers(self, answer: Answering, offset: int) -> bool:
        """Whether the row of this answer, `offset` tokens after the prompt's end, needs the answer's program."""
        return answer._program is not None and answer._program.acts_at(offset)

    def _needs_program(self, answer: Answering, n_rows: int) -> bool:
        """Whether one of the next n_rows of its prompt, or its next token, needs the answer's own program."""
        if answer._n_left == 0:
            return self._steers(answer, len(answer.tokens))
        return self._steers(answer, 0) and len(answer._slot.rows) + n_rows > answer._first_told

    # -- one decode

    def _plan(self, answers: Sequence[Answering]) -> _Plan:
        """Who has how many rows in the next decode: answers that have begun first, then prompts, oldest first."""
        in_turn = sorted(answers, key=lambda answer: answer._last_step)
        wanting = [a for a in in_turn if self._needs_program(a, min(a._n_left, _N_BATCH))]
        plan = _Plan(wanting[0]._program if wanting else None)
        budget = _N_BATCH
        for answer in sorted(in_turn, key=lambda answer: answer._n_left > 0):
            n_rows = min(answer._n_left or 1, budget)
            if answer._program is not plan.program and self._needs_program(answer, n_rows):
                # no row that needs its own program
                n_rows = max(answer._first_told - len(answer._slot.rows), 0) if answer._n_left else 0
            if n_rows > 0:
                plan.parts.append((answer, n_rows))
                budget -= n_rows
        return plan

    def _step(self, plan: _Plan) -> list[Answering]:
        try:
            outputs = self._decode(plan)
        except SteeringError as error:
            if len(plan.parts) > 1:  # each alone: it may be the fault of one
                alone = [self._step(_Plan(plan.program, [part])) for part in plan.parts]
                return [answer for answers in alone for answer in answers]
            (answer, _) = plan.parts[0]
            answer.error = error
            self._end(answer, "error")
            return [answer]
        for answer, row in outputs:
            self._choose(answer, row)
        return [answer for answer, _ in outputs]

    def _decode(self, plan: _Plan) -> list[tuple[Answering, int]]:
        """Decode the rows of a plan; returns the answers whose next token can be chosen, each with its batch row."""
        self._use(plan.program)
        rows = Rows()
        outputs = []
        for answer, n_rows in plan.parts:
            slot = answer._slot
            tokens = answer.task.prompt[len(slot.rows) : len(slot.rows) + n_rows] or answer.tokens[-1:]
            is_output = answer._n_left <= n_rows
            for i, token in enumerate(tokens):
                is_last = i == len(tokens) - 1
                if len(slot.rows) + i in answer._message:
                    rows.tell(rows.n, slot.index, len(slot.rows) + i - len(answer.task.prompt) + 1)
                if is_last and is_output:
                    outputs.append((answer, rows.n))
                    if self._steers(answer, len(answer.tokens)):
                        rows.tell(rows.n, slot.index, len(answer.tokens))
                self._llm.put(rows, token, len(slot.rows) + i, slot.index, output=is_last and is_output)
        try:
            self._llm.decode(rows, plan.program)
        except RuntimeError:
            for answer, _ in plan.parts:
                self._take_back(answer._slot)
            raise
        for answer, n_rows in plan.parts:
            slot = answer._slot
            slot.rows += answer.task.prompt[len(slot.rows) : len(slot.rows) + n_rows] or answer.tokens[-1:]
        for answer, _ in outputs:
            answer._last_step = self._n_steps
        self._note_traces(plan.program, [answer for answer, _ in outputs])
        return [(answer, row) for answer, row in outputs if not self._goes_back(answer, row)]

    def _goes_back(self, answer: Answering, row: int) -> bool:
        """Whether the prompt's last token is to be decoded again, by what the first look at the answer shows."""
        if answer._program is None or answer._looked:
            return False
        answer._looked = True
        if not look(self._hook, answer._program, answer._slot.index, self._llm.logits(row), answer.trace):
            return False
        answer._slot.rows.pop()
        self._llm.shorten(answer._slot.index, len(answer._slot.rows))
        answer.trace.rewind(0)
        return True

    def _take_back(self, slot: _Slot) -> None:
        """Forget the rows of a decode that failed."""
        if not self._llm.shorten(slot.index, len(slot.rows)):
            llama_api.llama_memory_seq_rm(self._memory, slot.index, -1, -1)
            slot.rows, slot.n_reusable = [], 0

    def _note_traces(self, program: HookProgram | None, answers: Sequence[Answering]) -> None:
        if program is None:
            return
        source = program.host or self._hook
        records = records_of(source.take_trace())
        for answer in answers:
            if answer._program is program and self._steers(answer, len(answer.tokens)):
                answer.trace.append(records[records["slot"] == answer._slot.index].tobytes())
                answer.trace.note_gate(*source.gate_state(answer._slot.index))

    def _choose(self, answer: Answering, row: int) -> None:
        """The next token of an answer from the logits of its row."""
        assert answer._sampler is not None
        token = int(answer._sampler.sample(self._llm._ctx, row))
        if self._llm.ends_answer(token):
            self._end(answer, "stop")
            return
        if answer.task.n_logprobs is not None:
            answer.logprobs.append(self._logprobs(row, token, answer.task.n_logprobs))
        answer.tokens.append(token)
        if len(answer.tokens) >= answer.task.max_new_tokens or len(answer._slot.rows) >= self.n_ctx:
            self._end(answer, "length")

    def _logprobs(self, row: int, token: int, n_top: int) -> TokenLogprobs:
        logits = self._llm.logits(row).astype(np.float64)
        logits -= logits.max()
        logits -= np.log(np.exp(logits).sum())
        best = np.argsort(-logits, kind="stable")[:n_top]
        return TokenLogprobs(float(logits[token]), tuple((int(i), float(logits[i])) for i in best))
