"""The code blocks of README.md and docs/*.md, and how the tests run them.

What is done with a block follows from the word behind its fence:

    python   run, all blocks of a page in one namespace, in a folder with the files that pages speak of
    sh       each command, by its program:
             edge-eds    parsed by the real command line, and run in this process with the small limits of LIMITS,
                         but for names on a hub, and the commands in PARSED_ONLY: they take hours, serve for ever,
                         or look at the machine
             llm         run in this process
             curl        run, against a server of the small model
             echo        gives its words to the next command of a pipe
             pip, make   never run: the extras and targets that they name have to exist
             python      never run: the script that it names has to exist
             cmake, ctest  never run: the folder that is built has to exist
    none     text, which may not look like a command

The default model, model.gguf and the server are a small random model whose answers are short: what is tested is that
the lines can be followed, not what they show. `<!-- not run: REASON -->` before a fence leaves a block at being parsed;
one that needs a package of somebody else's (PACKAGES) is run where that is installed.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import typer.main
from click.testing import CliRunner
from command_line import edge_eds

from edge_eds.cli import COMMANDS, app

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
PACKAGES = {"needs langchain-openai": "langchain_openai"}
REASONS = ("network", "hours", "needs values of your own", *PACKAGES)

PARSED_ONLY = ("fit", "collect", "train", "tune", "compare", "bench", "serve", "doctor")
LIMITS: Mapping[str, tuple[str, ...]] = {
    "chat": ("--max-tokens", "3", "--threads", "1"),
    "run": ("--max-tokens", "3", "--threads", "1"),
    "eval": ("--limit", "2", "--max-tokens", "2", "--threads", "1"),
    "capture": ("--threads", "1"),
}
LLM_LIMITS = ("-o", "max_tokens", "3", "-o", "threads", "1")
_FENCE = re.compile(
    r"(?:<!-- not run: (?P<reason>[^\n]*?) -->\n+)?^```(?P<language>[^\n]*)\n(?P<text>.*?)^```$", re.M | re.S
)
_OPERATORS = {"|", "&&", ";", "&"}


@dataclass(frozen=True)
class Block:
    """A fenced block. not_run: why it is only parsed; None where it is run."""

    page: Path
    line: int
    language: str
    text: str
    not_run: str | None

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order."""
    text = page.read_text("utf-8")
    blocks = []
    for found in _FENCE.finditer(text):
        line, reason = text.count("\n", 0, found.start("language")) + 1, found["reason"]
        if reason in PACKAGES and find_spec(PACKAGES[reason]) is not None:
            reason = None
        blocks.append(Block(page, line, found["language"], found["text"], reason))
    return blocks


@dataclass(frozen=True)
class Command:
    """One program of a shell line. pipes: its output is the next one's input. target: the file its output goes to."""

    words: tuple[str, ...]
    pipes: bool = False
    target: str | None = None


def commands_of(block: Block) -> Iterator[Command]:
    """The commands of a shell block, in order; comments and line ends are dropped."""
    for line in block.text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;>")
        lexer.whitespace_split = True
        words: list[str] = []
        for token in [*lexer, ";"]:
            if token not in _OPERATORS:
                words.append(token)
            elif words:
                target = words[words.index(">") + 1] if ">" in words else None
                yield Command(tuple(words[: words.index(">")] if target else words), token == "|", target)
                words = []


