"""Block outputs and logits of a GGUF model, computed in NumPy (float64) without llama.cpp.

ReferenceTransformer(path).forward(tokens) gives the residual stream after each block (what llama.cpp names
l_out-<il>) and the logits, for the architectures of tiny_gguf. It holds no cache: one sequence, from position
0, all tokens at once. So it knows nothing of batches, micro-batches, masks over caches or pruned rows, and
what llama.cpp computes with those must equal it.

Written from the architectures' papers and their reference implementations: Llama (arXiv 2302.13971), RoPE
(2104.09864), Qwen3 (2505.09388), Gemma 3 (2503.19786), Phi-3 (2404.14219), OLMo 2 (2501.00656), GPT-2, Mamba
(2312.00752), Jamba (2403.19887), LFM2 (2511.23404). Leaves out contexts longer than a model was trained for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGUFReader
from gguf.quants import dequantize

Array = npt.NDArray[Any]  # float64


@dataclass(frozen=True)
class Forward:
    """One pass over a sequence."""

    l_out: dict[int, Array]  # il -> (n_tokens, n_embd)
    logits: Array  # (n_tokens, n_vocab)


class ReferenceTransformer:
    """The weights of one GGUF file and the forward pass of its architecture."""

    def __init__(self, path: str | Path) -> None:
        reader = GGUFReader(path)
        self.arch = str(reader.fields["general.architecture"].contents())
        self._fields = reader.fields
        # Float64 copies, NumPy order: (n_out, n_in) for matrices.
        self._tensors: dict[str, Array] = {
            tensor.name: dequantize(tensor.data, tensor.tensor_type).astype(np.float64)
            for tensor in reader.tensors
        }
        self.n_layer = int(self.value("block_count"))
        self.n_embd = int(self.value("embedding_length"))
        self._eps = self.value("attention.layer_norm_rms_epsilon", 0.0)
        self._n_head = int(self.value("attention.head_count"))

    def value(self, key: str, default: Any = None) -> Any:
        """Metadata under the architecture's prefix."""
        field = self._fields.get(f"{self.arch}.{key}")
        if field is None:
            if default is None:
                raise KeyError(f"{self.arch}.{key}")
            return default
        return field.contents()

    def forward(self, tokens: Sequence[int]) -> Forward:
        """Evaluate token ids from position 0."""
        h = self._tensors["token_embd.weight"][np.asarray(tokens)]
        if self.arch == "gemma3":
            h = h * np.sqrt(self.n_embd)
        if self.arch == "gpt2":
            h = h + self._tensors["position_embd.weight"][: len(tokens)]
        block = _BLOCKS[self.arch]
        l_out = {}
        for il in range(self.n_layer):
            h = l_out[il] = block(self, il, h)
        if self.arch == "gpt2":
            h = self.layer_norm("output_norm", h)
        else:
            h = self.norm("token_embd_norm" if self.arch == "lfm2" else "output_norm", h)
        output = self._tensors.get("output.weight", self._tensors["token_embd.weight"])
        return Forward(l_out, h @ output.T)

    # -- parts; `name` is a tensor name without ".weight" ----------------------------------------------------

    def linear(self, name: str, x: Array) -> Array:
        """x (..., n_in) -> (..., n_out), with the bias if there is one."""
        return x @ self._tensors[f"{name}.weight"].T + self._tensors.get(f"{name}.bias", 0.0)

    def norm(self, name: str, x: Array) -> Array:
        """RMS norm over the last dimension."""
        scale = np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + self._eps)
        return x / scale * self._tensors[f"{name}.weight"]

    def layer_norm(self, name: str, x: Array) -> Array:
        """LayerNorm over the last dimension."""
        eps = self.value("attention.layer_norm_epsilon")
        centred = x - x.mean(axis=-1, keepdims=True)
        scale = np.sqrt(np.mean(centred**2, axis=-1, keepdims=True) + eps)
        return centred / scale * self._tensors[f"{name}.weight"] + self._tensors[f"{name}.bias"]

    def _angles(self, n_tokens: int, n_rot: int, freq_base: float) -> Array:
        """Rotary angles (n_tokens, n_rot / 2)."""
        frequencies = freq_base ** (-np.arange(0, n_rot, 2) / n_rot)
        for factors in ("rope_freqs.weight", "rope_factors_short.weight"):
            if factors in self._tensors:
                frequencies = frequencies / self._tensors[factors]
        return np.arange(n_tokens)[:, None] * frequencies

    def _rope(self, x: Array, *, interleaved: bool, freq_base: float) -> Array:
        """Rotate heads x (n_tokens, n_head, n_head_dim) by their positions.

        interleaved: the pairs are (0, 1), (2, 3), ...; else (0, n_rot / 2), (1, n_rot / 2 + 1), ...
        """
        n_rot = int(self.value("rope.dimension_count", x.shape[-1]))
        angles = self._angles(len(x), n_rot, freq_base)[:, None, :]
        first = slice(0, n_rot, 2) if interleaved else slice(0, n_rot // 2)
        second = slice(1, n_rot, 2) if interleaved else slice(n_rot // 2, n_rot)
        rotated = x.copy()  # dimensions from n_rot on stay
        rotated[..., first] = x[..., first] * np.cos(angles) - x[..., second] * np.sin(angles)
        rotated[..., second] = x[..., first] * np.sin(angles) + x[..., second] * np.cos(angles)
        return rotated

    def attention(
        self,
        il: int,
        x: Array,
        *,
        rope: str = "halves",
        norms: str = "",
        window: int | None = None,
        freq_base: float | None = None,
    ) -> Array:
        """Causal grouped-query attention, (n_tokens, n_embd) -> the same.

        Args:
            rope: "halves", "interleaved" or "none".
            norms: how q and k are normalised: "heads" (each head), "all" (all heads together) or "" (not).
            window: how many positions are seen, the token's own included; None means all.
            freq_base: of the rotary angles; None means the model's.
        """
        n_tokens, prefix = len(x), f"blk.{il}.attn"
        n_head_kv = self._per_layer("attention.head_count_kv", il, self._n_head)
        width = int(self.value("attention.key_length", self.n_embd // self._n_head))
        if f"{prefix}_qkv.weight" in self._tensors:
            sizes = np.cumsum([self._n_head * width, n_head_kv * width])
            q, k, v = np.split(self.linear(f"{prefix}_qkv", x), sizes, axis=-1)
        else:
            q, k, v = (self.linear(f"{prefix}_{name}", x) for name in "qkv")
        if norms == "all":
            q, k = self.norm(f"{prefix}_q_norm", q), self.norm(f"{prefix}_k_norm", k)
        q = q.reshape(n_tokens, self._n_head, width)
        k, v = k.reshape(n_tokens, n_head_kv, width), v.reshape(n_tokens, n_head_kv, width)
        if norms == "heads":
            q, k = self.norm(f"{prefix}_q_norm", q), self.norm(f"{prefix}_k_norm", k)
        if rope != "none":
            base = float(self.value("rope.freq_base", 10000.0) if freq_base is None else freq_base)
            q, k = (self._rope(part, interleaved=rope == "interleaved", freq_base=base) for part in (q, k))
        k, v = (np.repeat(part, self._n_head // n_head_kv, axis=1) for part in (k, v))
        scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(width)
        distance = np.arange(n_tokens)[:, None] - np.arange(n_tokens)
        seen = (distance >= 0) & (distance < (window or n_tokens))
        weights = _softmax(np.where(seen, scores, -np.inf))
        return self.linear(f"{prefix}_output", np.einsum("hqk,khd->qhd", weights, v).reshape(n_tokens, -1))

    def _per_layer(self, key: str, il: int, default: int) -> int:
        value = self.value(key, default)
        return int(value[il] if isinstance(value, list) else value)

    def gated_ffn(self, il: int, x: Array, activation: Callable[[Array], Array]) -> Array:
        """down(activation(gate(x)) * up(x)); gate and up may be one matrix."""
        if f"blk.{il}.ffn_gate.weight" in self._tensors:
            gate, up = self.linear(f"blk.{il}.ffn_gate", x), self.linear(f"blk.{il}.ffn_up", x)
        else:
            gate, up = np.split(self.linear(f"blk.{il}.ffn_up", x), 2, axis=-1)
        return self.linear(f"blk.{il}.ffn_down", activation(gate) * up)

    def experts(self, il: int, x: Array) -> Array:
        """Mixture of experts: the most probable few, weighted by their share of the probability."""
        n_used = int(self.value("expert_used_count"))
        probabilities = _softmax(self.linear(f"blk.{il}.ffn_gate_inp", x))
        gate = self._tensors[f"blk.{il}.ffn_gate_exps.weight"]  # (n_expert, n_ff, n_embd)
        up = self._tensors[f"blk.{il}.ffn_up_exps.weight"]
        down = self._tensors[f"blk.{il}.ffn_down_exps.weight"]  # (n_expert, n_embd, n_ff)
        y = np.zeros_like(x)
        for row, probability in enumerate(probabilities):
            chosen = np.argsort(-probability)[:n_used]
            for expert in chosen:
                hidden = _silu(gate[expert] @ x[row]) * (up[expert] @ x[row])
                y[row] += probability[expert] / probability[chosen].sum() * (down[expert] @ hidden)
        return y

    def mamba(self, il: int, x: Array) -> Array:
        """Selective state space (Mamba 1): h <- exp(dt A) h + dt B u; y = C h + D u, token by token."""
        prefix = f"blk.{il}.ssm"
        d_state, dt_rank = int(self.value("ssm.state_size")), int(self.value("ssm.time_step_rank"))
        u, gate = np.split(self.linear(f"{prefix}_in", x), 2, axis=-1)  # (n_tokens, d_inner) each
        kernel, bias = (self._tensors[f"{prefix}_conv1d.{part}"] for part in ("weight", "bias"))
        u = _silu(_causal_conv(u, kernel) + bias)
        dt, B, C = np.split(self.linear(f"{prefix}_x", u), [dt_rank, dt_rank + d_state], axis=-1)
        if f"{prefix}_dt_norm.weight" in self._tensors:
            dt = self.norm(f"{prefix}_dt_norm", dt)
            B, C = self.norm(f"{prefix}_b_norm", B), self.norm(f"{prefix}_c_norm", C)
        dt = np.log1p(np.exp(self.linear(f"{prefix}_dt", dt)))  # (n_tokens, d_inner)
        A = self._tensors[f"{prefix}_a"]  # (d_inner, d_state), negative
        state, y = np.zeros_like(A), np.empty_like(u)
        for t in range(len(x)):
            state = np.exp(dt[t][:, None] * A) * state + (dt[t] * u[t])[:, None] * B[t]
            y[t] = state @ C[t] + self._tensors[f"{prefix}_d"] * u[t]
        return self.linear(f"{prefix}_out", y * _silu(gate))

    def short_conv(self, il: int, x: Array) -> Array:
        """LFM2's gated short convolution: out(C * conv(B * x))."""
        B, C, inner = np.split(self.linear(f"blk.{il}.shortconv.in_proj", x), 3, axis=-1)
        convolved = _causal_conv(B * inner, self._tensors[f"blk.{il}.shortconv.conv.weight"])
        return self.linear(f"blk.{il}.shortconv.out_proj", C * convolved)

    def is_recurrent(self, il: int) -> bool:
        """Whether this layer of a hybrid keeps a state in place of keys and values."""
        return self._per_layer("attention.head_count_kv", il, self._n_head) == 0


# -- blocks: (model, il, residual stream before) -> residual stream after ------------------------------------


def _llama_block(model: ReferenceTransformer, il: int, h: Array) -> Array:
    h = h + model.attention(il, model.norm(f"blk.{il}.attn_norm", h), rope="interleaved")
    return h + model.gated_ffn(il, model.norm(f"blk.{il}.ffn_norm", h), _silu)


def _qwen2_block(model: ReferenceTransformer, il: int, h: Array) -> Array:
    h = h + model.attention(il, model.norm(f"blk.{il}.attn_norm", h))
    return h + model.gated_ffn(il, model.norm(f"blk.{il}.ffn_norm", h), _silu)


def _qwen3_block(model: ReferenceTransformer, il: int, h: Array) -> Array:
    h = h + model.attention(il, model.norm(f"blk.{il}.attn_norm", h), norms="heads")
    return h + model.gated_ffn(il, model.norm(f"blk.{il}.ffn_norm", h), _silu)


def _qwen3moe_block(model: ReferenceTransformer, il: int, h: Array) -> Array:
    h = h + model.attention(il, model.norm(f"blk.{il}.attn_norm", h), norms="heads")
    return h + model.experts(il, model.norm(f"blk.{il}.ffn_norm", h))


def _gemma3_block(model: ReferenceTransformer, il: int, h: Array) -> Array:
    period = int(model.value("attention.sliding_window_pattern"))
    local = (il + 1) % period != 0  # the last layer of each period sees everything
    attended = model.attention(
        il,
        model.norm(f"blk.{il}.attn_norm", h),
        norms="heads",
        window=int(model.value("attention.sliding_window")) if local else None,
        freq_base=model.value("rope.freq_base_swa") if local else None,
    )
    h = h + model.norm(f"blk.{il}.post_attention_norm", attended)
    fed = model.gated_ffn(il, model.norm(f"blk.{il}.ffn_norm", h), _gelu)
    return h + model.norm(f"blk.{il}.post_ffw_norm", fed)


def _olmo2_block(model: ReferenceTransformer, il: int, h: Array) -> Array:
    h = h + model.norm(f"blk.{il}.post_attention_norm", model.attention(il, h, norms="all"))
    return h + model.norm(f"blk.{il}.post_ffw_norm", model.gated_ffn(il, h, _silu))


def _gpt2_block(model: ReferenceTransformer, il: int, h: Array) -> Array:
    h = h + model.attention(il, model.layer_norm(f"blk.{il}.attn_norm", h), rope="none")
    hidden = _gelu(model.linear(f"blk.{il}.ffn_up", model.layer_norm(f"blk.{il}.ffn_norm", h)))
    return h + model.linear(f"blk.{il}.ffn_down", hidden)


def _mamba_block(model: ReferenceTransformer, il: int, h: Array) -> Array:
    return h + model.mamba(il, model.norm(f"blk.{il}.attn_norm", h))


def _jamba_block(model: ReferenceTransformer, il: int, h: Array) -> Array:
    x = model.norm(f"blk.{il}.attn_norm", h)
    h = h + (model.mamba(il, x) if model.is_recurrent(il) else model.attention(il, x, rope="none"))
    return h + model.gated_ffn(il, model.norm(f"blk.{il}.ffn_norm", h), _silu)


def _lfm2_block(model: ReferenceTransformer, il: int, h: Array) -> Array:
    x = model.norm(f"blk.{il}.attn_norm", h)
    h = h + (model.short_conv(il, x) if model.is_recurrent(il) else model.attention(il, x, norms="heads"))
    return h + model.gated_ffn(il, model.norm(f"blk.{il}.ffn_norm", h), _silu)


_BLOCKS: Mapping[str, Callable[[ReferenceTransformer, int, Array], Array]] = {
    "llama": _llama_block, "qwen2": _qwen2_block, "qwen3": _qwen3_block, "qwen3moe": _qwen3moe_block,
    "gemma3": _gemma3_block, "phi3": _qwen2_block, "olmo2": _olmo2_block, "gpt2": _gpt2_block,
    "mamba": _mamba_block, "jamba": _jamba_block, "lfm2": _lfm2_block,
}  # fmt: skip


def _silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


def _gelu(x: Array) -> Array:
    """The tanh form, which Gemma and GPT-2 use (arXiv 1606.08415), rounded as ggml's CPU backend does.

    ggml looks it up in a table from half precision to half precision for |x| < 10. Without that rounding the
    block outputs differ by 5e-4 of their length, which would hide real errors of the same size.
    """
    rounded = x.astype(np.float16).astype(np.float64)
    y = 0.5 * rounded * (1 + np.tanh(np.sqrt(2 / np.pi) * (rounded + 0.044715 * rounded**3)))
    return np.where(np.abs(x) < 10, y.astype(np.float16).astype(np.float64), np.maximum(x, 0))


def _softmax(x: Array) -> Array:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def _causal_conv(x: Array, kernel: Array) -> Array:
    """Depthwise convolution of x (n_tokens, n) with kernel (n, length); its last tap is the token itself."""
    length = kernel.shape[1]
    padded = np.concatenate([np.zeros((length - 1, x.shape[1])), x])
    return sum((padded[i : i + len(x)] * kernel[:, i] for i in range(length)), np.zeros_like(x))
