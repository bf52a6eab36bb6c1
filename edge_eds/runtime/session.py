"""EdgeLlama: a llama_cpp.Llama whose hidden states can be read and steered while it decodes.

A session is one mutable timeline: the KV cache, the tokens in it, and the hook that llama.cpp calls for every
node of its graph. The session knows what the hook cannot: which rows of a decode are the prompt's last token
and which are new tokens, and which rows of the KV cache were made under other settings. It leaves out what to
do to a row (program.py, the native core) and several sequences at once (batch.py).
"""

from __future__ import annotations

import ctypes
import inspect
import uuid
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from jinja2 import TemplateError
from llama_cpp import Llama, LlamaState, llama_chat_format
from llama_cpp import llama_cpp as llama_api
from llama_cpp.llama_chat_format import LlamaChatCompletionHandlerNotFoundException

from edge_eds.energy.file import EnergyFile
from edge_eds.energy.fingerprint import ModelFingerprint
from edge_eds.energy.gguf_header import read_gguf_header
from edge_eds.energy.settings import Steering
from edge_eds.errors import ModelError, PromptTooLongError, SteeringError
from edge_eds.runtime.capture import Capture, Positions, capture
from edge_eds.runtime.chat_prompt import Message, render_chat
from edge_eds.runtime.energies import chosen_energy_file, load_energies, require_energies
from edge_eds.runtime.hooks import LayerProbe, armed, new_hook, probe_layers
from edge_eds.runtime.hub import fetch_model
from edge_eds.runtime.hub_name import is_hub_name
from edge_eds.runtime.interventions import Intervention
from edge_eds.runtime.message import NO_MESSAGE, MessageFinder
from edge_eds.runtime.model_file import CHAT_TEMPLATE_KEY, check_adapter, check_chat_model, hook_shape
from edge_eds.runtime.outlook import look, reset_slot
from edge_eds.runtime.program import HookProgram, intervention_program, steering_program
from edge_eds.runtime.seam import openmp_parallel
from edge_eds.runtime.trace import Trace

_SLOT = 0  # a session has one timeline, so one answer at a time
_PLAIN = "plain"  # origin of rows that nothing was done to
_UNKNOWN = ""  # origin of rows that nothing is known of


