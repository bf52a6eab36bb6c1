"""The bench: pairs and their statistics, contenders that do what they are there for, and the growth of the cost."""

from __future__ import annotations

import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
from runtime_examples import ALWAYS, NEVER, SETTINGS, TinyModel, last_logits

from edge_eds.energy.file import EnergyFile
from edge_eds.energy.fingerprint import ModelFingerprint
from edge_eds.energy.settings import Steering
from edge_eds.errors import SettingsError, SteeringError
from edge_eds.pipeline.bench import lineup, transformers_peer
from edge_eds.pipeline.bench.bench import BenchSettings, bench, random_tokens
from edge_eds.pipeline.bench.contender import WARM_TOKENS, Contender, Test
from edge_eds.pipeline.bench.contenders import Capturing, Decoding, Idle, Plain, PythonSteered, Steered
from edge_eds.pipeline.bench.contexts import BenchLlama
from edge_eds.pipeline.bench.energies import (
    DEFAULT,
    FIFTEEN,
    PAPER,
    EnergyForm,
    always_writing,
    random_energies,
    work_per_token,
)
from edge_eds.pipeline.bench.growth import (
    CostModel,
    DecodeWork,
    GrowthReport,
    GrowthSettings,
    Place,
    Point,
    measure_growth,
)
from edge_eds.pipeline.bench.lineup import VARIANTS, Bed, lined_up
from edge_eds.pipeline.bench.machine import Room
from edge_eds.pipeline.bench.ratios import Median, Pair, median, quotient
from edge_eds.pipeline.bench.runner import measure
from edge_eds.reports.growth_plot import svg
from edge_eds.runtime.energies import default_model, load_energies

PP, TG = Test("pp", 24), Test("tg", 4)
IN_PROCESS = tuple(name for name in VARIANTS if name != "transformers")


# -- statistics -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [6, 9, 25])
def test_the_interval_of_a_median_holds_as_often_as_it_says(n: int) -> None:
    rng = np.random.default_rng(5)
    samples = rng.exponential(size=(4000, n))  # skewed, with the median at log 2
    held = [found.low <= np.log(2) <= found.high for found in map(median, samples)]
    stated = median(samples[0]).confidence
    assert stated >= 0.95
    assert np.mean(held) == pytest.approx(stated, abs=0.015)


def test_five_values_give_less_than_95_percent_and_say_so() -> None:
    assert median([3, 1, 2, 5, 4]) == Median(3, 1, 5, 0.9375)


def test_a_quotient_is_as_uncertain_as_its_parts_and_silent_where_zero_is_in_the_way() -> None:
    value, low, high = quotient(Median(1, 0.5, 2, 0.95), Median(10, 8, 20, 0.95))
    assert (value, low, high) == (0.1, 0.025, 0.25)
    assert quotient(Median(1, -1, 2, 0.95), Median(10, 8, 20, 0.95)) == (0.1, None, 0.25)


class Clocked(Contender):
    """Takes `factor` of a speed that drifts with every run, and writes down that it ran."""

    clock: ClassVar[float] = 1.0
    ran: ClassVar[list[str]] = []

    def __init__(self, name: str, factor: float) -> None:
        self.name, self.factor = name, factor

    def seconds(self, test: Test) -> float:
        Clocked.clock *= 1.03
        Clocked.ran.append(self.name)
        return self.factor * Clocked.clock


def test_every_run_stands_between_two_plain_ones_and_drift_cancels() -> None:
    Clocked.clock, Clocked.ran = 1.0, []
    plain, a, b = Clocked("plain", 1), Clocked("a", 2), Clocked("b", 1.5)
    results = measure(plain, [a, b], [PP], 6)
    assert Clocked.ran[:3] == ["plain", "a", "b"]  # warm-up
    assert Clocked.ran[3:13] == ["plain", "a", "plain", "b", "plain", "plain", "b", "plain", "a", "plain"]
    for result, factor in zip(results, (2, 1.5), strict=True):
        assert len(result.pairs) == 6
        assert [pair.ratio for pair in result.pairs] == pytest.approx([factor] * 6)


