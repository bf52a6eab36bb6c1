"""Energy steering on real llama.cpp: which rows it writes, what the gate decides, engines, what is refused."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from energy_examples import make_head
from llama_cpp import Llama
from llama_cpp import llama_cpp as llama_api
from runtime_examples import (
    ALWAYS,
    GATE_LAYERS,
    N_EMBD,
    N_LAYER,
    NEVER,
    SETTINGS,
    STEERED_LAYERS,
    Floats,
    TinyModel,
    answer,
    evaluate,
    make_energies,
    make_prompt,
    tolerance,
)

from edge_eds import EdgeLlama, Steering
from edge_eds.energy.file import EnergyFile
from edge_eds.energy.network import HEADS, EnergyModel, LayerEnergy
from edge_eds.errors import EnergyFileError, FingerprintError, ModelError, SettingsError, SteeringError
from edge_eds.runtime import hooks
from edge_eds.runtime import session as session_module
from edge_eds.runtime.hooks import LayerProbe, probe_layers
from edge_eds.runtime.interventions import AddVector
from edge_eds.runtime.program import capturing
from edge_eds.runtime.seam import openmp_parallel
from edge_eds.runtime.trace import Trace

PROMPT = make_prompt(41)
THEN = make_prompt(6, seed=1)
BATCHES = [(512, 3), (512, 7), (16, 512), (16, 7), (16, 3), (1, 1)]
BENIGN = {"gate_benign": ALWAYS, "gate_harmful": ALWAYS}
HARMFUL = {"gate_benign": NEVER, "gate_harmful": NEVER}
UNCERTAIN = {"gate_benign": NEVER, "gate_harmful": ALWAYS}
LAYERS = range(N_LAYER - 1)


class Watched(EdgeLlama):
    """A session that keeps the rows of every decode as they leave their layers, steered ones included."""

    rows: dict[int, list[Floats]]

    @contextmanager
    def _armed(self, first: int, n_rows: int) -> Iterator[None]:
        rows = {il: np.full((n_rows, N_EMBD), np.nan, dtype=np.float32) for il in LAYERS}
        program = self._program
        self._hook.set_program(capturing(program, [(rows, "all")]))
        with super()._armed(first, n_rows):
            yield
        for il in LAYERS:
            self.rows[il].append(rows[il])


class Run(NamedTuple):
    """A prompt and tokens after it, evaluated under one setting."""

    rows: dict[int, Floats]  # layer -> (len(PROMPT) + len(THEN), n_embd)
    logits: Floats
    trace: Trace


def run(llm: Watched, prompt: Sequence[int] = PROMPT) -> Run:
    llm.rows = {il: [] for il in LAYERS}
    logits = evaluate(llm, prompt, THEN)
    return Run({il: np.concatenate(rows) for il, rows in llm.rows.items()}, logits, llm.last_trace)


@contextmanager
def watched(path: Path, energies: EnergyFile, **settings: Any) -> Iterator[Watched]:
    with closing(Watched(path, energy=energies, **{**SETTINGS, **settings})) as llm:
        yield llm


def plainly(llm: Watched, prompt: Sequence[int] = PROMPT) -> Run:
    """Without steering; a program that does nothing has the rows kept."""
    with llm.intervening({}):
        return run(llm, prompt)


@pytest.fixture
def path(tiny: TinyModel) -> Path:
    return tiny("llama", n_layer=N_LAYER)


# -- which rows


@pytest.mark.parametrize("engine", ["native", "onnx"])
@pytest.mark.parametrize("arch", ["llama", "qwen3", "gemma3", "phi3", "qwen3moe", "mamba", "jamba"])
def test_what_is_steered_does_not_depend_on_how_a_prompt_is_cut(tiny: TinyModel, arch: str, engine: str) -> None:
    path = tiny(arch, n_layer=N_LAYER)
    energies = make_energies(path)

    def steered(n_batch: int, n_ubatch: int) -> Run:
        with watched(path, energies, n_batch=n_batch, n_ubatch=n_ubatch) as llm:
            with llm.steered(Steering(engine=engine, **BENIGN)):
                steered = run(llm)
            plain = plainly(llm)
            for il in LAYERS:  # the prompt's rows keep their bits, and the edited ones do not
                unchanged = (steered.rows[il] == plain.rows[il]).all(axis=1)
                assert unchanged[: len(PROMPT) - 1].all(), f"layer {il}"
                assert unchanged[len(PROMPT) - 1] == (il < min(STEERED_LAYERS)), f"layer {il}"
            return steered

    expected = steered(512, 512)
    assert len(expected.trace.descents) == len(STEERED_LAYERS) * 3
    for batch in BATCHES if engine == "native" else BATCHES[-2:-1]:
        found = steered(*batch)
        assert np.abs(found.logits - expected.logits).max() < tolerance(arch), f"{batch}"
        for il in LAYERS:
            assert np.abs(found.rows[il] - expected.rows[il]).max() < tolerance(arch), f"{batch}, layer {il}"
        assert_same_trace(found.trace, expected.trace, tolerance(arch))


def assert_same_trace(found: Trace, expected: Trace, atol: float) -> None:
    by_row = ["offset", "layer", "head"]
    found_records, expected_records = (np.sort(trace.records, order=by_row) for trace in (found, expected))
    for name in [*by_row, "steps"]:
        assert found_records[name].tolist() == expected_records[name].tolist(), name
    for name in ("energy_before", "energy_after", "shift"):
        np.testing.assert_allclose(found_records[name], expected_records[name], atol=atol, err_msg=name)
    assert found.gate == expected.gate
    if expected.gate_score is None:
        assert found.gate_score is None
    else:
        assert found.gate_score == pytest.approx(expected.gate_score, abs=atol)


@pytest.mark.parametrize("n_tokens", [1, 3, 0])
def test_only_the_rows_that_are_meant_are_written(path: Path, n_tokens: int) -> None:
    """Steered in the last layer that can be: what that changes is seen by the last layer alone, so that every
    other row of the layers watched has to keep its bits.
    """
    il = N_LAYER - 2
    energies = make_energies(path, layers=(il,), n_tokens=n_tokens)
    with watched(path, energies, n_batch=16, n_ubatch=7) as llm:
        steered, plain = run(llm), plainly(llm)
    meant = np.zeros(len(PROMPT) + len(THEN), dtype=bool)
    first = len(PROMPT) - 1
    meant[first : first + n_tokens if n_tokens else None] = True
    for other in set(LAYERS) - {il}:
        assert np.array_equal(steered.rows[other], plain.rows[other])
    changed = (steered.rows[il] != plain.rows[il]).any(axis=1)
    assert changed.tolist() == meant.tolist()
    assert [token.offset for token in steered.trace.tokens()] == list(range(meant.sum()))
    assert steered.trace.touched_tokens == meant.sum()


@pytest.mark.parametrize("engine", ["native", "onnx"])
@pytest.mark.parametrize("n_ubatch", [512, 4])
def test_new_tokens_may_come_several_at_once(path: Path, engine: str, n_ubatch: int) -> None:
    """As the drafts of speculative decoding do; here in one micro-batch and in two."""
    energies = make_energies(path, n_tokens=5)
    with watched(path, energies, steering=Steering(engine=engine), n_ubatch=n_ubatch) as llm:
        expected = run(llm)
        llm.rows = {il: [] for il in LAYERS}
        llm.reset()
        llm.eval(PROMPT)
        llm.eval(THEN)
        found = {il: np.concatenate(rows) for il, rows in llm.rows.items()}
        assert_same_trace(llm.last_trace, expected.trace, 1e-4)
    assert sorted(set(expected.trace.descents["offset"].tolist())) == [0, 1, 2, 3, 4]
    for il in LAYERS:
        np.testing.assert_allclose(found[il], expected.rows[il], atol=tolerance("llama"))


@pytest.mark.parametrize("engine", ["native", "onnx"])
@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("subspace", [True, False])
def test_a_step_lowers_the_energy_of_the_rows_that_it_writes(
    path: Path, subspace: bool, relative: bool, engine: str
) -> None:
    """The trace agrees with the closed form on the rows as they were and as they are."""
    step_size = 0.02 if relative else 0.3
    energies = make_energies(path, subspace=subspace, relative=relative, step_size=step_size, layers=(4,))
    with watched(path, energies, steering=Steering(engine=engine, **BENIGN)) as llm:
        steered, plain = run(llm), plainly(llm)
    descents = steered.trace.descents
    assert len(descents) == 3
    for record in descents:
        row = len(PROMPT) - 1 + record["offset"]
        before, after = (rows[4][row : row + 1].astype(np.float64) for rows in (plain.rows, steered.rows))
        assert record["energy_after"] < record["energy_before"]
        for found, h in ((record["energy_before"], before), (record["energy_after"], after)):
            assert found == pytest.approx(energies.energies.energy(4, "fr", h)[0], abs=1e-4)
        length = 3 * step_size * 0.8 ** record["offset"]  # at most: steps need not all point the same way
        shift = np.linalg.norm(after - before)
        assert record["shift"] == pytest.approx(shift / np.linalg.norm(before), rel=1e-3)
        assert 0.3 * length < (record["shift"] if relative else shift) <= length * 1.001


def test_strength_scales_the_step(path: Path) -> None:
    energies = make_energies(path, layers=(4,), steps=1, n_tokens=1, step_size=0.1)
    with watched(path, energies) as llm:
        for strength in (0.25, 1, 2):
            with llm.steered(Steering(strength=strength)):
                assert run(llm).trace.descents["shift"][0] == pytest.approx(0.1 * strength, rel=1e-3)


@pytest.mark.parametrize("engine", ["native", "onnx"])
def test_a_row_at_its_threshold_keeps_its_bits(path: Path, engine: str) -> None:
    energies = make_energies(path, layers=(4,), n_tokens=1)
    with watched(path, energies, steering=Steering(engine=engine)) as llm:
        plain = plainly(llm)
        energy = run(llm).trace.descents["energy_before"][0]
    for threshold, touched in ((energy, 0), (np.nextafter(energy, np.float32(-np.inf)), 1)):
        at = make_energies(path, layers=(4,), n_tokens=1, thresholds={"fr": {4: float(threshold)}})
        with watched(path, at, steering=Steering(engine=engine)) as llm:
            found = run(llm)
        assert found.trace.touched_tokens == touched
        assert np.array_equal(found.logits, plain.logits) == (touched == 0)
        assert (found.trace.energy_before is None) == (touched == 0)


@pytest.mark.parametrize("engine", ["native", "onnx"])
def test_a_target_stops_a_descent(path: Path, engine: str) -> None:
    settings: dict[str, Any] = {"layers": (4,), "n_tokens": 1, "steps": 50, "step_size": 0.01}
    with watched(path, make_energies(path, **settings), steering=Steering(engine=engine)) as llm:
        (whole,) = run(llm).trace.descents
    target = float(whole["energy_before"] + whole["energy_after"]) / 2
    energies = make_energies(path, targets={"fr": {4: target}}, **settings)
    with watched(path, energies, steering=Steering(engine=engine)) as llm:
        (stopped,) = run(llm).trace.descents
    assert 0 < stopped["steps"] < whole["steps"] == 50
    assert whole["energy_after"] < stopped["energy_after"] <= target


# -- the gate


@pytest.mark.parametrize("engine", ["native", "onnx"])
@pytest.mark.parametrize(
    ("bounds", "gate", "head"),
    [(BENIGN, "benign", "fr"), (HARMFUL, "harmful", "jb"), (UNCERTAIN, "uncertain", None)],
)
def test_what_the_gate_decides(path: Path, bounds: dict[str, float], gate: str, head: str | None, engine: str) -> None:
    with watched(path, make_energies(path)) as llm:
        plain = plainly(llm)
        with llm.steered(Steering(engine=engine, **bounds)):
            found = run(llm)
    assert found.trace.gate == gate
    heads = {HEADS[head] for head in found.trace.descents["head"]}
    assert heads == ({head} if head else set())
    assert np.array_equal(found.logits, plain.logits) == (head is None)


@pytest.mark.parametrize("engine", ["native", "onnx"])
@pytest.mark.parametrize(("heads", "bounds"), [(("jb",), BENIGN), (("fr",), HARMFUL)])
def test_a_decision_that_no_energy_serves(
    path: Path, heads: tuple[str, ...], bounds: dict[str, float], engine: str
) -> None:
    layers = (2, 3, 4)
    with watched(path, make_energies(path, heads=heads, layers=layers)) as llm:
        plain = plainly(llm)
        with llm.steered(Steering(engine=engine, **bounds)):
            found = run(llm)
    assert np.array_equal(found.logits, plain.logits)
    assert found.trace.gate == "uncertain"


def test_the_score_is_that_of_plain_rows(path: Path) -> None:
    """Read at the prompt's end before anything is edited, at a layer that is steered too."""
    energies = make_energies(path)
    gate = energies.spec.gate
    assert set(GATE_LAYERS) & set(STEERED_LAYERS)
    with watched(path, energies, n_batch=16, n_ubatch=7) as llm:
        plain, steered = plainly(llm), run(llm)
    ends = {il: plain.rows[il][len(PROMPT) - 1 : len(PROMPT)] for il in GATE_LAYERS}
    terms = [gate.weights[il] * energies.energies.energy(il, "harm", h)[0] for il, h in ends.items()]
    assert steered.trace.gate_score == pytest.approx(gate.bias + sum(terms), abs=1e-4)
    readings = steered.trace.records[steered.trace.records["head"] == HEADS.index("harm")]
    assert readings["layer"].tolist() == list(GATE_LAYERS)
    assert readings["offset"].tolist() == [0, 0]


