"""Many prompts through one model: greedy answers, decoded side by side in one llama.cpp batch.

Takes prompts as tokens and gives answers, first-token logits, states at the prompt's end and traces. What
steers is any HookProgram: energies, each sequence by its own gate, or interventions. What the prompts have in
common at their beginning (the chat template's system part) is decoded once and shared. Leaves out sampling:
everything here is greedy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edge_eds.energy.file import EnergyFile
from edge_eds.energy.fingerprint import ModelFingerprint
from edge_eds.energy.gguf_header import read_gguf_header
from edge_eds.energy.settings import Steering
from edge_eds.errors import PromptTooLongError, SettingsError, SteeringError
from edge_eds.runtime.batch_run import AnswerInProgress, BatchRun, FloatArray, Generation
from edge_eds.runtime.chat_prompt import Message
from edge_eds.runtime.energies import ModelFiles
from edge_eds.runtime.interventions import Intervention
from edge_eds.runtime.memory import batch_memory
from edge_eds.runtime.parallel import ParallelLlama, common_prefix
from edge_eds.runtime.program import HookProgram, intervention_program, share_prompts, steering_program
from edge_eds.runtime.scoring import answer_log_probs
from edge_eds.runtime.session import EdgeLlama
from edge_eds.runtime.trials import ReadLogits, Trial, try_programs

N_PARALLEL, N_CTX = 16, 512
_N_BATCH = 512


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
        self._n_parallel = n_parallel if self._llm.goes_back else 1
        self._llm._hook.set_slots(n_parallel)

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

        def told(sequence: AnswerInProgress, found: Generation) -> None:
            if on_done is not None:
                on_done(sequence.index, found)

        settings = {"capture_layers": tuple(capture_layers), "want_logits": want_logits}
        return self._run(prompts, max_new_tokens, steering, told, **settings)

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
            prompts, max_new_tokens: as for `generate`.
            want_logits: keep the logits of the first new token, and the log-probabilities of a plain answer's tokens
                unless the first look leaves it alone.
            steering: settings for the energies in use.
            on_done: called with "plain" or "steered" as soon as such an answer is complete.

        Raises:
            PromptTooLongError, SettingsError, SteeringError: as `generate`.
        """
        plain: dict[int, Generation] = {}

        def told(sequence: AnswerInProgress, found: Generation) -> None:
            if sequence.plainly:
                plain[sequence.index] = found
            if on_done is not None:
                on_done("plain" if sequence.plainly else "steered")

        steered = self._run(prompts, max_new_tokens, steering, told, want_logits=want_logits, plainly_first=True)
        return [plain[index] for index in range(len(prompts))], steered

    def _run(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        steering: Steering | HookProgram | None,
        tell: Callable[[AnswerInProgress, Generation], None],
        **settings: Any,
    ) -> list[Generation]:
        """What a BatchRun with these settings answers."""
        self._check_lengths(prompts, max_new_tokens)
        program = self._program(steering)
        run = BatchRun(self._llm, _N_BATCH, self._n_parallel, program, max_new_tokens, **settings)
        token_lists = [list(prompt) for prompt in prompts]
        with run.prefix_shared(token_lists):
            return run.all(token_lists, tell)

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
        shared = self._llm.goes_back and len(pairs) > 1
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
        if self._llm.goes_back and share_prompts(programs):
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
        return self._llm.text(tokens)

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
