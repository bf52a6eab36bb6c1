"""The reference descent: energies fall, caps and thresholds hold, unsteered rows keep their bits."""

from __future__ import annotations

import numpy as np
import pytest
from energy_examples import N_EMBD, RANK, make_file, make_head, make_model, make_rows, make_subspace

from edge_eds.energy.engines import OnnxEngine
from edge_eds.energy.network import HeadWeights, HiddenLayer, LayerEnergy, Subspace, descend
from edge_eds.errors import SteeringError

LAYER = LayerEnergy(4, make_subspace(), {"fr": make_head(RANK, (16,), True, seed=5)})
METRICS = pytest.mark.parametrize("covariance", [True, False], ids=["covariance", "euclidean"])
KINDS = pytest.mark.parametrize("relative", [True, False], ids=["relative", "absolute"])


@METRICS
@KINDS
def test_small_steps_lower_the_energy(covariance: bool, relative: bool) -> None:
    H = make_rows(50)
    result = LAYER.descend(
        "fr", H, step_size=0.01 if relative else 0.1, steps=4, covariance=covariance, relative=relative
    )
    assert (result.energy_after < result.energy_before).all()
    assert (result.steps == 4).all()
    assert result.H.dtype == np.float32
    np.testing.assert_array_equal(result.energy_after, LAYER.energy("fr", result.H))


@METRICS
def test_one_step_has_the_stated_length(covariance: bool) -> None:
    H = make_rows(20)
    size = np.linalg.norm(H, axis=1)
    relative = LAYER.descend("fr", H, step_size=0.02, steps=1, covariance=covariance)
    np.testing.assert_allclose(np.linalg.norm(relative.H - H, axis=1), 0.02 * size, rtol=1e-4)
    np.testing.assert_allclose(relative.shift, 0.02, rtol=1e-4)
    absolute = LAYER.descend("fr", H, step_size=0.5, steps=1, covariance=covariance, relative=False)
    np.testing.assert_allclose(np.linalg.norm(absolute.H - H, axis=1), 0.5, rtol=1e-4)


def test_covariance_step_goes_down_sigma_times_the_gradient() -> None:
    H = make_rows(5).astype(np.float64)
    P, s = LAYER.subspace.P.astype(np.float64), LAYER.subspace.s.astype(np.float64)
    direction = LAYER.energy_and_gradient("fr", H)[1] @ (P.T * s**2 @ P)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    result = LAYER.descend("fr", H, step_size=0.03, steps=1)
    expected = H - 0.03 * np.linalg.norm(H, axis=1, keepdims=True) * direction
    np.testing.assert_allclose(result.H, expected, atol=1e-6)


def test_covariance_descent_is_the_descent_in_z_lifted_once() -> None:
    """The steps written out in z, without going through h in between."""
    H = make_rows(6).astype(np.float64)
    subspace, head = LAYER.subspace, LAYER.heads["fr"]
    Z = start = subspace.project(H)
    length = 0.04 * np.linalg.norm(H, axis=1, keepdims=True)
    for _ in range(5):
        g = head.energy_and_gradient(Z)[1]
        Z = Z - length * g / np.linalg.norm(subspace.s * g, axis=1, keepdims=True)
    expected = H + (subspace.s * (Z - start)) @ subspace.P
    np.testing.assert_allclose(LAYER.descend("fr", H, step_size=0.04, steps=5).H, expected, atol=1e-4)


@METRICS
def test_cap_limits_the_whole_shift(covariance: bool) -> None:
    H = make_rows(30)
    free = LAYER.descend("fr", H, step_size=0.05, steps=6, covariance=covariance)
    capped = LAYER.descend("fr", H, step_size=0.05, steps=6, covariance=covariance, max_shift=0.1)
    assert (free.shift > 0.11).any()
    assert (capped.shift <= 0.1 * (1 + 1e-6)).all()
    assert (np.linalg.norm(capped.H - H, axis=1) <= 0.1 * np.linalg.norm(H, axis=1) * (1 + 1e-4)).all()
    over = free.shift > 0.1
    scaled = (free.H - H)[over] * (0.1 / free.shift[over])[:, None]
    np.testing.assert_allclose((capped.H - H)[over], scaled, atol=1e-4)
    np.testing.assert_array_equal(capped.H[~over], free.H[~over])


@METRICS
def test_rows_at_or_under_the_threshold_keep_their_bits(covariance: bool) -> None:
    H = make_rows(30)
    H[0, 0] = -0.0  # a sum with 0 would lose the sign
    energy = LAYER.energy("fr", H)
    threshold = float(np.sort(energy)[15])  # exactly the energy of one row
    result = LAYER.descend("fr", H, step_size=0.05, steps=3, covariance=covariance, threshold=threshold)
    below = energy <= threshold
    assert below.sum() == 16
    assert result.H[below].tobytes() == H[below].tobytes()
    assert (result.steps[below] == 0).all()
    assert (result.shift[below] == 0).all()
    np.testing.assert_array_equal(result.energy_after[below], result.energy_before[below])
    assert (result.steps[~below] == 3).all()


@METRICS
def test_target_stops_early(covariance: bool) -> None:
    H = make_rows(30)
    free = LAYER.descend("fr", H, step_size=0.02, steps=8, covariance=covariance)
    target = float(np.median(free.energy_after)) + 0.3
    stopped = LAYER.descend("fr", H, step_size=0.02, steps=8, covariance=covariance, target=target)
    early = (stopped.steps > 0) & (stopped.steps < 8)
    assert early.any()
    assert (stopped.energy_after[early] <= target).all()
    for i in np.flatnonzero(early):  # and one step earlier it was not reached
        steps = int(stopped.steps[i]) - 1
        if steps:
            before = LAYER.descend("fr", H[i : i + 1], step_size=0.02, steps=steps, covariance=covariance)
            assert before.energy_after[0] > target
    reached = stopped.energy_before <= target
    assert stopped.H[reached].tobytes() == H[reached].tobytes()


