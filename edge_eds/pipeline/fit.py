"""A model -> its energy file: collect, train and tune, each stage in a file of its own, and a verdict on the result.

Takes a model and a folder to work in; leaves the energy file. A run that was killed goes on where it was: the
shards of the collection are kept as they come, trained energies as soon as they are trained, and what tuning has
tried. Leaves out measuring on the user's own suites (evaluate.py).

    FOLDER/collection/               collect.py
    FOLDER/trained-RANK.energy.onnx  all trained heads, with the gate closed: these files steer nothing
    FOLDER/trials.jsonl              what tuning has tried so far (memo.py)
    FOLDER/tune.json                 what tuning chose, and from what
"""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from platformdirs import user_cache_path

from edge_eds.energy.file import EnergyFile
from edge_eds.energy.fingerprint import ModelFingerprint
from edge_eds.energy.network import GATE_HEADS, EnergyModel, LayerEnergy
from edge_eds.energy.settings import SteeringSpec
from edge_eds.errors import EnergyFileError, InputError
from edge_eds.files import write_whole
from edge_eds.pipeline.budget import Budget
from edge_eds.pipeline.collect import (
    Collection,
    CollectSettings,
    collect,
    collected_settings,
    load_collection,
    wanted_prompts,
)
from edge_eds.pipeline.gate_front import OPEN
from edge_eds.pipeline.memo import Memo
from edge_eds.pipeline.prompts import PromptSet
from edge_eds.pipeline.train import Labels, TrainedEnergies, TrainSettings, head_tasks, train
from edge_eds.pipeline.tune import TuneReport, TuneSettings, tune
from edge_eds.pipeline.verdict import Verdict, VerdictSettings, reach_verdict
from edge_eds.runtime.batch import BatchRunner
from edge_eds.runtime.energies import ModelFiles

TRAINED_FILES = "trained-*.energy.onnx"
TRIALS_FILE = "trials.jsonl"
TUNE_FILE = "tune.json"
_N_TIMED = 32  # prompts that the model's speed is measured by
Progress = Callable[[str, int, int], None]  # stage or what comes next, done, in all (0: not known)