@pytest.mark.parametrize("engine", ["native", "onnx"])
def test_a_bound_belongs_to_its_side(path: Path, engine: str) -> None:
    energies = make_energies(path)
    with closing(EdgeLlama(path, energy=energies, steering=Steering(engine=engine), **SETTINGS)) as llm:
        answer(llm, PROMPT, n=1)
        score = llm.last_trace.gate_score
        assert score is not None
        above, below = np.nextafter(score, np.inf), np.nextafter(score, -np.inf)
        for benign, harmful, gate in (
            (score, above, "benign"), (below, score, "harmful"), (below, above, "uncertain"),
        ):  # fmt: skip
            with llm.steered(Steering(gate_benign=benign, gate_harmful=harmful, engine=engine)):
                llm.reset()
                answer(llm, PROMPT, n=1)
                assert llm.last_trace.gate == gate


@pytest.mark.parametrize("engine", ["native", "onnx"])
def test_a_decision_is_made_anew_for_every_answer(path: Path, engine: str) -> None:
    prompts = [make_prompt(20 + i, seed=10 + i) for i in range(6)]
    with closing(EdgeLlama(path, energy=make_energies(path), **SETTINGS)) as llm:
        scores = []
        for prompt in prompts:
            answer(llm, prompt, n=1)
            scores.append(llm.last_trace.gate_score)
        low, high = np.quantile(scores, [0.34, 0.67])
        with llm.steered(Steering(gate_benign=low, gate_harmful=high, engine=engine)):
            for prompt, score in zip(prompts * 2, scores * 2, strict=True):
                answer(llm, prompt, n=4)
                expected = "benign" if score <= low else "harmful" if score >= high else "uncertain"
                assert llm.last_trace.gate == expected
                descended = {"benign": ["fr"], "harmful": ["jb"], "uncertain": []}[expected]
                assert [HEADS[head] for head in np.unique(llm.last_trace.descents["head"])] == descended


