"""What `edge-eds compare` does: the model, the collection that fit shares, the methods, and the files at the end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_eds.apps.extras import require
from edge_eds.apps.files import write_text
from edge_eds.apps.llama_log import explained
from edge_eds.apps.making import COLLECTION
from edge_eds.apps.progress import stage_progress
from edge_eds.apps.session import check_chat_format, check_files, find_energies
from edge_eds.apps.settings import SessionOptions, check_seed
from edge_eds.apps.terminal import Terminal
from edge_eds.energy.file import EnergyFile
from edge_eds.errors import InputError
from edge_eds.pipeline.collect import collect
from edge_eds.pipeline.compare import CompareSettings, Material, compare
from edge_eds.pipeline.evaluate import versions
from edge_eds.pipeline.fit import work_folder
from edge_eds.pipeline.methods import METHODS, NEED_ADAPTER, NEED_ENERGIES, NEED_TORCH
from edge_eds.pipeline.methods.answering import RunnerFor
from edge_eds.pipeline.methods.search import SearchSettings
from edge_eds.pipeline.methods.steerer import PromptSteerer, Steerer
from edge_eds.pipeline.prompts import builtin_prompts, read_prompt_set
from edge_eds.pipeline.suites import load_suites
from edge_eds.reports.comparison import table
from edge_eds.reports.comparison_plot import svg
from edge_eds.runtime.batch import BatchRunner
from edge_eds.runtime.energies import ModelFiles


@dataclass(frozen=True)
class CompareOptions:
    """What the command line says; checked when made. methods empty: all that what is given suffices for."""

    session: SessionOptions
    methods: tuple[str, ...]
    suites: tuple[str, ...]
    out: Path
    limit: int | None = None
    trials: int = 32
    max_tokens: int = 32
    prompts: tuple[Path, ...] = ()
    work: Path | None = None
    sft_lora: Path | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        check_seed(self.seed)
        chosen = self.settings().methods
        for needing, lacking, what in (
            (NEED_ENERGIES, self.session.energy == "none", "energies, and --energy none asks for none"),
            (NEED_ADAPTER, self.sft_lora is None, "a fine-tuned adapter; name one with --sft-lora"),
        ):
            without = [name for name in chosen if name in needing and lacking]
            if without:
                raise InputError(f"{' and '.join(without)}: needs {what}")

    def settings(self) -> CompareSettings:
        """For the pipeline."""
        search = SearchSettings(seed=self.seed or 0, trials=self.trials)
        lacking = (NEED_ADAPTER if self.sft_lora is None else ()) + (
            NEED_ENERGIES if self.session.energy == "none" else ()
        )
        by_default = tuple(name for name in METHODS if name not in lacking)
        return CompareSettings(self.methods or by_default, search, self.max_tokens)


def run_compare(options: CompareOptions, quiet: bool) -> dict[str, Any]:
    """Compare, write the files, and show the table unless `quiet`; returns the document.

    Raises:
        EdgeError: what stands in the way, in one line; what was finished is kept.
    """
    settings = options.settings()
    if set(settings.methods) & set(NEED_TORCH):
        require("torch", "train")
    files = options.session.files()
    check_chat_format(check_files(files), options.session.chat_format)
    energy = None
    if set(settings.methods) & set(NEED_ENERGIES):
        path = find_energies(options.session, files)
        energy = None if path is None else EnergyFile.load(path)
    suites = load_suites(options.suites, options.limit, options.seed or 0)
    prompt_set = read_prompt_set(options.prompts) if options.prompts else builtin_prompts()
    terminal = Terminal(answers_on_stderr=quiet)
    with _runners(options.session, files) as runner_for, stage_progress() as tell:
        plain = PromptSteerer("")
        runner = runner_for(plain)
        collection = collect(
            runner,
            prompt_set,
            (options.work or work_folder(runner.fingerprint, prompt_set)) / COLLECTION,
            on_progress=lambda done, total: tell("collect", done, total),
        )
        material = Material(energy, files.lora, options.sft_lora)
        report = compare(runner_for, plain, collection, suites, options.out, settings, material, tell)
    document = {"model": files.name, **report.to_json(), "versions": versions()}
    text = table(report)
    write_text(options.out / "comparison.json", json.dumps(document, indent=1, allow_nan=False) + "\n")
    write_text(options.out / "table.txt", f"{files.name}\n\n{text}\n")
    if {suite.intent for suite in suites} == {"benign", "harmful"}:
        write_text(options.out / "curves.svg", svg(report))
    if not quiet:
        terminal.show(text)
    terminal.remark(f"wrote {options.out / 'table.txt'}, comparison.json and curves.svg beside it")
    return document


@contextmanager
def _runners(options: SessionOptions, files: ModelFiles) -> Iterator[RunnerFor]:
    """The model as it is, loaded once; with another adapter, one at a time."""
    room: dict[str, Any] = {} if options.ctx is None else {"n_ctx": options.ctx}

    def load(adapter: Path | None, stack: ExitStack) -> BatchRunner:
        with explained():
            wanted = files if adapter is None else ModelFiles(files.gguf, adapter)
            return stack.enter_context(
                BatchRunner(wanted, n_threads=options.threads, chat_format=options.chat_format, **room)
            )

    with ExitStack() as own, ExitStack() as other:
        plain = load(None, own)
        extra: tuple[Path, BatchRunner] | None = None

        def runner_for(steerer: Steerer) -> BatchRunner:
            nonlocal extra
            if steerer.adapter is None:
                return plain
            if extra is None or extra[0] != steerer.adapter:
                other.close()
                extra = (steerer.adapter, load(steerer.adapter, other))
            return extra[1]

        yield runner_for