def test_zero_step_size_keeps_every_bit() -> None:
    H = make_rows()
    H[:, 0] = -0.0
    result = LAYER.descend("fr", H, step_size=0.0, steps=3)
    assert result.H.tobytes() == H.tobytes()
    assert (result.steps == 0).all()


def test_step_size_may_differ_from_row_to_row() -> None:
    H = make_rows(3)
    together = LAYER.descend("fr", H, step_size=[0.05, 0.0, 0.02], steps=2)
    for i, step_size in enumerate((0.05, 0.0, 0.02)):
        alone = LAYER.descend("fr", H[i : i + 1], step_size=step_size, steps=2)
        np.testing.assert_allclose(together.H[i], alone.H[0], rtol=1e-5, atol=1e-5)


def test_rows_outside_the_subspace_are_untouched_there() -> None:
    H = make_rows(10)
    moved = LAYER.descend("fr", H, step_size=0.1, steps=3).H - H
    P = LAYER.subspace.P
    np.testing.assert_allclose(moved - moved @ P.T @ P, 0, atol=1e-5)


def test_vanishing_gradient_stops() -> None:
    flat = HeadWeights((HiddenLayer(np.zeros((4, RANK)), np.ones(4)),), np.ones(4), 1.0)
    H = make_rows()
    result = LayerEnergy(4, make_subspace(), {"fr": flat}).descend("fr", H, step_size=0.1, steps=3)
    assert result.H.tobytes() == H.tobytes()
    assert (result.steps == 0).all()


def test_zero_row_takes_no_relative_step() -> None:
    result = LAYER.descend("fr", np.zeros((1, N_EMBD), dtype=np.float32), step_size=0.1, steps=3)
    assert result.steps[0] == 0
    assert result.shift[0] == 0


def test_no_rows() -> None:
    result = LAYER.descend("fr", np.zeros((0, N_EMBD), dtype=np.float32), step_size=0.1, steps=3)
    assert result.H.shape == (0, N_EMBD)


def test_input_is_not_changed() -> None:
    H = make_rows()
    copy = H.copy()
    LAYER.descend("fr", H, step_size=0.1, steps=3)
    np.testing.assert_array_equal(H, copy)


def test_not_finite_rows_are_refused() -> None:
    H = make_rows()
    H[2, 3] = np.inf
    with np.errstate(invalid="ignore"), pytest.raises(SteeringError, match="NaN or infinite"):
        LAYER.descend("fr", H, step_size=0.1, steps=3)


def test_any_energy_function_serves() -> None:
    """The engine onnx steers as the closed form does, through the same function."""
    file = make_file()
    engine, layer, H = OnnxEngine(file), make_model().layers[4], make_rows()
    for head in ("fr", "jb"):
        result = descend(
            lambda rows, head=head: engine.energy_and_gradient(4, head, rows),
            H,
            subspace=file.subspace(4),
            step_size=0.05,
            steps=4,
            max_shift=0.15,
        )
        expected = layer.descend(head, H, step_size=0.05, steps=4, max_shift=0.15)
        np.testing.assert_allclose(result.H, expected.H, atol=1e-4)
        np.testing.assert_array_equal(result.steps, expected.steps)


def test_weights_are_checked_and_frozen() -> None:
    block = HiddenLayer(np.ones((3, 2)), np.zeros(3))
    with pytest.raises(ValueError, match=r"b: shape \(2,\), expected \(3\)"):
        HiddenLayer(np.ones((3, 2)), np.zeros(2))
    with pytest.raises(ValueError, match="gamma and beta"):
        HiddenLayer(np.ones((3, 2)), np.zeros(3), np.ones(3))
    with pytest.raises(ValueError, match="W: NaN"):
        HiddenLayer(np.full((3, 2), np.nan), np.zeros(3))
    with pytest.raises(ValueError, match=r"w: shape \(2,\), expected \(3\)"):
        HeadWeights((block,), np.ones(2))
    with pytest.raises(ValueError, match="c: NaN"):
        HeadWeights((block,), np.ones(3), float("inf"))
    with pytest.raises(ValueError, match="feeds"):
        HeadWeights((block, block), np.ones(3))
    with pytest.raises(ValueError, match="not orthonormal"):
        Subspace(np.zeros(3), 2 * np.eye(3)[:2], np.ones(2))
    with pytest.raises(ValueError, match="above 0"):
        Subspace(np.zeros(3), np.eye(3)[:2], np.array([1.0, 0.0]))
    with pytest.raises(ValueError, match="expected some of"):
        LayerEnergy(1, None, {"good": HeadWeights((), np.ones(3))})
    with pytest.raises(ValueError, match="expected 2"):
        LayerEnergy(1, Subspace(np.zeros(3), np.eye(3)[:2], np.ones(2)), {"fr": HeadWeights((), np.ones(3))})
    with pytest.raises(ValueError, match="expected \\(n, 3\\)"):
        LayerEnergy(1, None, {"fr": HeadWeights((), np.ones(3))}).energy(
            "fr", np.ones((1, 4), dtype=np.float32)
        )
    with pytest.raises(ValueError, match="read-only"):
        block.W[0, 0] = 2