@pytest.mark.parametrize("engine", ["native", "onnx"])
def test_without_a_gate_the_merged_energy_is_descended(path: Path, engine: str) -> None:
    with watched(path, make_energies(path, gated=False), steering=Steering(engine=engine)) as llm:
        plain, found = plainly(llm), run(llm)
    assert not np.array_equal(found.logits, plain.logits)
    assert found.trace.gate == "ungated"
    assert found.trace.gate_score is None
    assert {HEADS[head] for head in found.trace.records["head"]} == {"merged"}
    assert found.trace.touched_tokens == 3
    assert (found.trace.records["energy_after"] < found.trace.records["energy_before"]).all()


# -- engines


@pytest.mark.parametrize(
    "bounds", [BENIGN, HARMFUL, UNCERTAIN, None], ids=["benign", "harmful", "uncertain", "ungated"]
)
@pytest.mark.parametrize("subspace", [True, False], ids=["subspace", "whole"])
def test_both_engines_steer_alike(path: Path, subspace: bool, bounds: dict[str, float] | None) -> None:
    energies = make_energies(
        path, subspace=subspace, gated=bounds is not None, step_size=0.05 if subspace else 0.02,
        max_shift=0.12, thresholds={"jb": {3: -0.5}} if bounds else {},
    )  # fmt: skip
    with watched(path, energies, n_batch=16, n_ubatch=7) as llm:
        with llm.steered(Steering(engine="native", **(bounds or {}))):
            native = run(llm)
        with llm.steered(Steering(engine="onnx", **(bounds or {}))):
            onnx = run(llm)
        plain = plainly(llm)
    assert_same_trace(onnx.trace, native.trace, 1e-4)
    assert np.abs(onnx.logits - native.logits).max() < 1e-3
    if bounds is not UNCERTAIN:
        assert np.abs(plain.logits - native.logits).max() > 0.1
        assert (native.trace.descents["shift"] <= 0.12 * 1.0001).all()