def test_a_contender_takes_part_in_its_kinds_of_test_alone() -> None:
    prompts_only = Clocked("a", 2)
    prompts_only.kinds = ("pp",)
    results = measure(Clocked("plain", 1), [prompts_only], [PP, TG], 1)
    assert [(result.variant, result.test) for result in results] == [("a", PP)]


# -- energies ---------------------------------------------------------------------------------------------------------


def form_of(file: EnergyFile) -> EnergyForm:
    """What the random energies must be like to cost the same."""
    assert file.energies is not None
    spec, layer = file.spec, file.energies.layers[file.spec.layers[0]]
    head = layer.heads[spec.heads[0]]
    return EnergyForm(
        n_layers=len(spec.layers),
        steps=spec.steps,
        rank=0 if layer.subspace is None else layer.subspace.rank,
        widths=tuple(block.n_out for block in head.hidden),
        layer_norm=head.hidden[0].gamma is not None,
        n_gate=0 if spec.gate is None else len(spec.gate.layers),
        n_tokens=spec.n_tokens,
        step_size=spec.step_size,
    )


def test_random_energies_have_the_form_of_the_default_ones() -> None:
    files = default_model()
    _, file = load_energies("auto", files.gguf, files.lora)
    assert form_of(file) == DEFAULT
    made = random_energies(file.fingerprint, DEFAULT, range(29))
    assert form_of(made) == DEFAULT
    n_directions = DEFAULT.n_layers * DEFAULT.rank * file.fingerprint.n_embd
    work = work_per_token(made)  # of directions in half precision, which energies that were made before have not
    assert replace(work, n_bytes=work.n_bytes + 2 * n_directions) == work_per_token(file)


@pytest.mark.parametrize("form", [DEFAULT, FIFTEEN, PAPER], ids=["default", "15x3", "paper"])
def test_the_floor_counts_every_weight_once(form: EnergyForm) -> None:
    fingerprint = ModelFingerprint("llama", 17, 96, "", "Q4_K_M", "none")
    file = random_energies(fingerprint, form, range(16))
    n_in, weights = form.rank or 96, 96 * form.rank
    n_directions = weights
    for width in form.widths:
        weights += n_in * width
        n_in = width
    work = work_per_token(file)
    if form is PAPER:  # more than _native.LARGE_NET weights: kept in 8 bits
        assert work.n_bytes == form.n_layers * (weights + 4 * n_in)
    else:
        assert work.n_bytes == form.n_layers * (4 * (weights + n_in) - 2 * n_directions)  # those in half precision
    assert work.multiply_adds >= form.n_layers * (weights + n_in) * 2


# -- contenders -------------------------------------------------------------------------------------------------------


@pytest.fixture
def bed(tiny: TinyModel) -> Iterator[Bed]:
    path = tiny("llama", n_layer=6)
    settings = {**SETTINGS, "n_batch": 16, "n_ubatch": 8}  # prompts come in pieces
    with closing(BenchLlama(path, energy=None, **settings)) as llm:
        yield Bed(llm, ModelFingerprint.from_gguf(path), None, random_tokens(40, llm.n_vocab()), 1)


def test_every_variant_does_what_it_is_there_for(bed: Bed) -> None:
    with lined_up(bed, IN_PROCESS) as line:
        assert [contender.name for contender in line.contenders] == list(IN_PROCESS)
        assert not line.left_out
        results = measure(line.plain, line.contenders, [PP, TG], 1)
    assert all(pair.seconds > 0 for result in results for pair in result.pairs)
    assert {result.variant for result in results if result.test == TG} == {*IN_PROCESS} - {"capture-last"}


def logits_after(contender: Decoding) -> np.ndarray:
    """After one run of new tokens, in the contender's own context."""
    with contender.in_force():
        contender.llm.empty()
        contender.before_tokens(contender.tokens[:WARM_TOKENS])
        contender.more(contender.tokens[WARM_TOKENS : WARM_TOKENS + 1])
        return last_logits(contender.llm)


