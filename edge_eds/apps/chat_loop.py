"""The chat itself: reads entries, carries out what they mean, shows what comes of it.

Takes a session, a ChatState and a Terminal. An error while answering, saving or loading is one line and the
chat goes on; in a pipe, where nobody could react, it ends the chat with that error.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from edge_eds.apps.answer import Answer, Message, generate
from edge_eds.apps.chat_input import read_entry
from edge_eds.apps.chat_state import (
    Ask,
    ChatState,
    Compare,
    Complain,
    Effect,
    Leave,
    Load,
    Save,
    Say,
    ShowEnergy,
    Turn,
    parse_chat,
)
from edge_eds.apps.files import read_text, write_text
from edge_eds.apps.session import Session
from edge_eds.apps.settings import Sampling
from edge_eds.apps.status import energy_picture, side_by_side, status_line
from edge_eds.apps.stop_switch import StopSwitch
from edge_eds.apps.terminal import Terminal, read_stdin_line
from edge_eds.errors import EdgeError, InputError, PromptTooLongError

_WIDE = 90  # columns from which two answers stand side by side
_TITLES = ("steered", "without steering")


class Chat:
    """One chat at a terminal or through a pipe.

    compare: answer every turn without steering, too.
    turns: what was said, as documents for --json.
    """

    def __init__(
        self,
        session: Session,
        state: ChatState,
        terminal: Terminal,
        sampling: Sampling,
        compare: bool = False,
    ) -> None:
        self.session = session
        self.state = state
        self.terminal = terminal
        self.sampling = sampling
        self.compare = compare
        self.turns: list[dict[str, Any]] = []

    def run(self) -> None:
        """Chat until the end of the input or /exit.

        Raises:
            EdgeError: something went wrong and the input is a pipe.
            KeyboardInterrupt: Ctrl-C, and the input is a pipe.
        """
        while True:
            try:
                text, literal = read_entry(self._next_line)
                if not literal and not text.strip():
                    continue
                effect = self.state.enter(text, literal)
                if isinstance(effect, Leave):
                    return
                self._carry_out(effect)
            except EOFError:
                break
            except KeyboardInterrupt:
                if not self.terminal.person:
                    raise
                self.terminal.remark("\nCtrl-D or /exit leaves.")
            except EdgeError as error:
                if not self.terminal.person:
                    raise
                self.terminal.remark(str(error), style="red")
        if self.terminal.person:
            self.terminal.show("")  # the prompt stands without its newline after Ctrl-D

    def _carry_out(self, effect: Effect) -> None:
        if isinstance(effect, Say):
            self.terminal.remark(effect.text)
        elif isinstance(effect, Complain):
            raise InputError(effect.text)
        elif isinstance(effect, Ask):
            self._ask(effect)
        elif isinstance(effect, Compare):
            self._compare_last()
        elif isinstance(effect, ShowEnergy):
            assert self.state.last is not None
            self.terminal.show(energy_picture(self.state.last.answer, self.terminal.draws_blocks))
        elif isinstance(effect, Save):
            self._save(effect.path)
        elif isinstance(effect, Load):
            self._load(effect.path)

    def _ask(self, ask: Ask) -> None:
        self.session.steer(self.state.strength_in_force)
        sampling = self.sampling.drawn()
        compare = self.compare and self.session.strength > 0
        columns = compare and self._wide
        with self.terminal.waiting("answering, steered and plain") if columns else nullcontext():
            turn = Turn(ask.messages, self._answer(ask.messages, sampling, shown=not columns), sampling)
            self.state.answered(turn)
            compare = compare and turn.answer.finish_reason != "interrupted"
            plain = self._plain(turn, shown=not columns) if compare else None
        if columns:
            self._show_both(turn.answer, plain)
        self.terminal.remark(status_line(turn.answer, self.state.steerable))
        self._record(turn, plain)

    def _answer(self, messages: tuple[Message, ...], sampling: Sampling, shown: bool) -> Answer:
        """An answer at the session's present strength, streamed if it is shown."""
        on_text = self.terminal.answer if shown else None
        try:
            with StopSwitch() if self.terminal.person else nullcontext() as stop:
                answer = generate(self.session, messages, sampling, on_text, stop)
        except PromptTooLongError as error:
            if len(messages) - (messages[0]["role"] == "system") == 1:
                raise
            raise PromptTooLongError(
                f"the conversation no longer fits the context ({error}); nothing was dropped: "
                "/save FILE keeps it, /clear starts anew"
            ) from error
        if shown:
            self.terminal.end_line()
        return answer

    def _plain(self, turn: Turn, shown: bool) -> Answer:
        """The turn again, without steering."""
        if shown:
            self.terminal.show(f"-- {_TITLES[1]} --", style="dim")
        self.session.steer(0.0)
        try:
            return self._answer(turn.messages, turn.sampling, shown)
        finally:
            self.session.steer(self.state.strength_in_force)

    def _compare_last(self) -> None:
        turn = self.state.last
        assert turn is not None
        if self._wide:
            with self.terminal.waiting("answering again without steering"):
                plain = self._plain(turn, shown=False)
            self._show_both(turn.answer, plain)
        else:
            self.terminal.show(f"-- {_TITLES[0]} --", style="dim")
            self.terminal.show(turn.answer.text)
            self._plain(turn, shown=True)

    def _show_both(self, steered: Answer, plain: Answer | None) -> None:
        if plain is None:
            self.terminal.show(steered.text)
            return
        left, right = (_TITLES[0], steered.text), (_TITLES[1], plain.text)
        self.terminal.show(side_by_side(left, right, self.terminal.width))

    @property
    def _wide(self) -> bool:
        return self.terminal.on_screen and self.terminal.width >= _WIDE

    def _save(self, path: Path) -> None:
        if path.is_file():
            try:
                parse_chat(read_text(path))
            except InputError as error:
                raise InputError(f"{path}: not overwritten: it exists and {error}") from error
        write_text(path, self.state.to_json())
        self.terminal.remark(f"saved to {path}")

    def _load(self, path: Path) -> None:
        text = read_text(path)
        try:
            said = self.state.load_json(text)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        self.terminal.remark(said)

    def _record(self, turn: Turn, plain: Answer | None) -> None:
        asked = {"prompt": turn.messages[-1]["content"], "strength": turn.answer.strength}
        document = {**asked, **turn.answer.document(self.session.name)}
        if plain is not None:
            document["plain"] = plain.document(self.session.name)
        self.turns.append(document)

    def _next_line(self, goes_on: bool) -> str:
        if not self.terminal.person:
            return read_stdin_line()
        self.terminal.end_line()
        return self.terminal.ask("... " if goes_on else "> ")
