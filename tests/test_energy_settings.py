"""Steering settings are checked when made, and survive JSON."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, fields, replace

import numpy as np
import pytest
from energy_examples import make_spec

from edge_eds.energy.settings import GateSpec, Steering, SteeringSpec, resolve
from edge_eds.errors import SettingsError

NOT_FINITE = [float("nan"), float("inf"), float("-inf")]


def error_of(**wish: object) -> str:
    with pytest.raises(SettingsError) as caught:
        Steering(**wish)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("value", [0, 0.0, 0.5, 1, 1000, np.float32(2), np.int64(1)])
def test_strength_within_its_range(value: float) -> None:
    assert Steering(strength=value).strength == float(value)
    assert type(Steering(strength=value).strength) is float


@pytest.mark.parametrize("value", [*NOT_FINITE, -0.1, 1000.1, "1", None, True, [1.0]])
def test_strength_out_of_its_range(value: object) -> None:
    assert error_of(strength=value).startswith("strength is ")


@pytest.mark.parametrize(
    ("name", "values"),
    {
        "layers": [(), (-1,), (1, 1), (1.5,), (True,), "3", 3],
        "steps": [0, -1, 1001, 2.0, True, "3", float("nan")],
        "step_size": [0, -0.1, *NOT_FINITE, "0.1"],
        "n_tokens": [-1, 1.0, True],
        "decay": [-0.1, 1.1, *NOT_FINITE],
        "max_shift": [-0.1, *NOT_FINITE],
        "gate_benign": [*NOT_FINITE, "0", True],
        "gate_harmful": NOT_FINITE,
        "engine": ["numpy", "", None],
        "relative": [1, "yes"],
        "covariance": [0, "no"],
    }.items(),
)
def test_other_settings_out_of_their_range(name: str, values: list) -> None:
    for value in values:
        assert name in error_of(**{name: value})


def test_gate_bounds_in_order() -> None:
    assert "above gate_harmful" in error_of(gate_benign=1.0, gate_harmful=0.0)
    with pytest.raises(SettingsError, match="above gate_harmful"):
        GateSpec(0.0, {1: 1.0}, 1.0, 0.0)


def test_settings_are_frozen_and_normal() -> None:
    steering = Steering(layers=[5, np.int64(3)])
    assert steering.layers == (3, 5)
    assert {type(il) for il in steering.layers} == {int}
    with pytest.raises(FrozenInstanceError):
        steering.strength = 2  # type: ignore[misc]
    with pytest.raises(TypeError):
        Steering(strenght=1)  # type: ignore[call-arg]


def test_resolve_keeps_what_was_not_asked_for() -> None:
    spec = make_spec()
    assert resolve(spec, Steering()) == (spec, 1.0)
    wishes = {
        "steps": 9,
        "step_size": 0.3,
        "relative": False,
        "covariance": False,
        "n_tokens": 0,
        "decay": 1.0,
    }
    for name, value in {**wishes, "max_shift": 0.0, "layers": (4,)}.items():
        changed, _ = resolve(spec, Steering(**{name: value}))
        assert getattr(changed, name) == value
        assert replace(changed, **{name: getattr(spec, name)}) == spec


def test_resolve_refuses_what_is_not_there() -> None:
    with pytest.raises(SettingsError, match="no energies for layer 6"):
        resolve(make_spec(), Steering(layers=(4, 6)))
    with pytest.raises(SettingsError, match="no energies for layer 4"):
        resolve(make_spec(), Steering(layers=(4,)), available=(5, 7))
    assert resolve(make_spec(), Steering(layers=(7,)), available=(5, 7))[0].layers == (7,)
    ungated = make_spec(gate=None, heads=("merged",), thresholds={}, targets={})
    with pytest.raises(SettingsError, match="has none"):
        resolve(ungated, Steering(gate_benign=0.0))
    with pytest.raises(SettingsError, match="above gate_harmful"):
        resolve(make_spec(), Steering(gate_benign=5.0))


def test_spec_survives_json() -> None:
    for spec in (make_spec(), make_spec(gate=None, heads=("merged",), thresholds={}, targets={})):
        again = SteeringSpec.from_json(spec.to_json())
        assert again == spec
        assert hash(again) == hash(spec)
        assert again.to_json() == spec.to_json()


def test_every_field_of_a_wish_has_its_place_in_the_spec() -> None:
    wishes = {f.name for f in fields(Steering)} - {"strength", "engine", "gate_benign", "gate_harmful"}
    assert wishes <= {f.name for f in fields(SteeringSpec)}


@pytest.mark.parametrize(
    "changes",
    [
        {"unknown": 1},
        {"steps": None},
        {"steps": "3"},
        {"layers": "45"},
        {"heads": 3},
        {"heads": ["fr", "good"]},
        {"thresholds": []},
        {"thresholds": {"fr": {"four": 1.0}}},
        {"thresholds": {"good": {"4": 1.0}}},
        {"targets": {"fr": {"4": None}}},
        {"gate": []},
        {"gate": {"bias": 0.0}},
        {"gate": {"bias": 0.0, "weights": [], "benign": 0.0, "harmful": 0.0}},
        {"gate": {"bias": 0.0, "weights": {}, "benign": 0.0, "harmful": 0.0}},
        {"gate": {"bias": None, "weights": {"2": 1.0}, "benign": 0.0, "harmful": 0.0}},
    ],
)
def test_json_that_is_no_spec(changes: dict) -> None:
    data = {**json.loads(make_spec().to_json()), **changes}
    with pytest.raises(SettingsError) as caught:
        SteeringSpec.from_json(json.dumps(data))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "3", "[]", "null", '{"steps": 3}'])
def test_text_that_is_no_spec(text: str) -> None:
    with pytest.raises(SettingsError):
        SteeringSpec.from_json(text)


def test_heads_go_with_the_gate() -> None:
    with pytest.raises(SettingsError, match="expected merged without a gate"):
        make_spec(gate=None)
    with pytest.raises(SettingsError, match="expected fr or jb with a gate"):
        make_spec(heads=("merged",))
    with pytest.raises(SettingsError, match="heads are empty"):
        make_spec(heads=())


def test_the_gate_is_read_before_anything_is_steered() -> None:
    assert make_spec(gate=GateSpec(0.0, {2: 1.0, 4: 1.0}, 0.0, 0.0)).gate.layers == (2, 4)
    with pytest.raises(SettingsError, match="gate reads layer 5, above the first steered layer 4"):
        make_spec(gate=GateSpec(0.0, {2: 1.0, 5: 1.0}, 0.0, 0.0))
