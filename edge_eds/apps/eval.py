"""`edge-eds eval`: measures refusals on suites of prompts, plain and steered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_eds.apps import options
from edge_eds.errors import ModelError

if TYPE_CHECKING:
    from edge_eds.energy.file import EnergyFile
    from edge_eds.pipeline.eval_report import EvalReport
    from edge_eds.pipeline.evaluate import Progress
    from edge_eds.runtime.energies import ModelFiles

DEFAULT_SUITES = ("pairs", "ordinary")


def command(
    model: options.Model = None,
    suite: Annotated[
        list[str] | None,
        typer.Option(
            "--suite",
            metavar="NAME[=PATH[:INTENT]]",
            help="pairs, ordinary, jailbreaks or multi-turn (built in; the first two if left out), or a CSV, JSON or "
            "JSONL file of prompts. INTENT is benign or harmful, for a file that does not say it. Can be given several "
            "times.",
            show_default=False,
        ),
    ] = None,
    framings: Annotated[
        list[str] | None,
        typer.Option(
            "--framings",
            metavar="all|NAME",
            help="Ask each harmful suite's requests in jailbreak framings as well. Can be given several times.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", help="A random sample of so many prompts of each suite.", show_default=False),
    ] = None,
    max_tokens: options.MaxTokens = 64,
    transcripts: Annotated[
        Path | None,
        typer.Option(
            "--transcripts",
            metavar="PATH",
            help="Write every prompt with its answers to this JSONL file.",
            show_default=False,
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report",
            metavar="FILE.html",
            help="Write a page for people to this file: plots, intervals, examples; it needs nothing else.",
            show_default=False,
        ),
    ] = None,
    lora: options.Lora = None,
    energy: options.Energy = "auto",
    strength: options.Strength = None,
    threads: options.Threads = None,
    seed: options.Seed = None,
    chat_format: options.ChatFormat = None,
    as_json: options.Json = False,
    out: options.Out = None,
) -> None:
    """Measure refusals, plain and steered, on sets of prompts.

    Every prompt is answered greedily with and without steering, and the answers are judged. The sample of --limit is
    drawn with seed 0 unless --seed says otherwise.
    """
    from edge_eds.apps.session import check_files, find_energies
    from edge_eds.apps.settings import Sampling, SessionOptions
    from edge_eds.energy.file import EnergyFile

    session_options = SessionOptions(model, lora, energy, strength, threads, None, chat_format)
    Sampling(max_tokens, 0.0, seed)
    files = session_options.files()
    check_files(files)
    energy_path = find_energies(session_options, files)
    run_eval(
        files,
        None if energy_path is None else EnergyFile.load(energy_path),
        suite or DEFAULT_SUITES,
        limit=limit,
        max_new_tokens=max_tokens,
        strength=strength,
        threads=threads,
        seed=seed or 0,
        json_output=as_json,
        out=out,
        transcripts=transcripts,
        page=report,
        framings=framings or (),
        energy_path=energy_path,
        chat_format=chat_format,
    )


def run_eval(
    model: ModelFiles,
    energy: EnergyFile | None,
    suites: Sequence[str],
    *,
    limit: int | None = None,
    max_new_tokens: int = 64,
    strength: float | None = None,
    threads: int | None = None,
    seed: int = 0,
    json_output: bool = False,
    out: Path | None = None,
    transcripts: Path | None = None,
    page: Path | None = None,
    framings: Sequence[str] = (),
    energy_path: Path | None = None,
    chat_format: str | None = None,
) -> EvalReport:
    """Measure with a progress bar, and print the table, or the JSON document for programs.

    Args:
        energy: None measures the plain model alone. energy_path: where it came from, for the record.
        strength: None means as tuned.
        out: the JSON document goes here as well.
        transcripts: every prompt with its answers goes here, as JSON lines. page: the HTML report goes here.
        framings: names of jailbreak framings in which each harmful suite is asked as well, or "all".

    Raises:
        EdgeError: as load_suites and evaluate; InputError: a file that cannot be written.
    """
    from edge_eds.apps.files import check_writable, write_text
    from edge_eds.apps.llama_log import llama_log
    from edge_eds.apps.terminal import Terminal, finish
    from edge_eds.energy.settings import Steering
    from edge_eds.pipeline.evaluate import EvalSettings, evaluate
    from edge_eds.pipeline.suites import framed, load_suites
    from edge_eds.reports.eval_page import page as html_page
    from edge_eds.reports.evaluation import table

    settings = EvalSettings(
        model=model,
        suites=tuple(framed(load_suites(suites, limit, seed), framings)),
        energy=energy,
        energy_path=energy_path,
        steering=Steering() if strength is None else Steering(strength=strength),
        max_new_tokens=max_new_tokens,
        threads=threads,
        limit=limit,
        seed=seed,
        chat_format=chat_format,
    )
    for path in (out, transcripts, page):
        if path is not None:
            check_writable(path)  # now, and not after an hour of work
    terminal = Terminal(answers_on_stderr=True)
    log = llama_log()
    log.install()
    with _progress_bars() as progress:
        try:
            report = evaluate(settings, progress, lambda runner: terminal.remark(str(runner.memory)))
        except ModelError as error:
            raise log.explain(error) from error
    if transcripts is not None:
        write_text(transcripts, report.transcripts_jsonl())
    if page is not None:
        write_text(page, html_page(report))
    if not json_output:
        Terminal().show(table(report))
    finish(report.to_json(), json_output, out)
    return report


@contextmanager
def _progress_bars() -> Iterator[Progress]:
    """A bar for each suite and variant on stderr, where a person looks at it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        tasks = {}

        def show(suite: str, variant: str, done: int, total: int) -> None:
            name = f"{suite}, {variant}"
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total)
            bars.update(tasks[name], completed=done)

        yield show
