"""Control vectors: files as llama.cpp and repeng write them, and the same effect as llama.cpp's own."""

from __future__ import annotations

import ctypes
from contextlib import closing
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from llama_cpp import Llama
from llama_cpp import llama_cpp as llama_api
from runtime_examples import N_EMBD, N_LAYER, SETTINGS, TinyModel, evaluate, make_prompt

from edge_eds import EdgeLlama
from edge_eds.errors import InputError, ModelError, SettingsError
from edge_eds.runtime.control_vector import ControlVector
from edge_eds.runtime.seam import find_function

PROMPT = make_prompt(23)
THEN = make_prompt(4, seed=1)


def make_vector(layers: tuple[int, ...] = (1, 3, 4)) -> ControlVector:
    rng = np.random.default_rng(5)
    return ControlVector({il: rng.normal(size=N_EMBD).astype(np.float32) for il in layers}, "llama")


def write(path: Path, tensors: dict[str, Any], arch: str = "controlvector") -> Path:
    """A GGUF file as another program might write it."""
    writer = gguf.GGUFWriter(path, arch)
    for name, array in tensors.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


class _Params(ctypes.Structure):
    """gguf_init_params"""

    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.POINTER(ctypes.c_void_p)))


def load_as_llama_cpp(path: Path) -> np.ndarray[Any, Any]:
    """What --control-vector makes of a file (common_control_vector_load_one), with ggml's own reader: float32
    (n_embd * highest layer,), layer 1 first."""

    def function(name: str, result: Any, *arguments: Any) -> Any:
        found: Any = find_function(name)
        found.restype, found.argtypes = result, arguments
        return found

    pointer, text = ctypes.c_void_p, ctypes.c_char_p
    tensors = pointer()
    file = function("gguf_init_from_file", pointer, text, _Params)(
        str(path).encode(), _Params(False, ctypes.pointer(tensors))
    )
    assert file, "ggml cannot read the file"
    name_of = function("gguf_get_tensor_name", text, pointer, ctypes.c_int64)
    tensor_of = function("ggml_get_tensor", pointer, pointer, text)
    size_of = function("ggml_nelements", ctypes.c_int64, pointer)
    data_of = function("ggml_get_data_f32", ctypes.POINTER(ctypes.c_float), pointer)  # aborts where it is not F32
    data = np.zeros(0, np.float32)
    for i in range(function("gguf_get_n_tensors", ctypes.c_int64, pointer)(file)):
        name = name_of(file, i)
        tensor = tensor_of(tensors, name)
        n_embd, il = size_of(tensor), int(name.decode().removeprefix("direction."))
        assert il > 0
        data = np.pad(data, (0, max(0, n_embd * il - data.size)))
        data[n_embd * (il - 1) : n_embd * il] += np.ctypeslib.as_array(data_of(tensor), (n_embd,))
    function("gguf_free", None, pointer)(file)
    function("ggml_free", None, pointer)(tensors)
    return data


def test_a_file_gives_back_what_was_saved(tmp_path: Path) -> None:
    vector = make_vector()
    vector.save(tmp_path / "v.gguf")
    again = ControlVector.load(tmp_path / "v.gguf")
    assert again.model_hint == "llama"
    assert list(again.directions) == [1, 3, 4]
    for il, direction in vector.directions.items():
        assert np.array_equal(again.directions[il], direction)
    fields = gguf.GGUFReader(tmp_path / "v.gguf").fields
    assert fields["general.architecture"].contents() == "controlvector"
    assert fields["controlvector.model_hint"].contents() == "llama"
    assert fields["controlvector.layer_count"].contents() == 3


def test_llama_cpp_does_with_the_file_what_we_do(tiny: TinyModel, tmp_path: Path) -> None:
    """Bit for bit: direction.<il> is added to the output of block il."""
    path = tiny("llama", n_layer=N_LAYER)
    make_vector().save(tmp_path / "v.gguf")
    data = 0.5 * load_as_llama_cpp(tmp_path / "v.gguf")
    vector = ControlVector.load(tmp_path / "v.gguf")
    assert np.array_equal(0.5 * vector.matrix(N_LAYER).ravel()[: data.size], data)
    with (
        closing(EdgeLlama(path, energy=None, **SETTINGS)) as llm,
        closing(Llama(str(path), **SETTINGS)) as plain,
    ):
        without = evaluate(plain, PROMPT, THEN)
        pointer = data.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        assert llama_api.llama_set_adapter_cvec(plain.ctx, pointer, data.size, N_EMBD, 1, N_LAYER - 1) == 0
        expected = evaluate(plain, PROMPT, THEN)
        with llm.intervening(vector.interventions(0.5)):
            assert np.array_equal(evaluate(llm, PROMPT, THEN), expected)
        assert not np.array_equal(expected, without)


def test_some_of_its_layers() -> None:
    vector = make_vector()
    assert list(vector.interventions(layers=[3])) == [3]
    with pytest.raises(SettingsError, match="no direction for layer 2"):
        vector.interventions(layers=range(1, 4))
    with pytest.raises(SettingsError, match="layers 0 to 3"):
        vector.matrix(4)


@pytest.mark.parametrize(
    ("tensors", "arch", "match"),
    [
        ({"direction.1": np.ones(8, np.float32)}, "llama", "no control vector"),
        ({"direction.0": np.ones(8, np.float32)}, "controlvector", "layer 0"),
        ({"direction.1": np.ones(8, np.float16)}, "controlvector", "F16"),
        ({"direction.1": np.ones((2, 8), np.float32)}, "controlvector", "shape"),
        ({"direction.x": np.ones(8, np.float32)}, "controlvector", "'direction.x'"),
        ({"vector.1": np.ones(8, np.float32)}, "controlvector", "'vector.1'"),
        ({"direction.1": np.full(8, np.nan, np.float32)}, "controlvector", "finite"),
        (
            {"direction.1": np.ones(8, np.float32), "direction.2": np.ones(9, np.float32)},
            "controlvector",
            "one width",
        ),
        ({}, "controlvector", "at least one layer"),
    ],
)
def test_files_that_llama_cpp_would_refuse(
    tmp_path: Path, tensors: dict[str, Any], arch: str, match: str
) -> None:
    with pytest.raises(InputError, match=match):
        ControlVector.load(write(tmp_path / "v.gguf", tensors, arch))


def test_files_that_are_not_there_or_damaged(tmp_path: Path) -> None:
    path = tmp_path / "v.gguf"
    with pytest.raises(ModelError, match="no such file"):
        ControlVector.load(path)
    make_vector().save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="truncated"):
        ControlVector.load(path)
    with pytest.raises(InputError, match="cannot be written"):
        make_vector().save(tmp_path / "missing" / "v.gguf")
