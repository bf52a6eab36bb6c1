"""What collect, train, tune and fit have in common: the model, the prompts, the work folder, and their end.

Takes the options; gives documents for --json and remarks for people. The stages are in edge_eds.pipeline.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edge_eds.apps.files import check_writable, write_bytes
from edge_eds.apps.llama_log import llama_log
from edge_eds.apps.progress import Tell, stage_progress
from edge_eds.apps.session import check_chat_format, check_files, find_energies
from edge_eds.apps.settings import SessionOptions, check_seed
from edge_eds.apps.terminal import Terminal
from edge_eds.energy.file import EnergyFile
from edge_eds.energy.fingerprint import ModelFingerprint
from edge_eds.errors import InputError, ModelError, SettingsError, SteeringError
from edge_eds.pipeline.budget import Budget
from edge_eds.pipeline.collect import Collection, collect
from edge_eds.pipeline.fit import (
    FitResult,
    FitSettings,
    answer_labels,
    fit,
    load_collection,
    load_trained,
    save_energy,
    train_stage,
    tune_stage,
    verdict_stage,
    work_folder,
)
from edge_eds.pipeline.fit_time import fit_time
from edge_eds.pipeline.methods import NEED_ADAPTER, NEED_ENERGIES
from edge_eds.pipeline.methods.fitting import fit_method
from edge_eds.pipeline.methods.method import Context
from edge_eds.pipeline.methods.records import digest, made
from edge_eds.pipeline.methods.search import Bed, SearchSettings
from edge_eds.pipeline.prompts import builtin_prompts, read_prompt_set
from edge_eds.pipeline.train import TrainedEnergies, TrainSettings
from edge_eds.pipeline.tune import TuneSettings
from edge_eds.pipeline.verdict import VerdictSettings
from edge_eds.reports.verdict import front_table, harm_found, nothing_found, verdict_text
from edge_eds.runtime.batch import BatchRunner
from edge_eds.runtime.energies import energy_name, user_energy_folder
from edge_eds.runtime.hub import snapshot_folder

_HOW_TO_USE = {
    ".energy.onnx": "use it with --energy {path}",
    ".control-vector.gguf": "llama.cpp takes it with --control-vector {path}",
    ".interventions.npz": "load_steerer of edge_eds.pipeline.methods.steerer reads it",
    ".system.txt": 'use it with --system "$(cat {path})"',
}  # by the kind of file that a method ends with (methods/steerer.py)
COLLECTION = "collection"  # of the work folder, as fit lays it out


@dataclass(frozen=True)
class MakingOptions:
    """What the command line says about making energies; checked when made.

    session: the model; its energies and strength play no part.
    prompts: files of prompts; none means the built-in ones.
    work: None means a folder of the user's cache.
    out: where the energy file goes; None means beside the model.
    budget: the time that fit may take, already running; None lets it take what it needs.
    max_lost: share of true refusals that steering may lose on the prompts it is tuned on; None is the safe default.
    """

    session: SessionOptions
    prompts: Sequence[Path] = ()
    work: Path | None = None
    out: Path | None = None
    seed: int | None = None
    budget: Budget | None = None
    max_lost: float | None = None

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if self.max_lost is not None and not 0 <= self.max_lost <= 1:
            raise SettingsError(f"--max-lost is {self.max_lost:g}, expected a share from 0 to 1, such as 0.02")


class Maker:
    """One model on the way to its energies; the weights are loaded when a stage needs them.

    Raises:
        EdgeError: the model, the prompts or the place for the energy file cannot be used.
    """

    def __init__(self, options: MakingOptions) -> None:
        self.options = options
        self.files = options.session.files()
        check_chat_format(check_files(self.files), options.session.chat_format)
        self.prompt_set = read_prompt_set(options.prompts) if options.prompts else builtin_prompts()
        self.fingerprint = ModelFingerprint.from_gguf(self.files.gguf, self.files.lora)
        # A fit within a budget collects a part of the prompts, and keeps apart from one that collects all.
        within = "" if options.budget is None else f"{options.budget.seconds:.0f}s"
        self.folder = options.work or work_folder(self.fingerprint, self.prompt_set, within)
        seed = options.seed or 0
        tune = TuneSettings(seed=seed)
        if options.max_lost is not None:
            tune = replace(tune, max_lost=options.max_lost, won_back=0.0)
        self.settings = FitSettings(
            train=TrainSettings(seed=seed), tune=tune, verdict=VerdictSettings(seed=seed)
        )
        self.terminal = Terminal(answers_on_stderr=True)
        if options.out is not None:
            check_writable(options.out)  # now, and not after an hour of work

    def collect(self) -> dict[str, Any]:
        """Ask the model the prompts; returns the document."""
        with self._runner() as runner, self._progress() as tell:
            collection = self._collected(runner, tell)
        document = {**self._document(), "prompt_set": self.prompt_set.hash, "labels": answer_labels(collection)}
        self.terminal.remark(
            "\n".join([f"{len(collection.examples)} prompts in {self.folder}", *_label_lines(document["labels"])])
        )
        return document

    def train(self) -> dict[str, Any]:
        """Train on what was collected; returns the document."""
        collection = load_collection(self.folder / COLLECTION)
        with self._progress() as tell:
            trained = train_stage(
                collection,
                self.folder,
                self.settings.train,
                lambda done, total, what: tell(f"train: {what}", done, total),
            )
        self.terminal.remark(_trained_line(trained))
        return {
            **self._document(),
            "trained": str(self.folder),
            "heads": list(trained.heads),
            "gate_layers": list(trained.gate.layers),
            "steer_layers": list(trained.steer_layers),
            "auc": trained.scores,
        }

    def tune(self) -> dict[str, Any]:
        """Find out how to steer with what was trained, and write the energy file; returns the document."""
        collection = load_collection(self.folder / COLLECTION)
        trained = load_trained(self.folder)
        with self._runner() as runner, self._progress() as tell:
            result = tune_stage(
                runner,
                collection,
                trained,
                self.folder,
                self.settings,
                lambda what: tell(f"tune: {what}", 0, 0),
            )
            result = verdict_stage(
                runner, self.prompt_set, result, self.settings, lambda done, total: tell("verdict", done, total)
            )
        return self._finish(result)

    def fit(self) -> dict[str, Any]:
        """All stages, and the energy file; returns the document."""
        budget = self.options.budget
        if budget is None:
            time = "as long as everything takes"
        elif budget.flexible:
            time = fit_time(self.files.gguf, self.options.session.threads)
        else:
            time = f"at most {budget}"
        self.terminal.remark(f"{self.files.name}: {time}; what is done is kept in {self.folder}")
        with self._runner() as runner, self._progress() as tell:
            result = fit(runner, self.prompt_set, self.folder, self.settings, tell, budget)
        return self._finish(result)

    def fit_method(self, name: str) -> dict[str, Any]:
        """Another method in place of ours, searched as `compare` does; returns the document.

        Raises:
            EdgeError: as fit; InputError: what the method needs is not there.
        """
        if name in NEED_ADAPTER:
            raise InputError(
                f"{name} is fine-tuned, not fitted: models/train_sft_lora.py shows how, `edge-eds compare --sft-lora` "
                "measures it"
            )
        given = find_energies(self.options.session, self.files) if name in NEED_ENERGIES else None
        search = SearchSettings(seed=self.options.seed or 0)
        if self.options.max_lost is not None:
            search = replace(search, max_lost=self.options.max_lost)
        own = made(self.folder / "methods")
        with self._runner() as runner, self._progress() as tell:
            collection = self._collected(runner, tell)
            context = Context(
                collection,
                own,
                None if given is None else EnergyFile.load(given),
                self.files.lora,
                seed=search.seed,
                on_progress=lambda done, total, what: tell(f"{name}, made: {what}", done, total),
            )
            # A search with other settings is another search.
            folder = own / f"{name}-{digest(asdict(search))[:12]}"
            fitted = fit_method(name, context, Bed.of(collection, search), lambda _: runner, folder, tell)
        if fitted.file is None:
            raise SteeringError(
                f"{self.files.name}: {name} mends nothing within what may be lost ({search.max_lost:.0%} of true "
                "refusals); nothing is written"
            )
        kind = fitted.file.name.removeprefix("chosen")
        suffix = kind if kind.startswith(f".{name}.") else f".{name}{kind}"
        path = self.options.out or Path(f"{(self.files.lora or self.files.gguf).stem}{suffix}")
        write_bytes(path, fitted.file.read_bytes())
        self.terminal.remark(f"wrote {path}; {_HOW_TO_USE[kind].format(path=path)}")
        return {**self._document(), "method": name, "file": str(path), "search": fitted.search.to_json()}

    def _collected(self, runner: BatchRunner, tell: Tell) -> Collection:
        return collect(
            runner,
            self.prompt_set,
            self.folder / COLLECTION,
            self.settings.collect,
            lambda done, total: tell("collect", done, total),
        )

    @contextmanager
    def _runner(self) -> Iterator[BatchRunner]:
        log = llama_log()
        log.install()
        wanted = self.options.session
        # Without --ctx the runner decides how much room a prompt and its answer get.
        room: dict[str, Any] = {} if wanted.ctx is None else {"n_ctx": wanted.ctx}
        try:
            runner = BatchRunner(self.files, n_threads=wanted.threads, chat_format=wanted.chat_format, **room)
        except ModelError as error:
            raise log.explain(error) from error
        with runner:
            self.terminal.remark(str(runner.memory))
            yield runner

    @contextmanager
    def _progress(self) -> Iterator[Tell]:
        try:
            with stage_progress() as tell:
                yield tell
        except KeyboardInterrupt:
            self.terminal.remark("stopped; the same command goes on where it was")
            raise

    def _finish(self, result: FitResult) -> dict[str, Any]:
        if result.energy is None:
            raise SteeringError(nothing_found(self.files.name, result.labels, result.report.heads))
        for head in result.report.heads:
            self.terminal.remark(front_table(head))
        if result.verdict.harms:
            raise SteeringError(harm_found(self.files.name, result.verdict))
        name = energy_name(self.files.gguf, self.files.lora)
        beside, in_data_folder = (self.files.lora or self.files.gguf).parent / name, user_energy_folder() / name
        if snapshot_folder(beside) is not None:
            beside = in_data_folder  # a hub's cache is not ours, and the next version of the model has another folder
        out = self.options.out
        if out is None and self.options.session.model is None:
            out = Path(name)  # the default model's energies came with it, and stay as they are
        path = save_energy(result.energy, self.files, out, beside, in_data_folder)
        self.terminal.remark(verdict_text(result.verdict))
        found_alone = path in (beside, in_data_folder)
        self.terminal.remark(f"wrote {path}" + ("" if found_alone else f"; use it with --energy {path}"))
        report, verdict = asdict(result.report), result.verdict.to_json()
        return {**self._document(), "energy": str(path), "report": report, "verdict": verdict}

    def _document(self) -> dict[str, Any]:
        return {"model": self.files.name, "work": str(self.folder)}


def _label_lines(labels: dict[str, dict[str, int]]) -> list[str]:
    return [
        f"  {intent:9} " + ", ".join(f"{n} {label}" for label, n in sorted(count.items()))
        for intent, count in labels.items()
    ]


def _trained_line(trained: TrainedEnergies) -> str:
    gate = ", ".join(map(str, trained.gate.layers))
    best = ", ".join(
        f"E_{head} up to {max(trained.scores[head].values()):.2f}" for head in trained.heads if trained.scores[head]
    )
    return f"gate on layers {gate}: AUC {trained.scores['gate']['auc']:.2f}; {best or 'no head to steer with'}"
