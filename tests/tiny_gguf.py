"""Small GGUF models with random weights, made in milliseconds, for tests on real llama.cpp.

tiny_gguf(arch, path) writes a model of one of ARCHITECTURES: a few layers 64 wide, weights in float32 (so
that an independent computation can be compared closely), and a byte-level BPE vocabulary that tokenizes any
text. Sizes that are easily confused differ where the architecture lets them: query heads from KV heads, a
head's width from n_embd / n_head and from its rotary dimensions, the sliding window from the context.

The weights are random but scaled so that every block changes the residual stream by about its own size.
End-of-text tokens have small output weights: greedy answers run to their limit.

Leaves out: anything about what the model says. Names and shapes of tensors: llama.cpp's src/models/*.cpp.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType, GGUFWriter, TokenType
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import quantize

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
N_CTX_TRAIN = 1024
N_HEAD, N_HEAD_KV = 4, 2
N_EXPERT, N_EXPERT_USED = 4, 2
SLIDING_WINDOW = 8  # gemma3
D_STATE, DT_RANK, D_CONV = 8, 4, 4  # mamba, jamba
CONV_LENGTH = 3  # lfm2

# Pairs that make common English words a little shorter; left and right are tokens themselves.
_MERGES = (
    "t h", "th e", "i n", "in g", "a n", "an d", "e r", "o u", "Ġ a", "Ġ t", "Ġt h", "Ġth e", "r e", "o n",
    "Ġ i", "s t", "e n", "Ġ w", "o r", "i t",
)  # fmt: skip

Array = npt.NDArray[Any]


@dataclass
class _Model:
    """What goes into one GGUF; tensors in NumPy order, (n_out, n_in) for matrices."""

    n_layer: int
    n_embd: int
    n_vocab: int
    seed: int
    metadata: dict[str, Any] = field(default_factory=dict)  # without the architecture's prefix
    tensors: dict[str, Array] = field(default_factory=dict)

    def rng(self, name: str) -> np.random.Generator:
        # One stream for each tensor: adding a tensor leaves the others as they are.
        return np.random.default_rng([self.seed, zlib.crc32(name.encode())])

    def matrix(self, name: str, *shape: int, gain: float = 1.0) -> Array:
        """Random (..., n_out, n_in) that maps rows of unit variance to rows of variance gain**2."""
        self.tensors[name] = self.rng(name).normal(0, gain / shape[-1] ** 0.5, shape).astype(np.float32)
        return self.tensors[name]

    def vector(self, name: str, n: int, mean: float = 0.0, std: float = 0.1) -> None:
        self.tensors[name] = self.rng(name).normal(mean, std, n).astype(np.float32)

    def norm(self, name: str, n: int) -> None:
        self.vector(name, n, mean=1.0)


# -- parts that several architectures share ------------------------------------------------------------------


def _embeddings(
    m: _Model, *, embedding_std: float = 1.0, tied: bool = False, final_norm: str = "output_norm"
) -> None:
    embeddings = m.matrix("token_embd.weight", m.n_vocab, m.n_embd, gain=embedding_std * m.n_embd**0.5)
    output = embeddings if tied else m.matrix("output.weight", m.n_vocab, m.n_embd, gain=3.0)
    output[: len(SPECIAL_TOKENS)] *= 0.02
    m.norm(f"{final_norm}.weight", m.n_embd)


def _head_metadata(m: _Model, *, n_head_kv: Any = N_HEAD_KV) -> None:
    m.metadata |= {"attention.head_count": N_HEAD, "attention.head_count_kv": n_head_kv}


def _wide_heads(m: _Model) -> int:
    """Heads wider than n_embd / n_head; returns their width."""
    n_head_dim = 2 * m.n_embd // N_HEAD
    m.metadata |= {"attention.key_length": n_head_dim, "attention.value_length": n_head_dim}
    return n_head_dim


def _attention(m: _Model, il: int, n_head_dim: int, *, fused: bool = False, bias: bool = False) -> None:
    sizes = {"q": N_HEAD * n_head_dim, "k": N_HEAD_KV * n_head_dim, "v": N_HEAD_KV * n_head_dim}
    if fused:
        sizes = {"qkv": sum(sizes.values())}
    for name, n_out in sizes.items():
        m.matrix(f"blk.{il}.attn_{name}.weight", n_out, m.n_embd)
        if bias:
            m.vector(f"blk.{il}.attn_{name}.bias", n_out, std=0.3)
    m.matrix(f"blk.{il}.attn_output.weight", m.n_embd, N_HEAD * n_head_dim, gain=1.5)


def _head_norms(m: _Model, il: int, n_head_dim: int) -> None:
    m.norm(f"blk.{il}.attn_q_norm.weight", n_head_dim)
    m.norm(f"blk.{il}.attn_k_norm.weight", n_head_dim)


def _gated_ffn(m: _Model, il: int) -> None:
    n_ff = m.metadata["feed_forward_length"] = 3 * m.n_embd
    m.matrix(f"blk.{il}.ffn_gate.weight", n_ff, m.n_embd)
    m.matrix(f"blk.{il}.ffn_up.weight", n_ff, m.n_embd)
    m.matrix(f"blk.{il}.ffn_down.weight", m.n_embd, n_ff, gain=1.5)


def _mamba_mixer(m: _Model, il: int, *, normed: bool) -> None:
    d_inner = 2 * m.n_embd
    m.metadata |= {
        "ssm.conv_kernel": D_CONV, "ssm.inner_size": d_inner, "ssm.state_size": D_STATE,
        "ssm.time_step_rank": DT_RANK,
    }  # fmt: skip
    m.matrix(f"blk.{il}.ssm_in.weight", 2 * d_inner, m.n_embd)
    m.matrix(f"blk.{il}.ssm_conv1d.weight", d_inner, D_CONV)
    m.vector(f"blk.{il}.ssm_conv1d.bias", d_inner)
    m.matrix(f"blk.{il}.ssm_x.weight", DT_RANK + 2 * D_STATE, d_inner, gain=1.5)
    m.matrix(f"blk.{il}.ssm_dt.weight", d_inner, DT_RANK)
    m.vector(f"blk.{il}.ssm_dt.bias", d_inner, mean=-1.0, std=0.5)
    # A is kept as -exp(A_log): decay rates, as in Mamba's initialisation.
    rates = np.broadcast_to(np.arange(1, D_STATE + 1, dtype=np.float32), (d_inner, D_STATE))
    m.tensors[f"blk.{il}.ssm_a"] = np.ascontiguousarray(-rates / 2)
    m.vector(f"blk.{il}.ssm_d", d_inner, mean=1.0)
    m.matrix(f"blk.{il}.ssm_out.weight", m.n_embd, d_inner, gain=2.0)
    if normed:
        m.norm(f"blk.{il}.ssm_dt_norm.weight", DT_RANK)
        m.norm(f"blk.{il}.ssm_b_norm.weight", D_STATE)
        m.norm(f"blk.{il}.ssm_c_norm.weight", D_STATE)


# -- architectures -------------------------------------------------------------------------------------------


def _llama(m: _Model) -> None:
    """llama.cpp's own architecture, with Llama 3's scaled rotary frequencies."""
    n_head_dim = m.n_embd // N_HEAD
    m.metadata |= {"rope.dimension_count": n_head_dim, "rope.freq_base": 20000.0}
    m.tensors["rope_freqs.weight"] = np.linspace(1, 4, n_head_dim // 2, dtype=np.float32)
    _head_metadata(m)
    _embeddings(m)
    for il in range(m.n_layer):
        m.norm(f"blk.{il}.attn_norm.weight", m.n_embd)
        _attention(m, il, n_head_dim)
        m.norm(f"blk.{il}.ffn_norm.weight", m.n_embd)
        _gated_ffn(m, il)


def _qwen2(m: _Model) -> None:
    """Biases on q, k and v; tied embeddings."""
    _head_metadata(m)
    _embeddings(m, tied=True, embedding_std=0.3)
    for il in range(m.n_layer):
        m.norm(f"blk.{il}.attn_norm.weight", m.n_embd)
        _attention(m, il, m.n_embd // N_HEAD, bias=True)
        m.norm(f"blk.{il}.ffn_norm.weight", m.n_embd)
        _gated_ffn(m, il)


def _qwen3(m: _Model) -> None:
    """Norms on the heads of q and k; heads wider than n_embd / n_head."""
    n_head_dim = _wide_heads(m)
    _head_metadata(m)
    _embeddings(m)
    for il in range(m.n_layer):
        m.norm(f"blk.{il}.attn_norm.weight", m.n_embd)
        _attention(m, il, n_head_dim)
        _head_norms(m, il, n_head_dim)
        m.norm(f"blk.{il}.ffn_norm.weight", m.n_embd)
        _gated_ffn(m, il)


def _qwen3moe(m: _Model) -> None:
    """qwen3 with a mixture of experts, two of four for each token."""
    n_head_dim = _wide_heads(m)
    n_ff = 2 * m.n_embd
    m.metadata |= {
        "expert_count": N_EXPERT, "expert_used_count": N_EXPERT_USED,
        "expert_feed_forward_length": n_ff, "feed_forward_length": 3 * m.n_embd,
    }  # fmt: skip
    _head_metadata(m)
    _embeddings(m)
    for il in range(m.n_layer):
        m.norm(f"blk.{il}.attn_norm.weight", m.n_embd)
        _attention(m, il, n_head_dim)
        _head_norms(m, il, n_head_dim)
        m.norm(f"blk.{il}.ffn_norm.weight", m.n_embd)
        m.matrix(f"blk.{il}.ffn_gate_inp.weight", N_EXPERT, m.n_embd)
        m.matrix(f"blk.{il}.ffn_gate_exps.weight", N_EXPERT, n_ff, m.n_embd)
        m.matrix(f"blk.{il}.ffn_up_exps.weight", N_EXPERT, n_ff, m.n_embd)
        m.matrix(f"blk.{il}.ffn_down_exps.weight", N_EXPERT, m.n_embd, n_ff, gain=2.0)


def _gemma3(m: _Model) -> None:
    """Scaled tied embeddings, norms before and after; every second layer has a sliding window."""
    n_head_dim = _wide_heads(m)
    m.metadata |= {
        "attention.sliding_window": SLIDING_WINDOW, "attention.sliding_window_pattern": 2,
        "rope.freq_base": 100000.0, "rope.freq_base_swa": 5000.0,
    }  # fmt: skip
    _head_metadata(m)
    _embeddings(m, tied=True, embedding_std=1.0 / m.n_embd**0.5)
    for il in range(m.n_layer):
        m.norm(f"blk.{il}.attn_norm.weight", m.n_embd)
        _attention(m, il, n_head_dim)
        _head_norms(m, il, n_head_dim)
        m.norm(f"blk.{il}.post_attention_norm.weight", m.n_embd)
        m.norm(f"blk.{il}.ffn_norm.weight", m.n_embd)
        _gated_ffn(m, il)
        m.norm(f"blk.{il}.post_ffw_norm.weight", m.n_embd)


def _phi3(m: _Model) -> None:
    """Fused q/k/v and gate/up matrices; only part of a head is rotated, with long and short factors."""
    n_head_dim = m.n_embd // N_HEAD
    n_rot = 3 * n_head_dim // 4
    n_ff = 3 * m.n_embd
    m.metadata |= {
        "rope.dimension_count": n_rot, "rope.scaling.original_context_length": N_CTX_TRAIN,
        "feed_forward_length": n_ff,
    }  # fmt: skip
    m.tensors["rope_factors_short.weight"] = np.linspace(1, 1.5, n_rot // 2, dtype=np.float32)
    m.tensors["rope_factors_long.weight"] = np.linspace(1, 40, n_rot // 2, dtype=np.float32)
    _head_metadata(m)
    _embeddings(m)
    for il in range(m.n_layer):
        m.norm(f"blk.{il}.attn_norm.weight", m.n_embd)
        _attention(m, il, n_head_dim, fused=True)
        m.norm(f"blk.{il}.ffn_norm.weight", m.n_embd)
        m.matrix(f"blk.{il}.ffn_up.weight", 2 * n_ff, m.n_embd)
        m.matrix(f"blk.{il}.ffn_down.weight", m.n_embd, n_ff, gain=1.5)


def _olmo2(m: _Model) -> None:
    """Norms only after attention and FFN, and over all heads of q and k together."""
    _head_metadata(m)
    n_head_dim = m.n_embd // N_HEAD
    _embeddings(m)
    for il in range(m.n_layer):
        _attention(m, il, n_head_dim)
        m.norm(f"blk.{il}.attn_q_norm.weight", N_HEAD * n_head_dim)
        m.norm(f"blk.{il}.attn_k_norm.weight", N_HEAD_KV * n_head_dim)
        m.norm(f"blk.{il}.post_attention_norm.weight", m.n_embd)
        _gated_ffn(m, il)
        m.norm(f"blk.{il}.post_ffw_norm.weight", m.n_embd)


def _gpt2(m: _Model) -> None:
    """LayerNorm, learned positions, biases everywhere, a plain FFN."""
    n_ff = m.metadata["feed_forward_length"] = 4 * m.n_embd
    m.metadata |= {"attention.head_count": N_HEAD, "attention.layer_norm_epsilon": 1e-5}
    _embeddings(m)
    m.vector("output_norm.bias", m.n_embd)
    m.matrix("position_embd.weight", N_CTX_TRAIN, m.n_embd, gain=0.5 * m.n_embd**0.5)
    for il in range(m.n_layer):
        for norm in ("attn_norm", "ffn_norm"):
            m.norm(f"blk.{il}.{norm}.weight", m.n_embd)
            m.vector(f"blk.{il}.{norm}.bias", m.n_embd)
        for name, n_out, n_in in (
            ("attn_qkv", 3 * m.n_embd, m.n_embd),
            ("attn_output", m.n_embd, m.n_embd),
            ("ffn_up", n_ff, m.n_embd),
            ("ffn_down", m.n_embd, n_ff),
        ):
            m.matrix(f"blk.{il}.{name}.weight", n_out, n_in)
            m.vector(f"blk.{il}.{name}.bias", n_out)


def _mamba(m: _Model) -> None:
    """Recurrent: no attention, no FFN."""
    m.metadata |= {"attention.head_count": 0, "feed_forward_length": 0}
    _embeddings(m)
    for il in range(m.n_layer):
        m.norm(f"blk.{il}.attn_norm.weight", m.n_embd)
        _mamba_mixer(m, il, normed=False)


def _jamba(m: _Model) -> None:
    """Hybrid: Mamba blocks and, on every second layer, attention without positions."""
    kv_heads = [N_HEAD_KV if il % 2 else 0 for il in range(m.n_layer)]
    _head_metadata(m, n_head_kv=kv_heads)
    _embeddings(m)
    for il, n_head_kv in enumerate(kv_heads):
        m.norm(f"blk.{il}.attn_norm.weight", m.n_embd)
        if n_head_kv:
            _attention(m, il, m.n_embd // N_HEAD)
        else:
            _mamba_mixer(m, il, normed=True)
        m.norm(f"blk.{il}.ffn_norm.weight", m.n_embd)
        _gated_ffn(m, il)


def _lfm2(m: _Model) -> None:
    """Hybrid: short convolutions and, on every second layer, attention."""
    n_head_dim = m.n_embd // N_HEAD
    kv_heads = [N_HEAD_KV if il % 2 else 0 for il in range(m.n_layer)]
    m.metadata["shortconv.l_cache"] = CONV_LENGTH
    _head_metadata(m, n_head_kv=kv_heads)
    _embeddings(m, tied=True, embedding_std=0.3, final_norm="token_embd_norm")
    for il, n_head_kv in enumerate(kv_heads):
        m.norm(f"blk.{il}.attn_norm.weight", m.n_embd)
        if n_head_kv:
            _attention(m, il, n_head_dim)
            _head_norms(m, il, n_head_dim)
        else:
            m.matrix(f"blk.{il}.shortconv.in_proj.weight", 3 * m.n_embd, m.n_embd)
            m.matrix(f"blk.{il}.shortconv.conv.weight", m.n_embd, CONV_LENGTH)
            m.matrix(f"blk.{il}.shortconv.out_proj.weight", m.n_embd, m.n_embd)
        m.norm(f"blk.{il}.ffn_norm.weight", m.n_embd)
        _gated_ffn(m, il)


_BUILDERS: Mapping[str, Callable[[_Model], None]] = {
    "llama": _llama, "qwen2": _qwen2, "qwen3": _qwen3, "qwen3moe": _qwen3moe, "gemma3": _gemma3,
    "phi3": _phi3, "olmo2": _olmo2, "gpt2": _gpt2, "mamba": _mamba, "jamba": _jamba, "lfm2": _lfm2,
}  # fmt: skip
ARCHITECTURES = tuple(_BUILDERS)
RECURRENT_ARCHITECTURES = ("mamba", "jamba", "lfm2")  # some layer keeps a state that cannot be shortened


# -- the file ------------------------------------------------------------------------------------------------


def tiny_gguf(
    arch: str,
    path: str | Path,
    *,
    n_layer: int = 4,
    n_embd: int = 64,
    n_vocab: int = 320,
    seed: int = 0,
    chat_template: str | None = CHATML,
    quant: str = "f32",
    tensors_a_part: int = 0,
) -> Path:
    """Write a small random model and return its path; the same arguments give the same file.

    Args:
        arch: one of ARCHITECTURES.
        n_embd: a multiple of 32.
        n_vocab: at least the 256 bytes, the merges and SPECIAL_TOKENS (279); the rest are unused tokens.
        chat_template: Jinja text; None writes none.
        quant: ggml type of the matrices whose rows fit it ("f32", "f16", "q8_0", "q4_0", ...).
        tensors_a_part: write NAME-00001-of-0000N.gguf with so many tensors each, and return the first; 0 writes one
            file.
    """
    if n_embd % 32:
        raise ValueError(f"n_embd: expected a multiple of 32, found {n_embd}")
    model = _Model(n_layer, n_embd, n_vocab, seed)
    _BUILDERS[arch](model)
    writer = GGUFWriter(path, arch, split_max_tensors=tensors_a_part)
    writer.add_name(
        "tiny"
    )  # without the architecture: llama.cpp takes "phi3" in it for Phi-3's own vocabulary
    model.metadata |= {
        "block_count": n_layer, "embedding_length": n_embd, "context_length": N_CTX_TRAIN,
        "vocab_size": n_vocab,
    }  # fmt: skip
    model.metadata.setdefault("attention.layer_norm_rms_epsilon", 1e-6)
    for key, value in model.metadata.items():
        _add_value(writer, f"{arch}.{key}", value)
    add_vocabulary(writer, n_vocab)
    if chat_template is not None:
        writer.add_chat_template(chat_template)
    for name, tensor in model.tensors.items():
        _add_tensor(writer, name, tensor, GGMLQuantizationType[quant.upper()])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return Path(path) if not tensors_a_part else min(Path(path).parent.glob(f"{Path(path).stem}-00001-of-*.gguf"))


def add_vocabulary(writer: GGUFWriter, n_vocab: int = 320) -> None:
    """A byte-level BPE: SPECIAL_TOKENS, the 256 bytes, a few merges, and unused tokens up to n_vocab."""
    tokens = [*SPECIAL_TOKENS, *_byte_symbols(), *(merge.replace(" ", "") for merge in _MERGES)]
    if n_vocab < len(tokens):
        raise ValueError(f"n_vocab: expected at least {len(tokens)}, found {n_vocab}")
    n_special, n_unused = len(SPECIAL_TOKENS), n_vocab - len(tokens)
    kinds = [TokenType.CONTROL] * n_special + [TokenType.NORMAL] * (len(tokens) - n_special)
    tokens += [f"<unused{i}>" for i in range(n_unused)]
    kinds += [TokenType.UNUSED] * n_unused
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(list(_MERGES))
    writer.add_bos_token_id(SPECIAL_TOKENS.index("<|endoftext|>"))
    writer.add_eos_token_id(SPECIAL_TOKENS.index("<|im_end|>"))
    writer.add_add_bos_token(False)


def _byte_symbols() -> list[str]:
    """The printable character that GPT-2's byte-level BPE writes for each byte 0..255."""
    symbols, n_shifted = [], 0
    for byte in range(256):
        if any(ord(first) <= byte <= ord(last) for first, last in ("!~", "¡¬", "®ÿ")):
            symbols.append(chr(byte))
        else:
            symbols.append(chr(256 + n_shifted))
            n_shifted += 1
    return symbols


def _add_value(writer: GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_uint32(key, value)


def _add_tensor(writer: GGUFWriter, name: str, tensor: Array, kind: GGMLQuantizationType) -> None:
    block, _ = GGML_QUANT_SIZES[kind]
    n_in = tensor.shape[-1]
    # Vectors and the kernels of convolutions and scans have to stay float32 in llama.cpp.
    if kind is GGMLQuantizationType.F32 or tensor.ndim < 2 or n_in < 32 or n_in % block:
        writer.add_tensor(name, tensor)
    else:
        writer.add_tensor(name, quantize(tensor, kind), raw_dtype=kind)
