"""Runs the command line for tests: in this process where that is enough, else as a program of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from typer.testing import CliRunner

from edge_eds.cli import app

PROGRAM = (sys.executable, "-m", "edge_eds.cli")


@dataclass(frozen=True)
class Outcome:
    """What a call left."""

    code: int
    stdout: str
    stderr: str


def edge_eds(*args: object, stdin: str = "") -> Outcome:
    """Call a command in this process; stdin and stdout are pipes."""
    result = CliRunner().invoke(app, [str(arg) for arg in args], input=stdin, prog_name="edge-eds")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Outcome(result.exit_code, result.stdout, result.stderr)


def start(*args: object, **streams: int) -> subprocess.Popen[str]:
    """Start the program; stdin, stdout and stderr are pipes unless given otherwise."""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE) | streams
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen([*PROGRAM, *map(str, args)], text=True, env=environment, **pipes)


def assert_one_line(outcome: Outcome, words: Sequence[str] = ()) -> None:
    """A known error: exit status 1, nothing on stdout, one line on stderr that says all of the words."""
    assert (outcome.code, outcome.stdout) == (1, "")
    assert outcome.stderr.startswith("edge-eds: ")
    assert outcome.stderr.endswith("\n")
    assert outcome.stderr.count("\n") == 1
    for word in words:
        assert word in outcome.stderr
