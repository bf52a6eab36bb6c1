"""`edge-eds bench`: the options; the work is in benching.py, imported when it starts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge_eds.apps import options


def command(
    model: options.Model = None,
    shape: Annotated[
        str | None,
        typer.Option(
            "--shape",
            metavar="NAME",
            help="In place of MODEL random weights of this shape: llama-1b, llama-3b, llama-8b, qwen-0.5b, smollm2.",
            show_default=False,
        ),
    ] = None,
    variants: Annotated[
        str,
        typer.Option(
            "--variants",
            metavar="A,B,...",
            help="What is measured; all if left out: plain, idle, capture-1, capture-all, capture-last, "
            "control-vector, steer-default, steer-15x3, steer-paper, python-onnx, transformers.",
            show_default=False,
        ),
    ] = "",
    n_prompt: Annotated[
        str, typer.Option("--n-prompt", "-p", metavar="N,...", help="Tokens of a prompt; 0 leaves it out.")
    ] = "512",
    n_gen: Annotated[
        str, typer.Option("--n-gen", "-n", metavar="N,...", help="New tokens, one by one; 0 leaves them out.")
    ] = "64",
    repetitions: Annotated[
        int, typer.Option("--repetitions", "-r", help="Pairs of runs; 6 or more give a 95 % interval.")
    ] = 6,
    output: Annotated[str, typer.Option("--output", "-o", metavar="md|csv|json|jsonl|sql", help="Format.")] = "md",
    against: Annotated[
        Path | None,
        typer.Option(
            "--against",
            metavar="PATH",
            help="A result that --json or --out has kept: show this one beside it.",
            show_default=False,
        ),
    ] = None,
    cpu_time: Annotated[
        bool,
        typer.Option(
            "--cpu-time", help="Count CPU seconds, which a busy machine changes less; of use with one thread."
        ),
    ] = False,
    growth: Annotated[
        bool,
        typer.Option(
            "--growth",
            help="Measure how the cost of steering grows, fit a model to it, and say what it predicts for 70B.",
        ),
    ] = False,
    answers: Annotated[
        int | None,
        typer.Option(
            "--answers",
            metavar="N",
            help="Answer N prompts, -n tokens each: one after the other by llama-cpp-python, side by side by edge-eds.",
            show_default=False,
        ),
    ] = None,
    start: Annotated[
        bool,
        typer.Option("--start", help="Start programs: --help beside an empty Python, run beside llama-cpp-python."),
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="PATH", help="Draw the growth as SVG into this file.", show_default=False),
    ] = None,
    lora: options.Lora = None,
    energy: options.Energy = "auto",
    threads: Annotated[
        int | None,
        typer.Option("--threads", "-t", help="CPU threads; all CPUs if left out.", show_default=False),
    ] = None,
    chat_format: options.ChatFormat = None,
    as_json: options.Json = False,
    out: options.Out = None,
) -> None:
    """Measure what reading and steering hidden states costs.

    Every run of a variant stands between two plain ones, and its ratio is taken to those. Without energies of the model
    random ones of the same form are used: what they cost does not depend on their values. docs/speed.md has results.
    """
    if shape is not None and (model is not None or lora is not None):
        raise typer.BadParameter("give a MODEL or a --shape, not both", param_hint="'--shape'")
    if plot is not None and not growth:
        raise typer.BadParameter("there is a plot of --growth only", param_hint="'--plot'")
    if growth and (model or shape or lora or variants or against):
        raise typer.BadParameter("it makes models of its own, and measures its own variants", param_hint="'--growth'")
    if answers is not None and (shape or variants or against or growth or cpu_time):
        raise typer.BadParameter("it needs a model that chats, and measures its own variants", param_hint="'--answers'")
    if start and (shape or variants or against or growth or cpu_time or answers is not None):
        raise typer.BadParameter("it needs a model that chats, and starts its own programs", param_hint="'--start'")
    if chat_format is not None and answers is None and not start:
        raise typer.BadParameter("nothing is asked but with --answers and --start", param_hint="'--chat-format'")

    from edge_eds.apps.benching import BenchOptions, run_answers, run_bench, run_growth, run_start
    from edge_eds.apps.settings import SessionOptions
    from edge_eds.apps.terminal import finish

    session = SessionOptions(model, lora, energy, None, threads, chat_format=chat_format)
    if growth:
        document = run_growth(threads, repetitions, output, plot, cpu_time, quiet=as_json)
    elif answers is not None:
        document = run_answers(session, answers, n_gen, repetitions, output, quiet=as_json)
    elif start:
        document = run_start(session, repetitions, output, quiet=as_json)
    else:
        wanted = BenchOptions(session, shape, variants, n_prompt, n_gen, repetitions, output, against, cpu_time)
        document = run_bench(wanted, quiet=as_json)
    finish(document, as_json, out, one_line=True)
