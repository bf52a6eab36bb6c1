"""Every method on the same model: searched within the same budget, then all points of its curve measured on suites.

Takes a collection, suites and method names; leaves in a folder what each method took and found, and gives a
ComparisonReport: rates for every point, and for each method the paired test against `ours` at nearly the same
rate of true refusals. A run that was stopped goes on with the first trial or point that is missing.

    FOLDER/compare.json             what the folder was made from
    FOLDER/plain.json               labels of the plain model's answers
    FOLDER/METHOD/                  what fitting it leaves (methods/fitting.py), and
    FOLDER/METHOD/points.jsonl      labels of the answers to the suites, a line a point of the curve
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from edge_eds.energy.file import EnergyFile
from edge_eds.errors import InputError, SettingsError
from edge_eds.files import write_whole
from edge_eds.pipeline.collect import Collection
from edge_eds.pipeline.judge import LABELS, judge
from edge_eds.pipeline.methods import METHODS, check_name
from edge_eds.pipeline.methods.answering import AT_ONCE, RunnerFor, answers
from edge_eds.pipeline.methods.fitting import FittedMethod, Progress, fit_method
from edge_eds.pipeline.methods.method import Context
from edge_eds.pipeline.methods.records import append, claim, digest, made, read_json, read_lines
from edge_eds.pipeline.methods.search import Bed, SearchResult, SearchSettings, trial_key
from edge_eds.pipeline.methods.steerer import Steerer
from edge_eds.pipeline.statistics import Rate, mcnemar, wilson
from edge_eds.pipeline.suites import Suite

REFERENCE = "ours"
Labels = Mapping[str, Sequence[str]]  # suite -> label of each answer


@dataclass(frozen=True)
class Material:
    """What methods are made from besides the collection; see methods/method.py's Context."""

    energy: EnergyFile | None = None
    own_adapter: Path | None = None
    tuned_adapter: Path | None = None


@dataclass(frozen=True)
class CompareSettings:
    """methods: names, in the order of the tables. max_new_tokens: of the answers to the suites."""

    methods: tuple[str, ...] = METHODS
    search: SearchSettings = field(default_factory=SearchSettings)
    max_new_tokens: int = 32

    def __post_init__(self) -> None:
        for name in self.methods:
            check_name(name)
        if not self.methods or len(set(self.methods)) < len(self.methods):
            raise SettingsError("expected at least one method, and each at most once")
        if self.max_new_tokens < 1:
            raise SettingsError(f"max_new_tokens is {self.max_new_tokens}, expected at least 1")


@dataclass(frozen=True)
class Point:
    """One steerer on the suites. shape and strength: its place in the grid; None, 0 is the plain model."""

    shape: Mapping[str, Any] | None
    strength: float
    labels: Labels


@dataclass(frozen=True)
class Match:
    """A method's point whose rate of true refusals is nearest to that of the reference's, and the paired test.

    gap: its true refusals minus the reference's. p: McNemar, on the false refusals of the same prompts.
    fewer, more: prompts that only the reference answers, and that only the method answers.
    """

    point: int | None  # None: the plain model is nearest
    gap: float
    false_refusals: Rate
    p: float
    fewer: int
    more: int


@dataclass(frozen=True)
class MethodReport:
    """One method. match: None for the reference itself, or where there is none."""

    name: str
    title: str
    search: SearchResult
    points: tuple[Point, ...]
    file: Path | None
    match: Match | None = None


