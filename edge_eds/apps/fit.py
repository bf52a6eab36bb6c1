"""`edge-eds fit`: collect, train and tune in one go."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from edge_eds.apps import options


def command(
    model: options.Model = None,
    prompts: options.Prompts = None,
    work: options.Work = None,
    lora: options.Lora = None,
    threads: options.Threads = None,
    ctx: options.Ctx = None,
    seed: options.Seed = None,
    chat_format: options.ChatFormat = None,
    budget: options.Budget = None,
    max_lost: options.MaxLost = None,
    method: Annotated[
        str,
        typer.Option(
            "--method",
            metavar="NAME",
            help="Another method in place of ours, e.g. control-vector or eds-paper: docs/methods.md has them all.",
        ),
    ] = "ours",
    as_json: options.Json = False,
    out: options.EnergyOut = None,
) -> None:
    """Make the energies of a model: collect, train and tune in one go.

    A run that is stopped goes on where it was. The energy file is written beside MODEL, where chat finds it. At the end
    stands what steering does on prompts that fitting never saw; where it does not help, nothing is written. What
    another --method ends with is written to the current folder.
    """
    began = time.monotonic()
    from edge_eds.apps.extras import require
    from edge_eds.apps.settings import SessionOptions
    from edge_eds.apps.terminal import finish

    require("torch", "train")
    from edge_eds.apps.making import Maker, MakingOptions
    from edge_eds.errors import SettingsError
    from edge_eds.pipeline.budget import parse_budget
    from edge_eds.pipeline.methods import check_name

    session = SessionOptions(model=model, lora=lora, threads=threads, ctx=ctx, chat_format=chat_format)
    limit = parse_budget(budget)
    check_name(method)
    ours = method == "ours"
    if not ours and budget is not None:
        raise SettingsError("--budget is for our own method; --method takes a fixed number of trials")
    running = limit.started(began) if ours and limit is not None else None
    maker = Maker(MakingOptions(session, tuple(prompts or ()), work, out, seed, running, max_lost))
    document = maker.fit() if ours else maker.fit_method(method)
    finish(document, as_json, None)
