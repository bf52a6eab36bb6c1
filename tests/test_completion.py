"""Shell completion: installed by the program itself, and what a shell then offers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edge_eds.cli import COMMANDS

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="the system has no bash")


def bash(script: str, program: Path) -> str:
    """What a bash prints that finds `edge-eds` on its path and reads nothing at its start."""
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    call = ("bash", "--norc", "--noprofile", "-c", script)
    done = subprocess.run(call, capture_output=True, text=True, env={**os.environ, "PATH": path})
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """The program under its name, as an installation has it."""
    path = tmp_path / "edge-eds"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m edge_eds.cli "$@"\n')
    path.chmod(0o755)
    return path


@pytest.fixture
def installed(program: Path, home: Path) -> Path:
    """The script that --install-completion leaves in the home folder of a person who uses bash."""
    assert "bash completion installed" in bash("edge-eds --install-completion; true", program)
    (script,) = (home / ".bash_completions").iterdir()
    assert str(script) in (home / ".bashrc").read_text()
    return script


def test_what_is_installed_completes_commands_and_options(program: Path, installed: Path) -> None:
    def offered(*words: str) -> list[str]:
        line = " ".join(words)
        script = f"source {installed}; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; COMPREPLY=()"
        call = "_edge_eds_completion edge-eds"
        return bash(f'{script}; {call}; printf "%s\\n" "${{COMPREPLY[@]}}"', program).split()

    assert offered("edge-eds", "''") == list(COMMANDS)
    assert offered("edge-eds", "ins") == ["inspect"]
    assert offered("edge-eds", "run", "--str") == ["--strength"]
    # a path: the shell's own completion of files (complete -o default) takes over
    assert offered("edge-eds", "run", "mod") == []
    assert "-o default" in installed.read_text()


def test_it_can_be_shown_instead(program: Path, home: Path) -> None:
    assert "_edge_eds_completion" in bash("edge-eds --show-completion; true", program)
    assert not any(home.iterdir())
