"""Training from a collection: states that can be told apart are, others are not, and the gate is calibrated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_eds.energy.calibration import auc
from edge_eds.energy.fingerprint import ModelFingerprint
from edge_eds.energy.training import HeadRecipe
from edge_eds.errors import InputError
from edge_eds.pipeline import fit as fit_module
from edge_eds.pipeline.collect import Collection, Example
from edge_eds.pipeline.fit import load_trained, train_stage
from edge_eds.pipeline.gate import folds_by_category
from edge_eds.pipeline.train import Labels, TrainSettings, gate_scores, head_tasks, train
from edge_eds.reports.verdict import nothing_found

N_LAYER, N_EMBD, N_PAIRS = 10, 24, 90
SETTINGS = TrainSettings(steer_ranks=(8, 4), steer_recipe=HeadRecipe(hidden=(8,), epochs=40))


def collection(strength: float, *, refused_share: float = 0.5, seed: int = 0) -> Collection:
    """Pairs and ordinary prompts whose states carry intent (direction 0; over the message 2) and refusal (1)."""
    rng, message_rng = np.random.default_rng(seed), np.random.default_rng([seed, 1])
    examples, states, messages = [], [], []
    for i in range(N_PAIRS):
        split = "train" if i % 3 else "validation"
        for intent in ("benign", "harmful", "ordinary"):
            refused = intent != "ordinary" and rng.random() < (refused_share if intent == "benign" else 0.6)
            h = rng.normal(size=(N_LAYER - 1, N_EMBD))
            h[:, 0] += strength * (1 if intent == "harmful" else -1)
            h[:, 1] += strength * (1 if refused else -1)
            label = "refusal" if refused else "answer"
            examples.append(Example(f"{i}-{intent}", str(i), "c", split, intent, "prompt", "answer", label, 1))
            states.append(h)
            message = message_rng.normal(size=h.shape)
            message[:, 2] += strength * (1 if intent == "harmful" else -1)
            messages.append(message)
    fingerprint = ModelFingerprint("llama", N_LAYER, N_EMBD, "v", "F32", "none")
    layers = tuple(range(N_LAYER - 1))
    ends, means = (np.asarray(values, dtype=np.float16) for values in (states, messages))
    return Collection(fingerprint, "hash", layers, tuple(examples), ends, means)


def test_what_the_states_carry_is_found() -> None:
    data = collection(2.0)
    trained = train(data, SETTINGS)
    labels = Labels.of(data)
    assert trained.heads == ("fr", "jb")
    assert auc(gate_scores(data, trained.energies, trained.gate), labels.harmful) > 0.99
    tasks = head_tasks(labels)
    for il in trained.steer_layers:
        for head in trained.heads:
            rows = np.flatnonzero(tasks[head].rows & labels.validation)
            energy = trained.energies.energy(il, head, data.layer(il, rows))
            assert auc(energy, tasks[head].bad[rows]) > 0.95
    assert max(trained.gate.layers) < min(trained.steer_layers)


def test_noise_is_not_told_apart() -> None:
    data = collection(0.0)
    trained = train(data, SETTINGS)
    labels = Labels.of(data)
    rows = labels.train & ~labels.ordinary  # fitted to these; on new ones it knows nothing
    fresh = collection(0.0, seed=1)
    assert auc(gate_scores(data, trained.energies, trained.gate)[rows], labels.harmful[rows]) > 0.6
    assert 0.35 < auc(gate_scores(fresh, trained.energies, trained.gate), labels.harmful) < 0.65
    assert 0.35 < auc(trained.gate_scores[rows], labels.harmful[rows]) < 0.65  # and its out-of-fold scores say so


def test_whole_categories_are_left_out_together() -> None:
    data = collection(1.0)
    names = [f"kind {i % 20}" for i in range(len(data.examples))]
    examples = tuple(replace(example, category=name) for example, name in zip(data.examples, names, strict=True))
    folds = folds_by_category(replace(data, examples=examples), 6, seed=0)
    assert len(set(folds)) == 6
    assert len(set(zip(names, folds.tolist(), strict=True))) == 20
    # of one category only: matched prompts stay together
    folds = folds_by_category(data, 6, seed=0)
    assert len({(example.group, fold) for example, fold in zip(data.examples, folds, strict=True)}) == N_PAIRS


def test_the_gate_gives_log_odds() -> None:
    data = collection(0.4)
    trained = train(data, SETTINGS)
    labels = Labels.of(data)
    rows = labels.validation & ~labels.ordinary
    p = 1 / (1 + np.exp(-gate_scores(data, trained.energies, trained.gate)[rows]))
    assert p.mean() == pytest.approx(labels.harmful[rows].mean(), abs=0.05)
    assert 0.05 < p.std() < 0.45


def test_the_same_collection_gives_the_same_energies() -> None:
    data = collection(1.0)
    first, second = train(data, SETTINGS), train(data, SETTINGS)
    il = first.steer_layers[0]
    for head in first.heads:
        assert np.array_equal(
            first.energies.energy(il, head, data.layer(il)), second.energies.energy(il, head, data.layer(il))
        )
    assert first.gate == second.gate


def test_what_was_trained_is_read_again_and_a_part_of_it_is_nothing(tmp_path: Path) -> None:
    data = collection(1.0)
    first = train_stage(data, tmp_path, SETTINGS)
    assert list(first.by_rank) == [8, 4]
    told: list[str] = []
    for again in (train_stage(data, tmp_path, SETTINGS, lambda *call: told.append(call[-1])), load_trained(tmp_path)):
        assert not told
        assert (list(again.by_rank), again.gate, again.heads) == ([8, 4], first.gate, first.heads)
        for rank, energies in again.by_rank.items():
            for il in first.steer_layers:
                subspace = energies.layers[il].subspace
                assert subspace is not None and subspace.rank == rank
                assert np.array_equal(subspace.P, subspace.P.astype(np.float16))  # which the native core reads as such
                same = (model.energy(il, "fr", data.layer(il)) for model in (energies, first.by_rank[rank]))
                np.testing.assert_array_equal(*same)
    (tmp_path / "trained-4.energy.onnx").unlink()  # as if killed between the two
    with pytest.raises(InputError, match="edge-eds train"):
        load_trained(tmp_path)
    train_stage(data, tmp_path, SETTINGS, lambda *call: told.append(call[-1]))
    assert told and load_trained(tmp_path)


def test_a_model_that_never_refuses_teaches_no_false_refusals() -> None:
    assert "fr" not in head_tasks(Labels.of(collection(1.0, refused_share=0.0)))


def test_a_model_that_refuses_nothing_is_no_error_of_fit_but_nothing_can_be_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = collection(1.0)
    data = replace(data, examples=tuple(replace(example, label="answer") for example in data.examples))
    with pytest.raises(InputError, match=r"refuses 0 of \d+ requests.* at least 8 refused"):
        train(data, SETTINGS)
    monkeypatch.setattr(fit_module, "collect", lambda *_: data)
    result = fit_module.fit(None, None, tmp_path)  # type: ignore[arg-type]
    assert result.energy is None and not list(tmp_path.iterdir())
    said = nothing_found("m.gguf", result.labels, result.report.heads)
    assert "no false refusals to mend and no true ones to learn from" in said


def test_too_few_examples_are_an_error() -> None:
    data = collection(1.0)
    states = (data.states[:12], data.message_states[:12])
    few = Collection(data.fingerprint, data.prompt_set_hash, data.layers, data.examples[:12], *states)
    with pytest.raises(InputError, match="at least"):
        train(few, SETTINGS)
