"""The methods: each does what its publication's formula says, and is saved and loaded as the same steerer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from method_examples import INTENT, REFUSAL, make_collection
from runtime_examples import N_EMBD, N_LAYER, STEERED_LAYERS, TinyModel, make_energies, make_prompt

from edge_eds.energy.calibration import auc
from edge_eds.energy.settings import Steering
from edge_eds.energy.training import HeadRecipe
from edge_eds.errors import InputError
from edge_eds.pipeline.collect import Collection
from edge_eds.pipeline.methods import METHODS, load_method
from edge_eds.pipeline.methods.ablation import AblationFamily
from edge_eds.pipeline.methods.alphasteer import AlphaSteerFamily, null_space_reading
from edge_eds.pipeline.methods.conditional_vector import find_condition
from edge_eds.pipeline.methods.conditional_vector import prepare as prepare_conditional
from edge_eds.pipeline.methods.control_vector import ControlVectorFamily
from edge_eds.pipeline.methods.eds_paper import PaperFamily, train_merged
from edge_eds.pipeline.methods.energy_forms import (
    bound_for_share,
    cosine_gate,
    similarity_energy,
    vector_energy,
    with_benign_bound,
)
from edge_eds.pipeline.methods.frozen_gradient import freeze
from edge_eds.pipeline.methods.method import Context
from edge_eds.pipeline.methods.ours import GatedFamily
from edge_eds.pipeline.methods.states import States, unit, windows
from edge_eds.pipeline.methods.steerer import (
    EnergySteerer,
    InterventionSteerer,
    PromptSteerer,
    Steerer,
    VectorSteerer,
    load_steerer,
)
from edge_eds.pipeline.methods.system_prompt import PROMPTS, SystemPromptFamily
from edge_eds.pipeline.train import Labels, gate_scores
from edge_eds.runtime.batch import BatchRunner
from edge_eds.runtime.energies import ModelFiles
from edge_eds.runtime.interventions import AddLowRank, AddVector

QUICK = HeadRecipe(hidden=(8,), layer_norm=True, epochs=10)
TOLERANCE = 0.05  # of logits about 10 in size: the cache is in half precision
TOKENS = [make_prompt(12, seed=seed) for seed in range(3)]


@pytest.fixture
def path(tiny: TinyModel) -> Path:
    return tiny("llama", n_layer=N_LAYER)


@pytest.fixture
def collection(path: Path) -> Collection:
    return make_collection(path)


@pytest.fixture
def states(collection: Collection) -> States:
    return States(collection)


@pytest.fixture
def runner(path: Path) -> Iterator[BatchRunner]:
    with BatchRunner(ModelFiles(path), n_ctx=128, n_parallel=3, n_threads=1) as runner:
        yield runner


def logits(runner: BatchRunner, steerer: Steerer | None) -> np.ndarray:
    program = steerer.program(runner) if steerer is not None else None
    found = runner.generate(TOKENS, max_new_tokens=1, steering=program, want_logits=True)
    return np.stack([generation.first_logits for generation in found])


def test_every_name_has_its_method() -> None:
    for name in METHODS:
        assert load_method(name).name == name
    with pytest.raises(InputError, match="unknown method 'magic'; expected one of ours"):
        load_method("magic")


# -- energies that are something else


def test_a_vector_is_an_energy(collection: Collection, runner: BatchRunner) -> None:
    """Added at the prompt's end and at every new token, whatever the state."""
    rng = np.random.default_rng(0)
    directions = {il: rng.normal(size=N_EMBD) for il in (2, 3)}
    file = vector_energy(collection, directions, 1.5)
    vectors = {il: AddVector(1.5 * unit(v), rows="answer") for il, v in directions.items()}
    settings = {"max_new_tokens": 4, "want_logits": True}
    found = runner.generate(TOKENS, steering=runner.energy_program(file), **settings)
    expected = runner.generate(TOKENS, steering=runner.intervention_program(vectors), **settings)
    plain = runner.generate(TOKENS, **settings)
    for a, b, without in zip(found, expected, plain, strict=True):
        assert a.tokens == b.tokens
        np.testing.assert_allclose(a.first_logits, b.first_logits, atol=1e-3)
        assert np.abs(a.first_logits - without.first_logits).max() > 10 * TOLERANCE