@dataclass(frozen=True)
class FitSettings:
    """The settings of the stages."""

    collect: CollectSettings = field(default_factory=CollectSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    tune: TuneSettings = field(default_factory=TuneSettings)
    verdict: VerdictSettings = field(default_factory=VerdictSettings)


@dataclass(frozen=True)
class FitResult:
    """energy: what was fitted, or None where nothing was found that helps; report: what tuning found. labels: the
    plain model's own answers, {intent: {label: n}}. verdict: on prompts never seen; empty where there is no energy.
    """

    energy: EnergyFile | None
    report: TuneReport
    labels: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    verdict: Verdict = field(default_factory=Verdict)


def work_folder(fingerprint: ModelFingerprint, prompt_set: PromptSet, within: str = "") -> Path:
    """Where `fit` works unless it is told: a folder in the user's cache for this model, these prompts and this time."""
    name = hashlib.sha256(f"{fingerprint.to_json()}\n{prompt_set.hash}\n{within}".encode()).hexdigest()[:16]
    return Path(user_cache_path("edge-eds", appauthor=False)) / "fit" / name


def fit(
    runner: BatchRunner,
    prompt_set: PromptSet,
    folder: Path,
    settings: FitSettings | None = None,
    progress: Progress | None = None,
    budget: Budget | None = None,
) -> FitResult:
    """All stages.

    Args:
        budget: the time for all of them, already running; None leaves the settings as they are.

    Raises:
        InputError: what lies in the folder was made from another model, other prompts or other settings.
        SettingsError: a budget that is too small for this model on this machine.
    """
    settings = settings or FitSettings()

    def tell(stage: str, done: int = 0, total: int = 0) -> None:
        if progress:
            progress(stage, done, total)

    speed = 0.0  # answers a second
    if budget is not None:
        speed = _answers_per_second(runner, prompt_set, settings.collect)
        budget = budget.sufficient(speed)
        begun = collected_settings(folder / "collection")
        n_prompts = budget.n_prompts(speed) if begun is None else begun.max_prompts
        settings = replace(settings, collect=replace(settings.collect, max_prompts=n_prompts))
    collection = collect(
        runner,
        prompt_set,
        folder / "collection",
        settings.collect,
        lambda done, total: tell("collect", done, total),
    )
    if set(head_tasks(Labels.of(collection))) == {"harm"}:  # the model refuses next to nothing
        return FitResult(None, TuneReport(None), answer_labels(collection))
    trained = train_stage(
        collection, folder, settings.train, lambda done, total, what: tell(f"train: {what}", done, total)
    )
    if budget is not None:
        settings = replace(settings, tune=budget.tune(settings.tune, speed))
    result = tune_stage(runner, collection, trained, folder, settings, lambda what: tell(f"tune: {what}"))
    if budget is not None:
        settings = replace(settings, verdict=budget.verdict(settings.verdict, speed))
    return verdict_stage(runner, prompt_set, result, settings, lambda done, total: tell("verdict", done, total))


def _answers_per_second(runner: BatchRunner, prompt_set: PromptSet, settings: CollectSettings) -> float:
    """How fast this model answers such prompts here."""
    some = wanted_prompts(prompt_set, replace(settings, max_prompts=_N_TIMED))
    tokens = [runner.chat_tokens(prompt.text) for prompt in some]
    began = time.perf_counter()
    runner.generate(tokens, max_new_tokens=settings.max_new_tokens)
    return len(tokens) / (time.perf_counter() - began)


def train_stage(
    collection: Collection,
    folder: Path,
    settings: TrainSettings,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> TrainedEnergies:
    """Train, or read what an earlier run with the same settings trained.

    Raises:
        InputError: too few examples of a class; a folder that cannot be written.
    """
    made_from = {"settings": _plain(asdict(settings)), "labels": _labels_hash(collection)}
    found = _trained_files(folder)
    if _are_complete(found) and all(
        file.scores["made_from"] == made_from and file.fingerprint == collection.fingerprint for file in found.values()
    ):
        return _trained(found)
    trained = train(collection, settings, on_progress)
    spec = SteeringSpec(
        gate=replace(trained.gate, benign=-OPEN, harmful=OPEN),
        layers=trained.steer_layers,
        heads=trained.heads,
        steps=1,
        step_size=1e-3,
    )
    scores = {
        "made_from": made_from,
        "ranks": list(trained.by_rank),
        "auc": trained.scores,
        "gate": [round(score, 4) for score in trained.gate_scores.tolist()],
    }
    for rank, energies in trained.by_rank.items():
        EnergyFile(
            collection.fingerprint,
            spec,
            energies,
            prompt_set_hash=collection.prompt_set_hash,
            seed=settings.seed,
            scores=scores,
            versions=versions(),
        ).save(folder / TRAINED_FILES.replace("*", str(rank)))
    return trained


def load_trained(folder: Path) -> TrainedEnergies:
    """What `train` left in a folder.

    Raises:
        InputError: nothing, or not the output of `train`.
    """
    try:
        found = _trained_files(folder)
    except EnergyFileError as error:
        raise InputError(f"{error}; run `edge-eds train` again") from error
    if not _are_complete(found):
        raise InputError(f"{folder}: holds no trained energies ({TRAINED_FILES}); run `edge-eds train` first")
    return _trained(found)


def tune_stage(
    runner: BatchRunner,
    collection: Collection,
    trained: TrainedEnergies,
    folder: Path,
    settings: FitSettings,
    on_progress: Callable[[str], None] | None = None,
) -> FitResult:
    """Tune, and put the energy file together: the heads that steering uses, and nothing else."""
    made_from = [collection.fingerprint.to_json(), _labels_hash(collection), _plain(asdict(settings.train))]
    memo = Memo(folder / TRIALS_FILE, [*made_from, settings.tune.threshold_quantile])
    report = tune(runner, collection, trained, settings.tune, on_progress, memo)
    write_whole(folder / TUNE_FILE, (json.dumps(_plain(asdict(report)), indent=1) + "\n").encode())
    labels = answer_labels(collection)
    if report.spec is None:
        return FitResult(None, report, labels)
    scores = {
        "auc": trained.scores,
        "tuned": {
            head.head: {
                "mended": head.chosen.mended,
                "lost": head.chosen.lost,
                "n_wrong": head.n_wrong,
                "n_right": head.n_right,
            }
            for head in report.heads
        },
    }
    energy = EnergyFile(
        collection.fingerprint,
        report.spec,
        _used(trained.by_rank[report.rank], report.spec),
        prompt_set_hash=collection.prompt_set_hash,
        seed=settings.train.seed,
        scores=_plain(scores),
        versions=versions(),
    )
    return FitResult(energy, report, labels)


def verdict_stage(
    runner: BatchRunner,
    prompt_set: PromptSet,
    result: FitResult,
    settings: FitSettings,
    on_progress: Callable[[int, int], None] | None = None,
) -> FitResult:
    """The same result with what it does on prompts never seen; the energy file carries the numbers."""
    if result.energy is None:
        return result
    verdict = reach_verdict(runner, result.energy, prompt_set, settings.verdict, on_progress)
    rates = {
        kind: {
            variant: measure.rates["refusal"].to_json()
            for variant, measure in (("plain", report.plain), ("steered", report.steered))
            if measure is not None
        }
        | {"n": report.n}
        for kind, report in verdict.reports.items()
    }
    energy = replace(result.energy, scores={**result.energy.scores, "verdict": rates})
    return replace(result, energy=energy, verdict=verdict)


def answer_labels(collection: Collection) -> dict[str, dict[str, int]]:
    """{intent: {label: number of answers}}."""
    counts: dict[str, Counter[str]] = {}
    for example in collection.examples:
        counts.setdefault(example.intent, Counter())[example.label] += 1
    return {intent: dict(count) for intent, count in counts.items()}


def save_energy(
    energy: EnergyFile, model: ModelFiles, out: Path | None, beside: Path, fallback: Path
) -> Path:
    """Write the energy file to `out`, else beside the model, else (if that cannot be written) to `fallback`."""
    if out is not None:
        energy.save(out)
        return out
    try:
        energy.save(beside)
        return beside
    except EnergyFileError:
        fallback.parent.mkdir(parents=True, exist_ok=True)
        energy.save(fallback)
        return fallback


def versions() -> dict[str, str]:
    """What made an energy file: {package: version}."""
    return {"python": platform.python_version()} | {
        name: version(name) for name in ("edge-eds", "llama-cpp-python", "numpy", "onnx", "torch")
    }


def _used(energies: EnergyModel, spec: SteeringSpec) -> EnergyModel:
    layers: dict[int, LayerEnergy] = {}
    gate_layers = spec.gate.layers if spec.gate else ()
    for il, layer in energies.layers.items():
        wanted = {*(spec.heads if il in spec.layers else ()), *(GATE_HEADS if il in gate_layers else ())}
        heads = {name: head for name, head in layer.heads.items() if name in wanted}
        if heads:
            layers[il] = LayerEnergy(il, layer.subspace, heads)
    return EnergyModel(energies.n_embd, layers)


def _trained_files(folder: Path) -> dict[int, EnergyFile]:
    """What a folder has of TRAINED_FILES, by rank."""
    prefix, suffix = TRAINED_FILES.split("*")
    ranks = {path: path.name.removeprefix(prefix).removesuffix(suffix) for path in sorted(folder.glob(TRAINED_FILES))}
    return {int(rank): EnergyFile.load(path) for path, rank in ranks.items() if rank.isdecimal()}


def _are_complete(files: Mapping[int, EnergyFile]) -> bool:
    """Whether they are all of one training."""
    return bool(files) and all(set(file.scores.get("ranks", ())) == set(files) for file in files.values())


def _trained(files: Mapping[int, EnergyFile]) -> TrainedEnergies:
    first = next(iter(files.values()))
    spec, scores = first.spec, first.scores
    assert spec.gate is not None
    by_rank = {rank: energies for rank in scores["ranks"] if (energies := files[rank].energies) is not None}
    gate = replace(spec.gate, benign=0.0, harmful=0.0)
    return TrainedEnergies(by_rank, gate, spec.heads, spec.layers, scores["auc"], np.array(scores["gate"]))


def _labels_hash(collection: Collection) -> str:
    lines = [f"{example.id} {example.split} {example.label}" for example in collection.examples]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _plain(value: Any) -> Any:
    """The same as JSON would give it back: tuples as lists, keys as text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


__all__ = [
    "FitResult",
    "FitSettings",
    "answer_labels",
    "fit",
    "load_collection",
    "load_trained",
    "save_energy",
    "train_stage",
    "tune_stage",
    "verdict_stage",
    "work_folder",
]
