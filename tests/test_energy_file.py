"""The energy file: what goes in comes out, and what cannot be used is refused in one line."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from energy_examples import (
    N_EMBD,
    make_file,
    make_fingerprint,
    make_head,
    make_model,
    make_rows,
    make_spec,
    make_subspace,
)
from onnx import TensorProto, helper, numpy_helper

from edge_eds.energy import graph
from edge_eds.energy.engines import NativeEngine, OnnxEngine, make_engine, takes_native
from edge_eds.energy.file import FORMAT_VERSION, EnergyFile
from edge_eds.energy.network import EnergyModel, LayerEnergy
from edge_eds.energy.settings import Steering
from edge_eds.errors import EnergyFileError, FingerprintError, SettingsError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.energy.onnx"


def change(path: Path, edit: Callable[[onnx.ModelProto], None]) -> None:
    proto = onnx.load(path)
    edit(proto)
    onnx.save(proto, path)


def set_metadata(path: Path, **values: str | None) -> None:
    def edit(proto: onnx.ModelProto) -> None:
        kept = {p.key: p.value for p in proto.metadata_props}
        kept.update({f"edge_eds.{key}": value for key, value in values.items() if value is not None})
        for key, value in values.items():
            if value is None:
                del kept[f"edge_eds.{key}"]
        del proto.metadata_props[:]
        helper.set_model_props(proto, kept)

    change(path, edit)


def load_error(path: Path) -> str:
    with pytest.raises(EnergyFileError) as caught:
        EnergyFile.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


# what goes in comes out


def test_round_trip(path: Path) -> None:
    file = make_file()
    file.save(path)
    loaded = EnergyFile.load(path)
    assert loaded.foreign is None
    assert loaded.energies is not None
    for name in (
        "fingerprint",
        "spec",
        "prompt_set_hash",
        "seed",
        "scores",
        "versions",
        "heads",
        "steerable_layers",
    ):
        assert getattr(loaded, name) == getattr(file, name), name
    H = make_rows()
    for il, heads in file.heads.items():
        for head in heads:
            for found, expected in zip(
                loaded.energies.energy_and_gradient(il, head, H),
                file.energies.energy_and_gradient(il, head, H),
                strict=True,
            ):
                assert found.tobytes() == expected.tobytes()
    again = path.with_name("again.onnx")
    loaded.save(again)
    assert again.read_bytes() == path.read_bytes()


def test_round_trip_without_subspace_and_with_linear_heads(path: Path) -> None:
    layers = {3: LayerEnergy(3, None, {"merged": make_head(N_EMBD, (), False, 1)})}
    spec = make_spec(gate=None, layers=(3,), heads=("merged",), thresholds={}, targets={}, covariance=False)
    make_file(energies=EnergyModel(N_EMBD, layers), spec=spec).save(path)
    assert EnergyFile.load(path).energies is not None


def test_graph_is_valid_standard_onnx() -> None:
    proto = make_file().to_onnx()
    onnx.checker.check_model(proto, full_check=True)
    assert {node.domain for node in proto.graph.node} == {""}
    assert [i.name for i in proto.graph.input] == ["hidden"]
    names = {o.name for o in proto.graph.output}
    assert names == {
        f"{kind}.{key}" for kind in ("energy", "gradient") for key in ("2.harm", "4.fr", "4.jb", "5.fr")
    }


def test_plain_onnx_runtime_reproduces_the_energies(path: Path) -> None:
    import onnxruntime

    make_file().save(path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    H = make_rows()
    energy, gradient = session.run(["energy.4.jb", "gradient.4.jb"], {"hidden": H})
    expected_energy, expected_gradient = make_model().energy_and_gradient(4, "jb", H)
    np.testing.assert_allclose(energy, expected_energy, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-4, atol=1e-5)


def test_an_extracted_part_holds_nothing_of_its_neighbours() -> None:
    part = graph.extract(make_file().to_onnx(), ["energy.4.fr"])
    onnx.checker.check_model(part, full_check=True)
    names = [t.name for t in part.graph.initializer] + [node.name for node in part.graph.node]
    assert not [n for n in names if ".2." in n or ".5." in n or "jb" in n or n.endswith(".g") or "slope" in n]


def test_saving_replaces_the_file_in_one_move(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_file(seed=1).save(path)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EnergyFileError, match="cannot be written: No space left on device"):
        make_file(seed=2).save(path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_saving_where_it_cannot(tmp_path: Path) -> None:
    with pytest.raises(EnergyFileError, match="is a directory"):
        make_file().save(tmp_path)
    with pytest.raises(EnergyFileError, match="cannot be written: No such file"):
        make_file().save(tmp_path / "nowhere" / "model.energy.onnx")


# files that cannot be used


def test_missing_file(path: Path) -> None:
    assert "no such energy file" in load_error(path)


def test_directory(tmp_path: Path) -> None:
    assert "is a directory" in load_error(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello, world\n" * 10, b"GGUF" + bytes(100), b"{}", bytes(64)])
def test_not_onnx(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert "is not an ONNX file" in load_error(path)


def test_truncated_anywhere(path: Path) -> None:
    make_file().save(path)
    data = path.read_bytes()
    for size in [*range(1, 40), *range(40, len(data), 997), *range(len(data) - 300, len(data))]:
        path.write_bytes(data[:size])
        message = load_error(path)
        assert any(part in message for part in ("truncated", "not an ONNX", "metadata")), message
    path.write_bytes(data[: len(data) // 2])
    assert "truncated or damaged" in load_error(path)


def test_no_metadata(path: Path) -> None:
    onnx.save(graph.build(make_model()), path)
    assert "no edge-eds metadata" in load_error(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite(path: Path, value: float) -> None:
    make_file().save(path)

    def edit(proto: onnx.ModelProto) -> None:
        tensor = next(t for t in proto.graph.initializer if t.name == "layer.4.fr.0.W")
        array = numpy_helper.to_array(tensor).copy()
        array[1, 2] = value
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))

    change(path, edit)
    assert "layer.4.fr.0.W are NaN or infinite" in load_error(path)


def test_newer_format_version(path: Path) -> None:
    make_file().save(path)
    set_metadata(path, format_version=str(FORMAT_VERSION + 1))
    assert f"format version {FORMAT_VERSION + 1}, this edge-eds reads up to {FORMAT_VERSION}" in load_error(
        path
    )


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("format_version", "one", "damaged"),
        ("format_version", "0", "format version 0"),
        ("fingerprint", None, "lacks fingerprint"),
        ("fingerprint", "{}", "fingerprint"),
        ("fingerprint", "[1", "damaged"),
        ("steering", "{}", "missing"),
        ("steering", "null", "expected an object"),
        ("scores", "[]", "must be objects"),
        ("seed", "x", "damaged"),
    ],
)
def test_damaged_metadata(path: Path, key: str, value: str | None, expected: str) -> None:
    make_file().save(path)
    set_metadata(path, **{key: value})
    assert expected in load_error(path)


def test_unknown_setting_in_the_file(path: Path) -> None:
    file = make_file()
    file.save(path)
    set_metadata(path, steering=file.spec.to_json().replace('"decay"', '"decline"'))
    assert "unknown decline; missing decay" in load_error(path)


def test_settings_that_the_energies_cannot_serve() -> None:
    with pytest.raises(EnergyFileError, match="steer layer 6"):
        make_file(spec=make_spec(layers=(4, 6)))
    with pytest.raises(EnergyFileError, match="gate reads layer 4"):
        make_file(spec=make_spec(gate=replace(make_spec().gate, weights={4: 1.0})))
    with pytest.raises(EnergyFileError, match="descend jb"):
        make_file(spec=make_spec(layers=(5,)))
    with pytest.raises(EnergyFileError, match="width 48"):
        make_file(fingerprint=make_fingerprint(n_embd=64))
    with pytest.raises(EnergyFileError, match="expected 0 to 4"):
        make_file(fingerprint=make_fingerprint(n_layer=6))
    with pytest.raises(ValueError, match="not JSON compliant"):
        make_file(scores={"auc": float("nan")})
    layers = {**make_model().layers, 4: LayerEnergy(4, None, {"fr": make_head(N_EMBD, (), False, 0)})}
    with pytest.raises(EnergyFileError, match="covariance metric needs a subspace and layer 4"):
        make_file(energies=EnergyModel(N_EMBD, layers), spec=make_spec(heads=("fr",), targets={}))


# the model it belongs to


def test_fingerprint_of_another_model_shows_both() -> None:
    file = make_file()
    file.check_fingerprint(make_fingerprint())
    other = make_fingerprint(quantization="Q8_0", lora_hash="d" * 64)
    with pytest.raises(FingerprintError) as caught:
        file.check_fingerprint(other)
    message = str(caught.value)
    assert "quantization, lora_hash" in message
    assert str(file.fingerprint) in message
    assert str(other) in message
    assert "\n" not in message


# settings of a user


def test_resolve_lays_wishes_over_the_file() -> None:
    file = make_file()
    spec, strength = file.resolve(Steering())
    assert (spec, strength) == (file.spec, 1.0)
    spec, strength = file.resolve(Steering(strength=0.5, layers=(5,), steps=7, gate_benign=-3.0))
    assert strength == 0.5
    assert (spec.layers, spec.steps, spec.gate.benign, spec.gate.harmful) == ((5,), 7, -3.0, 1.0)


@pytest.mark.parametrize("layers", [(2,), (3,), (4, 7)])
def test_resolve_refuses_layers_without_steering_energies(layers: tuple[int, ...]) -> None:
    with pytest.raises(SettingsError, match="can steer layers 4, 5"):
        make_file().resolve(Steering(layers=layers))


# energies of another form


def foreign_model(n_embd: int = N_EMBD, **names: str) -> onnx.ModelProto:
    """E = sum of h^2 / 2 for layer 4 and head merged, with gradient h: nothing that we would export."""
    names = {"energy": "energy.4.merged", "gradient": "gradient.4.merged", **names}
    nodes = [
        helper.make_node("Mul", ["hidden", "hidden"], ["squares"]),
        helper.make_node("ReduceSum", ["squares", "axes"], ["sums"], keepdims=0),
        helper.make_node("Mul", ["sums", "half"], [names["energy"]]),
        helper.make_node("Identity", ["hidden"], [names["gradient"]]),
    ]
    outputs = [
        helper.make_tensor_value_info(names["energy"], TensorProto.FLOAT, ["n"]),
        helper.make_tensor_value_info(names["gradient"], TensorProto.FLOAT, ["n", n_embd]),
    ]
    hidden = helper.make_tensor_value_info("hidden", TensorProto.FLOAT, ["n", n_embd])
    constants = [
        numpy_helper.from_array(np.array([1]), "axes"),
        numpy_helper.from_array(np.array(0.5, dtype=np.float32), "half"),
    ]
    made = helper.make_graph(nodes, "bowl", [hidden], outputs, constants)
    proto = helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)])
    proto.ir_version = 8
    return proto


FOREIGN_SPEC = make_spec(
    gate=None, layers=(4,), heads=("merged",), thresholds={}, targets={}, covariance=False
)


def test_foreign_energies_run_on_onnx_only(path: Path) -> None:
    make_file(energies=None, foreign=foreign_model(), spec=FOREIGN_SPEC).save(path)
    file = EnergyFile.load(path)
    assert file.energies is None
    assert file.heads == {4: ("merged",)}
    assert not takes_native(file)
    engine = make_engine(file, "auto")
    assert isinstance(engine, OnnxEngine)
    H = make_rows()
    energy, gradient = engine.energy_and_gradient(4, "merged", H)
    np.testing.assert_allclose(energy, (H * H).sum(axis=1) / 2, rtol=1e-5)
    np.testing.assert_array_equal(gradient, H)
    with pytest.raises(EnergyFileError, match="choose the engine onnx"):
        make_engine(file, "native")
    with pytest.raises(SettingsError, match="set covariance to false"):
        file.resolve(Steering(covariance=True))


def test_foreign_energies_need_our_inputs_and_outputs() -> None:
    with pytest.raises(EnergyFileError, match="no outputs energy"):
        make_file(energies=None, foreign=foreign_model(energy="e", gradient="g"), spec=FOREIGN_SPEC)
    with pytest.raises(EnergyFileError, match="expected both outputs"):
        make_file(energies=None, foreign=foreign_model(gradient="g"), spec=FOREIGN_SPEC)
    with pytest.raises(EnergyFileError, match="width 64"):
        make_file(energies=None, foreign=foreign_model(n_embd=64), spec=FOREIGN_SPEC)


def test_a_graph_that_cannot_run_is_one_line() -> None:
    proto = foreign_model()
    proto.graph.node[0].op_type = "NoSuchOperator"
    engine = OnnxEngine(make_file(energies=None, foreign=proto, spec=FOREIGN_SPEC))
    with pytest.raises(EnergyFileError, match="ONNX Runtime cannot evaluate") as caught:
        engine.energy(4, "merged", make_rows())
    assert "\n" not in str(caught.value)


def test_outputs_of_a_wrong_shape_are_refused() -> None:
    proto = foreign_model()
    proto.graph.node[1].attribute[0].i = 1  # keepdims: (n, 1) where (n,) is meant
    engine = OnnxEngine(make_file(energies=None, foreign=proto, spec=FOREIGN_SPEC))
    with pytest.raises(EnergyFileError, match=r"expected float32 of shape \(7,\)"):
        engine.energy(4, "merged", make_rows())


def rewire(proto: onnx.ModelProto) -> None:
    node = next(n for n in proto.graph.node if n.op_type == "Sigmoid")
    node.op_type = "Tanh"


def other_constant(proto: onnx.ModelProto) -> None:
    tensor = next(t for t in proto.graph.initializer if t.name == "eps")
    tensor.CopyFrom(numpy_helper.from_array(np.array(1e-3, dtype=np.float32), "eps"))


def spare_weight(proto: onnx.ModelProto) -> None:
    proto.graph.initializer.append(numpy_helper.from_array(np.ones(3, dtype=np.float32), "layer.4.fr.7.b"))


@pytest.mark.parametrize("edit", [rewire, other_constant, spare_weight])
def test_a_graph_that_only_looks_like_ours_is_foreign(
    path: Path, edit: Callable[[onnx.ModelProto], None]
) -> None:
    proto = graph.build(make_model())
    assert graph.parse(proto) is not None
    edit(proto)
    assert graph.parse(proto) is None


def test_engines_refuse_unknown_names_and_energies() -> None:
    file = make_file()
    with pytest.raises(SettingsError, match="expected one of auto, native, onnx"):
        make_engine(file, "numpy")
    assert isinstance(make_engine(file, "auto"), NativeEngine)
    with pytest.raises(KeyError):
        OnnxEngine(file).energy(4, "harm", make_rows())
    with pytest.raises(KeyError):
        make_engine(file).energy(3, "fr", make_rows())


def test_subspace_is_read_back(path: Path) -> None:
    make_file().save(path)
    found, expected = EnergyFile.load(path).subspace(4), make_subspace(seed=4)
    for name in ("mu", "P", "s"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
