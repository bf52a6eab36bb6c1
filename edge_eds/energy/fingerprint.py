"""The fingerprint of a language model: what an energy file must have been made for.

Takes the path of a GGUF, and of a LoRA adapter where one is applied; gives a frozen value that can be
compared, stored as JSON and shown in one line. Reads the header of the GGUF only, so that a chat does not
wait for it, and every byte of the adapter. Left out: the base model's weights. Two fine-tunes with the same
shape, vocabulary, quantisation and chat template have the same fingerprint.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from edge_eds.energy.gguf_header import ArrayDigest, GgufHeader, read_gguf_header
from edge_eds.energy.gguf_types import LlamaFileType
from edge_eds.errors import ModelError

SHOWN_DIGITS = 8  # of a hash, in messages for people
_HASHES = ("vocab_hash", "chat_template_hash", "lora_hash")


@dataclass(frozen=True)
class ModelFingerprint:
    """What makes hidden states comparable: the same shape, tokens, quantisation, chat template and LoRA.

    Hashes are SHA-256 in hex; chat_template_hash is "none" for a GGUF without a template, lora_hash None
    without an adapter.
    """

    architecture: str
    n_layer: int
    n_embd: int
    vocab_hash: str
    quantization: str
    chat_template_hash: str
    lora_hash: str | None = None

    @classmethod
    def from_gguf(cls, path: str | Path, lora_path: str | Path | None = None) -> ModelFingerprint:
        """Fingerprint of the model at `path` with the adapter at `lora_path`.

        ModelError when a file is missing, is no GGUF, is truncated, or is no language model.
        """
        header = read_gguf_header(path)
        n_layer, n_embd = header.arch_value("block_count"), header.arch_value("embedding_length")
        if not isinstance(n_layer, int) or not isinstance(n_embd, int):
            raise ModelError(
                f"{path}: not a language model: the GGUF states no block count and embedding length"
            )
        return cls(
            architecture=header.architecture,
            n_layer=n_layer,
            n_embd=n_embd,
            vocab_hash=_vocab_hash(header),
            quantization=_quantization(header),
            chat_template_hash=_text_hash(header.metadata.get("tokenizer.chat_template")),
            lora_hash=None if lora_path is None else _file_hash(lora_path),
        )

    def mismatch(self, other: ModelFingerprint) -> tuple[str, ...]:
        """Names of the fields in which `other` differs; empty when the two are of one model."""
        return tuple(f.name for f in fields(self) if getattr(self, f.name) != getattr(other, f.name))

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ModelFingerprint:
        """The fingerprint that `to_json` wrote; ValueError for anything else."""
        data = json.loads(text)
        if not isinstance(data, dict) or set(data) != {f.name for f in fields(cls)}:
            raise ValueError("a fingerprint has other keys than expected")
        for f in fields(cls):
            kinds: tuple[type, ...] = (int,) if f.name in ("n_layer", "n_embd") else (str,)
            if f.name == "lora_hash":
                kinds = (str, type(None))
            if not isinstance(data[f.name], kinds) or isinstance(data[f.name], bool):
                raise ValueError(f"{f.name} of a fingerprint is {data[f.name]!r}")
        return cls(**data)

    def __str__(self) -> str:
        shown = {name: (getattr(self, name) or "none")[:SHOWN_DIGITS] for name in _HASHES}
        return (
            f"{self.architecture} {self.n_layer}x{self.n_embd} {self.quantization} "
            f"vocab {shown['vocab_hash']} template {shown['chat_template_hash']} lora {shown['lora_hash']}"
        )


def _vocab_hash(header: GgufHeader) -> str:
    """Hash of the tokens and of what says how text becomes tokens."""
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    parts = [tokens.sha256 if isinstance(tokens, ArrayDigest) else "none"]
    parts += [str(header.metadata.get(f"tokenizer.ggml.{key}", "none")) for key in ("model", "pre")]
    return _text_hash("\n".join(parts))


def _quantization(header: GgufHeader) -> str:
    """Name of the file type, such as "Q4_1"; of the most frequent tensor type where none is stated."""
    file_type = header.metadata.get("general.file_type")
    if isinstance(file_type, int):
        try:
            return LlamaFileType(file_type).name.removeprefix("MOSTLY_").removeprefix("ALL_")
        except ValueError:
            return f"type-{file_type}"  # newer than the gguf package
    types = [tensor.type for tensor in header.tensors]
    return max(sorted(set(types)), key=types.count) if types else "none"


def _text_hash(text: object) -> str:
    return "none" if text is None else hashlib.sha256(str(text).encode()).hexdigest()


def _file_hash(path: str | Path) -> str:
    try:
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        return digest.hexdigest()
    except FileNotFoundError as e:
        raise ModelError(f"{path}: no such file; expected the path of a LoRA adapter") from e
    except OSError as e:
        raise ModelError(f"{path}: cannot be read: {e.strerror or e}") from e
