"""How much memory answering many prompts at once takes, known before the model is loaded.

Takes a GGUF's header and sizes; gives bytes, and how many answers at a time fit. Weights are counted as the file has
them; of llama.cpp's buffers the KV cache in half precision, which is the one that grows with the answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge_eds.energy.gguf_header import GgufHeader
from edge_eds.files import size_text

_SHARE = 0.25  # of the free memory that the caches of all answers may take
_CGROUP = Path("/sys/fs/cgroup")
_BYTES = 2  # of a number in the cache


@dataclass(frozen=True)
class BatchMemory:
    """n_parallel: answers at a time. weights, cache: bytes."""

    n_parallel: int
    weights: int
    cache: int

    def __str__(self) -> str:
        answers = "answer" if self.n_parallel == 1 else "answers"
        weights, cache = size_text(self.weights), size_text(self.cache)
        return f"{self.n_parallel} {answers} at a time: {weights} of weights, {cache} of cache"


def batch_memory(header: GgufHeader, n_ctx: int, wanted: int) -> BatchMemory:
    """What `wanted` answers at a time take, or fewer where their caches would take too much of the free memory.

    Args:
        n_ctx: tokens that each prompt may have with its answer. One more sequence holds what all begin with.
    """
    each, free = n_ctx * _cache_bytes_per_token(header), free_memory()
    n_parallel = wanted
    if free is not None and each:
        n_parallel = max(1, min(wanted, int(_SHARE * free) // each - 1))
    return BatchMemory(n_parallel, header.path.stat().st_size, (n_parallel + 1) * each)


def _cache_bytes_per_token(header: GgufHeader) -> int:
    """Keys and values of all layers; layers that keep less (recurrent ones, other head counts) are counted as whole."""

    def number(key: str, default: int) -> int:
        value = header.arch_value(key)
        return value if isinstance(value, int) and value > 0 else default

    n_head = number("attention.head_count", 1)
    head_size = number("embedding_length", 0) // n_head
    n_head_kv = number("attention.head_count_kv", n_head)
    sizes = number("attention.key_length", head_size) + number("attention.value_length", head_size)
    return number("block_count", 0) * n_head_kv * sizes * _BYTES


def free_memory() -> int | None:
    """Bytes that programs can still have: the kernel's own estimate, and the limit of a container where it is less.

    None where the system does not say.
    """
    try:
        fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text("ascii").splitlines())
        free = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
    try:
        limit = int((_CGROUP / "memory.max").read_text("ascii"))
        used = int((_CGROUP / "memory.current").read_text("ascii"))
        kept = dict(line.split() for line in (_CGROUP / "memory.stat").read_text("ascii").splitlines())
        return min(free, limit - used + int(kept.get("inactive_file", 0)))  # cached files make room
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return free
