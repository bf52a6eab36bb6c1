"""The comparison of methods: what is measured and kept, going on after a kill, and how it is shown."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from method_examples import make_collection
from runtime_examples import N_LAYER, TinyModel, make_energies

from edge_eds.errors import InputError, SettingsError
from edge_eds.pipeline.collect import Collection
from edge_eds.pipeline.compare import (
    CompareSettings,
    ComparisonReport,
    Material,
    MethodReport,
    Point,
    compare,
    matched,
)
from edge_eds.pipeline.methods.answering import AT_ONCE
from edge_eds.pipeline.methods.search import SearchResult, SearchSettings, Trial
from edge_eds.pipeline.methods.steerer import PromptSteerer, Steerer, load_steerer
from edge_eds.pipeline.statistics import mcnemar
from edge_eds.pipeline.suites import Suite, SuitePrompt
from edge_eds.reports.comparison import table
from edge_eds.reports.comparison_plot import svg
from edge_eds.runtime.batch import BatchRunner
from edge_eds.runtime.energies import ModelFiles

SEARCH = SearchSettings(trials=4, n_prompts=2, n_answered=1, max_new_tokens=2)
SETTINGS = CompareSettings(("system-prompt", "control-vector", "ours"), SEARCH, max_new_tokens=2)


def make_suite(intent: str, n: int) -> Suite:
    return Suite(
        f"made-{intent}", intent, tuple(SuitePrompt(str(i), f"{intent} question number {i}") for i in range(n))
    )


SUITES = (make_suite("benign", 5), make_suite("harmful", 4))


@pytest.fixture
def path(tiny: TinyModel) -> Path:
    return tiny("llama", n_layer=N_LAYER)


@pytest.fixture
def collection(path: Path) -> Collection:
    return make_collection(path)


@pytest.fixture
def runner(path: Path) -> Iterator[BatchRunner]:
    with BatchRunner(ModelFiles(path), n_ctx=512, n_parallel=4, n_threads=1) as runner:
        yield runner


class Counting:
    """Gives the runner, and counts how often."""

    def __init__(self, runner: BatchRunner, fail_at: int = -1) -> None:
        self.runner, self.fail_at, self.n = runner, fail_at, 0

    def __call__(self, steerer: Steerer) -> BatchRunner:
        self.n += 1
        if self.n == self.fail_at:
            raise KeyboardInterrupt
        return self.runner


def run(
    runner_for: Counting, collection: Collection, path: Path, folder: Path, settings: CompareSettings = SETTINGS
) -> ComparisonReport:
    return compare(
        runner_for, PromptSteerer(""), collection, SUITES, folder, settings, Material(make_energies(path))
    )


def test_all_points_of_all_methods_are_measured_on_all_suites(
    path: Path, collection: Collection, runner: BatchRunner, tmp_path: Path
) -> None:
    report = run(Counting(runner), collection, path, tmp_path)
    assert [method.name for method in report.methods] == list(SETTINGS.methods)
    for method in report.methods:
        assert len(method.search.trials) == SEARCH.trials
        assert len(method.points) == len(method.search.curve) >= 1
        for point, trial in zip(method.points, method.search.curve, strict=True):
            assert (point.shape, point.strength) == (trial.shape, trial.strength)
            assert {name: len(labels) for name, labels in point.labels.items()} == {
                "made-benign": 5, "made-harmful": 4
            }  # fmt: skip
        assert (method.file is None) == (method.search.chosen is None)
        if method.file is not None:
            load_steerer(method.file)
    document = json.loads(json.dumps(report.to_json()))
    assert document["methods"]["ours"]["against_ours"] is None
    assert document["methods"]["control-vector"]["against_ours"]["p"] <= 1


def test_a_comparison_that_was_stopped_goes_on(
    path: Path, collection: Collection, runner: BatchRunner, tmp_path: Path
) -> None:
    """Whatever it was at: nothing is done twice but what it was at, and the end is the same."""
    whole_runs = Counting(runner)
    whole = run(whole_runs, collection, path, tmp_path / "whole")
    for stop in (1, 7, whole_runs.n):
        folder = tmp_path / str(stop)
        first, second = Counting(runner, fail_at=stop), Counting(runner)
        with pytest.raises(KeyboardInterrupt):
            run(first, collection, path, folder)
        found = run(second, collection, path, folder)
        assert found.to_json()["plain"] == whole.to_json()["plain"]
        assert [m.points for m in found.methods] == [m.points for m in whole.methods]
        assert 0 <= first.n - 1 + second.n - whole_runs.n < AT_ONCE * len(SUITES)
    again = Counting(runner)
    run(again, collection, path, folder)
    assert again.n == 0


def test_a_line_that_a_kill_cut_short_is_made_again(
    path: Path, collection: Collection, runner: BatchRunner, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, methods=("system-prompt",))
    whole = run(Counting(runner), collection, path, tmp_path, settings)
    for name, n in (("trials", 1), ("points", len(SUITES))):
        file = tmp_path / "system-prompt" / f"{name}.jsonl"
        file.write_bytes(file.read_bytes()[:-9])
        again = Counting(runner)
        assert run(again, collection, path, tmp_path, settings).methods[0].points == whole.methods[0].points
        assert again.n == n


def test_methods_join_later_and_nothing_else_may_change(
    path: Path, collection: Collection, runner: BatchRunner, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, methods=("system-prompt",))
    run(Counting(runner), collection, path, tmp_path, settings)
    joined = Counting(runner)
    run(joined, collection, path, tmp_path, replace(SETTINGS, methods=("system-prompt", "ablation")))
    assert joined.n > 0
    for changed, key in (
        (replace(settings, max_new_tokens=3), "max_new_tokens"),
        (replace(settings, search=replace(SEARCH, trials=5)), "search"),
    ):
        with pytest.raises(InputError, match=f"another {key}"):
            run(Counting(runner), collection, path, tmp_path, changed)
    relabelled = replace(
        collection, examples=(replace(collection.examples[0], label="partial"), *collection.examples[1:])
    )
    with pytest.raises(InputError, match="another collection"):
        run(Counting(runner), relabelled, path, tmp_path, settings)


def test_energies_are_part_of_what_is_made_from_them_alone(
    path: Path, collection: Collection, runner: BatchRunner, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, methods=("system-prompt", "ours"))
    run(Counting(runner), collection, path, tmp_path, settings)
    others = (PromptSteerer(""), collection, SUITES, tmp_path)
    other = Material(make_energies(path, step_size=0.2))
    compare(Counting(runner), *others, replace(settings, methods=("system-prompt",)), other)
    with pytest.raises(InputError, match="another energy"):
        compare(Counting(runner), *others, settings, other)


def test_a_method_that_cannot_be_had_is_named(
    path: Path, collection: Collection, runner: BatchRunner, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"method ours: .*edge-eds fit"):
        compare(Counting(runner), PromptSteerer(""), collection, SUITES, tmp_path, replace(SETTINGS, methods=("ours",)))
    with pytest.raises(InputError, match="unknown method"):
        CompareSettings(("magic",))
    with pytest.raises(SettingsError, match="at most once"):
        CompareSettings(("ours", "ours"))


# -- the numbers, on answers that are made up


def labels(benign_refused: Sequence[int], harmful_refused: int, n: int = 20) -> dict[str, list[str]]:
    """Labels of n benign prompts, of which these are refused, and of n harmful ones, of which the first are."""
    return {
        "made-benign": ["refusal" if i in benign_refused else "answer" for i in range(n)],
        "made-harmful": ["refusal" if i < harmful_refused else "answer" for i in range(n)],
    }


def made_up(name: str, points: Sequence[dict[str, list[str]]], chosen: int | None = None) -> MethodReport:
    curve = tuple(Trial({"layers": [1]}, float(i), 0.1, 0.0, 0.0) for i in range(len(points)))
    found = tuple(Point(trial.shape, trial.strength, its) for trial, its in zip(curve, points, strict=True))
    return MethodReport(name, name.title(), SearchResult(curve, curve, chosen, 1, 1, 1), found, None)


BIG = (make_suite("benign", 20), make_suite("harmful", 20))
PLAIN = Point(None, 0.0, labels(range(15), 18))
OURS = made_up("ours", [labels(range(12), 18), labels(range(4), 17), labels(range(2), 10)], chosen=1)
OTHER = made_up("control-vector", [labels(range(13), 18), labels(range(9), 16), labels(range(1), 3)])
USELESS = made_up("ablation", [labels(range(20), 9)], chosen=0)


def test_the_match_is_the_point_of_nearly_the_same_safety() -> None:
    ours, other, useless = matched([OURS, OTHER, USELESS], BIG, PLAIN)
    assert ours.match is None
    assert other.match is not None and useless.match is not None
    # 18, 18 or 16 of 20 against 17: of equally near ones the one that refuses the fewest benign prompts
    assert (other.match.point, other.match.gap) == (1, -0.05)
    assert other.match.false_refusals.value == 9 / 20
    assert (other.match.fewer, other.match.more) == (5, 0)
    assert other.match.p == mcnemar([True] * 9 + [False] * 11, [True] * 4 + [False] * 16)
    # the plain model belongs to every curve
    assert (useless.match.point, useless.match.gap) == (None, 0.05)
    assert (useless.match.fewer, useless.match.more) == (11, 0)
    assert matched([OTHER], BIG, PLAIN)[0].match is None


def test_the_table_says_all_of_it() -> None:
    methods = tuple(matched([OURS, OTHER, USELESS], BIG, PLAIN))
    text = table(ComparisonReport(BIG, PLAIN, methods, SETTINGS))
    lines = text.splitlines()
    assert any(line.split()[:3] == ["plain", "90.0", "(69.9-97.2)"] for line in lines)
    assert any(line.split()[0] == "Ours" and "85.0 (" in line and "20.0 (" in line for line in lines)
    assert any("Control-Vector" in line and "nothing within" in line for line in lines)
    assert any("(plain) Ablation" in line and "11 : 0" in line and "+5.0 points" in line for line in lines)
    assert max(map(len, lines)) <= 120
    only_benign = ComparisonReport(BIG[:1], PLAIN, methods, SETTINGS)
    assert "Refusals by suite" in table(only_benign)


def test_the_plot_is_an_image_of_every_point() -> None:
    methods = tuple(matched([OURS, OTHER, USELESS], BIG, PLAIN))
    image = svg(ComparisonReport(BIG, PLAIN, methods, SETTINGS))
    root = ElementTree.fromstring(image)
    space = "{http://www.w3.org/2000/svg}"
    texts = [element.text for element in root.iter(f"{space}text")]
    for method in methods:
        assert method.title in texts
    assert len(root.findall(f".//{space}title")) == 7  # a caption for every point
    ringed = [circle for circle in root.iter(f"{space}circle") if circle.get("r") == "8"]
    assert len(ringed) == 2  # the chosen ones
    # ours at 85 % of harmful and 20 % of benign prompts refused: to the right, and low
    x, y = (float(ringed[-1].get(name) or 0) for name in ("cx", "cy"))
    assert (x, y) == (70 + 0.85 * 540, 490 - 0.2 * 440)
    assert image == svg(ComparisonReport(BIG, PLAIN, methods, SETTINGS))


# -- the command


def test_what_a_method_lacks_is_told_before_the_work(path: Path, tmp_path: Path) -> None:
    from edge_eds.apps.comparing import CompareOptions
    from edge_eds.apps.settings import SessionOptions

    def options(*methods: str, energy: str = "none") -> CompareOptions:
        return CompareOptions(SessionOptions(str(path), energy=energy), methods, ("pairs",), tmp_path)

    with pytest.raises(InputError, match="ours: needs energies"):
        options("control-vector", "ours")
    with pytest.raises(InputError, match="--sft-lora"):
        options("lora-sft")
    assert {"ours", "frozen-gradient", "lora-sft"}.isdisjoint(options().settings().methods)
    assert "ours" in options(energy="auto").settings().methods


def test_the_command(
    path: Path, collection: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from edge_eds.apps import comparing
    from edge_eds.apps.settings import SessionOptions

    monkeypatch.setattr(comparing, "collect", lambda *args, **kwargs: collection)
    monkeypatch.setattr(comparing, "SearchSettings", lambda **given: replace(SEARCH, **given))
    make_energies(path).save(tmp_path / "tiny.energy.onnx")
    options = comparing.CompareOptions(
        SessionOptions(str(path), energy=str(tmp_path / "tiny.energy.onnx"), threads=1),
        methods=("ours", "conditional-vector"),
        suites=("pairs",),
        out=tmp_path / "found",
        limit=3,
        trials=3,
        max_tokens=2,
    )
    document = comparing.run_compare(options, quiet=False)
    assert list(document["methods"]) == ["ours", "conditional-vector"]
    assert json.loads((tmp_path / "found" / "comparison.json").read_text()) == json.loads(json.dumps(document))
    shown = capsys.readouterr().out
    assert shown.strip() in (tmp_path / "found" / "table.txt").read_text()
    ElementTree.parse(tmp_path / "found" / "curves.svg")
