"""Shapes for the tests of the bench: as small as their kinds of blocks allow."""

from __future__ import annotations

from dataclasses import replace

from edge_eds.pipeline.bench.shapes import Shape

# Rows of 256 take K blocks; rows of 96 fall back to Q5_0 and Q8_0.
SMALL = Shape(
    "small", "llama", n_layer=9, n_embd=256, n_head=4, n_head_kv=2, n_head_dim=64, n_ff=512,
    n_vocab=600, n_ctx_train=512, rope_base=1e4,
)  # fmt: skip
ODD = replace(
    SMALL, name="odd", architecture="qwen2", n_embd=96, n_head=3, n_head_kv=1, n_head_dim=32, n_ff=160, qkv_bias=True,
    tied=False,
)  # fmt: skip