def test_contenders_compute_what_they_are_compared_for(bed: Bed) -> None:
    """Doing nothing leaves plain's bits; steering moves the logits, in Python as far as in C++."""
    llm, tokens = bed.llm, bed.tokens
    plain = logits_after(Plain("plain", llm, tokens, bed.plain_context))
    for observer in (Idle("idle", llm, tokens), Capturing("capture", llm, tokens, bed.steerable)):
        assert np.array_equal(logits_after(observer), plain)
    native = logits_after(Steered("native", llm, tokens, bed.fifteen))
    python = logits_after(PythonSteered("python", llm, tokens, bed.fifteen))
    assert np.abs(native - plain).max() > 1e-2
    assert np.abs(native - python).max() < 1e-3 * np.abs(native - plain).max()
    assert np.array_equal(logits_after(Plain("plain", llm, tokens, bed.plain_context)), plain)


@pytest.mark.parametrize("kind", [Steered, PythonSteered])
def test_steering_that_does_not_happen_is_no_result(kind: type[Steered | PythonSteered], bed: Bed) -> None:
    gate = bed.fifteen.spec.gate
    assert gate is not None
    shut = replace(bed.fifteen, spec=replace(bed.fifteen.spec, gate=replace(gate, benign=NEVER, harmful=ALWAYS)))
    with pytest.raises(SteeringError, match="nothing was measured"):
        kind("shut", bed.llm, bed.tokens, shut).seconds(TG)
    assert kind("open", bed.llm, bed.tokens, always_writing(shut)).seconds(TG) > 0


def test_tokens_decoded_together_are_all_steered(bed: Bed) -> None:
    contender = Steered("15x3", bed.llm, bed.tokens, bed.fifteen)
    contender.seconds(Test("tg", 8, at_once=4))
    assert set(bed.llm.last_trace.descents["offset"].tolist()) == set(range(9))


def test_a_session_is_as_before_after_its_contenders(bed: Bed) -> None:
    with lined_up(bed, IN_PROCESS) as line:
        for contender in line.contenders:
            contender.seconds(PP)
    assert bed.llm.steering == Steering(strength=0)
    assert np.array_equal(
        logits_after(Idle("idle", bed.llm, bed.tokens)),
        logits_after(Plain("plain", bed.llm, bed.tokens, bed.plain_context)),
    )


def test_a_model_that_cannot_be_steered_is_measured_plain_and_says_why(tiny: TinyModel) -> None:
    path = tiny("llama", n_layer=1)
    with closing(BenchLlama(path, energy=None, **SETTINGS)) as llm:
        settings = BenchSettings(n_prompt=(8,), n_gen=(2,), repetitions=1)
        report = bench(llm, ModelFingerprint.from_gguf(path), None, settings, 1)
    document = report.to_json()
    assert {row["variant"] for row in document["results"]} == {"plain", "idle"}
    assert set(document["left_out"]) == {*VARIANTS} - {"plain", "idle"}
    assert "the last layer" in document["left_out"]["steer-default"]


@pytest.mark.parametrize(
    ("installed", "free", "words"),
    [(False, None, "not installed"), (True, 1000, "1.0 kB are free")],
    ids=["not-installed", "no-memory"],
)
def test_transformers_is_left_out_with_the_reason(
    installed: bool, free: int | None, words: str, bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transformers_peer, "is_installed", lambda: installed)
    monkeypatch.setattr(lineup, "room", lambda _: Room(free, None))
    with lined_up(bed, ("plain", "transformers")) as line:
        assert words in line.left_out["transformers"]


