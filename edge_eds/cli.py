"""The command line `edge-eds`: finds the command, and turns errors into one line and an exit status.

Exit status: 0 fine, 1 a known error (one line on stderr), 2 wrong usage, 130 interrupted, 141 the reader of a
pipe went away. A command NAME is `edge_eds.apps.NAME.command`, imported only when it is called, so that help
is instant.
"""

from __future__ import annotations

import gc
import importlib
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup

from edge_eds.errors import EdgeError

COMMANDS = {
    "chat": "Talk to a model whose false refusals are steered away.",
    "run": "Answer one prompt, for scripts.",
    "serve": "Serve the model to programs that speak OpenAI's API.",
    "fit": "Make the energies of a model: collect, train and tune in one go.",
    "collect": "Ask the model a prompt set and keep its hidden states and verdicts.",
    "train": "Train energies on what collect has kept.",
    "tune": "Search how to steer, by trying it on the model itself.",
    "eval": "Measure refusals, plain and steered, on sets of prompts.",
    "judge": "Tell refusals from answers in transcripts of any model.",
    "compare": "Compare methods against false refusals, all within one budget.",
    "bench": "Measure what reading and steering hidden states costs.",
    "prompts": "Count a prompt set, or look for prompts of a benchmark in it.",
    "capture": "Write a model's hidden states to a file for other tools.",
    "inspect": "Show what can be steered in a model, and its energies.",
    "doctor": "Check this installation, and say what to do about what is wrong.",
}
_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
_PIPE_CLOSED = 141  # 128 + SIGPIPE
_OBJECTS_BEFORE_GC = 20_000  # as 700, Python's own, modules would be searched for garbage while they are imported


class LazyGroup(TyperGroup):
    """The commands by name; a command's module is imported when the command is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"edge_eds.apps.{cmd_name}")
        single = _typer(add_completion=False)
        single.command(cmd_name)(module.command)
        return typer.main.get_command(single)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: Any) -> Any:
        with exit_codes():
            return super().invoke(ctx)


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turn errors that people can do something about into one line on stderr and an exit status."""
    try:
        yield
        sys.stdout.flush()  # here, and not at exit, so that a full disk or a closed pipe is noticed
    except EdgeError as error:
        _say(str(error))
        raise typer.Exit(1) from error
    except KeyboardInterrupt as error:
        raise typer.Exit(_INTERRUPTED) from error
    except BrokenPipeError as error:
        _drop_stdout()
        raise typer.Exit(_PIPE_CLOSED) from error
    except OSError as error:
        _say(f"{error.filename or 'input or output'}: {error.strerror or error}")
        _drop_stdout()
        raise typer.Exit(1) from error


def main() -> None:
    """Entry point of the `edge-eds` script."""
    gc.set_threshold(_OBJECTS_BEFORE_GC)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that cannot show a letter still gets the text
    try:
        with exit_codes():
            app(prog_name="edge-eds")
    except typer.Exit as stop:
        sys.exit(stop.exit_code)


def _say(message: str) -> None:
    print(f"edge-eds: {' '.join(message.split())}", file=sys.stderr)


def _drop_stdout() -> None:
    """Point stdout at nothing: what is buffered cannot be written, and Python would complain at exit."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):  # no real file behind stdout, as under a test runner
        sys.stdout = io.StringIO()


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"edge-eds {version('edge-eds')}")
        raise typer.Exit


def _typer(**settings: Any) -> typer.Typer:
    # Plain help text: quick (rich is not imported), the same in a pipe, and quotable in the README.
    return typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, **settings)


app = _typer(
    cls=LazyGroup,
    no_args_is_help=True,
    add_completion=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def edge_eds(
    version: bool = typer.Option(
        False, "--version", help="Show the version and exit.", callback=_version, is_eager=True
    ),
) -> None:
    """Chat with GGUF models in llama.cpp, steered by energies so that harmless questions are answered."""


if __name__ == "__main__":
    main()
