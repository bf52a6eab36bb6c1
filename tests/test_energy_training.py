"""Training is seeded and keeps the best epoch; AUC and calibration mean what they say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edge_eds.energy.calibration import auc, calibrate, fit_logistic
from edge_eds.energy.network import HeadWeights
from edge_eds.errors import InputError, SettingsError

torch = pytest.importorskip("torch")

from edge_eds.energy.training import (  # noqa: E402 (imports torch)
    HeadRecipe,
    TrainedHead,
    fit_subspace,
    paper_recipe,
    split_rows,
    train_head,
)

QUICK = HeadRecipe(hidden=(16,), epochs=30)


def clusters(n: int = 300, n_in: int = 8, gap: float = 2.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows of two clusters, `gap` standard deviations apart along the first axis, two thirds of them good."""
    rng = np.random.default_rng(seed)
    bad = np.arange(n) % 3 == 0
    Z = rng.normal(size=(n, n_in))
    Z[:, 0] += gap * bad
    return Z.astype(np.float32), bad


def ring(n: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Good rows around 0, bad rows in a ring about them: no linear energy tells them apart."""
    rng = np.random.default_rng(seed)
    bad = np.arange(n) % 2 == 0
    angle = rng.uniform(0, 2 * np.pi, n)
    radius = np.where(bad, 3.0, 0.7) + 0.2 * rng.normal(size=n)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).astype(np.float32), bad


def train(Z: np.ndarray, bad: np.ndarray, recipe: HeadRecipe, seed: int = 0) -> TrainedHead:
    rows = split_rows(bad, seed=seed)
    return train_head(Z[rows.train], bad[rows.train], Z[rows.valid], bad[rows.valid], recipe, seed)


def same_bits(one: HeadWeights, other: HeadWeights) -> bool:
    arrays = [
        [head.w, np.float32(head.c), *(a for b in head.hidden for a in (b.W, b.b))] for head in (one, other)
    ]
    return all(a.tobytes() == b.tobytes() for a, b in zip(*arrays, strict=True))


# AUC


def naive_auc(energies: np.ndarray, bad: np.ndarray) -> float:
    pairs = [(e > g) + 0.5 * (e == g) for e in energies[bad] for g in energies[~bad]]
    return sum(pairs) / len(pairs)


@pytest.mark.parametrize("seed", range(5))
def test_auc_counts_pairs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    bad = rng.random(60) < 0.3
    for energies in (rng.normal(size=60), rng.integers(0, 5, size=60).astype(float), np.zeros(60)):
        assert auc(energies, bad) == pytest.approx(naive_auc(energies, bad), abs=1e-12)


def test_auc_is_that_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    energies, bad = rng.integers(0, 50, size=500) / 7, rng.random(500) < 0.4
    assert auc(energies, bad) == pytest.approx(metrics.roc_auc_score(bad, energies), abs=1e-12)


def test_auc_needs_both_kinds() -> None:
    with pytest.raises(InputError, match="0 bad and 3 good"):
        auc([1.0, 2.0, 3.0], [False] * 3)


# subspace


@pytest.mark.parametrize(("n", "n_embd"), [(200, 40), (30, 100)])
def test_subspace_is_principal(n: int, n_embd: int) -> None:
    rng = np.random.default_rng(0)
    H = (rng.normal(size=(n, 12)) * np.linspace(5, 1, 12)) @ rng.normal(size=(12, n_embd)) + 30
    H = H.astype(np.float32)
    subspace = fit_subspace(H, 6)
    assert subspace.P.shape == (6, n_embd)
    np.testing.assert_allclose(subspace.P @ subspace.P.T, np.eye(6), atol=1e-5)
    Z = subspace.project(H.astype(np.float64))
    np.testing.assert_allclose(Z.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(Z.T @ Z / n, np.eye(6), atol=1e-3)
    _, spread, rows = np.linalg.svd(H - H.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(subspace.s, spread[:6] / n**0.5, rtol=1e-4)
    np.testing.assert_allclose(np.abs((subspace.P * rows[:6]).sum(axis=1)), 1, atol=1e-4)
    assert (subspace.P[np.arange(6), np.abs(subspace.P).argmax(axis=1)] > 0).all()


def test_subspace_that_the_states_do_not_span() -> None:
    H = np.random.default_rng(0).normal(size=(5, 20)).astype(np.float32)
    with pytest.raises(InputError, match="5 states vary in 4 directions, expected 6"):
        fit_subspace(H, 6)
    with pytest.raises(InputError, match="vary in 0 directions"):
        fit_subspace(np.ones((5, 20), dtype=np.float32), 1)
    with pytest.raises(SettingsError, match="rank is 21"):
        fit_subspace(H, 21)
    H[0, 0] = np.nan
    with pytest.raises(InputError, match="NaN"):
        fit_subspace(H, 2)


# split


def test_split_is_seeded_stratified_and_whole() -> None:
    bad = np.arange(200) % 5 == 0
    rows = split_rows(bad, validation=0.25, seed=3)
    np.testing.assert_array_equal(np.sort(np.concatenate(rows)), np.arange(200))
    assert len(rows.valid) == pytest.approx(50, abs=1)
    assert bad[rows.valid].mean() == pytest.approx(0.2, abs=0.03)
    np.testing.assert_array_equal(rows.valid, split_rows(bad, validation=0.25, seed=3).valid)
    assert not np.array_equal(rows.valid, split_rows(bad, validation=0.25, seed=4).valid)


def test_split_keeps_groups_together() -> None:
    groups = [f"pair {i // 2}" for i in range(100)] + ["alone"] * 10
    bad = np.arange(110) % 2 == 0
    rows = split_rows(bad, groups, validation=0.3, seed=0)
    assert not {groups[i] for i in rows.train} & {groups[i] for i in rows.valid}


def test_split_that_cannot_be() -> None:
    with pytest.raises(InputError, match="0 bad"):
        split_rows(np.array([True, False, False]), validation=0.5)
    with pytest.raises(SettingsError, match="validation"):
        split_rows(np.array([True, False]), validation=1.0)


# heads


@pytest.mark.parametrize("loss", ["logistic", "infonce"])
@pytest.mark.parametrize("hidden", [(), (16,), (16, 8)])
def test_training_separates_clusters(loss: str, hidden: tuple[int, ...]) -> None:
    Z, bad = clusters(gap=4.0)
    trained = train(Z, bad, replace(QUICK, hidden=hidden, loss=loss))
    assert trained.auc > 0.98
    new, new_bad = clusters(gap=4.0, seed=1)
    assert auc(trained.weights.energy(new), new_bad) > 0.97
    assert len(trained.weights.hidden) == len(hidden)


def test_a_hidden_layer_learns_what_a_linear_head_cannot() -> None:
    Z, bad = ring()
    assert train(Z, bad, replace(QUICK, hidden=())).auc < 0.75
    assert train(Z, bad, replace(QUICK, hidden=(16,), layer_norm=True, epochs=60)).auc > 0.95


def test_training_is_seeded_and_leaves_torch_alone() -> None:
    Z, bad = clusters()
    torch.manual_seed(123)
    expected = torch.rand(3)
    torch.manual_seed(123)
    one = train(Z, bad, QUICK, seed=5)
    assert torch.equal(torch.rand(3), expected)
    other = train(Z, bad, QUICK, seed=5)
    assert same_bits(one.weights, other.weights)
    assert (one.auc, one.epoch) == (other.auc, other.epoch)
    assert not same_bits(one.weights, train(Z, bad, QUICK, seed=6).weights)


def test_the_best_epoch_is_kept() -> None:
    Z, bad = clusters(n=90, gap=0.8)
    rows = split_rows(bad)
    parts = Z[rows.train], bad[rows.train], Z[rows.valid], bad[rows.valid]
    overfit = replace(QUICK, hidden=(64, 64), dropout=0.0, weight_decay=0.0, epochs=40, patience=40)
    trained = train_head(*parts, overfit)
    assert trained.epochs_run == 40
    assert trained.epoch < 40
    assert auc(trained.weights.energy(parts[2]), parts[3]) == pytest.approx(trained.auc, abs=1e-6)
    # a run that ends at the best epoch gives the same weights
    assert same_bits(train_head(*parts, replace(overfit, epochs=trained.epoch)).weights, trained.weights)
    assert train_head(*parts, replace(overfit, patience=3)).epochs_run <= trained.epochs_run


def test_paper_recipe_has_the_published_shape() -> None:
    recipe = paper_recipe()
    assert recipe.hidden == (2048, 1024, 1024, 512)
    assert (recipe.layer_norm, recipe.loss, recipe.tau, recipe.batch) == (True, "infonce", 0.1, 64)
    assert paper_recipe(small=True).hidden == (512, 256)
    Z, bad = clusters(n=64, gap=6.0)
    trained = train(30 * Z, bad, replace(paper_recipe(small=True), epochs=8, learning_rate=1e-3))
    assert [block.W.shape for block in trained.weights.hidden] == [(512, 8), (256, 512)]
    assert all(block.gamma is not None for block in trained.weights.hidden)
    assert trained.auc > 0.9


def test_data_that_cannot_be_learnt_from() -> None:
    Z, bad = clusters(60)
    with pytest.raises(InputError, match="0 bad"):
        train_head(Z, np.zeros(60, dtype=bool), Z, bad, QUICK)
    with pytest.raises(InputError, match="NaN or infinite"):
        train_head(np.where(Z[0, 0] == Z, np.inf, Z), bad, Z, bad, QUICK)
    with pytest.raises(InputError, match="diverged"), np.errstate(all="ignore"):
        train_head(Z * np.float32(1e30), bad, Z * np.float32(1e30), bad, replace(QUICK, learning_rate=1e30))


@pytest.mark.parametrize(
    "change",
    [
        {"hidden": (0,)},
        {"hidden": (4.0,)},
        {"dropout": 1.0},
        {"dropout": float("nan")},
        {"loss": "hinge"},
        {"tau": 0.0},
        {"learning_rate": -1.0},
        {"epochs": 0},
        {"batch": True},
        {"weight_decay": float("inf")},
    ],
)
def test_recipes_are_checked(change: dict) -> None:
    with pytest.raises(SettingsError):
        HeadRecipe(**change)


# calibration


def test_calibration_means_log_odds() -> None:
    """Of rows with energy near x, sigmoid(x) are bad when good and bad are equally frequent."""
    rng = np.random.default_rng(0)
    true = rng.normal(scale=2, size=60_000)
    bad = rng.random(true.size) < 1 / (1 + np.exp(-true))
    Z = (true[:, None] / 5 - 3).astype(np.float32)
    head = calibrate(HeadWeights((), np.ones(1), 10.0), Z, bad)
    energy = head.energy(Z)
    np.testing.assert_allclose(energy, true, atol=0.15 + 0.02 * np.abs(true).max())
    for low in (-2.0, -0.5, 1.0):
        within = (energy > low) & (energy < low + 0.5)
        assert bad[within].mean() == pytest.approx(1 / (1 + np.exp(-(low + 0.25))), abs=0.04)


def test_calibration_keeps_the_ranking_and_the_direction() -> None:
    Z, bad = clusters()
    head = train(Z, bad, QUICK).weights
    calibrated = calibrate(head, Z, bad)
    assert auc(calibrated.energy(Z), bad) == pytest.approx(auc(head.energy(Z), bad), abs=1e-4)
    (_, one), (_, other) = head.energy_and_gradient(Z), calibrated.energy_and_gradient(Z)
    cosine = (one * other).sum(axis=1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    np.testing.assert_allclose(cosine, 1, atol=1e-5)
    energy = calibrated.energy(Z)
    assert energy[bad].mean() > 0 > energy[~bad].mean()


def test_calibration_of_separable_rows_is_finite() -> None:
    Z, bad = clusters(gap=50.0)
    energy = calibrate(HeadWeights((), np.eye(8)[0]), Z, bad).energy(Z)
    assert np.abs(energy).max() < 50


def test_calibration_never_turns_an_energy_round() -> None:
    Z, bad = clusters(gap=3.0)
    wrong = HeadWeights((), -np.eye(8)[0])
    calibrated = calibrate(wrong, Z, bad)
    assert calibrated.w[0] < 0
    assert np.abs(calibrated.energy(Z)).max() < 0.05


def test_logistic_is_that_of_scikit_learn() -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    Z, bad = clusters(n=3000, n_in=3, gap=1.0)
    bias, weights = fit_logistic(Z, bad, ridge=1e-9)
    model = linear.LogisticRegression(C=1e9, class_weight="balanced", tol=1e-8).fit(Z, bad)
    np.testing.assert_allclose(weights, model.coef_[0], atol=0.02)
    assert bias == pytest.approx(model.intercept_[0], abs=0.02)