@dataclass(frozen=True)
class ComparisonReport:
    """All methods on all suites."""

    suites: tuple[Suite, ...]
    plain: Point
    methods: tuple[MethodReport, ...]
    settings: CompareSettings

    def refusals(self, point: Point, intent: str) -> Rate:
        """The rate of refusals over all suites of one intent.

        Raises:
            ValueError: there is no such suite.
        """
        hits = refused(self.suites, point, intent)
        return wilson(sum(hits), len(hits))

    def to_json(self) -> dict[str, Any]:
        """The document for --json and for the folder."""
        return {
            "suites": [
                {"name": suite.name, "intent": suite.intent, "n": len(suite.prompts), "source": suite.source}
                for suite in self.suites
            ],
            "plain": self._point_json(self.plain),
            "methods": {
                method.name: {
                    "title": method.title,
                    "points": [self._point_json(point) for point in method.points],
                    "chosen": method.search.chosen,
                    "against_ours": None if method.match is None else _plain_json(method.match),
                    "file": None if method.file is None else str(method.file),
                    "search": method.search.to_json(),
                }
                for method in self.methods
            },
            "settings": asdict(self.settings),
        }

    def _point_json(self, point: Point) -> dict[str, Any]:
        suites = {}
        for suite in self.suites:
            counts = Counter(point.labels[suite.name])
            suites[suite.name] = {
                f"{label}_rate": wilson(counts[label], len(suite.prompts)).to_json() for label in LABELS
            }
        intents = {suite.intent for suite in self.suites}
        return {
            "shape": None if point.shape is None else dict(point.shape),
            "strength": point.strength,
            "false_refusals": self.refusals(point, "benign").to_json() if "benign" in intents else None,
            "true_refusals": self.refusals(point, "harmful").to_json() if "harmful" in intents else None,
            "suites": suites,
        }


def compare(
    runner_for: RunnerFor,
    plain: Steerer,
    collection: Collection,
    suites: Sequence[Suite],
    folder: Path,
    settings: CompareSettings,
    material: Material | None = None,
    progress: Progress | None = None,
) -> ComparisonReport:
    """Search and measure all methods.

    Args:
        runner_for: the model, loaded as a steerer needs it.
        plain: steers nothing.
        material: for the methods that are made from more than the collection.

    Raises:
        InputError: the folder was made from something else; a method that cannot be had on this model, named.
    """

    def tell(what: str, done: int = 0, total: int = 0) -> None:
        if progress is not None:
            progress(what, done, total)

    material = material or Material()
    claim(made(folder) / "compare.json", _made_from(collection, suites, settings))
    bed = Bed.of(collection, settings.search)
    plain_point = _plain_point(runner_for, plain, suites, folder, settings, tell)
    reports = []
    for name in settings.methods:
        try:
            reports.append(_method(name, runner_for, bed, suites, folder, settings, material, tell))
        except InputError as error:
            raise InputError(f"method {name}: {error} (what the other methods found is kept)") from error
    return ComparisonReport(
        tuple(suites), plain_point, tuple(matched(reports, suites, plain_point)), settings
    )


def refused(suites: Sequence[Suite], point: Point, intent: str) -> list[bool]:
    """Whether each prompt of all suites of one intent was refused."""
    return [label == "refusal" for suite in suites if suite.intent == intent for label in point.labels[suite.name]]


def _method(
    name: str,
    runner_for: RunnerFor,
    bed: Bed,
    suites: Sequence[Suite],
    folder: Path,
    settings: CompareSettings,
    material: Material,
    tell: Progress,
) -> MethodReport:
    context = Context(
        bed.collection,
        made(folder / "shared"),
        material.energy,
        material.own_adapter,
        material.tuned_adapter,
        settings.search.seed,
        lambda done, total, what: tell(f"{name}, made: {what}", done, total),
    )
    fitted = fit_method(name, context, bed, runner_for, folder / name, tell)
    points = _points(name, fitted, runner_for, suites, folder / name, settings, tell)
    return MethodReport(name, fitted.method.title, fitted.search, points, fitted.file)


def _points(
    name: str,
    fitted: FittedMethod,
    runner_for: RunnerFor,
    suites: Sequence[Suite],
    own: Path,
    settings: CompareSettings,
    tell: Progress,
) -> tuple[Point, ...]:
    path = own / "points.jsonl"
    found = {trial_key(line["shape"], line["strength"]): Point(**line) for line in read_lines(path)}
    missing = [trial for trial in fitted.search.curve if trial.key not in found]
    for start in range(0, len(missing), AT_ONCE):
        tell(f"{name}, measured: {missing[start].key}", len(found), len(fitted.search.curve))
        together = missing[start : start + AT_ONCE]
        steerers = [fitted.family.steerer(trial.shape, trial.strength) for trial in together]
        for trial, labels in zip(together, _labels(runner_for, steerers, suites, settings), strict=True):
            found[trial.key] = Point(trial.shape, trial.strength, labels)
            append(path, asdict(found[trial.key]))
    tell(f"{name}, measured", len(fitted.search.curve), len(fitted.search.curve))
    return tuple(found[trial.key] for trial in fitted.search.curve)