class PageRun:
    """Runs the blocks of one page in the present folder. server: host and port of a server of the small model."""

    SERVER = "127.0.0.1:8080"  # where pages expect it

    def __init__(self, server: str) -> None:
        self.server = server
        self.namespace: dict[str, Any] = {"__name__": "__main__"}

    def run(self, block: Block) -> None:
        """Run a block as far as the rules at the top let it; AssertionError names the place."""
        if block.language == "python":
            code = compile(block.text.replace(self.SERVER, self.server), block.place, "exec")
            if block.not_run is None:
                with contextlib.redirect_stdout(io.StringIO()):
                    exec(code, self.namespace)
        elif block.language == "sh":
            self._run_shell(block)

    def close(self) -> None:
        """Free the models that python blocks have left open."""
        for value in list(self.namespace.values()):
            if hasattr(value, "close") and not isinstance(value, type):
                value.close()

    def _run_shell(self, block: Block) -> None:
        output = ""
        for command in commands_of(block):
            program, *args = command.words
            stdin = output
            output = ""
            if program == "edge-eds":
                parse(block, args)
                if block.not_run is None and is_run(args):
                    outcome = edge_eds(*args, *LIMITS.get(args[0], ()), stdin=stdin)
                    assert outcome.code == 0, f"{block.place}: {shlex.join(command.words)}: {outcome.stderr}"
                    output = outcome.stdout
            elif program == "llm":
                output = "" if block.not_run else self._llm(block, args)
            elif program == "curl":
                output = "" if block.not_run else self._curl(block, args)
            elif program == "echo":
                output = " ".join(args) + "\n"
            else:
                check_named(block, program, args)
            if command.target:
                Path(command.target).write_text(output, encoding="utf-8")

    def _llm(self, block: Block, args: list[str]) -> str:
        from llm.cli import cli

        asks = "edge-eds" in args
        result = CliRunner().invoke(
            cli, [*args, *(LLM_LIMITS if asks else ())], input="exit\n" if "chat" in args else ""
        )
        assert result.exit_code == 0, f"{block.place}: llm {shlex.join(args)}: {result.output}"
        return result.stdout

    def _curl(self, block: Block, args: list[str]) -> str:
        args = [arg.replace(self.SERVER, self.server) for arg in args]
        done = subprocess.run(["curl", "--silent", "--show-error", "--fail", *args], capture_output=True, text=True)
        assert done.returncode == 0, f"{block.place}: {shlex.join(args)}: {done.stderr}"
        return done.stdout


def is_run(args: list[str]) -> bool:
    """Whether a call of edge-eds is run, too: a command, within this machine, that ends soon."""
    on_a_hub = any(arg.startswith("hf:") for arg in args)
    return args[0] in COMMANDS and args[0] not in PARSED_ONLY and not on_a_hub


def parse(block: Block, args: list[str]) -> None:
    """Have the real command line parse a call, with nothing behind it."""
    group: Any = typer.main.get_command(app)
    command = group.get_command(None, args[0]) if args and args[0] in group.list_commands(None) else None
    if command is None:  # an option such as --version, which does its work while it is parsed
        context = group.make_context("edge-eds", [], resilient_parsing=True)
        options = {name for option in group.get_params(context) for name in option.opts}
        assert args and args[0] in options, f"{block.place}: edge-eds has no {args[:1]}"
        return
    command.callback = lambda **_: None
    words = io.StringIO()
    with contextlib.redirect_stderr(words), contextlib.redirect_stdout(io.StringIO()):
        try:
            command.main(args[1:])
        except SystemExit as end:
            code = end.code
    assert code == 0, f"{block.place}: edge-eds {shlex.join(args)}: {words.getvalue()}"


def check_named(block: Block, program: str, args: list[str]) -> None:
    """That what a command which is never run names is there: extras, make's targets, scripts."""
    if program == "pip":
        known = _extras()
        for extras in re.findall(r"\[([\w,]+)\]", " ".join(args)):
            missing = set(extras.split(",")) - known
            assert not missing, f"{block.place}: pyproject.toml has no extra {missing}"
    elif program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M)
        assert args[0] in targets, f"{block.place}: the Makefile has no target {args[0]}"
    elif program == "python":
        script = Path(args[0])
        assert (ROOT / script).is_file(), f"{block.place}: there is no {script}"
    elif program in ("cmake", "ctest"):
        folders = [folder for option, folder in pairwise(args) if option == "-S"]
        assert all((ROOT / folder / "CMakeLists.txt").is_file() for folder in folders), f"{block.place}: {folders}"
    else:
        raise AssertionError(f"{block.place}: no rule for `{program}`; give it one in tests/doc_blocks.py")


def _extras() -> set[str]:
    """The extras of pyproject.toml. Python 3.10 cannot read TOML by itself."""
    section = (ROOT / "pyproject.toml").read_text("utf-8").split("[project.optional-dependencies]")[1].split("\n[")[0]
    return set(re.findall(r"^(\w+) = \[", section, re.M))
