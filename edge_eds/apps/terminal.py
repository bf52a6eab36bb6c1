"""Where a command talks: answers on one stream, remarks on the other, plain text wherever no person reads.

A person at a terminal sees both in one place, remarks dimmed; in a pipe the answers alone go to stdout and
the remarks to stderr. NO_COLOR and TERM=dumb are honoured.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from edge_eds.apps.files import write_text
from edge_eds.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

# Control characters except newline and tab: a model's text must not move the cursor or rename the window.
_CONTROL = {code: None for code in (*range(32), 127, *range(128, 160)) if chr(code) not in "\n\t"}


class Terminal:
    """The streams of one command.

    answers_on_stderr: keep stdout free, for the one JSON document that comes last.
    """

    def __init__(self, answers_on_stderr: bool = False) -> None:
        self._answers: TextIO = sys.stderr if answers_on_stderr else sys.stdout
        self.person = sys.stdin is not None and sys.stdin.isatty()
        self.on_screen = self._answers.isatty()
        self._remarks: TextIO = self._answers if self.person and self.on_screen else sys.stderr
        self._consoles: dict[int, Console] = {}
        self._at_line_start = True

    @property
    def draws_blocks(self) -> bool:
        """Whether block characters can be shown."""
        return (getattr(self._answers, "encoding", None) or "").lower().startswith("utf")

    @property
    def width(self) -> int:
        """Columns of the terminal."""
        return self._console(self._answers).width

    def answer(self, text: str) -> None:
        """Write a piece of an answer at once."""
        shown = text.translate(_CONTROL) if self.on_screen else text
        self._answers.write(shown)
        self._answers.flush()
        if shown:
            self._at_line_start = shown.endswith("\n")

    def end_line(self) -> None:
        """Begin a new line, unless one has just begun."""
        if not self._at_line_start:
            self.answer("\n")

    def remark(self, text: str, style: str = "dim") -> None:
        """Say something about what happens."""
        self.end_line()
        self._show(self._remarks, text, style)

    def show(self, text: str, style: str = "") -> None:
        """Write lines that were asked for, where the answers go."""
        self.end_line()
        self._show(self._answers, text, style)

    def ask(self, prompt: str) -> str:
        """A line from the person, without its newline.

        Raises:
            EOFError: Ctrl-D.
            InputError: not UTF-8 text.
        """
        with suppress(ImportError):
            import readline  # noqa: F401 (gives input() its editing and history; Windows has none)
        if not self.on_screen:
            self._remarks.write(prompt)
            self._remarks.flush()
            prompt = ""
        try:
            return input(prompt)
        except UnicodeDecodeError as error:
            raise InputError("what was entered is not UTF-8 text") from error

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Show that something is going on that has nothing to show yet."""
        if not self.on_screen:
            yield
            return
        with self._console(self._answers).status(what):
            yield

    def _show(self, stream: TextIO, text: str, style: str) -> None:
        from rich.text import Text

        console = self._console(stream)
        shown = text.translate(_CONTROL) if stream.isatty() else text
        console.print(Text(shown, style=style), soft_wrap=True)
        stream.flush()

    def _console(self, stream: TextIO) -> Console:
        from rich.console import Console  # only where something is shown: help must not wait for it

        if id(stream) not in self._consoles:
            plain = bool(os.environ.get("NO_COLOR"))  # rich itself would leave dimmed text dimmed
            self._consoles[id(stream)] = Console(
                file=stream,
                highlight=False,
                markup=False,
                emoji=False,
                color_system=None if plain else "auto",
            )
        return self._consoles[id(stream)]


def finish(document: dict[str, Any], as_json: bool, out: Path | None, one_line: bool = False) -> None:
    """Print the document of a command as its last act, and write it to a file, where asked for.

    one_line: what is printed is one line, for programs that read the last line of many commands.

    Raises:
        InputError: the file cannot be written.
    """
    if out is not None:
        write_text(out, json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    if as_json:
        encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("-", "")
        indent = None if one_line else 1
        print(json.dumps(document, indent=indent, ensure_ascii=encoding != "utf8", allow_nan=False), flush=True)


def read_stdin() -> str:
    """All of standard input.

    Raises:
        InputError: it is not UTF-8 text.
    """
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise InputError("standard input is not UTF-8 text") from error


def read_stdin_line() -> str:
    """The next line of standard input, without its newline.

    Raises:
        EOFError: there is none.
        InputError: it is not UTF-8 text.
    """
    try:
        line = sys.stdin.readline()
    except UnicodeDecodeError as error:
        raise InputError("standard input is not UTF-8 text") from error
    if not line:
        raise EOFError
    return line.removesuffix("\n")
