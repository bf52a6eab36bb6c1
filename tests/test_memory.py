"""What answering in batches takes: the estimate is llama.cpp's own number, and short memory means fewer answers."""

from __future__ import annotations

import re

import pytest
from llama_cpp import Llama
from llama_cpp import llama_cpp as llama_api
from runtime_examples import N_LAYER, TinyModel

from edge_eds.apps.llama_log import llama_log
from edge_eds.energy.gguf_header import read_gguf_header
from edge_eds.runtime import memory
from edge_eds.runtime.batch import BatchRunner
from edge_eds.runtime.energies import ModelFiles
from edge_eds.runtime.memory import batch_memory, free_memory


@pytest.mark.parametrize("arch", ["llama", "qwen3", "phi3"])
def test_the_cache_is_as_large_as_llama_cpp_makes_it(tiny: TinyModel, arch: str) -> None:
    path = tiny(arch, n_layer=N_LAYER)
    said: list[str] = []
    listen = llama_api.llama_log_callback(lambda _, text, __: said.append(text.decode()))
    llama_api.llama_log_set(listen, None)
    try:
        Llama(str(path), n_ctx=1024, n_threads=1, verbose=True).close()
    finally:
        llama_log().install()  # llama.cpp keeps the address
    (found,) = re.findall(r"KV buffer size = +([0-9.]+) MiB", "".join(said))
    cache = batch_memory(read_gguf_header(path), 512, 1).cache  # one answer, and what all begin with
    assert cache / 2**20 == pytest.approx(float(found), abs=0.01)


def test_where_memory_is_short_fewer_are_answered_at_a_time(tiny: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiny("llama", n_layer=N_LAYER)
    header = read_gguf_header(path)
    each = batch_memory(header, 256, 1).cache // 2
    for n, expected in ((100, 16), (17, 16), (9, 8), (2, 1), (0, 1)):
        monkeypatch.setattr(memory, "free_memory", lambda n=n: 4 * n * each)
        found = batch_memory(header, 256, 16)
        assert (found.n_parallel, found.cache) == (expected, (expected + 1) * each)
        with BatchRunner(ModelFiles(path), n_ctx=256, n_threads=1) as runner:
            assert runner.memory == found
            assert len(runner.generate([[5, 6, 7]] * 3, max_new_tokens=2)) == 3
    monkeypatch.setattr(memory, "free_memory", lambda: None)
    assert batch_memory(header, 256, 16).n_parallel == 16


def test_the_machine_says_what_is_free() -> None:
    free = free_memory()
    assert free is None or 0 < free < 2**50
