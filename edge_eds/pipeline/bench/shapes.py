"""The real shapes of well-known models: layers, widths, vocabulary, and the type of every tensor in Q4_K_M.

A speed does not depend on what the weights are, but on how many there are and how they are packed. The mix is the one
that llama.cpp's quantizer makes for Q4_K_M: Q4_K, with Q6_K for the output and for half of attn_v and ffn_down; rows
that are no multiple of 256 fall back to Q5_0 and Q8_0. Sizes: the models' published config.json. Leaves out writing a
file (shape_file.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

from gguf import GGMLQuantizationType as Type
from gguf.constants import GGML_QUANT_SIZES

_FALLBACK = {Type.Q4_K: Type.Q5_0, Type.Q6_K: Type.Q8_0}


@dataclass(frozen=True)
class TensorPlan:
    """One tensor. shape: (n_out, n_in) or (n,); mean and std of its values."""

    name: str
    shape: tuple[int, ...]
    type: Type
    std: float = 0.0
    mean: float = 0.0

    @property
    def n_bytes(self) -> int:
        block, block_bytes = GGML_QUANT_SIZES[self.type]
        return math.prod(self.shape) // block * block_bytes


@dataclass(frozen=True)
class Shape:
    """One model's sizes. tied: the output matrix is the embedding matrix; qkv_bias: q, k and v have biases."""

    name: str
    architecture: str
    n_layer: int
    n_embd: int
    n_head: int
    n_head_kv: int
    n_head_dim: int
    n_ff: int
    n_vocab: int
    n_ctx_train: int
    rope_base: float
    tied: bool = True
    qkv_bias: bool = False

    def tensors(self) -> tuple[TensorPlan, ...]:
        """Every tensor, in the order of a file, with values at which hidden states stay finite and alive."""
        plans = [self._matrix("token_embd.weight", self.n_vocab, self.n_embd, self.tied, gain=3.0)]
        if not self.tied:
            plans.append(self._matrix("output.weight", self.n_vocab, self.n_embd, True, gain=3.0))
        plans.append(_norm("output_norm.weight", self.n_embd))
        for il in range(self.n_layer):
            plans += self._block(il)
        return tuple(plans)

    @property
    def n_bytes(self) -> int:
        """Bytes of all weights; the file has a few more for its vocabulary."""
        return sum(plan.n_bytes for plan in self.tensors())

    def _block(self, il: int) -> list[TensorPlan]:
        at, more = f"blk.{il}", _more_bits(il, self.n_layer)
        n_q, n_kv = self.n_head * self.n_head_dim, self.n_head_kv * self.n_head_dim
        plans = [_norm(f"{at}.attn_norm.weight", self.n_embd)]
        for part, n_out in (("q", n_q), ("k", n_kv), ("v", n_kv)):
            plans.append(self._matrix(f"{at}.attn_{part}.weight", n_out, self.n_embd, more and part == "v"))
            if self.qkv_bias:
                plans.append(TensorPlan(f"{at}.attn_{part}.bias", (n_out,), Type.F32, std=0.1))
        return [
            *plans,
            self._matrix(f"{at}.attn_output.weight", self.n_embd, n_q),
            _norm(f"{at}.ffn_norm.weight", self.n_embd),
            self._matrix(f"{at}.ffn_gate.weight", self.n_ff, self.n_embd),
            self._matrix(f"{at}.ffn_up.weight", self.n_ff, self.n_embd),
            self._matrix(f"{at}.ffn_down.weight", self.n_embd, self.n_ff, more, gain=2.0),
        ]

    @staticmethod
    def _matrix(name: str, n_out: int, n_in: int, more_bits: bool = False, gain: float = 1.0) -> TensorPlan:
        """Maps rows of unit variance to rows of variance gain**2."""
        kind = Type.Q6_K if more_bits else Type.Q4_K
        if n_in % GGML_QUANT_SIZES[kind][0]:
            kind = _FALLBACK[kind]
        if n_in % GGML_QUANT_SIZES[kind][0]:
            raise ValueError(f"{name}: rows of {n_in} are no whole number of {kind.name} blocks")
        return TensorPlan(name, (n_out, n_in), kind, std=gain / math.sqrt(n_in))


def _norm(name: str, n: int) -> TensorPlan:
    return TensorPlan(name, (n,), Type.F32, std=0.1, mean=1.0)


def _more_bits(il: int, n_layer: int) -> bool:
    """The layers to which llama.cpp's quantizer gives more bits (use_more_bits in its llama-quant.cpp)."""
    eighth = n_layer // 8
    return il < eighth or il >= 7 * n_layer // 8 or (il - eighth) % 3 == 2


_llama = partial(
    Shape, architecture="llama", n_vocab=128256, n_ctx_train=131072, rope_base=500000.0, n_head_kv=8
)
SHAPES = {
    shape.name: shape
    for shape in (
        _llama("llama-1b", n_layer=16, n_embd=2048, n_head=32, n_head_dim=64, n_ff=8192),
        _llama("llama-3b", n_layer=28, n_embd=3072, n_head=24, n_head_dim=128, n_ff=8192),
        _llama("llama-8b", n_layer=32, n_embd=4096, n_head=32, n_head_dim=128, n_ff=14336, tied=False),
        Shape(
            "qwen-0.5b", "qwen2", n_layer=24, n_embd=896, n_head=14, n_head_kv=2, n_head_dim=64, n_ff=4864,
            n_vocab=151936, n_ctx_train=32768, rope_base=1e6, qkv_bias=True,
        ),
        Shape(
            "smollm2", "llama", n_layer=30, n_embd=576, n_head=9, n_head_kv=3, n_head_dim=64, n_ff=1536,
            n_vocab=49152, n_ctx_train=8192, rope_base=1e5,
        ),
    )
}  # fmt: skip
# Predicted only: nobody writes 42 GB to measure with.
LLAMA_70B = _llama("llama-70b", n_layer=80, n_embd=8192, n_head=64, n_head_dim=128, n_ff=28672, tied=False)