def test_cpu_time_leaves_out_what_waits_and_what_runs_in_another_process(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    bed.llm.cpu_time = True
    monkeypatch.setattr(transformers_peer, "is_installed", lambda: True)
    with lined_up(bed, ("transformers",)) as line:
        assert "CPU time" in line.left_out["transformers"]

    class Waiting(Idle):
        def prompt(self, tokens: list[int]) -> None:
            super().prompt(tokens)
            time.sleep(0.3)

    assert Waiting("waiting", bed.llm, bed.tokens).seconds(PP) < 0.3


@pytest.mark.parametrize(
    "changes",
    [
        {"variants": ()}, {"variants": ("plain", "dance")}, {"repetitions": 0}, {"n_prompt": (0,), "n_gen": ()},
    ],
    ids=["no-variant", "unknown-variant", "no-repetition", "no-test"],
)  # fmt: skip
def test_settings_that_measure_nothing_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        BenchSettings(**changes)  # type: ignore[arg-type]


# -- growth -----------------------------------------------------------------------------------------------------------


def synthetic_point(work: DecodeWork, seconds: float) -> Point:
    place = Place("layers", work.layers, FIFTEEN, 64, TG)
    return Point(place, work, Median(seconds, 0.99 * seconds, 1.01 * seconds, 0.95), Median(1, 1, 1, 0.95), 1e-3)


@pytest.mark.parametrize("prices", [(2e-4, 1e-5, 2e-6, 1e-10, 3e-10), (0, 1e-5, 0, 0, 3e-10)], ids=["all", "some"])
def test_the_cost_model_finds_the_prices_that_costs_were_made_of(prices: tuple[float, ...]) -> None:
    rng = np.random.default_rng(1)
    works = []
    for _ in range(40):
        layers, rows, rank = (int(n) for n in rng.integers(1, 30, 3))
        works.append(DecodeWork(layers, layers * rows, 8192 * layers * rank, rows * layers * rank * 9000))
    points = [synthetic_point(work, CostModel(prices).extra(work) * rng.normal(1, 0.002)) for work in works]
    found = CostModel.fitted(points)
    assert min(found.seconds) >= 0
    for work in works:
        assert found.extra(work) == pytest.approx(CostModel(prices).extra(work), rel=0.01)
    assert found.seconds == pytest.approx(prices, rel=0.2, abs=1e-6)


@pytest.fixture(scope="module")
def growth() -> GrowthReport:
    """Of models so small that it takes a second."""
    return measure_growth(
        GrowthSettings(
            repetitions=1, width=128, layers=(1, 15), steps=(3,), ranks=(8, 32), widths=(64, 128), batches=(1, 2),
            prompts=(8, 16), n_decodes=4, ffn_weights=2**14,
        )
    )  # fmt: skip


def test_growth_measures_every_axis_and_predicts_a_70b_model(growth: GrowthReport) -> None:
    document = growth.to_json()
    assert [(row["axis"], row["value"]) for row in document["growth"]] == [
        ("layers", 1), ("layers", 15), ("steps", 3), ("rank", 8), ("rank", 32), ("n_embd", 64), ("n_embd", 128),
        ("batch", 1), ("batch", 2), ("prompt", 8), ("prompt", 16),
    ]  # fmt: skip
    assert {said["shape"] for said in document["predictions"]} == {"llama-1b", "llama-8b", "llama-70b"}
    assert all(said["ratio_to_plain"] >= 1 for said in document["predictions"])


def test_the_same_place_on_two_axes_is_measured_once(growth: GrowthReport) -> None:
    middle = [p for p in growth.points if (p.place.form, p.place.n_embd, p.place.test) == middle_of(growth)]
    assert len(middle) == 5
    assert len({point.extra for point in middle}) == 1


def middle_of(growth: GrowthReport) -> tuple[EnergyForm, int, Test]:
    place = next(p.place for p in growth.points if (p.place.axis, p.place.value) == ("layers", 15))
    return place.form, place.n_embd, place.test


def test_the_plot_is_an_image_with_a_panel_an_axis(growth: GrowthReport) -> None:
    root = ElementTree.fromstring(svg(growth.to_json()))
    space = "{http://www.w3.org/2000/svg}"
    assert len(root.findall(f"{space}g")) == 6
    assert len(root.findall(f".//{space}circle")) == len(growth.points)


def test_a_pair_says_how_much_longer_it_took() -> None:
    pair = Pair(2.0, before=1.0, after=4.0)
    assert (pair.ratio, pair.extra) == (1.0, 0.0)
