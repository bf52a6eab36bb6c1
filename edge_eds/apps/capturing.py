"""Captures hidden states of many prompts into one file: from options to the document that --json prints.

What will be written is said, and what the disk does not hold refused, before the first prompt is decoded; the memory
that is needed depends on the batch size alone. Leaves out the file's format (runtime/state_file.py).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from edge_eds.apps.files import check_writable
from edge_eds.apps.layer_ranges import parse_layers, ranges
from edge_eds.apps.progress import stage_progress
from edge_eds.apps.session import check_chat_format, check_files, default_ctx, find_energies, load_quietly
from edge_eds.apps.settings import SessionOptions
from edge_eds.apps.terminal import Terminal, read_stdin
from edge_eds.energy.fingerprint import ModelFingerprint
from edge_eds.energy.settings import Steering
from edge_eds.errors import InputError, PromptTooLongError, SettingsError
from edge_eds.files import size_text
from edge_eds.pipeline.conversations import MESSAGES_COLUMN, read_messages
from edge_eds.pipeline.prompt_files import INTENTS, PROMPT_COLUMNS, columns, find_column, read_rows
from edge_eds.runtime.capture import POSITIONS, Positions, captured_pieces, check_readable
from edge_eds.runtime.chat_prompt import Message
from edge_eds.runtime.session import EdgeLlama
from edge_eds.runtime.state_file import StateShape, check_fits, check_suffix, state_file

FORMAT_VERSION = "1"
Prompt = str | tuple[Message, ...]  # a text, or a conversation that ends with the user


@dataclass(frozen=True)
class CaptureOptions:
    """What the command line says about a capture; checked when made, as far as that needs no model.

    session: the model; its energies are steered with before anything is captured.
    positions: last | all. raw: prompts are plain text, without a chat template.
    """

    session: SessionOptions
    out: Path
    prompts: Sequence[str] = ()
    prompt_files: Sequence[Path] = ()
    layers: str = "all"
    positions: str = "last"
    system: str | None = None
    raw: bool = False

    def __post_init__(self) -> None:
        check_suffix(self.out)
        check_writable(self.out)
        if self.out.exists() and not self.out.is_file():
            raise InputError(f"{self.out}: is no file; expected the name of a file to write")
        if self.positions not in POSITIONS:
            raise SettingsError(f"--positions is {self.positions}, expected last or all")
        if self.raw and self.system is not None:
            raise SettingsError("--system has no place in --raw text; put it into the text itself")

    @property
    def chosen_positions(self) -> Positions:
        """positions, typed."""
        return "all" if self.positions == "all" else "last"


def run_capture(options: CaptureOptions, quiet: bool) -> dict[str, Any]:
    """Write the file; returns the document.

    Raises:
        EdgeError: one line that says what is in the way; no file was written.
    """
    prompts = [prompt for text in options.prompts for prompt in _typed(text)]
    prompts += [prompt for path in options.prompt_files for prompt in _from_file(path, options.raw)]
    files = options.session.files()
    header = check_files(files)
    if not options.raw:
        check_chat_format(header, options.session.chat_format)
    energy = find_energies(options.session, files)
    terminal = Terminal(answers_on_stderr=True)
    llm = load_quietly(
        files,
        energy=energy,
        steering=None if energy is None else Steering(strength=_strength(options.session)),
        n_ctx=options.session.ctx or default_ctx(header),
        n_threads=options.session.threads,
        n_threads_batch=options.session.threads,
        chat_format=options.session.chat_format,
    )
    try:
        layers = parse_layers(options.layers, len(llm.layers))
        check_readable(llm, layers)
        tokens = [_tokens(llm, prompt, number, options) for number, prompt in enumerate(prompts, 1)]
        n_rows = len(tokens) if options.positions == "last" else sum(map(len, tokens))
        metadata = {
            "format": "edge-eds.states",
            "format_version": FORMAT_VERSION,
            "model": files.name,
            "fingerprint": ModelFingerprint.from_gguf(files.gguf, files.lora).to_json(),
            "layers": json.dumps(layers),
            "positions": options.positions,
            "prompts": json.dumps(prompts, ensure_ascii=False),
            "system": options.system or "",
            "template": "none" if options.raw else (options.session.chat_format or "the model's own"),
            "energy": "none" if energy is None else energy.name,
            "strength": "0" if energy is None else f"{_strength(options.session):g}",
            **{name: version(name) for name in ("edge-eds", "llama-cpp-python")},
        }
        shape = StateShape(layers, n_rows, llm.n_embd(), metadata)
        check_fits(options.out, shape)
        if not quiet:
            terminal.remark(_announcement(options, shape, len(prompts)))
        with state_file(options.out, shape) as writer, stage_progress() as tell:
            for number, text in enumerate(tokens):
                tell("capture", number, len(tokens))
                hook = llm.capture_hook(steered=True)
                for piece in captured_pieces(llm, text, layers, options.chosen_positions, hook):
                    n = len(next(iter(piece.states.values())))
                    writer.add(piece.states, number, piece.first, text[piece.first : piece.first + n])
            tell("capture", len(tokens), len(tokens))
    finally:
        llm.close()
    return {
        **{key: metadata[key] for key in ("model", "positions", "template", "energy", "edge-eds", "llama-cpp-python")},
        "fingerprint": json.loads(metadata["fingerprint"]),
        "out": str(options.out),
        "bytes": options.out.stat().st_size,
        "layers": list(layers),
        "n_embd": shape.n_embd,
        "n_rows": n_rows,
        "n_tokens": [len(text) for text in tokens],
    }


def _strength(session: SessionOptions) -> float:
    return 1.0 if session.strength is None else session.strength


def _typed(text: str) -> list[Prompt]:
    text = read_stdin().rstrip("\n") if text == "-" else text
    if not text.strip():
        raise InputError("a prompt is empty; expected some text")
    return [text]


def _from_file(path: Path, raw: bool) -> list[Prompt]:
    """The prompts of a file; of matched pairs first all harmless halves, then all harmful ones."""
    rows = read_rows(path)
    found = columns(rows)
    if all(intent in found for intent in INTENTS):
        return [row.text(intent) for intent in INTENTS for row in rows]
    column = find_column(rows, (MESSAGES_COLUMN, *PROMPT_COLUMNS), "prompts")
    if column != MESSAGES_COLUMN:
        return [row.text(column) for row in rows]
    if raw:
        raise InputError(f"{path}: holds conversations, which need a chat template; leave out --raw")
    return [read_messages(row) for row in rows]


def _tokens(llm: EdgeLlama, prompt: Prompt, number: int, options: CaptureOptions) -> list[int]:
    if options.raw:
        assert isinstance(prompt, str)
        tokens = llm.tokenize(prompt.encode("utf-8"), special=True)
    else:
        messages = ({"role": "user", "content": prompt},) if isinstance(prompt, str) else prompt
        if options.system and messages[0]["role"] != "system":
            messages = ({"role": "system", "content": options.system}, *messages)
        tokens = llm.chat_tokens(messages)
    if len(tokens) > llm.n_ctx():
        raise PromptTooLongError(
            f"prompt {number} takes {len(tokens)} tokens and the context holds {llm.n_ctx()}; shorten it or raise --ctx"
        )
    return tokens


def _announcement(options: CaptureOptions, shape: StateShape, n_prompts: int) -> str:
    rows = "the last token" if options.positions == "last" else "every token"
    prompts = f"{n_prompts} prompt{'' if n_prompts == 1 else 's'}"
    return (
        f"{options.out}: layers {ranges(shape.layers)}, {rows} of {prompts}, "
        f"float32 ({shape.n_rows}, {shape.n_embd}) each, {size_text(shape.n_bytes)}"
    )
