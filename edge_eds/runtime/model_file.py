"""Which GGUF files can be run here at all, decided from the header before llama.cpp loads anything."""

from __future__ import annotations

from edge_eds.energy.gguf_header import GgufHeader
from edge_eds.errors import ModelError

MAX_LAYERS = 512  # LLAMA_MAX_LAYERS: llama.cpp aborts the process above it
CHAT_TEMPLATE_KEY = "tokenizer.chat_template"
_EMBEDDING_ARCHITECTURES = (
    "bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "jina-bert-v3", "modern-bert", "neo-bert",
    "eurobert", "gemma-embedding", "llama-embed", "t5encoder",
)  # fmt: skip
_NO_LANGUAGE_MODEL = {"clip": "an image encoder (mmproj)", "wavtokenizer-dec": "an audio decoder"}


def check_chat_model(header: GgufHeader) -> None:
    """Refuse what can be recognised as no generating language model.

    Raises:
        ModelError: an adapter, a vocabulary, an embedding model, or no language model at all.
    """
    kind = str(header.metadata.get("general.type", "model"))
    if kind == "adapter":
        raise ModelError(
            f"{header.path}: is a LoRA adapter, not a model; pass the base model, and this file as --lora"
        )
    if not header.architecture:
        raise ModelError(
            f"{header.path}: the GGUF does not say its architecture; expected general.architecture"
        )
    if header.architecture in _NO_LANGUAGE_MODEL:
        raise ModelError(
            f"{header.path}: is {_NO_LANGUAGE_MODEL[header.architecture]}; expected the language model's GGUF"
        )
    if not header.tensors:
        raise ModelError(f"{header.path}: holds a vocabulary and no weights; expected a whole model")
    if header.architecture in _EMBEDDING_ARCHITECTURES or header.arch_value("pooling_type") not in (None, 0):
        raise ModelError(
            f"{header.path}: is an embedding model ({header.architecture}), which does not generate text; "
            "expected a chat model"
        )


def check_adapter(adapter: GgufHeader, model: GgufHeader) -> None:
    """Refuse what is no LoRA adapter of this model: llama.cpp would go on without a word, and crash.

    Raises:
        ModelError: no adapter, or one of another architecture.
    """
    if adapter.metadata.get("general.type") != "adapter":
        raise ModelError(f"{adapter.path}: is no LoRA adapter; expected a GGUF whose general.type is adapter")
    if adapter.architecture != model.architecture:
        raise ModelError(
            f"{adapter.path}: is an adapter for the architecture {adapter.architecture}, and {model.path} is "
            f"{model.architecture}; expected an adapter that was made for this model"
        )


def hook_shape(header: GgufHeader) -> tuple[int, int]:
    """(n_layer, n_embd) as the header states them.

    Raises:
        ModelError: the header lacks one of them.
    """
    n_layer, n_embd = header.arch_value("block_count"), header.arch_value("embedding_length")
    for name, value in (("block_count", n_layer), ("embedding_length", n_embd)):
        if not isinstance(value, int) or value < 1:
            raise ModelError(
                f"{header.path}: expected {header.architecture}.{name} as a number > 0, found {value!r}"
            )
    if n_layer > MAX_LAYERS:
        raise ModelError(f"{header.path}: states {n_layer} layers; llama.cpp holds at most {MAX_LAYERS}")
    return n_layer, n_embd
