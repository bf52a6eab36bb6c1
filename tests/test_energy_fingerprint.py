"""The fingerprint of a GGUF: equal for the same model, different in the field that differs."""

from __future__ import annotations

from importlib.machinery import ModuleSpec
from pathlib import Path

import gguf
import numpy as np
import pytest

from edge_eds.energy import gguf_types
from edge_eds.energy.fingerprint import ModelFingerprint
from edge_eds.errors import ModelError


def write_gguf(path: Path, **changes: object) -> Path:
    values: dict = {
        "architecture": "llama",
        "n_layer": 4,
        "n_embd": 32,
        "tokens": ["<s>", "a", "b"],
        "pre": "smollm",
        "template": "{{ messages }}",
        "file_type": gguf.LlamaFileType.MOSTLY_Q4_1,
        "name": "test",
    }
    values.update(changes)
    writer = gguf.GGUFWriter(path, values["architecture"])
    writer.add_name(values["name"])
    if values["n_layer"] is not None:
        writer.add_block_count(values["n_layer"])
        writer.add_embedding_length(values["n_embd"])
    if values["file_type"] is not None:
        writer.add_file_type(values["file_type"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(values["pre"])
    writer.add_token_list(values["tokens"])
    if values["template"] is not None:
        writer.add_chat_template(values["template"])
    writer.add_tensor("token_embd.weight", np.zeros((3, 32), dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_fields(tmp_path: Path) -> None:
    found = ModelFingerprint.from_gguf(write_gguf(tmp_path / "a.gguf"))
    assert (found.architecture, found.n_layer, found.n_embd, found.quantization) == ("llama", 4, 32, "Q4_1")
    assert found.lora_hash is None
    assert str(found) == (
        f"llama 4x32 Q4_1 vocab {found.vocab_hash[:8]} template {found.chat_template_hash[:8]} lora none"
    )


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"architecture": "qwen3"}, "architecture"),
        ({"n_layer": 5}, "n_layer"),
        ({"n_embd": 64}, "n_embd"),
        ({"tokens": ["<s>", "ab", ""]}, "vocab_hash"),
        ({"pre": "gpt-2"}, "vocab_hash"),
        ({"template": "{{ bos_token }}"}, "chat_template_hash"),
        ({"template": None}, "chat_template_hash"),
        ({"file_type": gguf.LlamaFileType.MOSTLY_Q8_0}, "quantization"),
    ],
)
def test_what_differs_is_named(tmp_path: Path, change: dict, field: str) -> None:
    one = ModelFingerprint.from_gguf(write_gguf(tmp_path / "a.gguf"))
    other = ModelFingerprint.from_gguf(write_gguf(tmp_path / "b.gguf", **change))
    assert one.mismatch(other) == (field,)
    assert one != other


def test_same_model_under_another_name(tmp_path: Path) -> None:
    one = ModelFingerprint.from_gguf(write_gguf(tmp_path / "a.gguf"))
    other = ModelFingerprint.from_gguf(write_gguf(tmp_path / "b.gguf", name="other"))
    assert one == other
    assert one.mismatch(other) == ()


def test_lora_counts_every_byte(tmp_path: Path) -> None:
    model, lora = write_gguf(tmp_path / "a.gguf"), tmp_path / "lora.gguf"
    lora.write_bytes(bytes(1000))
    plain, one = ModelFingerprint.from_gguf(model), ModelFingerprint.from_gguf(model, lora)
    lora.write_bytes(bytes(999) + b"\x01")
    other = ModelFingerprint.from_gguf(model, lora)
    assert plain.mismatch(one) == one.mismatch(other) == ("lora_hash",)


def test_without_a_file_type_the_tensors_decide(tmp_path: Path) -> None:
    assert ModelFingerprint.from_gguf(write_gguf(tmp_path / "a.gguf", file_type=None)).quantization == "F16"


def test_json(tmp_path: Path) -> None:
    found = ModelFingerprint.from_gguf(write_gguf(tmp_path / "a.gguf"))
    assert ModelFingerprint.from_json(found.to_json()) == found
    for text in ("{}", "[]", "", found.to_json().replace('"n_layer": 4', '"n_layer": "4"')):
        with pytest.raises(ValueError):
            ModelFingerprint.from_json(text)


def test_files_that_are_no_model(tmp_path: Path) -> None:
    model = write_gguf(tmp_path / "a.gguf")
    with pytest.raises(ModelError, match="no such file"):
        ModelFingerprint.from_gguf(tmp_path / "b.gguf")
    with pytest.raises(ModelError, match="directory"):
        ModelFingerprint.from_gguf(tmp_path)
    with pytest.raises(ModelError, match="no such file; expected the path of a LoRA"):
        ModelFingerprint.from_gguf(model, tmp_path / "b.gguf")
    with pytest.raises(ModelError, match="not a language model"):
        ModelFingerprint.from_gguf(write_gguf(tmp_path / "c.gguf", n_layer=None))
    model.write_bytes(model.read_bytes()[:100])
    with pytest.raises(ModelError, match="truncated"):
        ModelFingerprint.from_gguf(model)


def test_names_and_sizes_of_types_are_those_of_the_gguf_package() -> None:
    assert {int(kind): size for kind, size in gguf_types.GGML_QUANT_SIZES.items()} == gguf.GGML_QUANT_SIZES
    for ours, theirs in (
        (gguf_types.GGMLQuantizationType, gguf.GGMLQuantizationType),
        (gguf_types.LlamaFileType, gguf.LlamaFileType),
    ):
        assert {kind.name: int(kind) for kind in ours} == {kind.name: int(kind) for kind in theirs}


def test_a_gguf_package_without_that_file_is_imported_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gguf_types, "find_spec", lambda name: ModuleSpec(name, None, origin=str(tmp_path / "a.zip")))
    assert gguf_types._load_constants() is gguf.constants