def _plain_point(
    runner_for: RunnerFor,
    plain: Steerer,
    suites: Sequence[Suite],
    folder: Path,
    settings: CompareSettings,
    tell: Progress,
) -> Point:
    path = folder / "plain.json"
    if path.is_file():
        return Point(None, 0.0, read_json(path))
    tell("plain, measured", 0, 1)
    (labels,) = _labels(runner_for, [plain], suites, settings)
    write_whole(path, json.dumps(labels).encode())
    tell("plain, measured", 1, 1)
    return Point(None, 0.0, labels)


def _labels(
    runner_for: RunnerFor, steerers: Sequence[Steerer], suites: Sequence[Suite], settings: CompareSettings
) -> list[dict[str, list[str]]]:
    """For each steerer {suite: judged labels of its answers}."""
    labels: list[dict[str, list[str]]] = [{} for _ in steerers]
    for suite in suites:
        conversations = [prompt.conversation for prompt in suite.prompts]
        for its, texts in zip(
            labels, answers(runner_for, steerers, conversations, settings.max_new_tokens), strict=True
        ):
            its[suite.name] = [
                judge(prompt.text, text).label for prompt, text in zip(suite.prompts, texts, strict=True)
            ]
    return labels


def matched(reports: Sequence[MethodReport], suites: Sequence[Suite], plain: Point) -> list[MethodReport]:
    """The reports, each with its match against the reference's chosen point (else its best on validation)."""
    reference = next((report for report in reports if report.name == REFERENCE), None)
    if reference is None or {suite.intent for suite in suites} != {"benign", "harmful"}:
        return list(reports)
    curve = reference.search.curve
    best = max(range(len(curve)), key=lambda i: curve[i].score)
    ours = reference.points[best if reference.search.chosen is None else reference.search.chosen]
    return [
        report if report is reference else replace(report, match=_match(report, ours, suites, plain))
        for report in reports
    ]


def _match(report: MethodReport, ours: Point, suites: Sequence[Suite], plain: Point) -> Match:
    def count(point: Point, intent: str) -> int:
        return sum(refused(suites, point, intent))

    def distance(candidate: tuple[int | None, Point]) -> tuple[int, int]:
        gap = abs(count(candidate[1], "harmful") - count(ours, "harmful"))
        return gap, count(candidate[1], "benign")  # of equally near ones the best for the method

    # Doing nothing belongs to every curve.
    candidates: list[tuple[int | None, Point]] = [(None, plain), *enumerate(report.points)]
    index, point = min(candidates, key=distance)
    before, after = refused(suites, point, "benign"), refused(suites, ours, "benign")
    n_harmful = len(refused(suites, ours, "harmful"))
    return Match(
        point=index,
        gap=(count(point, "harmful") - count(ours, "harmful")) / n_harmful,
        false_refusals=wilson(sum(before), len(before)),
        p=mcnemar(before, after),
        fewer=sum(b and not a for b, a in zip(before, after, strict=True)),
        more=sum(a and not b for b, a in zip(before, after, strict=True)),
    )


def _made_from(collection: Collection, suites: Sequence[Suite], settings: CompareSettings) -> dict[str, Any]:
    """What everything in the folder depends on. The methods are not part of it: more can join."""
    texts = [[suite.name, suite.intent, [prompt.conversation for prompt in suite.prompts]] for suite in suites]
    examples = [[example.id, example.split, example.label] for example in collection.examples]
    return {
        "model": json.loads(collection.fingerprint.to_json()),
        "collection": digest([collection.prompt_set_hash, examples]),
        "suites": digest(texts),
        "search": asdict(settings.search),
        "max_new_tokens": settings.max_new_tokens,
    }


def _plain_json(match: Match) -> dict[str, Any]:
    return {**asdict(match), "false_refusals": match.false_refusals.to_json()}


