"""`edge-eds capture`: the options; the work is in capturing.py, imported when it starts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge_eds.apps import options


def command(
    model: options.Model = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", "-p", metavar="TEXT", help="A prompt (repeatable); - reads it from stdin."),
    ] = None,
    prompts: Annotated[
        list[Path] | None,
        typer.Option(
            "--prompts",
            metavar="PATH",
            help="CSV, JSON or JSONL file of prompts or conversations (repeatable).",
            show_default=False,
        ),
    ] = None,
    layers: Annotated[str, typer.Option("--layers", metavar="8-16,20", help="Which block outputs.")] = "all",
    positions: Annotated[
        str, typer.Option("--positions", metavar="last|all", help="The prompt's last token, or every one.")
    ] = "last",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="PATH", help="File to write: .safetensors or .npz.", show_default=False),
    ] = None,
    system: options.System = None,
    raw: Annotated[bool, typer.Option("--raw", help="Prompts are plain text, not messages of a chat.")] = False,
    lora: options.Lora = None,
    energy: Annotated[
        str,
        typer.Option(
            "--energy",
            metavar="none|auto|PATH",
            help="Capture after steering with these energies; none captures the model as it is.",
        ),
    ] = "none",
    strength: options.Strength = None,
    threads: options.Threads = None,
    ctx: options.Ctx = None,
    chat_format: options.ChatFormat = None,
    as_json: options.Json = False,
) -> None:
    """Write a model's hidden states to a file for other tools.

    Layer IL is the residual stream after block IL (l_out-IL in llama.cpp); one row a token, float32. The prompts go
    through the model's chat template, up to where its answer begins. docs/capture.md describes the file.
    """
    if not prompt and not prompts:
        raise typer.BadParameter("give prompts as -p TEXT or --prompts PATH", param_hint="'-p'")
    if out is None:
        raise typer.BadParameter("give the file to write as -o PATH", param_hint="'-o'")

    from edge_eds.apps.capturing import CaptureOptions, run_capture
    from edge_eds.apps.settings import SessionOptions
    from edge_eds.apps.terminal import finish

    session = SessionOptions(model, lora, energy, strength, threads, ctx, chat_format)
    wanted = CaptureOptions(session, out, tuple(prompt or ()), tuple(prompts or ()), layers, positions, system, raw)
    finish(run_capture(wanted, as_json), as_json, None)
