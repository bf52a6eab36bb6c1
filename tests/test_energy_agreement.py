"""Energy and gradient agree: NumPy, torch autograd, ONNX Runtime, native core, finite differences."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from energy_examples import (
    N_EMBD,
    RANK,
    make_file,
    make_fingerprint,
    make_head,
    make_rows,
    make_spec,
    make_subspace,
)

from edge_eds.energy.engines import EnergyEngine, NativeEngine, OnnxEngine, make_engine
from edge_eds.energy.file import EnergyFile
from edge_eds.energy.network import EnergyModel, LayerEnergy

SHAPES = {
    "linear": ((), False),
    "one block": ((16,), False),
    "two blocks": ((16, 8), False),
    "two blocks with LayerNorm": ((16, 8), True),
    "four blocks with LayerNorm, as published": ((64, 32, 32, 16), True),
}
CASES = [(name, with_subspace) for name in SHAPES for with_subspace in (True, False)]
IL = 4


def make_layer(name: str, with_subspace: bool) -> LayerEnergy:
    hidden, layer_norm = SHAPES[name]
    subspace = make_subspace() if with_subspace else None
    return LayerEnergy(
        IL, subspace, {"merged": make_head(RANK if subspace else N_EMBD, hidden, layer_norm, seed=3)}
    )


def file_of(layer: LayerEnergy) -> EnergyFile:
    spec = make_spec(
        gate=None,
        layers=(IL,),
        heads=("merged",),
        thresholds={},
        targets={},
        covariance=layer.subspace is not None,
    )
    return make_file(fingerprint=make_fingerprint(), spec=spec, energies=EnergyModel(N_EMBD, {IL: layer}))


def assert_close(found: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    """Relative to the largest value: an energy may be 0, the sum that makes it is not."""
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


def assert_engine_agrees(engine: EnergyEngine, layer: LayerEnergy) -> None:
    H = make_rows()
    energy, gradient = layer.energy_and_gradient("merged", H.astype(np.float64))
    found_energy, found_gradient = engine.energy_and_gradient(IL, "merged", H)
    assert found_energy.dtype == found_gradient.dtype == np.float32
    assert_close(found_energy, energy, 1e-5)
    assert_close(found_gradient, gradient, 1e-5)
    assert_close(engine.energy(IL, "merged", H), energy, 1e-5)


@pytest.mark.parametrize(("name", "with_subspace"), CASES)
def test_closed_form_in_float32_agrees_with_float64(name: str, with_subspace: bool) -> None:
    layer = make_layer(name, with_subspace)
    H = make_rows()
    energy, gradient = layer.energy_and_gradient("merged", H)
    assert energy.dtype == gradient.dtype == np.float32
    wide_energy, wide_gradient = layer.energy_and_gradient("merged", H.astype(np.float64))
    assert wide_energy.dtype == wide_gradient.dtype == np.float64
    assert_close(energy, wide_energy, 1e-5)
    assert_close(gradient, wide_gradient, 1e-5)
    np.testing.assert_array_equal(layer.energy("merged", H), energy)


@pytest.mark.parametrize(("name", "with_subspace"), CASES)
def test_gradient_agrees_with_finite_differences(name: str, with_subspace: bool) -> None:
    layer = make_layer(name, with_subspace)
    H = make_rows(3).astype(np.float64)
    gradient = layer.energy_and_gradient("merged", H)[1]
    step = 1e-5
    found = np.empty_like(gradient)
    for i in range(N_EMBD):
        shift = np.zeros(N_EMBD)
        shift[i] = step
        found[:, i] = (layer.energy("merged", H + shift) - layer.energy("merged", H - shift)) / (2 * step)
    assert_close(found, gradient, 1e-7)


@pytest.mark.parametrize(("name", "with_subspace"), CASES)
def test_torch_autograd_agrees(name: str, with_subspace: bool) -> None:
    torch = pytest.importorskip("torch")
    layer = make_layer(name, with_subspace)
    head = layer.heads["merged"]
    H = make_rows()
    rows = torch.tensor(H, requires_grad=True)
    x = rows
    if layer.subspace is not None:
        mu, P, s = (torch.tensor(a) for a in (layer.subspace.mu, layer.subspace.P, layer.subspace.s))
        x = (x - mu) @ P.T / s
    for block in head.hidden:
        x = torch.nn.functional.linear(x, torch.tensor(block.W), torch.tensor(block.b))
        if block.gamma is not None:
            x = torch.nn.functional.layer_norm(
                x, x.shape[1:], torch.tensor(block.gamma), torch.tensor(block.beta), 1e-5
            )
        x = torch.nn.functional.silu(x)
    energy = x @ torch.tensor(head.w) + head.c
    (gradient,) = torch.autograd.grad(energy.sum(), rows)
    expected_energy, expected_gradient = layer.energy_and_gradient("merged", H)
    assert_close(energy.detach().numpy(), expected_energy, 1e-5)
    assert_close(gradient.numpy(), expected_gradient, 1e-5)


@pytest.mark.parametrize(("name", "with_subspace"), CASES)
def test_onnx_runtime_agrees(name: str, with_subspace: bool) -> None:
    layer = make_layer(name, with_subspace)
    assert_engine_agrees(OnnxEngine(file_of(layer)), layer)


@pytest.mark.parametrize(("name", "with_subspace"), CASES)
def test_native_core_agrees(name: str, with_subspace: bool) -> None:
    layer = make_layer(name, with_subspace)
    assert_engine_agrees(make_engine(file_of(layer), "native"), layer)


@pytest.mark.parametrize("name", SHAPES)
def test_native_core_agrees_on_directions_in_half_precision(name: str) -> None:
    """As a fit makes them; the core then reads half the bytes."""
    layer = make_layer(name, True)
    assert layer.subspace is not None
    subspace = layer.subspace.in_half_precision()
    assert not np.array_equal(subspace.P, layer.subspace.P)
    layer = replace(layer, subspace=subspace)
    assert_engine_agrees(make_engine(file_of(layer), "native"), layer)


@pytest.mark.parametrize("covariance", [True, False])
@pytest.mark.parametrize("name", SHAPES)
def test_native_descent_agrees(name: str, covariance: bool) -> None:
    layer = make_layer(name, with_subspace=True)
    engine = NativeEngine(EnergyModel(N_EMBD, {IL: layer}))
    H = make_rows()
    energies = np.sort(layer.energy("merged", H))
    threshold = float(energies[len(H) // 2 : len(H) // 2 + 2].mean())  # between two rows: no rounding decides
    settings = {"step_size": 0.05, "steps": 4, "relative": True, "covariance": covariance, "max_shift": 0.12}
    expected = layer.descend("merged", H, **settings, threshold=threshold, target=None)
    rows, before, after, steps, shift = engine.layers[IL].descend(
        "merged", H, **settings, threshold=threshold, target=-np.inf
    )
    np.testing.assert_array_equal(steps, expected.steps)
    np.testing.assert_allclose(rows, expected.H, atol=1e-4)
    assert_close(before, expected.energy_before, 1e-5)
    assert_close(after, expected.energy_after, 1e-4)
    np.testing.assert_allclose(shift, expected.shift, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("n", [0, 1])
def test_engines_take_few_rows(n: int) -> None:
    layer = make_layer("two blocks with LayerNorm", with_subspace=True)
    for source in (OnnxEngine(file_of(layer)), EnergyModel(N_EMBD, {IL: layer})):
        energy, gradient = source.energy_and_gradient(IL, "merged", make_rows(n))
        assert energy.shape == (n,)
        assert gradient.shape == (n, N_EMBD)


def test_energy_does_not_depend_on_the_other_rows() -> None:
    layer = make_layer("two blocks with LayerNorm", with_subspace=True)
    H = make_rows()
    alone = np.concatenate([layer.energy("merged", H[i : i + 1]) for i in range(len(H))])
    assert_close(alone, layer.energy("merged", H), 1e-6)


def test_large_inputs_do_not_overflow() -> None:
    layer = make_layer("two blocks", with_subspace=False)
    energy, gradient = layer.energy_and_gradient("merged", make_rows() * np.float32(1e4))
    assert np.isfinite(energy).all()
    assert np.isfinite(gradient).all()