class EdgeLlama(Llama):
    """llama_cpp.Llama with energy steering, capture and interventions.

    Args:
        model_path: a GGUF file, or hf:USER/REPO[:QUANT] to take it from a hub.
        energy: "auto" looks for NAME.energy.onnx beside the model and in the user's data folder; a path
            names the energy file, hf:USER/REPO a repository with one; None loads none (an unsteered session,
            which can still capture and intervene).
        steering: settings at the start; None means as the energy file was tuned.
        llama_args: every argument of llama_cpp.Llama, unchanged.

    Raises:
        ModelError: the file is no GGUF, is no chat model, or its layers cannot be read; the adapter is none,
            or one of another model.
        EnergyFileError: the energy file is missing, broken, or made for another model.
        SteeringError: steering without energies, or of a layer that cannot be steered, with the reason.
    """

    def __init__(
        self,
        model_path: str | Path,
        *,
        energy: str | Path | EnergyFile | None = "auto",
        steering: Steering | None = None,
        **llama_args: Any,
    ) -> None:
        if is_hub_name(model_path):
            model_path = fetch_model(str(model_path), energies=energy == "auto")
        header = read_gguf_header(model_path)
        check_chat_model(header)
        n_layer, n_embd = hook_shape(header)
        self._energy_source = energy
        self._chosen_chat_format = bool(llama_args.get("chat_format") or llama_args.get("chat_handler"))
        if llama_args.get("lora_path") is not None:
            llama_args["lora_path"] = str(llama_args["lora_path"])
            check_adapter(read_gguf_header(llama_args["lora_path"]), header)
        self._hook = new_hook(n_layer, n_embd)
        self._program: HookProgram | None = None
        if isinstance(energy, str | Path):
            if is_hub_name(energy):  # downloaded here: a thread could not be interrupted
                energy = chosen_energy_file(energy, Path(model_path), llama_args.get("lora_path"))
            require_energies(energy, Path(model_path), llama_args.get("lora_path"))
        with ThreadPoolExecutor(max_workers=1) as pool:  # llama.cpp loads the weights without the interpreter's lock
            energies = pool.submit(_energies, energy, Path(model_path), llama_args.get("lora_path"))
            try:
                super().__init__(str(model_path), **llama_args)
            except (ValueError, RuntimeError) as error:
                raise ModelError(f"{model_path}: llama.cpp could not load it: {error}") from error
            except TemplateError as error:
                raise ModelError(
                    f"{model_path}: its chat template cannot be read ({error}); expected Jinja; take another "
                    "conversion of the model, or give the GGUF a template that works"
                ) from error
        try:
            self._energy_path, self._energy_file = energies.result()
        except BaseException:
            self.close()
            raise
        if self.lora_path is not None and not self._lora_adapter:
            raise ModelError(
                f"{self.lora_path}: llama.cpp could not apply this adapter to {model_path}; expected one "
                "that was made for this model"
            )
        self._hook.set_threads(max(1, self.n_threads), openmp_parallel())
        # llama.cpp rounds n_ctx up, and llama_cpp.Llama keeps room for as many tokens as were asked for.
        self._n_ctx = min(self._n_ctx, len(self.input_ids))
        self._name = uuid.uuid4().hex  # programs of another session steer with other energies
        self._origin = _PLAIN  # under what rows are decoded now; equal ones make equal rows of equal tokens
        self._made_under = _UNKNOWN  # origin of the rows in the KV cache
        self._n_reusable = 0  # leading rows that this origin would make again
        self._answer_start: int | None = None  # position of the prompt's last token; None until it is decoded
        self._message = NO_MESSAGE  # positions of the message that the answer is to, where the gate reads it
        self._messages = MessageFinder(self)
        self._trace = Trace()
        self._traced = -1  # the last position that the trace knows
        self.layers: tuple[LayerProbe, ...] = probe_layers(self, self._hook)
        self._steering = steering or Steering(strength=0 if self._energy_file is None else 1)
        self._set_program(self._steering_program(self._steering))

    # llama_cpp.Llama sets this attribute in its constructor, before it creates the context: the hook goes in
    # here.
    @property
    def context_params(self) -> llama_api.llama_context_params:
        """The context's parameters, with the hook as their evaluation callback."""
        return self._context_params

    @context_params.setter
    def context_params(self, params: llama_api.llama_context_params) -> None:
        self._prepare_context(params)
        self._context_params = params

    def _prepare_context(self, params: llama_api.llama_context_params) -> None:
        params.cb_eval = ctypes.cast(self._hook.callback_address, llama_api.ggml_backend_sched_eval_callback)
        params.cb_eval_user_data = ctypes.c_void_p(self._hook.user_data)

    # -- settings

    @property
    def energy_file(self) -> EnergyFile | None:
        """The energies of this session, or None."""
        return self._energy_file

    @property
    def energy_path(self) -> Path | None:
        """Where the energies were read from; None where there are none, or they were given as an object."""
        return self._energy_path

    @property
    def steering(self) -> Steering:
        """The settings in force outside of any `steered`."""
        return self._steering

    @property
    def last_trace(self) -> Trace:
        """What steering did to the answer decoded last."""
        return self._trace

    @property
    def goes_back(self) -> bool:
        """Whether rows can be taken back one by one: a recurrent state knows only where it is."""
        return not (self._is_recurrent or self._is_hybrid)

    @property
    def steerable_layers(self) -> tuple[int, ...]:
        """The layers whose rows can be captured and edited, ascending; `layers` says why of the others."""
        return tuple(layer.il for layer in self.layers if not layer.refusal)

    @property
    def has_chat_template(self) -> bool:
        """Whether the GGUF carries a chat template."""
        return CHAT_TEMPLATE_KEY in self.metadata

    @contextmanager
    def steered(self, steering: Steering) -> Iterator[EdgeLlama]:
        """Other steering settings for a while; strength 0 is bit-identical to no steering.

        Raises:
            SteeringError: the session has no energies.
            SettingsError: a layer that the energy file does not have.
        """
        with self._programmed(self._steering_program(steering)):
            yield self

    @contextmanager
    def intervening(
        self, interventions: Mapping[int, Intervention | Sequence[Intervention]]
    ) -> Iterator[EdgeLlama]:
        """Apply interventions to layer outputs for a while, in place of the energy steering.

        Args:
            interventions: layer index -> AddVector, AblateDirection, AddLowRank, EnergyDescent, a Python function
                (float32 (n, n_embd) -> the same, or None if it edited in place), or several of them in order.

        Raises:
            SteeringError: a layer that cannot be steered, with the reason.
            SettingsError: a vector of another width than the model's.
        """
        by_layer = {
            il: given if isinstance(given, Sequence) else (given,) for il, given in interventions.items()
        }
        self._check_layers(by_layer, "edit")
        with self._programmed(intervention_program(by_layer, self.n_embd())):
            yield self

    @contextmanager
    def _programmed(self, program: HookProgram | None) -> Iterator[None]:
        previous = self._program
        self._set_program(program)
        try:
            yield
        finally:
            self._set_program(previous)

    def _set_program(self, program: HookProgram | None) -> None:
        self._hook.set_program(program.native() if program else None)
        self._program = program
        self._origin = _PLAIN if program is None else f"{self._name}/{program.key}"
        self._forget_gate()

    def _forget_gate(self) -> None:
        reset_slot(self._hook, self._program, _SLOT)

    def _steering_program(self, steering: Steering) -> HookProgram | None:
        if self._energy_file is None:
            if steering.strength == 0:
                return None
            raise SteeringError(
                "steering was asked for, but this session has no energies; pass energy=PATH, or make them "
                "with `edge-eds fit MODEL`"
            )
        program = steering_program(self._energy_file, steering)
        if program is not None:
            self._check_program(program)
        return program

    def _check_program(self, program: HookProgram) -> None:
        self._check_layers(program.layers, "steer")
        if program.outlook is None:
            return
        if program.outlook.tokens[-1] >= self._n_vocab:
            raise SteeringError(
                f"the outlook of these energies asks for token {program.outlook.tokens[-1]}: the model has 0 to "
                f"{self._n_vocab - 1}; make energies for this model with `edge-eds fit MODEL`"
            )
        if not self.goes_back:
            raise SteeringError(
                "these energies look at an answer before they steer it, and a recurrent state cannot go back to before "
                "that; make energies for this model with `edge-eds fit MODEL`"
            )

    def _check_layers(self, layers: Iterable[int], what: str) -> None:
        for il in layers:
            if not 0 <= il < len(self.layers):
                raise SteeringError(
                    f"cannot {what} layer {il}: the model has layers 0 to {len(self.layers) - 1}"
                )
            if self.layers[il].refusal:
                raise SteeringError(f"cannot {what} layer {il}: {self.layers[il].refusal}")

    # -- the timeline

    def reset(self) -> None:
        """Begin a new timeline; the last row of the next `eval` is the end of its prompt."""
        super().reset()  # type: ignore[no-untyped-call]
        self._answer_start = None
        self._n_reusable = 0

    def eval(self, tokens: Sequence[int]) -> None:
        """Evaluate tokens as llama_cpp.Llama does, with what is set to happen to their rows.

        Outside of `generate`, the first call after `reset` is the prompt, and all that follow are new tokens.

        Raises:
            PromptTooLongError: more tokens than the context has room for.
            SteeringError: steering was asked for and did not happen; the session stays usable.
        """
        if not len(tokens):
            return
        self._check_length(self.n_tokens + len(tokens), "the tokens of the timeline")
        if self._answer_start is None:
            self._begin_answer([*self._input_ids.tolist(), *tokens], self.n_tokens)
        for start in range(0, len(tokens), self.n_batch):
            self._eval_chunk(tokens[start : start + self.n_batch])
        if self._program is not None and self._program.outlook is not None:
            at_end = self.n_tokens - 1 == self._answer_start
            if at_end and look(self._hook, self._program, _SLOT, self.logits(-1), self._trace):
                self.n_tokens -= 1
                self._eval_chunk(tokens[-1:])

    def _eval_chunk(self, chunk: Sequence[int]) -> None:
        first = self.n_tokens
        try:
            with self._armed(first, len(chunk)):
                super().eval(chunk)
        except BaseException:
            # The cache may hold rows that are half done, and a recurrent state cannot be taken back.
            self.n_tokens = first
            self._n_reusable = 0
            self._requires_eval = True
            raise

    def logits(self, row: int) -> npt.NDArray[np.float32]:
        """Logits (n_vocab,) that the last decode left for a row of its batch (-1: the last one), not copied."""
        return np.ctypeslib.as_array(llama_api.llama_get_logits_ith(self.ctx, row), shape=(self._n_vocab,))

    def generate(
        self, tokens: Sequence[int], *args: Any, **kwargs: Any
    ) -> Generator[int, Sequence[int] | None, None]:
        """As llama_cpp.Llama.generate, steered: the last of `tokens` is the end of the prompt.

        Ends when the context is full.
        """
        reset = (
            inspect.signature(Llama.generate).bind(self, tokens, *args, **kwargs).arguments.get("reset", True)
        )
        tokens = list(tokens)
        if reset:
            self._begin_answer(tokens, 0)
            self._drop_foreign_rows()
        elif tokens:  # none: the answer that has begun goes on
            self._begin_answer([*self._input_ids.tolist(), *tokens], self.n_tokens)
        n_room = self._n_ctx - len(tokens) - (0 if reset else self.n_tokens)
        answer = super().generate(tokens, *args, **kwargs)
        forced: Sequence[int] | None = None
        while True:
            try:
                token = answer.send(forced)
            except StopIteration:
                return
            forced = yield token
            n_room -= 1 + len(forced or ())
            if n_room < 0:  # the row of this token would be one more than the context holds
                return

    def create_completion(self, prompt: str | list[int], *args: Any, **kwargs: Any) -> Any:
        """As llama_cpp.Llama.create_completion.

        Raises:
            PromptTooLongError: the prompt leaves no room for an answer in the context.
        """
        n_prompt = len(
            self.tokenize(prompt.encode("utf-8"), special=True) if isinstance(prompt, str) else prompt
        )
        self._check_length(n_prompt + 1, "the prompt and one new token")
        return super().create_completion(prompt, *args, **kwargs)

    def create_chat_completion(self, *args: Any, **kwargs: Any) -> Any:
        """As llama_cpp.Llama.create_chat_completion.

        Raises:
            ModelError: the GGUF has no chat template and no chat_format was chosen.
            PromptTooLongError: the prompt leaves no room for an answer in the context.
        """
        self.chat_handler_in_use()
        return super().create_chat_completion(*args, **kwargs)

    def chat_handler_in_use(self) -> Any:
        """llama-cpp-python's handler that turns this session's chats into prompts.

        Raises:
            ModelError: the GGUF has no chat template and no chat_format was chosen, or it is not a known one.
        """
        if not self.has_chat_template and not self._chosen_chat_format:
            raise ModelError(
                f"{self.model_path}: the GGUF has no chat template; choose a format that the model was "
                "trained on with --chat-format NAME (chat_format= in Python), for example chatml or llama-2"
            )
        if self.chat_handler is not None:
            return self.chat_handler
        chat_format = str(self.chat_format)  # llama_cpp.Llama has chosen one where the user did not
        if chat_format in self._chat_handlers:
            return self._chat_handlers[chat_format]
        try:
            return llama_chat_format.get_chat_completion_handler(chat_format)
        except LlamaChatCompletionHandlerNotFoundException as error:
            raise ModelError(
                f"{chat_format!r} is no chat format of llama-cpp-python; for example chatml or llama-2"
            ) from error

    def close(self) -> None:
        """As llama_cpp.Llama.close; also for a session whose constructor raised."""
        if hasattr(self, "_stack"):
            super().close()

    def save_state(self) -> LlamaState:
        """As llama_cpp.Llama.save_state; the state remembers what its rows were made under."""
        state = super().save_state()
        origin = (self._made_under, self._n_reusable, self._answer_start)
        state.edge_eds_origin = origin  # type: ignore[attr-defined]
        return state

    def load_state(self, state: LlamaState) -> None:
        """As llama_cpp.Llama.load_state; rows of unknown origin will not be reused.

        What the gate decided is not part of a state: `eval` goes on with a steered answer only where its
        tokens are no longer steered, and raises SteeringError elsewhere. `generate` begins a new answer.
        """
        super().load_state(state)
        origin = getattr(state, "edge_eds_origin", (_UNKNOWN, 0, None))
        self._made_under, self._n_reusable, self._answer_start = origin
        self._forget_gate()

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())  # type: ignore[no-untyped-call]
        state |= {"energy": self._energy_source, "steering": self._steering}
        if not self._chosen_chat_format:
            state["chat_format"] = None  # what llama_cpp.Llama fell back to is not what the user chose
        return state

    def _check_length(self, n_tokens: int, what: str) -> None:
        if n_tokens > self._n_ctx:
            raise PromptTooLongError(
                f"{what} take {n_tokens} tokens and the context holds {self._n_ctx}; "
                "shorten the prompt or raise --ctx (n_ctx= in Python)"
            )

    def message_in(self, prompt: Sequence[int]) -> range:
        """Positions in a prompt of the message that the answer is to (message.py says what that is)."""
        return self._messages.find(prompt)

    def message_read(self, program: HookProgram | None, prompt: Sequence[int]) -> range:
        """The same where the program's gate reads it, and nothing elsewhere."""
        return self.message_in(prompt) if program is not None and program.reads_message else NO_MESSAGE

    def _begin_answer(self, prompt: Sequence[int], n_decoded: int) -> None:
        """Expect an answer to this prompt, whose first n_decoded tokens will not be decoded again."""
        self._answer_start = len(prompt) - 1
        message = self.message_read(self._program, prompt)
        self._message = range(max(message.start, n_decoded), max(message.stop, n_decoded))
        self._trace, self._traced = Trace(), -1
        self._forget_gate()

    def _drop_foreign_rows(self) -> None:
        """Shorten the timeline to the rows that the present settings would make again.

        Under other settings that is none, even where a row kept its bits: a prompt decoded in other pieces
        gives other rounding, and the answer would then depend on what was asked before. A message that the gate
        reads is decoded again, too.
        """
        n_reusable = self._n_reusable if self._made_under == self._origin else 0
        if self._message:
            n_reusable = min(n_reusable, self._message.start)
        if n_reusable < self.n_tokens:
            self.n_tokens = n_reusable
            self._requires_eval = True  # the logits that lie ready are those of a row that is gone
        if self._program is not None and self._program.steers_answers:
            self._requires_eval = True  # logits that lie ready were not steered for this answer

    @contextmanager
    def _armed(self, first: int, n_rows: int) -> Iterator[None]:
        """Arm the hook for one llama_decode of the rows at positions first to first + n_rows - 1."""
        program = self._program
        if program is None:
            yield
            self._note_rows(first, n_rows)
            return
        assert self._answer_start is not None
        message = range(max(self._message.start, first), min(self._message.stop, first + n_rows))
        start = self._answer_start
        answer = [i for i in range(max(start, first), first + n_rows) if program.acts_at(i - start)]
        planned = [*message, *answer]
        rows = np.array([position - first for position in planned], dtype=np.int32)
        offsets = np.array([position - start for position in planned], dtype=np.int32)
        slots = np.array([_SLOT] * len(planned), dtype=np.int32)
        with armed(self._hook, program, n_rows, rows, slots, offsets):
            yield
        if not program.repeatable:
            self._note_rows(first, 0)
        else:
            written = self._hook.first_row_written if program.steers_answers else -1
            self._note_rows(first, n_rows if written < 0 else written)
        if program.steers_answers and answer:
            source = program.host or self._hook
            if answer[0] <= self._traced:  # a draft's rows that were taken back, or a second look
                self._trace.rewind(answer[0] - start)
            self._traced = answer[-1]
            self._trace.append(source.take_trace())
            self._trace.note_gate(*source.gate_state(_SLOT))

    def _note_rows(self, first: int, n_reusable: int) -> None:
        """Remember that of the rows decoded from position `first` on, the first n_reusable can be reused."""
        if first == 0:
            self._made_under, self._n_reusable = self._origin, 0
        if self._origin == self._made_under and self._n_reusable >= first:
            self._n_reusable = first + n_reusable
        else:
            self._n_reusable = min(self._n_reusable, first)

    # -- capture

    def capture(
        self,
        text: str | Sequence[int],
        layers: Sequence[int] | None = None,
        *,
        positions: Positions = "all",
        steered: bool = False,
    ) -> Capture:
        """Block outputs of the tokens of a text, evaluated from an empty cache, unsteered unless asked otherwise.

        Inside `intervening` the rows are captured after the interventions, with the last token as the
        prompt's end. Clears the session's timeline.

        Args:
            text: text (tokenized with special tokens) or token ids (those of a chat: `chat_tokens`).
            layers: layer indices; None means all.
            positions: "all" tokens, or the "last" one alone.
            steered: capture after the energy steering in force, too.

        Returns:
            layer -> float32 (n_tokens, n_embd), the residual stream after that block; one row for "last".

        Raises:
            SteeringError: a layer whose output cannot be read, with the reason; an empty text.
            PromptTooLongError: more tokens than the context holds.
        """
        tokens = self.tokenize(text.encode("utf-8"), special=True) if isinstance(text, str) else list(text)
        wanted = list(range(len(self.layers)) if layers is None else layers)
        return capture(self, tokens, wanted, positions, self.capture_hook(steered))

    def capture_hook(self, steered: bool = False) -> HookProgram | None:
        """What is done to rows before they are captured: the interventions in force, and steering if asked for."""
        unwanted = self._program is None or (self._program.is_steering and not steered)
        return None if unwanted else self._program

    def chat_tokens(self, messages: str | Sequence[Message]) -> list[int]:
        """Tokens of a conversation (a string is one message of the user), up to where the answer begins.

        Raises:
            ModelError: the GGUF has no chat template and no chat_format was chosen.
            ChatTemplateError: the template refuses the conversation, or breaks on it.
        """
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        return render_chat(self, messages)


def _energies(
    wanted: str | Path | EnergyFile | None, gguf: Path, lora: str | None
) -> tuple[Path | None, EnergyFile | None]:
    """The energies of a session, and the file that they were read from."""
    if wanted is None:
        return None, None
    if isinstance(wanted, EnergyFile):
        wanted.check_fingerprint(ModelFingerprint.from_gguf(gguf, lora))
        return None, wanted
    return load_energies(wanted, gguf, lora)
