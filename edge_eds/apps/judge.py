"""`edge-eds judge`: tells refusals from answers in anyone's transcripts."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from edge_eds.apps import options


def command(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="CSV, JSON or JSONL with a column of prompts and one of answers (answer, response, completion, output "
            "or text), or what eval --transcripts has written.",
            show_default=False,
        ),
    ],
    prompt_column: Annotated[
        str | None,
        typer.Option("--prompt-column", metavar="NAME", help="The prompts' column.", show_default=False),
    ] = None,
    answer_column: Annotated[
        str | None,
        typer.Option("--answer-column", metavar="NAME", help="The answers' column.", show_default=False),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            "--labels",
            metavar="NAME",
            help="Column of people's labels, to compare with; label or final_label if left out, none for none.",
            show_default=False,
        ),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option("--by", metavar="NAME", help="Count apart what differs in this column.", show_default=False),
    ] = None,
    as_json: options.Json = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="PATH",
            help="Write every answer with its verdict to this JSONL file.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Tell refusals from answers in transcripts of any model.

    Partial answers and broken text are told apart as well. Where people have labelled the answers, their agreement with
    the judge is shown. It reads English; answers in other languages are counted.
    """
    from edge_eds.apps.files import check_writable, write_text
    from edge_eds.apps.terminal import Terminal, finish
    from edge_eds.pipeline.judging import by_group, judge_all
    from edge_eds.pipeline.refusal_classifier import builtin_classifier
    from edge_eds.pipeline.transcripts import TranscriptColumns, read_transcripts
    from edge_eds.reports.judging import judging_table

    if out is not None:
        check_writable(out)
    path = file.expanduser()
    transcripts = read_transcripts(path, TranscriptColumns(prompt_column, answer_column, labels, by))
    judged = list(judge_all(transcripts))
    groups = by_group(judged)
    if out is not None:
        write_text(out, "".join(json.dumps(one.to_json(), ensure_ascii=False) + "\n" for one in judged))
    if not as_json:
        Terminal().show(judging_table(groups))
    document = {
        "file": str(path),
        "groups": {name: group.to_json() for name, group in groups.items()},
        "judge": dict(builtin_classifier().made),
        "versions": {"edge-eds": version("edge-eds")},
    }
    finish(document, as_json, None)