def test_the_cosine_gate_sees_the_cosine_alone() -> None:
    rng = np.random.default_rng(0)
    direction, H = rng.normal(size=N_EMBD), rng.normal(size=(40, N_EMBD))
    gate = cosine_gate(1, direction)
    energy = gate.energy("harm", H)
    cosine = H @ unit(direction) / np.linalg.norm(H, axis=1)
    np.testing.assert_allclose(energy, similarity_energy(cosine, N_EMBD), rtol=1e-3, atol=1e-5)
    # lengths and signs play no part, and the order is that of |cos|
    np.testing.assert_allclose(gate.energy("harm", -30 * H), energy, rtol=1e-3, atol=1e-5)
    assert np.array_equal(np.argsort(energy), np.argsort(np.abs(cosine)))


def test_a_bound_lets_its_share_through(path: Path, collection: Collection) -> None:
    file = make_energies(path)
    labels = Labels.of(collection)
    wrong = labels.validation & labels.benign & labels.refused
    for share in (0.3, 0.7, 1.0):
        bounded = with_benign_bound(file, bound_for_share(file, collection, share))
        assert bounded.spec.gate is not None
        scores = gate_scores(collection, bounded.energies, bounded.spec.gate)[wrong]
        assert (scores <= bounded.spec.gate.benign).mean() == pytest.approx(share, abs=1 / wrong.sum())


# -- each method's formula


def test_control_vector(states: States, runner: BatchRunner) -> None:
    family = ControlVectorFamily(states)
    direction = unit(states.towards_answering(3))
    assert direction[REFUSAL] < -0.9  # refused states have more of it
    layers = [2, 3]
    everywhere = family.steerer({"layers": layers, "rows": "all"}, 0.2)
    assert isinstance(everywhere, VectorSteerer)
    length = 0.2 * states.distance(layers) / 2
    for il, vector in everywhere.vector.directions.items():
        np.testing.assert_allclose(vector, length * unit(states.towards_answering(il)), rtol=1e-5)
    answers = family.steerer({"layers": layers, "rows": "answer"}, 0.2)
    vectors = {il: AddVector(v, rows="answer") for il, v in everywhere.vector.directions.items()}
    expected = runner.generate(
        TOKENS, max_new_tokens=1, want_logits=True, steering=runner.intervention_program(vectors)
    )
    np.testing.assert_allclose(
        logits(runner, answers), np.stack([generation.first_logits for generation in expected]), atol=1e-3
    )
    assert all(0 not in shape["layers"] for shape in family.shapes())


def test_ablation_leaves_true_refusal_untouched(states: States, runner: BatchRunner) -> None:
    family = AblationFamily(states)
    direction = unit(family.direction(3))
    labels = states.labels
    calm = states.mean(3, labels.train & labels.ordinary & labels.answered)
    true_refusal = unit(states.mean(3, states.harmful & labels.refused) - calm)
    false_refusal = states.mean(3, states.refused_benign) - calm
    assert abs(direction @ true_refusal) < 1e-9
    steerer = family.steerer({"source": 3, "from": 3}, 1.0)
    plain = runner.generate(TOKENS, max_new_tokens=1, capture_layers=(3,))
    ablated = runner.generate(TOKENS, max_new_tokens=1, capture_layers=(3,), steering=steerer.program(runner))
    for before, after in zip(plain, ablated, strict=True):
        assert before.states is not None and after.states is not None
        assert abs(after.states[3] @ direction) < 1e-3 < abs(before.states[3] @ direction)
        assert after.states[3] @ true_refusal == pytest.approx(before.states[3] @ true_refusal, abs=TOLERANCE)
    # of the way from calm to false refusal, what is not true refusal is gone
    left = false_refusal - (false_refusal @ direction) * direction
    np.testing.assert_allclose(left, (false_refusal @ true_refusal) * true_refusal, atol=1e-9)


