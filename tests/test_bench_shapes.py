"""Files of random weights in real shapes: sizes, blocks, the cache, and what happens where they do not fit."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from bench_examples import ODD, SMALL
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize
from llama_cpp import Llama
from runtime_examples import SETTINGS, last_logits

from edge_eds.energy.gguf_header import read_gguf_header
from edge_eds.errors import InputError
from edge_eds.pipeline.bench import shape_file as module
from edge_eds.pipeline.bench.machine import Room
from edge_eds.pipeline.bench.shape_file import shape_file, shapes_folder, write_shape
from edge_eds.pipeline.bench.shapes import LLAMA_70B, SHAPES, Shape

PLENTY = Room(10**13, 10**13)
# Sizes of published Q4_K_M files of these models, in bytes.
PUBLISHED = {
    "llama-1b": 807_694_464, "llama-3b": 2_019_377_696, "llama-8b": 4_920_739_232, "qwen-0.5b": 397_808_192,
    "smollm2": 105_454_432,
}  # fmt: skip


def plenty(_: Path) -> Room:
    return PLENTY


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_is_as_large_as_the_published_model(name: str) -> None:
    assert SHAPES[name].n_bytes == pytest.approx(PUBLISHED[name], rel=0.02)


def test_the_large_shape_is_that_of_a_70b_model() -> None:
    n_weights = sum(np.prod([float(n) for n in plan.shape]) for plan in LLAMA_70B.tensors())
    assert n_weights == pytest.approx(70.6e9, rel=0.002)
    assert LLAMA_70B.n_bytes == pytest.approx(42_520_395_552, rel=0.02)


@pytest.mark.parametrize("shape", [SMALL, ODD], ids=["k-blocks", "fallback"])
def test_llama_cpp_runs_the_file_and_states_stay_finite_and_alive(shape: Shape, tmp_path: Path) -> None:
    path, written = shape_file(shape, tmp_path, plenty)
    assert written
    header = read_gguf_header(path)
    assert {t.name: (t.shape[::-1], t.type) for t in header.tensors} == {
        plan.name: (plan.shape, plan.type.name) for plan in shape.tensors()
    }
    with closing(Llama(str(path), **SETTINGS)) as llm:
        assert llm.n_vocab() == shape.n_vocab
        llm.eval(llm.tokenize(b"any text") * 20)
        logits = last_logits(llm)
    assert np.isfinite(logits).all()
    assert 0.1 < logits.std() < 100


@pytest.mark.parametrize("kind", [Type.Q4_K, Type.Q6_K, Type.Q5_0, Type.Q8_0])
def test_random_blocks_are_weights_of_the_width_that_was_planned(kind: Type) -> None:
    shape = SMALL if kind in (Type.Q4_K, Type.Q6_K) else ODD
    plan = next(plan for plan in shape.tensors() if plan.type is kind)
    weights = dequantize(module._Stretches(0).tensor(plan), kind)
    assert weights.std() == pytest.approx(plan.std, rel=0.05)
    assert abs(weights.mean()) < 0.1 * plan.std


def test_the_same_shape_is_the_same_file(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_shape(SMALL, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_file_is_written_once_into_the_users_cache(home: Path) -> None:
    path, written = shape_file(SMALL, available=plenty)
    assert written
    assert path.parent == shapes_folder()
    assert path.is_relative_to(home)
    before = path.stat().st_mtime_ns
    assert shape_file(SMALL, available=lambda _: Room(10**13, 0)) == (path, False)  # it needs no more disk
    assert path.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("available", "words"),
    [
        (Room(3 * 10**9, 10**13), ("5.9 GB of memory", "3.0 GB are free", "--shape")),
        (Room(10**13, 2 * 10**9), ("4.9 GB on the disk", "2.0 GB are free", "--shape")),
    ],
    ids=["memory", "disk"],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    available: Room, words: tuple[str, ...], tmp_path: Path
) -> None:
    folder = tmp_path / "shapes"
    with pytest.raises(InputError) as caught:
        shape_file(SHAPES["llama-8b"], folder, lambda _: available)
    for word in words:
        assert word in str(caught.value)
    assert not folder.exists()


def test_a_system_that_does_not_tell_what_is_free_is_no_reason_to_refuse(tmp_path: Path) -> None:
    assert shape_file(SMALL, tmp_path, lambda _: Room(None, None))[1]


@pytest.fixture
def torn(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """torn(error): after a few tensors writing raises it."""

    def tear(error: BaseException) -> None:
        whole, n = module._Stretches.tensor, iter(range(5))

        def tensor(self: module._Stretches, plan: module.TensorPlan) -> object:
            if next(n, None) is None:
                raise error
            return whole(self, plan)

        monkeypatch.setattr(module._Stretches, "tensor", tensor)

    return tear


def test_ctrl_c_leaves_nothing_half_written(torn: Callable[[BaseException], None], tmp_path: Path) -> None:
    torn(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        shape_file(SMALL, tmp_path, plenty)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_gets_full_is_told_in_one_line(torn: Callable[[BaseException], None], tmp_path: Path) -> None:
    torn(OSError(28, "No space left on device"))
    with pytest.raises(InputError, match="cannot be written: No space left"):
        shape_file(SMALL, tmp_path, plenty)
    assert not list(tmp_path.iterdir())


def test_what_a_killed_program_left_is_cleared_away_and_a_running_one_let_be(tmp_path: Path) -> None:
    name = shape_file(SMALL, tmp_path, plenty)[0].name
    (tmp_path / name).unlink()
    old, young = (tmp_path / f"{name}.{word}.tmp" for word in ("old", "young"))
    for draft in (old, young):
        draft.write_bytes(b"half")
    os.utime(old, (0, 0))
    shape_file(SMALL, tmp_path, plenty)
    assert not old.exists()
    assert young.exists()
