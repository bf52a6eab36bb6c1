"""Opens the session that a command talks to: from options to a loaded, steered model.

Takes the options that mean the same in every command; gives a Session. Whatever stands in the way (no such
file, no chat template, no energies) is one clear line before the weights are loaded; whether the energies fit, a
thread finds out meanwhile. Leaves out generating (answer.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from edge_eds.apps.llama_log import explained
from edge_eds.apps.settings import MIN_CTX, SessionOptions
from edge_eds.energy.gguf_header import GgufHeader, read_gguf_header
from edge_eds.energy.settings import Steering
from edge_eds.errors import MissingEnergyError, ModelError, SteeringError
from edge_eds.pipeline.fit_time import fit_time
from edge_eds.runtime.energies import ModelFiles, chosen_energy_file
from edge_eds.runtime.model_file import CHAT_TEMPLATE_KEY, check_chat_model
from edge_eds.runtime.session import EdgeLlama

DEFAULT_CTX = 4096  # tokens; a model trained on 128k would otherwise take gigabytes for its KV cache


class Session:
    """A loaded model with its energies, and the strength in force."""

    def __init__(self, llm: EdgeLlama, files: ModelFiles, strength: float) -> None:
        self.llm = llm
        self.files = files
        self._stack = ExitStack()
        self._tuned = self._in_force = strength

    @property
    def name(self) -> str:
        """How people see the model."""
        return self.files.name

    @property
    def energy_path(self) -> Path | None:
        """Where the energies were read from; None where there are none."""
        return self.llm.energy_path

    @property
    def steerable(self) -> bool:
        """Whether there are energies to steer with."""
        return self.llm.energy_file is not None

    @property
    def strength(self) -> float:
        """The strength in force; 0 without energies."""
        return self._in_force if self.steerable else 0.0

    def require_energies(self, what: str) -> None:
        """SteeringError unless there is something to steer with."""
        if not self.steerable:
            raise SteeringError(f"{what} needs energies, and this session has none (--energy none)")

    def steer(self, strength: float) -> None:
        """Steer this hard from now on.

        Entering the same settings again would make the KV cache start anew, so nothing happens then.

        Raises:
            SettingsError: a strength out of range.
            SteeringError: there are no energies.
        """
        if strength == self.strength:
            return
        self._stack.close()
        self._in_force = self._tuned
        if strength != self._tuned or not self.steerable:
            self._stack.enter_context(self.llm.steered(Steering(strength=strength)))
            self._in_force = strength

    @property
    def greeting(self) -> str:
        """One line that says what one talks to."""
        if self.energy_path is None:
            return f"{self.name}, unsteered (--energy none). /help lists the commands, Ctrl-D leaves."
        steered = f"steered by {self.energy_path.name}" if self.strength else "steering is off"
        return f"{self.name}, {steered}. /help lists the commands, Ctrl-D leaves."

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()
        self.llm.close()


def open_session(options: SessionOptions) -> Session:
    """Load the model with its energies, ready to chat.

    Raises:
        EdgeError: one line that says what is in the way and what to do.
    """
    files = options.files()
    header = check_files(files)
    check_chat_format(header, options.chat_format)
    strength = 1.0 if options.strength is None else options.strength
    steered = options.energy != "none"
    with _telling_of_fit(options, files):
        llm = load_quietly(
            files,
            energy=options.energy if steered else None,
            steering=Steering(strength=strength) if steered else None,
            n_ctx=options.ctx or default_ctx(header),
            n_threads=options.threads,
            n_threads_batch=options.threads,
            chat_format=options.chat_format,
        )
    llm.chat_handler_in_use()  # an unknown --chat-format is told here, not after the first question
    return Session(llm, files, strength)


def load_quietly(files: ModelFiles, **llama_args: Any) -> EdgeLlama:
    """EdgeLlama without llama.cpp's log on the terminal; its last error goes into the message of ours.

    Raises:
        EdgeError: the model or its energies cannot be used.
    """
    lora = None if files.lora is None else str(files.lora)
    with explained():
        return EdgeLlama(files.gguf, lora_path=lora, verbose=False, **llama_args)


def check_files(files: ModelFiles) -> GgufHeader:
    """The header of the model's GGUF.

    Raises:
        ModelError: a file that is missing, broken, or no chat model or adapter.
    """
    header = read_gguf_header(files.gguf)
    check_chat_model(header)
    if files.lora is not None and read_gguf_header(files.lora).metadata.get("general.type") != "adapter":
        raise ModelError(f"{files.lora}: is no LoRA adapter; expected a GGUF whose general.type is adapter")
    return header


def check_chat_format(header: GgufHeader, chosen: str | None) -> None:
    """ModelError, which names the fallback, unless the GGUF has a chat template or a format was chosen."""
    if chosen is None and CHAT_TEMPLATE_KEY not in header.metadata:
        raise ModelError(
            f"{header.path}: the GGUF has no chat template; choose the format that the model was trained on, "
            "for example --chat-format chatml (or llama-2, llama-3, gemma, zephyr)"
        )


def find_energies(options: SessionOptions, files: ModelFiles) -> Path | None:
    """The energy file that the options ask for; None where they ask for none.

    Raises:
        EnergyFileError: it is to be found by name, and there is none; the line says how to make one. Or those that
            there are were made for another model.
        EdgeError: it is to come from a hub, and does not.
    """
    if options.energy == "none":
        return None
    with _telling_of_fit(options, files):
        return chosen_energy_file(options.energy, files.gguf, files.lora)


@contextmanager
def _telling_of_fit(options: SessionOptions, files: ModelFiles) -> Iterator[None]:
    """An error that there are no energies also tells which command makes them, and how long that takes."""
    try:
        yield
    except MissingEnergyError as error:
        # As the user named the model: the default one has no path that anybody would want to read.
        lora = None if options.lora is None else f"--lora {options.lora}"
        fit = " ".join(word for word in ("edge-eds fit", options.model, lora) if word)
        raise MissingEnergyError(
            f"{files.name}: there are no energies for this model yet; `{fit}` makes them: it "
            "asks the model many prompts, trains on its answers and tries out how to steer, "
            f"{fit_time(files.gguf, options.threads)} here; --energy none chats unsteered"
        ) from error


def default_ctx(header: GgufHeader) -> int:
    """Tokens that a conversation may have where nobody says: what the model was trained for, up to DEFAULT_CTX."""
    trained = header.arch_value("context_length")
    return min(trained, DEFAULT_CTX) if isinstance(trained, int) and trained >= MIN_CTX else DEFAULT_CTX