def test_conditional_vector_decides_by_the_cosine(collection: Collection, states: States) -> None:
    condition = find_condition(states, 1)
    assert abs(condition.vector[INTENT]) > 0.9
    family = prepare_conditional(Context(collection, Path()))
    shape = {"layers": [3], "force": 0.2}
    share = 0.6
    steerer = family.steerer(shape, share)
    assert isinstance(steerer, EnergySteerer)
    gate = steerer.energy.spec.gate
    assert gate is not None
    (il,) = gate.layers
    chosen = next(c for c in family.conditions if c.il == il)
    rows = np.arange(len(collection.examples))
    h = collection.layer(il, rows).astype(np.float64)
    similarity = chosen.sign * np.abs(h @ chosen.vector) / np.linalg.norm(h, axis=1)
    benign = gate_scores(collection, steerer.energy.energies, gate) <= gate.benign
    assert 0 < benign.sum() < len(rows)
    assert similarity[benign].max() <= similarity[~benign].min() + 1e-5
    labels = states.labels
    wrong = labels.validation & labels.benign & labels.refused
    assert benign[wrong].mean() == pytest.approx(share, abs=1 / wrong.sum())
    assert auc(similarity, labels.harmful) > 0.95


def test_alphasteer_moves_what_it_should_and_leaves_the_rest() -> None:
    """Preserved states lie in a subspace; states to move stick out of it."""
    rng = np.random.default_rng(0)
    basis = rng.normal(size=(20, N_EMBD))
    preserved = rng.normal(size=(300, 20)) @ basis
    moved = rng.normal(size=(100, 20)) @ basis + 2 * rng.normal(size=N_EMBD)
    reading = null_space_reading(moved, preserved, null_share=0.6, ridge=1e-3)
    assert np.abs(preserved @ reading).max() < 1e-6
    np.testing.assert_allclose(moved @ reading, 1, atol=0.1)
    fresh = rng.normal(size=(50, 20)) @ basis
    assert np.abs(fresh @ reading).max() < 1e-6


