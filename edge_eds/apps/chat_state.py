"""The state of a chat and what its commands mean, without a terminal and without a model.

A line that a person enters goes in (`ChatState.enter`); out comes what to do: an effect. Whoever runs the
chat carries it out and tells the state how it went (`answered`). Leaves out reading lines from a terminal
(chat_input.py), and everything that is shown.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_eds.apps.answer import Answer, Message
from edge_eds.apps.settings import Sampling
from edge_eds.energy.settings import Steering
from edge_eds.errors import EdgeError, InputError

FORMAT_VERSION = 1
COMMANDS = {
    "/steer": ("/steer off|on|NUMBER", "steer not at all, again, or this hard (1 is as tuned)"),
    "/compare": ("/compare", "the last turn again without steering, side by side"),
    "/energy": ("/energy", "what steering did to the last answer, token by token"),
    "/system": ("/system TEXT", "set the system prompt (none: take it away; nothing: show it)"),
    "/save": ("/save FILE", "save the conversation as JSON"),
    "/load": ("/load FILE", "go on with a saved conversation"),
    "/clear": ("/clear", "begin anew; settings stay"),
    "/help": ("/help", "this list"),
    "/exit": ("/exit", "leave (so does Ctrl-D)"),
}


@dataclass(frozen=True)
class Say:
    """Show a remark."""

    text: str


@dataclass(frozen=True)
class Complain:
    """Say what is wrong with what was entered; in a pipe that is an error."""

    text: str


@dataclass(frozen=True)
class Ask:
    """Answer these messages; the last one is the user's new one."""

    messages: tuple[Message, ...]


@dataclass(frozen=True)
class Compare:
    """Answer the last turn again without steering, and show both."""


@dataclass(frozen=True)
class ShowEnergy:
    """Show the trace of the last answer."""


@dataclass(frozen=True)
class Save:
    """Write `ChatState.to_json()` to this file."""

    path: Path


@dataclass(frozen=True)
class Load:
    """Read this file and give its text to `ChatState.load_json`."""

    path: Path


@dataclass(frozen=True)
class Leave:
    """End the chat."""


Effect = Say | Complain | Ask | Compare | ShowEnergy | Save | Load | Leave


@dataclass(frozen=True)
class Turn:
    """One question with all that stood before it, and its answer; `sampling` makes the answer again."""

    messages: tuple[Message, ...]
    answer: Answer
    sampling: Sampling