def test_the_engine_auto_is_native_for_our_own_files(path: Path, tmp_path: Path) -> None:
    file = tmp_path / "tiny.energy.onnx"
    make_energies(path).save(file)
    with closing(EdgeLlama(path, energy=file, **SETTINGS)) as llm:
        found = evaluate(llm, PROMPT, THEN)
        with llm.steered(Steering(engine="native")):
            assert np.array_equal(evaluate(llm, PROMPT, THEN), found)


@pytest.mark.parametrize("engine", ["native", "onnx"])
def test_energies_that_overflow(path: Path, engine: str) -> None:
    """A state that would become NaN or infinite is an error, and the session stays usable."""
    energies = make_energies(path, relative=False, step_size=1e38, max_shift=0.0)
    with watched(path, energies) as llm:
        plain = plainly(llm)
        with pytest.raises(SettingsError), llm.steered(Steering(engine=engine, strength=900)):
            pass
        with pytest.raises(SteeringError), llm.steered(Steering(engine=engine, strength=3)):
            run(llm)
        assert np.array_equal(plainly(llm).logits, plain.logits)
        with llm.steered(Steering(step_size=0.1)):
            trace = run(llm).trace
            assert sorted(set(trace.descents["offset"].tolist())) == [0, 1, 2]
            assert len(trace.descents) == 3 * len(STEERED_LAYERS)


