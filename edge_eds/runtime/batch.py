"""Many prompts through one model: greedy answers, decoded side by side in one llama.cpp batch.

Takes prompts as tokens and gives answers, first-token logits, states at the prompt's end and traces. What
steers is any HookProgram: energies, each sequence by its own gate, or interventions. What the prompts have in
common at their beginning (the chat template's system part) is decoded once and shared. Leaves out sampling:
everything here is greedy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from llama_cpp import llama_cpp as llama_api

from edge_eds.energy.file import EnergyFile
from edge_eds.energy.fingerprint import ModelFingerprint
from edge_eds.energy.gguf_header import read_gguf_header
from edge_eds.energy.settings import Steering
from edge_eds.errors import PromptTooLongError, SettingsError, SteeringError
from edge_eds.runtime.chat_prompt import Message
from edge_eds.runtime.energies import ModelFiles
from edge_eds.runtime.interventions import Intervention
from edge_eds.runtime.memory import batch_memory
from edge_eds.runtime.outlook import look, reset_slot
from edge_eds.runtime.parallel import ParallelLlama, Rows, common_prefix
from edge_eds.runtime.program import (
    HookProgram,
    capturing,
    intervention_program,
    share_prompts,
    steering_program,
)
from edge_eds.runtime.scoring import answer_log_probs
from edge_eds.runtime.session import EdgeLlama
from edge_eds.runtime.trace import Trace
from edge_eds.runtime.trials import ReadLogits, Trial, try_programs

N_PARALLEL, N_CTX = 16, 512
_N_BATCH = 512
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


@dataclass
class _Sequence:
    """A prompt that is being answered, in one sequence of the KV cache.

    plainly: this is the plain answer, and the steered one follows in the same place. plain: the plain answer, where
    that is known. due: the first look has shown that it is to be steered.
    """

    index: int
    prompt: list[int]
    n_past: int
    message: range  # positions that the hook is told of; none where nothing asks for them
    plainly: bool = False
    plain: Generation | None = None
    n_decoded: int = 0
    looked: bool = False  # at what the plain model is about to do
    due: bool = False
    answer: list[int] = field(default_factory=list)
    first_logits: FloatArray | None = None
    states: dict[int, FloatArray] | None = None
    message_sums: dict[int, FloatArray] = field(default_factory=dict)  # layer -> (n_embd,), of the rows so far
    trace: Trace = field(default_factory=Trace)


class BatchRunner:
    """A model loaded for answering many prompts.

    Args:
        files: the GGUF and its LoRA adapter.
        n_parallel: answers decoded side by side at most: fewer where memory is short (memory.py), and one for
            recurrent models.
        n_ctx: tokens that one prompt with its answer may have.
        n_threads: None means llama.cpp's own choice.
        energy: energies to steer with, or None.
        chat_format: for a GGUF without a chat template.

    Raises:
        ModelError, EnergyFileError: as EdgeLlama.
        SettingsError: n_parallel out of its range.
    """

    def __init__(
        self,
        files: ModelFiles,
        *,
        n_parallel: int = N_PARALLEL,
        n_ctx: int = N_CTX,
        n_threads: int | None = None,
        energy: EnergyFile | None = None,
        chat_format: str | None = None,
    ) -> None:
        if not 1 <= n_parallel < _N_BATCH:
            raise SettingsError(f"n_parallel is {n_parallel}, expected 1 to {_N_BATCH - 1}")
        self.files = files
        self.fingerprint = ModelFingerprint.from_gguf(files.gguf, files.lora)
        self._n_ctx_sequence = n_ctx
        self.memory = batch_memory(read_gguf_header(files.gguf), n_ctx, n_parallel)
        n_parallel = self.memory.n_parallel
        # One more sequence holds what all prompts begin with.
        self._llm = ParallelLlama(
            files.gguf,
            n_sequences=n_parallel + 1,
            lora_path=str(files.lora) if files.lora else None,
            energy=None,
            n_ctx=n_ctx * (n_parallel + 1),
            n_batch=_N_BATCH,
            n_threads=n_threads,
            n_threads_batch=n_threads,
            chat_format=chat_format,
            verbose=False,
        )
        self.use_energy(energy)
        self._shares_prefix = self._llm.goes_back
        self._n_parallel = n_parallel if self._llm.goes_back else 1
        self._llm._hook.set_slots(n_parallel)
        self._memory = llama_api.llama_get_memory(self._llm.ctx)
        self._vocab = llama_api.llama_model_get_vocab(self._llm.model)

    def __enter__(self) -> BatchRunner:
        return self

    def __exit__(self, *_: object) -> None:
        self._llm.close()

    @property
    def session(self) -> EdgeLlama:
        """The session underneath, for its model facts; do not decode with it."""
        return self._llm

    def use_energy(self, energy: EnergyFile | None) -> None:
        """Steer with these energies from the next `generate` on.

        Raises:
            FingerprintError: they were made for another model.
        """
        if energy is not None:
            energy.check_fingerprint(self.fingerprint)
        self._energy = energy

    def energy_program(self, energy: EnergyFile, steering: Steering | None = None) -> HookProgram | None:
        """What `generate` can steer with: these energies, whatever `use_energy` was told; None for strength 0.

        Raises:
            FingerprintError: they were made for another model.
            SettingsError, SteeringError: settings that fit neither the energies nor the model.
        """
        energy.check_fingerprint(self.fingerprint)
        program = steering_program(energy, steering or Steering())
        if program is not None:
            self._llm._check_program(program)
        return program

    def intervention_program(
        self, interventions: Mapping[int, Intervention | Sequence[Intervention]]
    ) -> HookProgram:
        """What `generate` can steer with: interventions by layer, as `EdgeLlama.intervening` takes them.

        Raises:
            SteeringError: a layer that cannot be steered, with the reason.
            SettingsError: a vector of another width than the model's.
        """
        by_layer = {
            il: given if isinstance(given, Sequence) else (given,) for il, given in interventions.items()
        }
        self._llm._check_layers(by_layer, "edit")
        return intervention_program(by_layer, self._llm.n_embd())

    def chat_tokens(self, prompt: str | Sequence[Message]) -> list[int]:
        """Tokens of a user's prompt, or of a whole conversation, in the model's chat format."""
        return self._llm.chat_tokens(prompt)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        steering: Steering | HookProgram | None = None,
        capture_layers: Sequence[int] = (),
        want_logits: bool = False,
        on_done: Callable[[int, Generation], None] | None = None,
    ) -> list[Generation]:
        """Answer every prompt greedily.

        Args:
            prompts: token ids, one list a prompt.
            max_new_tokens: at least 1.
            steering: settings for the energies in use, or any program (energy_program, intervention_program);
                None answers plainly.
            capture_layers: layers whose state at the prompt's last token, and mean state over the message, is
                kept (as the model computes it, after any steering of that layer).
            want_logits: keep the logits of the first new token.
            on_done: called with the prompt's index and its answer as soon as it is complete.

        Raises:
            PromptTooLongError: a prompt that does not fit its part of the context; nothing was decoded.
            SettingsError: max_new_tokens below 1; settings that do not fit the energies.
            SteeringError: steering was asked for and did not happen; a layer that cannot be captured; an
                empty prompt.
        """
        self._llm._check_layers(capture_layers, "capture")
        self._check_lengths(prompts, max_new_tokens)
        token_lists = [list(prompt) for prompt in prompts]
        run = _Run(self, self._program(steering), max_new_tokens, tuple(capture_layers), want_logits)
        with run.prefix_shared(token_lists):
            return run.all(token_lists, lambda sequence, found: on_done(sequence.index, found) if on_done else None)

    def generate_both(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        steering: Steering,
        want_logits: bool = False,
        on_done: Callable[[str], None] | None = None,
    ) -> tuple[list[Generation], list[Generation]]:
        """Answer every prompt greedily, plainly and steered: (plain, steered).

        The prompt is decoded once for both. Where the energies write nothing, the steered answer is the plain one and
        not decoded again.

        Args:
            prompts, max_new_tokens, want_logits: as for `generate`.
            steering: settings for the energies in use.
            on_done: called with "plain" or "steered" as soon as such an answer is complete.

        Raises:
            PromptTooLongError, SettingsError, SteeringError: as `generate`.
        """
        self._check_lengths(prompts, max_new_tokens)
        token_lists = [list(prompt) for prompt in prompts]
        plain: dict[int, Generation] = {}

        def told(sequence: _Sequence, found: Generation) -> None:
            if sequence.plainly:
                plain[sequence.index] = found
            if on_done is not None:
                on_done("plain" if sequence.plainly else "steered")

        run = _Run(self, self._program(steering), max_new_tokens, (), want_logits, plainly_first=True)
        with run.prefix_shared(token_lists):
            steered = run.all(token_lists, told)
        return [plain[index] for index in range(len(prompts))], steered

    def log_probs(
        self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
    ) -> list[FloatArray]:
        """What the unsteered model gives to each token of these answers: arrays (n_tokens,), in nats.

        Raises:
            PromptTooLongError: a prompt that does not fit its part of the context together with its answer.
            SteeringError: an empty prompt.
        """
        pairs = list(zip(prompts, answers, strict=True))
        for i, (prompt, answer) in enumerate(pairs):
            if not len(prompt):
                raise SteeringError("a prompt is empty: it has no tokens")
            if len(prompt) + len(answer) > self._n_ctx_sequence:
                raise PromptTooLongError(
                    f"prompt {i + 1}: {len(prompt)} tokens and an answer of {len(answer)}, but a sequence "
                    f"holds {self._n_ctx_sequence}; shorten the prompt or raise --ctx"
                )
        shared = self._shares_prefix and len(pairs) > 1
        n_prefix = len(common_prefix(prompts)) if shared else 0
        return answer_log_probs(self._llm, _N_BATCH, self._n_parallel, n_prefix, prompts, answers)

    def try_programs(
        self,
        prompts: Sequence[Sequence[int]],
        programs: Sequence[HookProgram | None],
        *,
        max_new_tokens: int,
        read_logits: ReadLogits,
    ) -> list[list[Trial]]:
        """Greedy answers of every prompt (inner) under every program (outer), for searches.

        Args:
            programs: None is the plain model. Where all of them act on answers only, and read prompts alike, prompts
                are decoded once for all.
            read_logits: gives a number for (prompt's index, logits (n_vocab,) of its first new token).

        Raises:
            PromptTooLongError: a prompt that does not fit its part of the context; nothing was decoded.
            SteeringError: steering was asked for and did not happen.
        """
        self._check_lengths(prompts, max_new_tokens)
        if self._shares_prefix and share_prompts(programs):
            return try_programs(
                self._llm,
                _N_BATCH,
                self._n_parallel,
                prompts,
                programs,
                max_new_tokens=max_new_tokens,
                read_logits=read_logits,
            )
        trials = []
        for program in programs:
            answers = self.generate(prompts, max_new_tokens=max_new_tokens, steering=program, want_logits=True)
            trials.append(
                [
                    Trial(read_logits(i, answer.first_logits), answer.tokens)
                    for i, answer in enumerate(answers)
                    if answer.first_logits is not None
                ]
            )
        return trials

    def text(self, tokens: Sequence[int]) -> str:
        """Tokens of an answer as text."""
        return self._llm.detokenize(list(tokens)).decode("utf-8", errors="replace")

    def _check_lengths(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
        if max_new_tokens < 1:
            raise SettingsError(f"max_new_tokens is {max_new_tokens}, expected at least 1")
        for i, prompt in enumerate(prompts):
            if not len(prompt):  # it may be an array
                raise SteeringError("a prompt is empty: it has no tokens")
            if len(prompt) + max_new_tokens > self._n_ctx_sequence:
                raise PromptTooLongError(
                    f"prompt {i + 1}: {len(prompt)} tokens and {max_new_tokens} new ones, but a sequence "
                    f"holds {self._n_ctx_sequence}; shorten the prompt or raise --ctx"
                )

    def _program(self, steering: Steering | HookProgram | None) -> HookProgram | None:
        if isinstance(steering, HookProgram):
            self._llm._check_program(steering)
            return steering
        if steering is None or steering.strength == 0:
            return None
        if self._energy is None:
            raise SteeringError("steering was asked for, but no energies were loaded")
        return self.energy_program(self._energy, steering)


class _Run:
    """One call of BatchRunner.generate or generate_both: what is decoded now, and what waits."""

    def __init__(
        self,
        runner: BatchRunner,
        program: HookProgram | None,
        max_new_tokens: int,
        capture_layers: tuple[int, ...],
        want_logits: bool,
        plainly_first: bool = False,
    ) -> None:
        self.runner, self.program = runner, program
        self.plainly_first = plainly_first
        self.max_new_tokens = max_new_tokens
        self.capture_layers, self.want_logits = capture_layers, want_logits
        self.llm, self.memory = runner._llm, runner._memory
        self.hook = self.llm._hook
        self.messages: list[range] = []  # of all prompts
        self.prefix: list[int] = []
        self.active: dict[int, _Sequence] = {}  # sequence id = slot

    @contextmanager
    def prefix_shared(self, prompts: Sequence[list[int]]) -> Iterator[None]:
        """Decode what all prompts begin with, into a sequence of its own, under what is done to all rows."""
        llama_api.llama_memory_clear(self.memory, True)
        self.messages = [self._message(prompt) for prompt in prompts]
        self.hook.set_program(self.program.native() if self.program else None)
        # A Python function may do something else to the same rows of the next prompt.
        repeatable = self.program is None or self.program.repeatable
        try:
            if self.runner._shares_prefix and repeatable and len(prompts) > 1:
                first_read = min((message.start for message in self.messages if message), default=None)
                self.prefix = common_prefix(prompts)[:first_read]
            for start in range(0, len(self.prefix), _N_BATCH):
                rows = Rows()
                for position in range(start, min(start + _N_BATCH, len(self.prefix))):
                    self.llm.put(rows, self.prefix[position], position, self.runner._n_parallel, output=False)
                self._decode(rows)
            yield
        finally:
            self.hook.set_program(None)
            llama_api.llama_memory_clear(self.memory, True)

    def _message(self, prompt: Sequence[int]) -> range:
        """The positions of the message, where they are read."""
        return self.llm.message_in(prompt) if self.capture_layers else self.llm.message_read(self.program, prompt)

    def all(
        self, prompts: Sequence[list[int]], tell: Callable[[_Sequence, Generation], None]
    ) -> list[Generation]:
        """Keep every sequence busy until all prompts are answered; those that are answered twice are told twice."""
        results: dict[int, Generation] = {}
        waiting = list(range(len(prompts)))[::-1]
        while waiting or self.active:
            for slot in range(self.runner._n_parallel):
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

    def _begin(self, slot: int, index: int, prompt: list[int]) -> _Sequence:
        self.llm.restart(slot, len(self.prefix))
        reset_slot(self.hook, self.program, slot)
        return _Sequence(
            index, prompt, n_past=len(self.prefix), message=self.messages[index], plainly=self.plainly_first
        )

    def _again(self, slot: int, sequence: _Sequence, plain: Generation) -> _Sequence:
        """The steered answer after the plain one: from the prompt's last token on, or, where the state cannot go back,
        from the beginning."""
        if not self.llm.goes_back:
            return replace(self._begin(slot, sequence.index, sequence.prompt), plainly=False, plain=plain)
        n_past = len(sequence.prompt) - 1
        llama_api.llama_memory_seq_rm(self.memory, slot, n_past, -1)
        return _Sequence(
            sequence.index,
            sequence.prompt,
            n_past,
            sequence.message,
            plain=plain,
            looked=sequence.looked,
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
                sequence.n_past, min(len(sequence.prompt), sequence.n_past + _N_BATCH - rows.n)
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
        self._collect_traces(rows)

    def _put(self, rows: Rows, slot: int, sequence: _Sequence, token: int, *, output: bool) -> None:
        """Add a sequence's next row."""
        self.llm.put(rows, token, sequence.n_past, slot, output=output)
        sequence.n_past += 1
        sequence.n_decoded += 1

    @property
    def _looks(self) -> bool:
        """Whether the first look at an answer decides if it is steered."""
        return self.program is not None and self.program.outlook is not None

    def _goes_back(self, slot: int, sequence: _Sequence, logits: FloatArray) -> bool:
        """Whether the prompt's last token is to be decoded again, by what the first look at the answer shows."""
        if self.program is None or sequence.looked or not self._looks:
            return False
        sequence.looked = True
        sequence.due = look(self.hook, self.program, slot, logits, sequence.trace)
        if not sequence.due or sequence.plainly:
            return False
        sequence.n_past -= 1
        llama_api.llama_memory_seq_rm(self.memory, slot, sequence.n_past, -1)
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
        records = source.take_trace()
        for slot, sequence in self.active.items():
            if sequence.plainly and not sequence.looked:
                continue
            own = records[records["slot"] == slot]
            if (own["offset"] == 0).any():  # for the second time, where the first look had it decoded again
                sequence.trace.rewind(0)
            sequence.trace.append(own)
            sequence.trace.note_gate(*source.gate_state(slot))

    def _is_over(self, sequence: _Sequence) -> bool:
        if not sequence.answer:
            return False
        return len(sequence.answer) >= self.max_new_tokens or self._ends_answer(sequence.answer[-1])

    def _is_left_alone(self, sequence: _Sequence) -> bool:
        """Whether the answer is the plain one, which is known: nothing is written to it any more, and nothing was."""
        if sequence.plain is None:
            return False
        if self.program is None or (self._looks and sequence.looked and not sequence.due):
            return True
        n = len(sequence.answer)
        return n > 0 and not self.program.acts_at(n) and not sequence.trace.touched_tokens

    def _ends_answer(self, token: int) -> bool:
        return bool(llama_api.llama_vocab_is_eog(self.runner._vocab, token))

    def _generation(self, sequence: _Sequence) -> Generation:
        if sequence.plain is not None and self._is_left_alone(sequence):
            return replace(sequence.plain, trace=sequence.trace, n_decoded=sequence.n_decoded)
        stopped = self._ends_answer(sequence.answer[-1])
        n_message = np.float32(len(sequence.message))
        message_states = {il: total / n_message for il, total in sequence.message_sums.items()} or sequence.states
        tokens = sequence.answer[:-1] if stopped else sequence.answer
        return Generation(
            tokens=tokens,
            text=self.runner.text(tokens),
            finish_reason="stop" if stopped else "length",
            n_prompt=len(sequence.prompt),
            first_logits=sequence.first_logits,
            states=sequence.states,
            message_states=message_states,
            trace=Trace() if sequence.plainly else sequence.trace,
            n_decoded=sequence.n_decoded,
        )
