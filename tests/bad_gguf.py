"""Model files that cannot be used, one builder for each way, for tests of what people are told about them.

BAD_MODELS maps a name to (builder, words): builder(folder) makes the file and returns its path, and the error
about it says all of the words. UNLOADABLE_MODELS have a sound header; only llama.cpp refuses them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import gguf
import numpy as np
from gguf import GGUFWriter
from tiny_gguf import CHATML, add_vocabulary, tiny_gguf

Builder = Callable[[Path], Path]


def missing_file(folder: Path) -> Path:
    return folder / "missing.gguf"


def directory(folder: Path) -> Path:
    path = folder / "folder.gguf"
    path.mkdir()
    return path


def empty_file(folder: Path) -> Path:
    return _write(folder / "empty.gguf", b"")


def not_a_gguf(folder: Path) -> Path:
    return _write(folder / "page.gguf", b"<!DOCTYPE html><html><body>404: Not Found</body></html>")


def magic_alone(folder: Path) -> Path:
    return _write(folder / "magic.gguf", b"GGUF")


def future_version(folder: Path) -> Path:
    whole = bytearray(tiny_gguf("llama", folder / "whole.gguf").read_bytes())
    whole[4:8] = (77).to_bytes(4, "little")
    return _write(folder / "future.gguf", bytes(whole))


def truncated_in_header(folder: Path) -> Path:
    return truncated(tiny_gguf("llama", folder / "whole.gguf"), 1500)


def truncated_in_tensor_data(folder: Path) -> Path:
    whole = tiny_gguf("llama", folder / "whole.gguf")
    return truncated(whole, whole.stat().st_size - 2000)


def truncated(whole: Path, n_bytes: int) -> Path:
    """The first n_bytes of a file, beside it."""
    return _write(whole.with_name("truncated.gguf"), whole.read_bytes()[:n_bytes])


def lying_about_counts(folder: Path) -> Path:
    """Says that 2**60 tensors and metadata entries follow."""
    whole = bytearray(tiny_gguf("llama", folder / "whole.gguf").read_bytes())
    whole[8:24] = (1 << 60).to_bytes(8, "little") * 2
    return _write(folder / "counts.gguf", bytes(whole))


def without_architecture(folder: Path) -> Path:
    # GGUFWriter insists on an architecture, so the key is renamed in place.
    whole = tiny_gguf("llama", folder / "whole.gguf").read_bytes()
    return _write(folder / "nameless.gguf", whole.replace(b"general.architecture", b"general.architektur_"))


def without_layers(folder: Path) -> Path:
    return tiny_gguf("llama", folder / "no-layers.gguf", n_layer=0)


def vocabulary_only(folder: Path) -> Path:
    writer = GGUFWriter(folder / "vocabulary.gguf", "llama")
    writer.add_block_count(4)
    writer.add_embedding_length(64)
    add_vocabulary(writer)
    writer.add_chat_template(CHATML)
    return _finish(writer, folder / "vocabulary.gguf")


def embedding_only(folder: Path) -> Path:
    """As sentence encoders are: BERT, with a pooling type."""
    writer = GGUFWriter(folder / "encoder.gguf", "bert")
    writer.add_block_count(2)
    writer.add_embedding_length(64)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_causal_attention(False)
    add_vocabulary(writer)
    writer.add_tensor("token_embd.weight", np.ones((320, 64), dtype=np.float32))
    return _finish(writer, folder / "encoder.gguf")


def embedding_only_decoder(folder: Path) -> Path:
    """As Qwen3-Embedding is: a decoder's architecture, with a pooling type."""
    writer = GGUFWriter(folder / "embedder.gguf", "qwen3")
    writer.add_block_count(2)
    writer.add_embedding_length(64)
    writer.add_pooling_type(gguf.PoolingType.LAST)
    add_vocabulary(writer)
    writer.add_tensor("token_embd.weight", np.ones((320, 64), dtype=np.float32))
    return _finish(writer, folder / "embedder.gguf")


def image_encoder(folder: Path) -> Path:
    """As the mmproj files beside vision models are."""
    writer = GGUFWriter(folder / "mmproj.gguf", "clip")
    writer.add_tensor("v.patch_embd.weight", np.ones((4, 4), dtype=np.float32))
    return _finish(writer, folder / "mmproj.gguf")


def lora_adapter(folder: Path) -> Path:
    """A LoRA adapter for tiny_gguf("llama"), given in the model's place."""
    path = folder / "adapter.lora.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, 8.0)
    writer.add_tensor("blk.0.attn_q.weight.lora_a", np.full((4, 64), 0.1, dtype=np.float32))
    writer.add_tensor("blk.0.attn_q.weight.lora_b", np.full((64, 4), 0.1, dtype=np.float32))
    return _finish(writer, path)


def unknown_architecture(folder: Path) -> Path:
    """A model newer than this llama.cpp."""
    path = folder / "unknown.gguf"
    writer = GGUFWriter(path, "transformer9000")
    writer.add_block_count(4)
    writer.add_embedding_length(64)
    add_vocabulary(writer)
    writer.add_tensor("token_embd.weight", np.ones((320, 64), dtype=np.float32))
    return _finish(writer, path)


def missing_tensor(folder: Path) -> Path:
    """A tensor that the architecture needs goes by another name."""
    whole = tiny_gguf("llama", folder / "whole.gguf").read_bytes()
    return _write(folder / "renamed.gguf", whole.replace(b"blk.2.ffn_down.weight", b"blk.2.ffn_dawn.weight"))


def without_chat_template(folder: Path) -> Path:
    """A base model: usable, but not for a chat."""
    return tiny_gguf("llama", folder / "base.gguf", chat_template=None)


BAD_MODELS: Mapping[str, tuple[Builder, tuple[str, ...]]] = {
    "missing file": (missing_file, ("no such file",)),
    "directory": (directory, ("directory",)),
    "empty file": (empty_file, ("not a GGUF", "0 bytes")),
    "not a GGUF": (not_a_gguf, ("not a GGUF",)),
    "magic alone": (magic_alone, ("not a GGUF", "4 bytes")),
    "future version": (future_version, ("77", "expected 2 or 3")),
    "truncated in the header": (truncated_in_header, ("truncated", "1500")),
    "truncated in the tensor data": (truncated_in_tensor_data, ("truncated", "expected", "found")),
    "lying about counts": (lying_about_counts, ()),
    "no architecture": (without_architecture, ("general.architecture",)),
    "no layers": (without_layers, ("llama.block_count", "0")),
    "vocabulary only": (vocabulary_only, ("vocabulary",)),
    "embedding only": (embedding_only, ("embedding model", "bert")),
    "embedding only, a decoder": (embedding_only_decoder, ("embedding model", "qwen3")),
    "image encoder": (image_encoder, ("image encoder",)),
    "LoRA adapter": (lora_adapter, ("LoRA adapter", "--lora")),
}
UNLOADABLE_MODELS: Mapping[str, tuple[Builder, tuple[str, ...]]] = {
    "unknown architecture": (unknown_architecture, ("llama.cpp could not load it",)),
    "missing tensor": (missing_tensor, ("llama.cpp could not load it",)),
}


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _finish(writer: GGUFWriter, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