@pytest.mark.parametrize("engine", ["native", "onnx"])
def test_an_answer_cannot_go_on_under_a_gate_that_was_not_read(path: Path, engine: str) -> None:
    with closing(EdgeLlama(path, energy=make_energies(path, n_tokens=0), **SETTINGS)) as llm:
        with llm.steered(Steering(strength=0)):
            llm.eval(PROMPT)
        with llm.steered(Steering(engine=engine)), pytest.raises(SteeringError, match="gate was never read"):
            llm.eval(THEN)
        with llm.steered(Steering(engine=engine, n_tokens=1)):
            llm.eval(THEN)  # no token of these is steered any more
        assert llm.last_trace.gate is None


# -- what is refused


def load(path: Path, energies: Any, **settings: Any) -> None:
    EdgeLlama(path, energy=energies, **{**SETTINGS, **settings}).close()


def test_the_last_layer_cannot_be_steered(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an energy file of a deeper model would have it: here the header states a layer less."""
    monkeypatch.setattr(session_module, "hook_shape", lambda header: (N_LAYER - 1, N_EMBD))
    energies = make_energies(path)
    with pytest.raises(SteeringError, match="cannot steer layer 4: it is the last layer"):
        load(path, energies)
    load(path, energies, steering=Steering(layers=(2, 3)))
    with closing(EdgeLlama(path, energy=energies, steering=Steering(strength=0), **SETTINGS)) as llm:
        plain = evaluate(llm, PROMPT)
        with pytest.raises(SteeringError, match="last layer"), llm.steered(Steering()):
            pass
        assert np.array_equal(evaluate(llm, PROMPT), plain)


class MisleadingHook:
    """A hook whose probe shows layer 3 otherwise: what architectures without a usable l_out look like."""

    def __init__(self, hook: Any, edit: Callable[[int, int, int], tuple[int, int, int] | None]) -> None:
        self._hook, self._edit = hook, edit

    def __getattr__(self, name: str) -> Any:
        return getattr(self._hook, name)

    def end_probe(self) -> list[tuple[int, int, int, int]]:
        seen = []
        for il, *found in self._hook.end_probe():
            found = self._edit(*found) if il == 3 else found
            if found is not None:
                seen.append((il, *found))
        return seen


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda width, n_rows, n_bytes: None, "llama.cpp computes no tensor named l_out-3"),
        (lambda width, n_rows, n_bytes: (2 * width, n_rows, 2 * n_bytes), "l_out-3 is 128 wide, expected n_embd"),
        (lambda width, n_rows, n_bytes: (width, n_rows, n_bytes // 2), "l_out-3 is not float32"),
        (lambda width, n_rows, n_bytes: (width, 3, n_bytes // 2 * 3), "l_out-3 has 3 rows for 2 tokens"),
    ],
    ids=["missing", "width", "type", "rows"],
)
def test_a_layer_whose_output_is_of_no_use(path: Path, monkeypatch: pytest.MonkeyPatch, edit: Any, reason: str) -> None:
    new_hook = session_module.new_hook
    monkeypatch.setattr(session_module, "new_hook", lambda *shape: MisleadingHook(new_hook(*shape), edit))
    with pytest.raises(SteeringError, match=f"cannot steer layer 3: {reason}"):
        load(path, make_energies(path))
    with closing(EdgeLlama(path, energy=None, **SETTINGS)) as llm:
        assert [bool(layer.refusal) for layer in llm.layers] == [False, False, False, True, False, True]
        assert llm.layers[3].unreadable.startswith(reason)
        interventions = {2: lambda rows: None, 3: lambda rows: None}
        with pytest.raises(SteeringError, match=f"edit layer 3: {reason}"), llm.intervening(interventions):
            pass
        with pytest.raises(SteeringError, match=f"cannot capture layer 3: {reason}"):
            llm.capture(PROMPT)
        assert sorted(llm.capture(PROMPT, [1, 2, 4, 5])) == [1, 2, 4, 5]


def test_a_probe_that_sees_a_part_of_the_graph_computes_the_rest(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where several backends share the graph, each offers its layers when those before are computed."""
    n_probes = 0

    class SplitHook(MisleadingHook):
        def end_probe(self) -> list[tuple[int, int, int, int]]:
            nonlocal n_probes
            n_probes += 1
            seen = self._hook.end_probe()
            return seen if n_probes > 1 else [found for found in seen if found[0] < 3]

    new_hook = session_module.new_hook
    monkeypatch.setattr(session_module, "new_hook", lambda *shape: SplitHook(new_hook(*shape), lambda *found: found))
    with closing(EdgeLlama(path, energy=None, **SETTINGS)) as llm:
        assert llm.steerable_layers == tuple(range(N_LAYER - 1))
        assert n_probes == 2


def test_the_probe_says_nothing_and_leaves_the_log_as_it_was(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The log is the process's, and sessions may open in several threads."""
    heard: list[str] = []
    listener = llama_api.llama_log_callback(lambda level, text, data: heard.append(text.decode()))
    before = current_log()
    with ExitStack() as stack:
        stack.callback(llama_api.llama_log_set, before, None)
        llama_api.llama_log_set(listener, None)
        sessions = [stack.enter_context(closing(EdgeLlama(path, energy=None, **SETTINGS))) for _ in range(4)]
        assert heard and not any("removing memory" in text for text in heard)
        heard.clear()
        with ThreadPoolExecutor(len(sessions)) as pool:
            probes = pool.map(lambda llm: [probe_layers(llm, llm._hook) for _ in range(100)], sessions)
            assert all(layers == sessions[0].layers for found in probes for layers in found)
        assert heard == []
        assert address(current_log()) == address(listener)
        answers = [evaluate(llm, PROMPT) for llm in sessions]
        assert all(np.array_equal(one, answers[0]) for one in answers)
    assert capfd.readouterr().err == ""


def test_a_model_that_cannot_be_probed_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks.llama_api, "llama_decode", lambda ctx, batch: -3)
    with pytest.raises(ModelError, match=r"could not decode the first tokens \(code -3\)"):
        EdgeLlama(path, energy=None, **SETTINGS)


def current_log() -> Any:
    log, data = llama_api.llama_log_callback(), ctypes.c_void_p()
    llama_api.llama_log_get(ctypes.byref(log), ctypes.byref(data))
    return log


def address(function: Any) -> int | None:
    return ctypes.cast(function, ctypes.c_void_p).value


def test_a_layer_that_stops_firing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer that the model does not compute, though the probe saw it, is an error of the decode."""
    monkeypatch.setattr(session_module, "hook_shape", lambda header: (N_LAYER + 2, N_EMBD))
    monkeypatch.setattr(
        session_module, "probe_layers", lambda llm, hook: tuple(LayerProbe(il) for il in range(N_LAYER + 2))
    )
    with closing(EdgeLlama(path, energy=None, **SETTINGS)) as llm:
        plain = evaluate(llm, PROMPT)
        reason = f"layer {N_LAYER}: l_out-{N_LAYER} was computed for 0 of"
        intervention = AddVector(np.ones(N_EMBD))
        with llm.intervening({N_LAYER: intervention}), pytest.raises(SteeringError, match=reason):
            evaluate(llm, PROMPT)
        with pytest.raises(SteeringError, match=reason):
            llm.capture(PROMPT, [N_LAYER])
        assert np.array_equal(evaluate(llm, PROMPT), plain)


@pytest.mark.parametrize(("n_batch", "n_ubatch"), [(512, 512), (512, 1), (1, 512), (2, 2)])
def test_every_layer_but_the_last_can_be_steered(tiny: TinyModel, n_batch: int, n_ubatch: int) -> None:
    for arch in ("llama", "gemma3", "mamba", "lfm2"):
        settings = {**SETTINGS, "n_batch": n_batch, "n_ubatch": n_ubatch}
        with closing(EdgeLlama(tiny(arch, n_layer=N_LAYER), energy=None, **settings)) as llm:
            assert [bool(layer.refusal) for layer in llm.layers] == [False] * (N_LAYER - 1) + [True]
            assert not any(layer.unreadable for layer in llm.layers)
            assert llm.n_tokens == 0


def test_energies_of_another_model(path: Path, tiny: TinyModel) -> None:
    other = make_energies(tiny("qwen3", n_layer=N_LAYER))
    with pytest.raises(FingerprintError, match="qwen3"):
        load(path, other)


def test_steering_without_energies(path: Path) -> None:
    with pytest.raises(SteeringError, match="no energies"):
        load(path, None, steering=Steering())
    load(path, None, steering=Steering(strength=0))
    with closing(EdgeLlama(path, energy=None, **SETTINGS)) as llm:
        assert llm.energy_file is None
        assert llm.steering.strength == 0
        with pytest.raises(SteeringError, match="no energies"), llm.steered(Steering(strength=0.5)):
            pass
        with llm.steered(Steering(strength=0)):
            answer(llm, PROMPT)
        assert llm.last_trace.gate is None


def test_energies_are_found_by_name(path: Path, tmp_path: Path, home: Path) -> None:
    gguf = tmp_path / "model.gguf"
    gguf.write_bytes(path.read_bytes())
    with pytest.raises(EnergyFileError, match="edge-eds fit"):
        load(gguf, "auto")
    with pytest.raises(EnergyFileError, match="no such energy file"):
        load(gguf, tmp_path / "other.energy.onnx")
    energies = tmp_path / "model.energy.onnx"
    make_energies(gguf).save(energies)
    with closing(EdgeLlama(gguf, **SETTINGS)) as llm:
        assert llm.energy_file is not None and llm.energy_path == energies
        assert answer(llm, PROMPT).tokens
        assert llm.last_trace.touched_tokens == 3


@pytest.mark.parametrize("wanted", ["auto", "other.energy.onnx", "."])
def test_missing_energies_are_told_before_the_weights_are_loaded(
    path: Path, tmp_path: Path, home: Path, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gguf = tmp_path / "model.gguf"
    gguf.write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Llama, "__init__", lambda *_, **__: pytest.fail("llama.cpp loads the model"))
    with pytest.raises(EnergyFileError):
        load(gguf, wanted)


def test_a_wish_that_the_file_cannot_grant(path: Path) -> None:
    with closing(EdgeLlama(path, energy=make_energies(path), **SETTINGS)) as llm:
        for steering in (Steering(layers=(1,)), Steering(layers=(0, 3))):
            with pytest.raises(SettingsError), llm.steered(steering):
                pass
    ungated = EdgeLlama(path, energy=make_energies(path, gated=False), **SETTINGS)
    with closing(ungated) as llm, pytest.raises(SettingsError, match="gate"):
        llm.steered(Steering(gate_benign=0.0)).__enter__()


def test_large_energies_are_computed_by_llama_cpps_own_threads(tiny: TinyModel) -> None:
    """The same bits by its threads, by ours and by one; and no threads of ours where it brings its own."""
    path = tiny("llama", n_layer=N_LAYER)
    file = make_energies(path, gated=False, subspace=False)
    large = {il: LayerEnergy(il, None, {"merged": make_head(N_EMBD, (4200,), True, il)}) for il in STEERED_LAYERS}
    file = replace(file, energies=EnergyModel(N_EMBD, large))
    threads = Path("/proc/self/task")
    with closing(EdgeLlama(path, energy=file, **{**SETTINGS, "n_threads": 3, "n_threads_batch": 3})) as llm:
        shared = answer(llm, PROMPT)
        assert llm.last_trace.touched_tokens > 0
        n_before = len(list(threads.iterdir())) if threads.is_dir() else 0
        for openmp, n_threads in ((0, 3), (0, 1), (openmp_parallel(), 3)):
            llm._hook.set_threads(n_threads, openmp)
            if openmp and n_before:
                assert len(list(threads.iterdir())) == n_before
            llm.reset()
            assert answer(llm, PROMPT).same_bits(shared)