@dataclass
class ChatState:
    """A conversation and its settings.

    messages: user and assistant in turn, without the system prompt; always whole turns.
    strength: how hard to steer while steering is on.
    last: the last turn, with its trace; None after /clear and /load.
    """

    model: str
    steerable: bool = True
    strength: float = 1.0
    steering: bool = True
    system: str = ""
    messages: list[Message] = field(default_factory=list)
    last: Turn | None = None

    @property
    def strength_in_force(self) -> float:
        """How hard the next answer is steered."""
        return self.strength if self.steerable and self.steering else 0.0

    def enter(self, text: str, literal: bool = False) -> Effect:
        """What a person entered: a message, or a command.

        A message that begins with a slash is entered with a space before it, or between triple quotes
        (`literal`).
        """
        if literal or not text.startswith("/"):
            return self._ask(text.strip())
        name, _, argument = text.strip().partition(" ")
        argument = argument.strip()
        if name == "/steer":
            return self._steer(argument)
        if name == "/compare":
            return self._compare()
        if name == "/energy":
            return ShowEnergy() if self.last else Complain("there is no answer yet")
        if name == "/system":
            return self._system(argument)
        if name in ("/save", "/load"):
            return self._file(name, argument)
        if name == "/clear":
            self.messages, self.last = [], None
            return Say("a new conversation")
        if name == "/help":
            return Say(help_text())
        if name in ("/exit", "/quit"):
            return Leave()
        return Complain(f"unknown command {name}; /help lists them, and a space before the slash sends it as a message")

    def answered(self, turn: Turn) -> None:
        """Take an answer into the conversation. One that was stopped before it began leaves no trace."""
        if not turn.answer.pieces and turn.answer.finish_reason == "interrupted":
            return
        self.messages += [turn.messages[-1], {"role": "assistant", "content": turn.answer.text}]
        self.last = turn

    def to_json(self) -> str:
        """The conversation as the text of a file."""
        document = {
            "edge_eds_chat": FORMAT_VERSION,
            "model": self.model,
            "system": self.system,
            "steering": self.steering,
            "strength": self.strength,
            "messages": list(self.messages),
        }
        return json.dumps(document, indent=1, ensure_ascii=False) + "\n"

    def load_json(self, text: str) -> str:
        """Go on with the conversation of a file; returns a line that says what was loaded.

        Raises:
            InputError: not a saved chat; nothing is changed then.
        """
        document = parse_chat(text)
        self.system = document["system"]
        self.messages = document["messages"]
        self.steering, self.strength = document["steering"], document["strength"]
        self.last = None
        other = "" if document["model"] == self.model else f", which was held with {document['model']}"
        return f"loaded a conversation of {len(self.messages) // 2} turns{other}"

    def _ask(self, text: str) -> Effect:
        if not text:
            return Complain("the message is empty")
        before: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        return Ask((*before, *self.messages, {"role": "user", "content": text}))

    def _steer(self, argument: str) -> Effect:
        if not self.steerable:
            return Complain("there are no energies to steer with (--energy none)")
        if argument in ("on", "off"):
            self.steering = argument == "on"
        elif argument:
            try:
                strength = Steering(strength=float(argument)).strength
            except EdgeError as error:
                return Complain(str(error))
            except ValueError:
                return Complain(f"/steer {argument}: expected off, on or a number such as 0.5")
            self.strength, self.steering = strength, True
        force = self.strength_in_force
        return Say(f"steering is on, strength {force:g}" if force else "steering is off")

    def _compare(self) -> Effect:
        if not self.steerable:
            return Complain("nothing to compare: there are no energies to steer with (--energy none)")
        if self.last is None:
            return Complain("there is no answer yet to compare")
        if self.last.answer.strength == 0:
            return Complain("nothing to compare: the last answer was not steered")
        return Compare()

    def _system(self, argument: str) -> Effect:
        if argument == "none":
            self.system = ""
            return Say("no system prompt of yours; the chat template may have one of its own")
        if argument:
            self.system = argument
            return Say("system prompt set; it holds from the next message on")
        return Say(f"system prompt: {self.system}" if self.system else "no system prompt set")

    @staticmethod
    def _file(name: str, argument: str) -> Effect:
        if not argument:
            return Complain(f"{name}: expected the name of a file, as in {name} chat.json")
        path = Path(argument).expanduser()
        return Save(path) if name == "/save" else Load(path)


def help_text() -> str:
    """The commands, one a line, and how to enter longer messages."""
    width = max(len(usage) for usage, _ in COMMANDS.values())
    lines = [f"{usage:{width}}  {what}" for usage, what in COMMANDS.values()]
    lines.append('A line that ends in \\ goes on in the next one; """ begins and ends a message of many lines.')
    lines.append("Ctrl-C stops an answer.")
    return "\n".join(lines)


def parse_chat(text: str) -> dict[str, Any]:
    """The document in a saved chat.

    Raises:
        InputError: it is none, or of a newer version; one line that says why.
    """
    try:
        document = json.loads(text)
    except ValueError as error:
        raise InputError("is no saved chat: not JSON") from error
    if not isinstance(document, dict) or not isinstance(document.get("edge_eds_chat"), int):
        raise InputError("is no saved chat: expected the JSON that /save writes")
    if document["edge_eds_chat"] > FORMAT_VERSION:
        raise InputError(
            f"was saved by a newer edge-eds: format {document['edge_eds_chat']}, expected {FORMAT_VERSION}"
        )
    kinds: dict[str, type | tuple[type, ...]] = {
        "model": str,
        "system": str,
        "steering": bool,
        "strength": (int, float),
        "messages": list,
    }
    for key, kind in kinds.items():
        if not isinstance(document.get(key), kind):
            raise InputError(f"is no saved chat: {key} is missing or of the wrong kind")
    Steering(strength=document["strength"])
    messages = document["messages"]
    roles = [message.get("role") if isinstance(message, dict) else None for message in messages]
    contents = [message.get("content") if isinstance(message, dict) else None for message in messages]
    if roles != ["user", "assistant"] * (len(messages) // 2) or not all(isinstance(text, str) for text in contents):
        raise InputError("is no saved chat: expected messages of user and assistant in turn")
    document["messages"] = [{"role": role, "content": text} for role, text in zip(roles, contents, strict=True)]
    return document
