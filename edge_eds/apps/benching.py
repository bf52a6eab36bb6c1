"""What `edge-eds bench` does: the model or the shape, the measurement, and the result as text.

Before anything is measured the threads and the load of the machine are stated. Leaves out measuring (pipeline/bench)
and the formats (reports/bench.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_eds.apps.files import check_writable, read_text, write_text
from edge_eds.apps.llama_log import explained
from edge_eds.apps.progress import stage_progress
from edge_eds.apps.session import check_chat_format, check_files
from edge_eds.apps.settings import SessionOptions
from edge_eds.apps.terminal import Terminal
from edge_eds.energy.file import EnergyFile
from edge_eds.energy.fingerprint import ModelFingerprint
from edge_eds.errors import FingerprintError, InputError, MissingEnergyError, SettingsError
from edge_eds.files import size_text
from edge_eds.pipeline.bench.answers import AnswersSettings, measure_answers
from edge_eds.pipeline.bench.bench import BenchSettings, bench, names, sizes
from edge_eds.pipeline.bench.contexts import BenchLlama
from edge_eds.pipeline.bench.growth import GrowthSettings, measure_growth
from edge_eds.pipeline.bench.lineup import VARIANTS
from edge_eds.pipeline.bench.machine import load_now, load_warning, n_cpus
from edge_eds.pipeline.bench.runner import Tell
from edge_eds.pipeline.bench.shape_file import shape_file
from edge_eds.pipeline.bench.shapes import SHAPES
from edge_eds.pipeline.bench.start import StartSettings, measure_start
from edge_eds.reports.answers import ANSWERS_FORMATS
from edge_eds.reports.bench import FORMATS, comparison
from edge_eds.reports.growth import GROWTH_FORMATS
from edge_eds.reports.growth_plot import svg
from edge_eds.reports.start import START_FORMATS
from edge_eds.runtime.energies import ModelFiles, load_energies

_RANDOM = "random, of the default's form"


@dataclass(frozen=True)
class BenchOptions:
    """What the command line says; checked when made."""

    session: SessionOptions
    shape: str | None
    variants: str
    n_prompt: str
    n_gen: str
    repetitions: int
    output: str
    against: Path | None
    cpu_time: bool

    def __post_init__(self) -> None:
        if self.shape is not None and self.shape not in SHAPES:
            raise SettingsError(f"--shape is {self.shape}, expected {', '.join(SHAPES)}")
        check_format(self.output, FORMATS)
        self.settings()

    def settings(self) -> BenchSettings:
        """For the pipeline."""
        return BenchSettings(
            names(self.variants) if self.variants else VARIANTS,
            sizes("-p", self.n_prompt),
            sizes("-n", self.n_gen),
            self.repetitions,
        )


def run_bench(options: BenchOptions, quiet: bool) -> dict[str, Any]:
    """Measure, and show the result unless `quiet`; returns the document.

    Raises:
        EdgeError: what stands in the way, in one line.
    """
    earlier = None if options.against is None else read_result(options.against)
    terminal = Terminal(answers_on_stderr=quiet)
    files = options.session.files() if options.shape is None else _shape(options.shape, terminal)
    check_files(files)
    fingerprint = ModelFingerprint.from_gguf(files.gguf, files.lora)
    own = _energies(options.session.energy, files)
    settings, n_threads = options.settings(), options.session.threads or n_cpus()
    say_conditions(terminal, n_threads)
    with explained():
        llm = BenchLlama(
            files.gguf,
            energy=None,
            lora_path=None if files.lora is None else str(files.lora),
            n_ctx=settings.n_ctx,
            n_threads=n_threads,
            n_threads_batch=n_threads,
            verbose=False,
        )
    llm.cpu_time = options.cpu_time
    try:
        with stage_progress() as tell:
            report = bench(llm, fingerprint, own and own[1], settings, n_threads, _staged(tell))
    finally:
        llm.close()
    say_load(terminal, report.load.during, "during the measurement")
    for variant, reason in report.left_out.items():
        terminal.remark(f"{variant} is left out: {reason}")
    document = {"model": files.name, "energies": own[0].name if own else _RANDOM, **report.to_json()}
    if not quiet:
        terminal.show(FORMATS[options.output](document))
    if earlier is not None:  # beside a table; beside what programs read it would be in the way
        say = terminal.show if options.output == "md" else terminal.remark
        say("\n" + comparison(document, earlier))
    return document


def run_growth(
    threads: int | None, repetitions: int, output: str, plot: Path | None, cpu_time: bool, quiet: bool
) -> dict[str, Any]:
    """Measure how the cost of steering grows, and show and draw it; returns the document.

    Raises:
        EdgeError: what stands in the way, in one line.
    """
    check_format(output, GROWTH_FORMATS)
    if plot is not None:
        check_writable(plot)
    n_threads = threads or n_cpus()
    settings = GrowthSettings(repetitions, n_threads, cpu_time)
    terminal = Terminal(answers_on_stderr=quiet)
    say_conditions(terminal, n_threads)
    with explained(), stage_progress() as tell:
        report = measure_growth(settings, _staged(tell))
    say_load(terminal, report.load.during, "during the measurement")
    document = report.to_json()
    if plot is not None:
        write_text(plot, svg(document))
    if not quiet:
        terminal.show(GROWTH_FORMATS[output](document))
    return document


def run_answers(
    session: SessionOptions, n_prompts: int, n_new: str, repetitions: int, output: str, quiet: bool
) -> dict[str, Any]:
    """Measure how fast many prompts are answered, and show it; returns the document.

    Raises:
        EdgeError: what stands in the way, in one line.
    """
    check_format(output, ANSWERS_FORMATS)
    n_threads, lengths = session.threads or n_cpus(), sizes("-n", n_new)
    if len(lengths) != 1:
        raise SettingsError(f"-n is {n_new}, expected one length with --answers")
    settings = AnswersSettings(n_prompts, lengths[0], repetitions, n_threads)
    files = session.files()
    check_chat_format(check_files(files), session.chat_format)
    own = _energies(session.energy, files)
    terminal = Terminal(answers_on_stderr=quiet)
    say_conditions(terminal, n_threads)
    if own is None:
        terminal.remark("there are no energies of this model, so that nothing is measured with steering")
    with explained(), stage_progress() as tell:
        report = measure_answers(files, own and own[1], settings, session.chat_format, _staged(tell))
    say_load(terminal, report.load.during, "during the measurement")
    document = {"model": files.name, "energies": own and own[0].name, **report.to_json()}
    if not quiet:
        terminal.show(ANSWERS_FORMATS[output](document))
    return document


def run_start(session: SessionOptions, repetitions: int, output: str, quiet: bool) -> dict[str, Any]:
    """Measure what starting costs, and show it; returns the document.

    Raises:
        EdgeError: what stands in the way, in one line.
    """
    check_format(output, START_FORMATS)
    settings = StartSettings(repetitions, session.threads or n_cpus())
    files = session.files()
    check_chat_format(check_files(files), session.chat_format)
    own = _energies(session.energy, files)
    terminal = Terminal(answers_on_stderr=quiet)
    say_conditions(terminal, settings.n_threads)
    with stage_progress() as tell:
        report = measure_start(files, own and own[0], settings, session.chat_format, _staged(tell))
    say_load(terminal, report.load.during, "during the measurement")
    document = {"model": files.name, **report.to_json()}
    if not quiet:
        terminal.show(START_FORMATS[output](document))
    return document


def say_conditions(terminal: Terminal, n_threads: int) -> None:
    """Threads and load, before the work."""
    terminal.remark(f"measured with {n_threads} of {n_cpus()} CPUs")
    if n_threads > n_cpus():
        terminal.remark("more threads than CPUs: they wait for one another, and the numbers say little")
    say_load(terminal, load_now(), "now")


def say_load(terminal: Terminal, cpus: float | None, when: str) -> None:
    """A warning where the machine is not ours alone."""
    warning = load_warning(cpus, when)
    if warning is not None:
        terminal.remark(warning, style="yellow")


def check_format(output: str, formats: Mapping[str, object]) -> None:
    """SettingsError unless the format is known."""
    if output not in formats:
        raise SettingsError(f"-o is {output}, expected {', '.join(formats)}")


def read_result(path: Path) -> dict[str, Any]:
    """A document of an earlier bench.

    Raises:
        InputError: the file is none.
    """
    try:
        document = json.loads(read_text(path))
        comparison(document, document)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: is no result of `edge-eds bench --json`") from error
    return dict(document)


def _staged(tell: Callable[[str, int, int], None]) -> Tell:
    return lambda what, done, total: tell(f"bench: {what}", done, total)


def _shape(name: str, terminal: Terminal) -> ModelFiles:
    path, written = shape_file(SHAPES[name])
    if written:
        size = size_text(path.stat().st_size)
        terminal.remark(f"wrote {path}, {size} of random weights; it is kept for the next time")
    return ModelFiles(path)


def _energies(wanted: str, files: ModelFiles) -> tuple[Path, EnergyFile] | None:
    """The model's own energies and where they are; None where there are none, or none are wanted."""
    if wanted == "none":
        return None
    try:
        return load_energies(wanted, files.gguf, files.lora)
    except (MissingEnergyError, FingerprintError):
        if wanted != "auto":
            raise
        return None
