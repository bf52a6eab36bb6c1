"""`edge-eds prompts`: what is in a prompt set, and whether it holds copies of a benchmark's prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge_eds.apps import options
from edge_eds.pipeline.near_copies import DEFAULT_THRESHOLD


def command(
    prompts: options.Prompts = None,
    against: Annotated[
        Path | None,
        typer.Option(
            "--against",
            metavar="PATH",
            help="A benchmark's prompts (CSV, JSON or JSONL): list copies and near copies of them.",
            show_default=False,
        ),
    ] = None,
    threshold: Annotated[
        float,
        typer.Option("--threshold", help="How alike near copies are: 1 the same words, 0 nothing shared."),
    ] = DEFAULT_THRESHOLD,
    as_json: options.Json = False,
    out: options.Out = None,
) -> None:
    """Count a prompt set, or look for prompts of a benchmark in it.

    Without --against the set is also checked as fit would check it. With --against the exit status is 1 where
    a copy was found.
    """
    from dataclasses import asdict

    from edge_eds.apps.files import check_writable
    from edge_eds.apps.terminal import Terminal, finish
    from edge_eds.errors import InputError
    from edge_eds.pipeline.prompt_inventory import builtin_inventory, counts, file_inventory, find_copies
    from edge_eds.pipeline.prompts import read_prompt_set
    from edge_eds.reports.prompts import copies, table

    if out is not None:
        check_writable(out)
    if prompts and against is None:
        read_prompt_set(prompts)
    inventory = file_inventory(prompts) if prompts else builtin_inventory()
    if against is None:
        counted = counts(inventory)
        if not as_json:
            Terminal().show(table(counted))
        finish({"n": len(inventory), "counts": [asdict(count) for count in counted]}, as_json, out)
        return
    found = find_copies(inventory, against, threshold)
    if not as_json:
        verdict = f"clean: none of the {len(inventory)} prompts comes near one in {against}"
        Terminal().show(copies(found) or verdict)
    document = {
        "n": len(inventory),
        "against": str(against),
        "threshold": threshold,
        "clean": not found,
        "copies": [asdict(copy) for copy in found],
    }
    finish(document, as_json, out)
    if found:
        n = len({(copy.prompt.file, copy.prompt.id) for copy in found})
        raise InputError(f"{n} of {len(inventory)} prompts come near one in {against}; reword them or leave them out")
