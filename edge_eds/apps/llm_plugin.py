"""The model `edge-eds` for Simon Willison's `llm`: `llm -m edge-eds "..."`, `llm chat -m edge-eds`, `llm logs`.

Found by `llm` through the entry point in pyproject.toml, which it loads at every start: nothing heavy is imported
before a prompt comes. Takes the options of the command line as `-o NAME VALUE`; what steering did goes into the logged
JSON of a response. One session is kept for as long as the options that need another one stay the same. Leaves out
tools, schemas, attachments, and `llm`'s asynchronous models.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import click
import llm
from pydantic import Field

from edge_eds.errors import EdgeError, InputError, SteeringError

if TYPE_CHECKING:
    from edge_eds.apps.answer import Answer, Message
    from edge_eds.apps.session import Session
    from edge_eds.apps.settings import SessionOptions

MODEL_ID = "edge-eds"


class PluginError(llm.ModelError, click.ClickException):
    """A known error, in one line. `llm chat` prints a traceback for every error that is not one of click's."""


class EdgeEdsOptions(llm.Options):
    """The options of a prompt; what they may be is checked where the command line's are."""

    strength: float | None = Field(None, description="How hard to steer: 1 as tuned (the default), 0 not at all")
    energy: str = Field("auto", description="Energies: auto (found by name), none, a file, or hf:USER/REPO")
    model: str | None = Field(None, description="A GGUF file, or hf:USER/REPO[:QUANT]; the default model if left out")
    lora: str | None = Field(None, description="LoRA adapter (GGUF) to apply to the model")
    max_tokens: int = Field(512, description="Longest answer, in tokens")
    temperature: float = Field(0.0, description="Sampling temperature; 0 takes the likeliest token")
    seed: int | None = Field(None, description="Seed for sampling")
    ctx: int | None = Field(None, description="Tokens that a conversation may have")
    threads: int | None = Field(None, description="CPU threads; llama.cpp chooses if left out")
    chat_format: str | None = Field(None, description="Chat format in place of the GGUF's own template, e.g. chatml")


class EdgeEds(llm.Model):
    """Chat models steered away from false refusals."""

    model_id = MODEL_ID
    can_stream = True
    Options = EdgeEdsOptions  # type: ignore[assignment]  # as every plugin does

    def __init__(self) -> None:
        self._session: Session | None = None
        self._opened_with: SessionOptions | None = None
        self._stack = ExitStack()  # closes the session
        self._lock = Lock()
        self._n_asked = 0

    def execute(
        self, prompt: llm.Prompt, stream: bool, response: llm.Response, conversation: llm.Conversation | None
    ) -> Iterator[str]:
        """The pieces of an answer as they come.

        Raises:
            PluginError: an option, a file or a prompt that cannot be used.
        """
        try:
            yield from self._answer(prompt, response)
        except EdgeError as error:
            raise PluginError(_as_options(str(error))) from error

    def _answer(self, prompt: llm.Prompt, response: llm.Response) -> Iterator[str]:
        from edge_eds.apps.answer import answering
        from edge_eds.apps.settings import Sampling

        options: Any = prompt.options
        sampling = Sampling(options.max_tokens, options.temperature, options.seed).drawn()
        messages = _messages(prompt)
        with self._lock:
            self._n_asked += 1
            mine = self._n_asked
            session = self._open(options)
        with closing(answering(session, messages, sampling)) as pieces:
            while True:
                with self._lock:
                    if mine != self._n_asked:
                        raise SteeringError("another prompt was begun before this answer was complete")
                    try:
                        text = next(pieces)
                    except StopIteration as end:
                        _log(response, session, end.value, sampling.seed)
                        return
                yield text

    def _open(self, options: Any) -> Session:
        """The session of these options, at their strength."""
        from edge_eds.apps.session import open_session
        from edge_eds.apps.settings import SessionOptions

        SessionOptions(energy=options.energy, strength=options.strength)  # checks how the two go together
        wanted = SessionOptions(
            model=options.model,
            lora=None if options.lora is None else Path(options.lora),
            energy=options.energy,
            threads=options.threads,
            ctx=options.ctx,
            chat_format=options.chat_format,
        )
        if self._session is None or wanted != self._opened_with:
            self._session = None
            self._stack.close()
            self._session = self._stack.enter_context(open_session(wanted))
            self._opened_with = wanted
        if self._session.steerable:
            self._session.steer(1.0 if options.strength is None else options.strength)
        return self._session


@llm.hookimpl
def register_models(register: Any) -> None:
    """Called by `llm`."""
    register(EdgeEds())


def _messages(prompt: llm.Prompt) -> list[Message]:
    """The conversation; a system prompt that was given with this very prompt goes before one of earlier.

    Raises:
        InputError: there is nothing to answer.
    """
    texts = [
        (message.role, "".join(part.text for part in message.parts if isinstance(part, llm.parts.TextPart)))
        for message in prompt.messages
    ]
    system = prompt.system or "\n\n".join(text for role, text in texts if role == "system")
    messages: list[Message] = [{"role": role, "content": text} for role, text in texts if role != "system"]
    if not messages or not messages[-1]["content"].strip():
        raise InputError("the prompt is empty; expected some text")
    return [{"role": "system", "content": system}, *messages] if system else messages


def _log(response: llm.Response, session: Session, answer: Answer, seed: int | None) -> None:
    """Leave for `llm logs` what made the answer, and what steering did."""
    from edge_eds.apps.trace_document import trace_document

    file = session.llm.energy_file
    document = answer.document(session.name)
    del document["text"]  # it is logged anyway
    document["energy"] = None if session.energy_path is None else session.energy_path.name
    document["seed"] = seed
    document["steering"] = trace_document(
        session.llm.last_trace, answer.pieces, answer.strength, None if file is None else file.spec
    )
    response.response_json = document
    response.set_usage(input=answer.n_prompt, output=len(answer.pieces))


def _as_options(message: str) -> str:
    """An error of the command line in the words of `llm`: its flags are options here, but for commands in backticks."""
    names = "|".join(name.replace("_", "-") for name in EdgeEdsOptions.model_fields)
    parts = message.split("`")
    for i in range(0, len(parts), 2):
        parts[i] = re.sub(rf"--({names})\b", lambda flag: "-o " + flag[1].replace("-", "_"), parts[i])
    return "`".join(parts)
