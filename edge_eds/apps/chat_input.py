"""Reading what a person enters: lines, lines that go on after a backslash, blocks between triple quotes."""

from __future__ import annotations

from collections.abc import Callable

FENCE = '"""'


def read_entry(next_line: Callable[[bool], str]) -> tuple[str, bool]:
    """One message or command, and whether it is to be taken literally (no command in it).

    Args:
        next_line: gives the next line without its newline; its argument says whether an entry goes on. It
            raises EOFError at the end. What was entered up to there counts.

    Raises:
        EOFError: there is nothing more.
    """
    line = next_line(False)
    if line.lstrip().startswith(FENCE):
        return _block(line.lstrip()[len(FENCE) :], next_line), True
    while line.endswith("\\"):
        line = line[:-1]
        try:
            line += "\n" + next_line(True)
        except EOFError:
            break
    return line, False


def _block(line: str, next_line: Callable[[bool], str]) -> str:
    lines = []
    while not line.rstrip().endswith(FENCE):
        lines.append(line)
        try:
            line = next_line(True)
        except EOFError:
            return "\n".join(lines)
    return "\n".join([*lines, line.rstrip()[: -len(FENCE)]])
