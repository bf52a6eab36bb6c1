"""`edge-eds compare`: every method against false refusals on one model, within the same budget."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge_eds.apps import options

DEFAULT_SUITES = ("pairs", "ordinary")


def command(
    model: options.Model = None,
    methods: Annotated[
        str,
        typer.Option(
            "--methods",
            metavar="A,B,...",
            help="Which methods, by the names in docs/methods.md; all if left out (lora-sft with --sft-lora).",
            show_default=False,
        ),
    ] = "",
    suite: Annotated[
        list[str] | None,
        typer.Option(
            "--suite",
            metavar="NAME[=PATH[:INTENT]]",
            help="Prompts to measure on, as eval takes them; pairs and ordinary if left out.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", help="A random sample of so many prompts of each suite.", show_default=False),
    ] = None,
    trials: Annotated[
        int, typer.Option("--trials", help="How often each method may steer the model in its search.")
    ] = 32,
    max_tokens: options.MaxTokens = 32,
    prompts: options.Prompts = None,
    work: options.Work = None,
    lora: options.Lora = None,
    energy: options.Energy = "auto",
    sft_lora: Annotated[
        Path | None,
        typer.Option(
            "--sft-lora",
            metavar="PATH",
            help="LoRA adapter fine-tuned against false refusals, for lora-sft.",
            show_default=False,
        ),
    ] = None,
    threads: options.Threads = None,
    ctx: options.Ctx = None,
    seed: options.Seed = None,
    chat_format: options.ChatFormat = None,
    as_json: options.Json = False,
    out: Annotated[
        Path,
        typer.Option("--out", metavar="FOLDER", help="Where results are kept; a second run goes on from there."),
    ] = Path("comparison"),
) -> None:
    """Compare methods against false refusals, all within one budget.

    Every method is searched on validation prompts with the same number of trials, and all points of its curve are
    measured. FOLDER gets table.txt, comparison.json and curves.svg. What is finished is kept: more methods can join
    later.
    """
    from edge_eds.apps.comparing import CompareOptions, run_compare
    from edge_eds.apps.settings import SessionOptions
    from edge_eds.apps.terminal import finish

    session = SessionOptions(model, lora, energy, None, threads, ctx, chat_format)
    wanted = CompareOptions(
        session,
        methods=tuple(name.strip() for name in methods.split(",") if name.strip()),
        suites=tuple(suite or DEFAULT_SUITES),
        limit=limit,
        trials=trials,
        max_tokens=max_tokens,
        prompts=tuple(prompts or ()),
        work=work,
        sft_lora=None if sft_lora is None else sft_lora.expanduser(),
        out=out.expanduser(),
        seed=seed,
    )
    finish(run_compare(wanted, quiet=as_json), as_json, None)