def test_alphasteer_is_its_published_matrix() -> None:
    """The rank-one form is the d x d ridge solution with every target equal to r."""
    rng = np.random.default_rng(1)
    d = 12
    moved, preserved, r = rng.normal(size=(30, d)) + 1, rng.normal(size=(40, d)), rng.normal(size=d)
    reading = null_space_reading(moved, preserved, null_share=0.5, ridge=0.2)
    null = np.linalg.eigh(preserved.T @ preserved)[1][:, : d // 2]
    P = null @ null.T
    X = P @ moved.T  # (d, n)
    a = 0.2 * np.trace(X @ X.T) / (d // 2)
    target = np.tile(r[:, None], (1, len(moved)))
    delta = target @ X.T @ np.linalg.pinv(X @ X.T + a * P @ P.T) @ P
    np.testing.assert_allclose(np.outer(r, reading), delta, atol=1e-9)


def test_alphasteer_on_a_collection(states: States) -> None:
    steerer = AlphaSteerFamily(states).steerer({"layers": [3], "null_share": 0.8}, 1.0)
    assert isinstance(steerer, InterventionSteerer)
    (il, intervention), *_ = steerer.interventions.items()
    assert isinstance(intervention, AddLowRank)
    assert intervention.rows == "answer"
    labels = states.labels
    reading = np.asarray(intervention.down)[0].astype(np.float64)
    moved = states.of(il, states.refused_benign) @ reading
    kept = states.of(il, labels.train & (labels.harmful | labels.answered)) @ reading
    assert auc(np.concatenate([kept, moved]), np.arange(len(kept) + len(moved)) >= len(kept)) > 0.9
    assert moved.mean() > 5 * abs(kept.mean())


@pytest.mark.parametrize(("subspace", "covariance"), [(True, True), (True, False), (False, False)])
def test_a_frozen_gradient_is_a_vector(
    path: Path, collection: Collection, runner: BatchRunner, subspace: bool, covariance: bool
) -> None:
    """At every steered token, whatever the state: a control vector, where the gate lets it."""
    file = make_energies(
        path, subspace=subspace, covariance=covariance, relative=False, n_tokens=0, decay=1.0, step_size=0.3,
        thresholds={"fr": {3: 0.5}},
    )  # fmt: skip
    frozen = freeze(file, collection)
    assert frozen.spec.gate == file.spec.gate
    assert frozen.spec.thresholds == {}
    assert frozen.energies is not None
    vectors = {}
    for il in STEERED_LAYERS:
        rows = np.random.default_rng(il).normal(size=(5, N_EMBD)).astype(np.float32)
        descent = frozen.energies.layers[il].descend(
            "fr", rows, step_size=0.3, steps=3, relative=False, covariance=covariance
        )
        moves = descent.H - rows
        np.testing.assert_allclose(moves, np.tile(moves[:1], (5, 1)), atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(moves, axis=1), 0.9, rtol=1e-4)
        vectors[il] = AddVector(moves[0], rows="answer")
    settings = {"max_new_tokens": 4, "want_logits": True}
    found = runner.generate(TOKENS, steering=runner.energy_program(frozen), **settings)
    expected = runner.generate(TOKENS, steering=runner.intervention_program(vectors), **settings)
    for a, b in zip(found, expected, strict=True):
        assert a.tokens == b.tokens
        np.testing.assert_allclose(a.first_logits, b.first_logits, atol=TOLERANCE)


def test_a_frozen_gradient_is_the_mean_step(path: Path, collection: Collection) -> None:
    file = make_energies(path)
    frozen = freeze(file, collection)
    assert file.energies is not None and frozen.energies is not None
    labels = Labels.of(collection)
    wrong = np.flatnonzero(labels.train & labels.benign & labels.refused)
    H = collection.layer(3, wrong).astype(np.float64)
    one = {"step_size": 1.0, "steps": 1, "relative": False}
    steps = file.energies.layers[3].descend("fr", H, **one).H - H
    frozen_step = frozen.energies.layers[3].descend("fr", H[:1], **one).H[0] - H[0]
    np.testing.assert_allclose(frozen_step, unit(steps.mean(axis=0)), atol=1e-5)


def test_eds_paper(collection: Collection, runner: BatchRunner, tmp_path: Path) -> None:
    file = train_merged(Context(collection, tmp_path), QUICK)
    assert file.energies is not None
    labels = Labels.of(collection)
    bad = (labels.benign & labels.refused) | (labels.harmful & labels.answered)
    rows = np.flatnonzero(labels.validation)
    for il, score in file.scores["auc"].items():
        energy = file.energies.energy(int(il), "merged", collection.layer(int(il), rows))
        assert auc(energy, bad[rows]) == pytest.approx(score)
    shape = {"n_layers": 3, "steps": 2}
    absolute, relative = (PaperFamily(file, relative).steerer(shape, 0.1) for relative in (False, True))
    for steerer, is_relative in ((absolute, False), (relative, True)):
        assert isinstance(steerer, EnergySteerer)
        spec = steerer.energy.spec
        assert (spec.gate, spec.n_tokens, spec.steps) == (None, 0, 2)
        assert (spec.relative, spec.covariance) == (is_relative, False)
        scores = file.scores["auc"]
        left_out = [scores[str(il)] for il in collection.layers if il not in spec.layers]
        assert min(scores[str(il)] for il in spec.layers) >= max(left_out)
        for answer in runner.generate(TOKENS, max_new_tokens=2, steering=steerer.program(runner)):
            assert len(answer.trace.descents) == 2 * 3  # the prompt's end and one new token, at three layers


def test_ours_is_the_file_with_another_bound(path: Path) -> None:
    file = make_energies(path)
    family = GatedFamily(file)
    steerer = family.steerer({"force": 1.4}, 0.5)
    assert family.given_strength() in family.strengths({"force": 1.0})
    assert isinstance(steerer, EnergySteerer)
    spec = steerer.energy.spec
    assert spec.step_size == pytest.approx(1.4 * file.spec.step_size)
    assert spec.gate is not None and file.spec.gate is not None
    assert spec.gate.benign == file.spec.gate.benign + 0.5
    assert spec.gate.harmful >= spec.gate.benign
    assert replace(spec, gate=file.spec.gate, step_size=file.spec.step_size) == file.spec


def test_system_prompts(runner: BatchRunner) -> None:
    family = SystemPromptFamily()
    for strength in family.strengths({}):
        steerer = family.steerer({}, strength)
        assert steerer.program(runner) is None
        text = runner.session.detokenize(steerer.tokens(runner, "What is this?"), special=True).decode()
        assert PROMPTS[int(strength) - 1] in text
        assert text.index(PROMPTS[int(strength) - 1]) < text.index("What is this?")
    assert PromptSteerer("").tokens(runner, "What?") == runner.chat_tokens("What?")
    conversation = [
        {"role": "system", "content": "Be rude."},
        {"role": "user", "content": "Who?"},
        {"role": "assistant", "content": "I."},
        {"role": "user", "content": "Why?"},
    ]
    text = runner.session.detokenize(steerer.tokens(runner, conversation), special=True).decode()
    assert "Be rude." not in text
    assert text.index(PROMPTS[-1]) < text.index("Who?") < text.index("Why?")


# -- files


def test_a_saved_steerer_is_the_same_steerer(
    path: Path, states: States, runner: BatchRunner, tmp_path: Path
) -> None:
    steerers = [
        ControlVectorFamily(states).steerer({"layers": [2, 3], "rows": "all"}, 0.3),
        ControlVectorFamily(states).steerer({"layers": [2, 3], "rows": "answer"}, 0.3),
        AblationFamily(states).steerer({"source": 2, "from": 0}, 0.75),
        AlphaSteerFamily(states).steerer({"layers": [2, 4], "null_share": 0.5}, 2.0),
        GatedFamily(make_energies(path)).steerer({"force": 1.0}, 0.75),
    ]
    plain = logits(runner, None)
    for i, steerer in enumerate(steerers):
        saved = steerer.save(tmp_path / f"{i}.x")
        assert saved.name == f"{i}.x{steerer.suffix}"
        expected = logits(runner, steerer)
        assert np.array_equal(logits(runner, load_steerer(saved)), expected)
        assert not np.array_equal(expected, plain)
    prompt = PromptSteerer(PROMPTS[2])
    assert load_steerer(prompt.save(tmp_path / "p")) == prompt


def test_an_energy_form_is_used_like_any_energy_file(states: States, runner: BatchRunner, tmp_path: Path) -> None:
    steerer = ControlVectorFamily(states).steerer({"layers": [2, 3], "rows": "answer"}, 0.3)
    saved = load_steerer(steerer.save(tmp_path / "v"))
    assert isinstance(saved, EnergySteerer)
    runner.use_energy(saved.energy)
    found = runner.generate(TOKENS, max_new_tokens=1, want_logits=True, steering=Steering())
    assert np.array_equal(np.stack([g.first_logits for g in found]), logits(runner, steerer))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.onnx", b""),
        ("x.interventions.npz", b"nothing"),
        ("x.interventions.npz", None),
        ("x.lora.gguf", None),
        ("x.control-vector.gguf", b"GGUF"),
        ("x.system.txt", b"\xff\xfe\xff"),
    ],
)
def test_files_that_hold_nothing_to_steer_with(tmp_path: Path, name: str, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=name.split(".")[-1]):
        load_steerer(tmp_path / name)


# -- what does not suffice


def test_a_collection_without_false_refusals(collection: Collection) -> None:
    answered = tuple(
        replace(example, label="answer") if example.intent == "benign" else example for example in collection.examples
    )
    with pytest.raises(InputError, match="0 benign training prompts were refused"):
        States(replace(collection, examples=answered))


def test_methods_made_from_the_fitted_energies_need_them(path: Path, collection: Collection, tmp_path: Path) -> None:
    for name in ("ours", "frozen-gradient"):
        with pytest.raises(InputError, match="edge-eds fit"):
            load_method(name).prepare(Context(collection, tmp_path))
        with pytest.raises(InputError, match="gate"):
            load_method(name).prepare(Context(collection, tmp_path, make_energies(path, gated=False)))


def test_windows_cover_the_layers_between(collection: Collection) -> None:
    assert windows(collection, (1,), 0.3, 0.9) == [(2,), (3,), (4,)]
    assert windows(collection, (2, 9), 0.3, 0.9) == [(2, 3), (3, 4), (2, 3, 4)]
    with pytest.raises(InputError, match="has none to steer"):
        windows(collection, (1,), 0.98, 0.99)
