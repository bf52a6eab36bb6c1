"""The native core as Python sees it: closed form, errors, traces, lifetimes. Its own tests are in native/."""

from __future__ import annotations

import ctypes
import gc
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from energy_examples import make_head, make_rows, make_subspace

from edge_eds import _native
from edge_eds.energy.engines import native_layer_energy
from edge_eds.energy.network import HEADS, LayerEnergy
from edge_eds.runtime.seam import GGML_FUNCTIONS, ggml_functions
from edge_eds.runtime.trace import records_of

N_LAYER, N_EMBD = 4, 64
TOKENS = [int(token) for token in np.random.default_rng(4).integers(3, 259, 9)]
EMPTY = np.zeros(0, dtype=np.int32)

TinyModel = Callable[..., Path]
Floats = npt.NDArray[np.float32]


def ints(*values: int) -> npt.NDArray[np.int32]:
    return np.array(values, dtype=np.int32)


def linear(n_embd: int = N_EMBD, heads: tuple[str, ...] = ("merged",), c: float = 0.0) -> _native.LayerEnergy:
    """E(h) = h[0] + c for every head."""
    w = np.eye(1, n_embd, dtype=np.float32)[0]
    return _native.LayerEnergy(n_embd, None, {head: [(w, c)] for head in heads})


def closed_form(layer_norm: bool, with_subspace: bool) -> LayerEnergy:
    subspace = make_subspace(N_EMBD, 12, seed=5) if with_subspace else None
    n_in = 12 if with_subspace else N_EMBD
    return LayerEnergy(
        0,
        subspace,
        {"fr": make_head(n_in, (40, 17), layer_norm, 6), "jb": make_head(n_in, (), layer_norm, 7)},
    )


CASES = [(layer_norm, with_subspace) for layer_norm in (False, True) for with_subspace in (False, True)]


def assert_near(found: Floats, expected: npt.NDArray[Any], relative: float) -> None:
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    assert np.linalg.norm(found - expected) <= relative * np.linalg.norm(expected)


# -- LayerEnergy ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("layer_norm", "with_subspace"), CASES)
@pytest.mark.parametrize("head", ["fr", "jb"])
def test_energy_and_gradient_equal_the_closed_form(head: str, layer_norm: bool, with_subspace: bool) -> None:
    layer = closed_form(layer_norm, with_subspace)
    native = native_layer_energy(layer)
    H = make_rows(20, N_EMBD)
    expected_energy, expected_gradient = layer.energy_and_gradient(head, H.astype(np.float64))
    energy, gradient = native.energy_and_gradient(head, H)
    assert_near(energy, expected_energy, 1e-5)
    assert_near(gradient, expected_gradient, 1e-5)
    np.testing.assert_array_equal(native.energy(head, H), energy)
    for i in range(len(H)):  # a row does not depend on its company
        np.testing.assert_array_equal(native.energy(head, H[i : i + 1]), energy[i : i + 1])


@pytest.mark.parametrize("layer_norm", [True, False])
@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize(("covariance", "with_subspace"), [(True, True), (False, True), (False, False)])
def test_descent_equals_the_closed_form(
    covariance: bool, with_subspace: bool, relative: bool, layer_norm: bool
) -> None:
    layer = closed_form(layer_norm, with_subspace)
    native = native_layer_energy(layer)
    H = make_rows(20, N_EMBD)
    energies = layer.energy("fr", H)
    settings: dict[str, Any] = {
        "step_size": 0.02 if relative else 0.5, "steps": 5, "relative": relative, "covariance": covariance,
        "max_shift": 0.05, "threshold": float(np.quantile(energies, 0.2)),
        "target": float(energies.min() - 0.1),
    }  # fmt: skip
    expected = layer.descend("fr", H.astype(np.float64), **settings)
    rows, before, after, steps, shift = native.descend("fr", H, **settings)
    np.testing.assert_array_equal(steps, expected.steps)
    assert 0 in steps
    assert 5 in steps
    assert_near(rows - H, expected.H - H, 1e-3)
    assert_near(before, expected.energy_before, 1e-5)
    assert_near(after, expected.energy_after, 1e-4)
    np.testing.assert_allclose(shift, expected.shift, rtol=1e-4, atol=1e-7)
    np.testing.assert_array_equal(rows[steps == 0], H[steps == 0])


def test_large_nets_are_kept_in_eight_bits_and_small_ones_are_not() -> None:
    def native(width: int, eight_bits: bool | None) -> _native.LayerEnergy:
        head = make_head(N_EMBD, (width,), True, 8)
        layers = [*((block.W, block.b, block.gamma, block.beta) for block in head.hidden), (head.w, head.c)]
        return _native.LayerEnergy(N_EMBD, None, {"fr": layers}, eight_bits)

    H = make_rows(n_embd=N_EMBD)
    large = _native.LARGE_NET // N_EMBD + 1
    for width, by_size in ((32, False), (large, True)):
        found = native(width, None).energy("fr", H)
        np.testing.assert_array_equal(found, native(width, by_size).energy("fr", H))
        whole, rounded = (native(width, bits).energy_and_gradient("fr", H) for bits in (False, True))
        assert not np.array_equal(whole[0], rounded[0])
        assert_near(rounded[1], whole[1], 0.03)


def test_kernels_are_chosen_by_the_environment_or_refused() -> None:
    def run(name: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", "from edge_eds import _native; print(_native.kernels())"],
            env={**os.environ, "EDGE_EDS_KERNELS": name},
            capture_output=True,
            text=True,
        )

    assert run("plain").stdout.strip() == "plain"
    assert run("").stdout.strip() in ("avx512", "avx2", "neon", "plain")
    assert "ValueError: this machine cannot run the kernels 'mmx': it has " in run("mmx").stderr


def test_heads_have_the_order_of_the_package() -> None:
    assert _native.HEADS == HEADS


def test_layer_energy_refuses_what_does_not_fit() -> None:
    w = np.ones(3, dtype=np.float32)
    W = np.ones((3, 5), dtype=np.float32)
    layers: list[tuple[Any, ...]] = [(W, w, None, None), (w, 0.5)]
    refused: list[tuple[dict[str, Any], str]] = [
        ({"harmful": layers}, "unknown head 'harmful'"),
        ({}, "at least one head"),
        ({"fr": []}, "head fr: the list of layers is empty"),
        ({"fr": [(W, w), (w, 0.5)]}, r"head fr: hidden block 0 must be \(W, b, gamma, beta\)"),
        ({"fr": [(W, w, None, None)]}, r"head fr: the last layer must be \(w, c\)"),
        ({"fr": [(w, w, None, None), (w, 0.5)]}, "head fr: hidden block 0: W must be a float32 matrix"),
        ({"fr": [(W, W, None, None), (w, 0.5)]}, "head fr: hidden block 0: b must be a float32 vector"),
        (
            {"fr": [(W, w[:2], None, None), (w, 0.5)]},
            "head fr: hidden block 0: bias has 2 values, expected 3",
        ),
        ({"fr": [(W, w, w, None), (w, 0.5)]}, "head fr: hidden block 0: gamma and beta"),
        ({"fr": [(W, w, None, None), (w, np.nan)]}, "head fr: the last bias holds NaN"),
        ({"fr": [(W * np.inf, w, None, None), (w, 0.5)]}, "head fr: hidden block 0: weight holds NaN or inf"),
    ]
    for heads, message in refused:
        with pytest.raises(ValueError, match=message):
            _native.LayerEnergy(5, None, heads)
    with pytest.raises(ValueError, match="head fr takes 5 inputs, but n_embd is 6"):
        _native.LayerEnergy(6, None, {"fr": layers})
    s = make_subspace(8, 5)
    with pytest.raises(ValueError, match="subspace: P is 5 x 7, expected rank x n_embd = 5 x 8"):
        _native.LayerEnergy(8, (s.mu, np.ascontiguousarray(s.P[:, :7]), s.s), {"fr": layers})
    with pytest.raises(ValueError, match=r"s\[0\] = -"):
        _native.LayerEnergy(8, (s.mu, s.P, -s.s), {"fr": layers})
    with pytest.raises(ValueError, match="not orthonormal"):
        _native.LayerEnergy(8, (s.mu, 2 * s.P, s.s), {"fr": layers})


def test_layer_energy_refuses_what_it_cannot_evaluate() -> None:
    energy = linear(5)
    H = np.ones((2, 5), dtype=np.float32)
    with pytest.raises(KeyError, match="no head 'fr'"):
        energy.energy("fr", H)
    with pytest.raises(ValueError, match="rows of 4 values, expected n_embd = 5"):
        energy.energy("merged", np.ones((2, 4), dtype=np.float32))
    with pytest.raises(TypeError):
        energy.energy("merged", np.ones(5, dtype=np.float32))
    with pytest.raises(ValueError, match="covariance metric needs a subspace"):
        energy.descend("merged", H, 0.1, 3)
    with pytest.raises(ValueError, match="step_size"):
        energy.descend("merged", H, np.nan, 3, covariance=False)
    assert energy.energy("merged", H[:0]).shape == (0,)


def test_a_descent_that_is_not_finite_says_so() -> None:
    H = np.ones((2, 5), dtype=np.float32)
    H[1, 3] = np.inf
    energy = _native.LayerEnergy(5, None, {"fr": [(np.ones(5, dtype=np.float32), 0.0)]})
    _, _, after, _, _ = energy.descend("fr", H, 0.1, 1, covariance=False)
    assert np.isfinite(after[0])
    assert np.isnan(after[1])


# -- Program and Hook on real llama.cpp ----------------------------------------------------------------------


@contextmanager
def hooked(path: Path, **settings: Any) -> Iterator[tuple[_native.Hook, Callable[[int], int]]]:
    """A hook and a function that decodes the first n of TOKENS into an empty context."""
    llama_cpp = pytest.importorskip("llama_cpp")
    hook = _native.Hook(ggml_functions(), N_LAYER, N_EMBD)
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
    params = llama_cpp.llama_context_default_params()
    params.n_ctx, params.n_ubatch, params.n_threads, params.n_threads_batch = 64, 4, 1, 1
    params.cb_eval = llama_cpp.ggml_backend_sched_eval_callback(hook.callback_address)
    params.cb_eval_user_data = hook.user_data
    ctx = llama_cpp.llama_init_from_model(model, params)

    def decode(n: int) -> int:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(ctx), True)
        tokens = (llama_cpp.llama_token * n)(*TOKENS[:n])
        return int(llama_cpp.llama_decode(ctx, llama_cpp.llama_batch_get_one(tokens, n)))

    try:
        yield hook, decode
    finally:
        llama_cpp.llama_free(ctx)
        llama_cpp.llama_model_free(model)


def capture(hook: _native.Hook, decode: Callable[[int], int], program: _native.Program, il: int) -> Floats:
    """Rows (9, N_EMBD) of layer il under the program, to which the capture is added."""
    out = np.zeros((9, N_EMBD), dtype=np.float32)
    program.capture(il, out, "all")
    hook.set_program(program)
    hook.begin(9, EMPTY, EMPTY, EMPTY)
    assert decode(9) == 0
    hook.end()
    return out


def test_steering_equals_the_closed_form(tiny: TinyModel) -> None:
    """Gate, descent, decay and trace over a prompt and forced answer tokens, cut into micro-batches."""
    subspace = make_subspace(N_EMBD, 12, seed=8)
    gate = LayerEnergy(1, subspace, {"harm": make_head(12, (8,), False, 1)})
    steered = LayerEnergy(
        2, subspace, {"fr": make_head(12, (8,), True, 2), "jb": make_head(12, (8,), True, 3)}
    )
    with hooked(tiny("llama")) as (hook, decode):
        plain = {il: capture(hook, decode, _native.Program(), il) for il in (1, 2)}
        score = 0.5 - 2 * float(gate.energy("harm", plain[1][5:6])[0])
        for below, above, head, decision in [(1, 2, "fr", 1), (-2, -1, "jb", 2), (-1, 1, None, 0)]:
            program = _native.Program()
            program.set_gate(0.5, score + below, score + above)
            program.gate_read(1, native_layer_energy(gate), -2.0)
            program.set_descent(0.05, 3, True, True, 3, 0.5, 0.0)
            program.energy_descent(2, native_layer_energy(steered), {}, {})
            out = np.zeros((4, N_EMBD), dtype=np.float32)
            program.capture(2, out, "planned")
            hook.set_program(program)
            hook.begin(9, ints(5, 6, 7, 8), ints(0, 0, 0, 0), ints(0, 1, 2, 3))
            assert decode(9) == 0
            hook.end()
            trace = records_of(hook.take_trace())
            read, found_score, found_decision = hook.gate_state(0)
            assert (read, found_decision) == (True, decision)
            assert found_score == pytest.approx(score, rel=1e-5)
            assert trace[0].tolist()[:4] == (0, 0, 1, HEADS.index("harm"))
            expected = plain[2][5:].copy()
            if head is None:
                assert len(trace) == 1
                assert hook.rows_written == 0
            else:
                moved = steered.descend(head, expected[:3], step_size=[0.05, 0.025, 0.0125], steps=3)
                expected[:3] = moved.H
                assert hook.rows_written == 3
                assert hook.first_row_written == 5
                assert trace["layer"].tolist() == [1, 2, 2, 2]
                assert trace["head"].tolist() == [0] + [HEADS.index(head)] * 3
                assert trace["offset"].tolist() == [0, 0, 1, 2]
                assert trace["steps"].tolist() == [0, 3, 3, 3]
                np.testing.assert_allclose(
                    trace["energy_before"][1:], moved.energy_before, rtol=1e-4, atol=1e-5
                )
                np.testing.assert_allclose(
                    trace["energy_after"][1:], moved.energy_after, rtol=1e-4, atol=1e-5
                )
                np.testing.assert_allclose(trace["shift"][1:], moved.shift, rtol=1e-4)
            np.testing.assert_allclose(out, expected, atol=1e-4)
            np.testing.assert_array_equal(out[3:], plain[2][8:])  # past n_tokens: the same bits
        assert hook.take_trace() == b""


def test_vectors_and_functions_edit_rows(tiny: TinyModel) -> None:
    v = np.linspace(-1, 1, N_EMBD).astype(np.float32)
    with hooked(tiny("llama")) as (hook, decode):
        plain = capture(hook, decode, _native.Program(), 2)

        program = _native.Program()
        program.add_vector(2, v, "all")
        np.testing.assert_array_equal(capture(hook, decode, program, 2), plain + v)

        program = _native.Program()
        program.ablate_direction(2, 3 * v, 1.0, "all")
        unit = v / np.linalg.norm(v)
        expected = plain - np.outer(plain @ unit, unit)
        np.testing.assert_allclose(capture(hook, decode, program, 2), expected, atol=1e-5)

        def in_place(rows: Floats) -> None:
            rows *= 2

        for function in (in_place, lambda rows: 2 * rows, lambda rows: (2 * rows).astype(np.float64)):
            program = _native.Program()
            program.host_function(2, function, "all")
            np.testing.assert_array_equal(capture(hook, decode, program, 2), 2 * plain)


class Refusal(Exception):
    """Raised by an intervention."""


def test_a_failing_function_raises_its_own_exception_and_leaves_the_hook_usable(tiny: TinyModel) -> None:
    def fail(rows: Floats) -> None:
        raise Refusal("not these rows")

    failing: list[tuple[Callable[[Floats], Any], type[Exception], str]] = [
        (fail, Refusal, "not these rows"),
        (lambda rows: rows[1:], ValueError, r"given rows \(4, 64\) and returned \(3, 64\)"),
        (lambda rows: "rows", TypeError, "must return None or a float32 array"),
    ]
    with hooked(tiny("llama")) as (hook, decode):
        plain = capture(hook, decode, _native.Program(), 2)
        for function, error, message in failing:
            program = _native.Program()
            program.host_function(1, function, "all")
            hook.set_program(program)
            hook.begin(9, EMPTY, EMPTY, EMPTY)
            assert decode(9) == 0
            with pytest.raises(error, match=message):
                hook.end()
            np.testing.assert_array_equal(capture(hook, decode, _native.Program(), 2), plain)


def test_a_layer_that_does_not_fire_raises_with_its_index(tiny: TinyModel) -> None:
    with hooked(tiny("llama")) as (hook, decode):
        program = _native.Program()
        program.add_vector(2, np.ones(N_EMBD, dtype=np.float32), "all")
        hook.set_program(program)
        hook.begin(9, EMPTY, EMPTY, EMPTY)
        with pytest.raises(
            _native.HookError, match="layer 2: l_out-2 was computed for 0 of the decode's 9 rows"
        ) as caught:
            hook.end()
        assert caught.value.layer == 2
        assert issubclass(_native.HookError, RuntimeError)

        hook.begin(9, EMPTY, EMPTY, EMPTY)
        assert decode(9) == 0
        hook.end()


def test_what_is_not_finite_is_latched_and_not_written(tiny: TinyModel) -> None:
    with hooked(tiny("llama")) as (hook, decode):
        program = _native.Program()
        program.host_function(1, lambda rows: rows * np.nan, "all")
        hook.set_program(program)
        hook.begin(9, EMPTY, EMPTY, EMPTY)
        assert decode(9) == 0
        with pytest.raises(_native.HookError, match="NaN or infinite"):
            hook.end()
        assert hook.rows_written == 0


def test_decodes_of_two_threads_each_have_their_hook(tiny: TinyModel) -> None:
    """Host functions take the GIL from whatever thread decodes."""
    seen: dict[int, list[int]] = {0: [], 1: []}

    def run(i: int) -> None:
        with hooked(tiny("llama")) as (hook, decode):
            program = _native.Program()
            program.host_function(1, lambda rows: seen[i].append(len(rows)), "all")
            hook.set_program(program)
            for _ in range(5):
                hook.begin(9, EMPTY, EMPTY, EMPTY)
                decode(9)
                hook.end()

    threads = [threading.Thread(target=run, args=(i,)) for i in seen]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {0: [4, 4, 1] * 5, 1: [4, 4, 1] * 5}


# -- arguments and lifetimes ---------------------------------------------------------------------------------


def new_hook() -> _native.Hook:
    return _native.Hook(ggml_functions(), N_LAYER, N_EMBD)


def test_hook_refuses_arguments_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="the address of ggml_nrows is missing"):
        _native.Hook({k: v for k, v in ggml_functions().items() if k != "ggml_nrows"}, N_LAYER, N_EMBD)
    with pytest.raises(ValueError, match="a ggml function is missing"):
        _native.Hook(dict.fromkeys(GGML_FUNCTIONS, 0), N_LAYER, N_EMBD)
    with pytest.raises(ValueError, match="must be > 0"):
        _native.Hook(ggml_functions(), 0, N_EMBD)
    with pytest.raises(ValueError, match="threads must be > 0"):
        _native.Hook(ggml_functions(), N_LAYER, N_EMBD).set_threads(0)
    hook = new_hook()
    assert (hook.n_layer, hook.n_embd) == (N_LAYER, N_EMBD)
    with pytest.raises(ValueError, match="strictly ascending"):
        hook.begin(4, ints(2, 1), ints(0, 0), ints(0, 1))
    with pytest.raises(ValueError, match="same length"):
        hook.begin(4, ints(2, 1), ints(0), ints(0, 1))
    with pytest.raises(IndexError, match="slot 3 of 1"):
        hook.gate_state(3)
    with pytest.raises(RuntimeError, match=r"begin\(\) comes first"):
        hook.end()


def test_program_refuses_arguments_that_make_no_sense() -> None:
    program = _native.Program()
    v = np.ones(N_EMBD, dtype=np.float32)
    with pytest.raises(ValueError, match="unknown scope 'some'"):
        program.add_vector(1, v, "some")
    with pytest.raises(ValueError, match="head harm"):
        program.gate_read(1, linear(), 1.0)
    with pytest.raises(ValueError, match="unknown head 'refusal'"):
        program.energy_descent(1, linear(), {"refusal": 0.0}, {})
    with pytest.raises(ValueError, match="threshold given for the head 'fr', which"):
        program.energy_descent(1, linear(), {"fr": 0.0}, {})
    for wrong in (np.ones((3, N_EMBD)), np.ones((N_EMBD, 3), dtype=np.float32).T):
        with pytest.raises(TypeError):  # a copy of it would be filled instead
            program.capture(1, wrong, "all")  # type: ignore[arg-type,unused-ignore]
    hook = new_hook()
    program.add_vector(N_LAYER - 1, v, "all")
    with pytest.raises(ValueError, match="layer 3: the last layer cannot be steered"):
        hook.set_program(program)
    program = _native.Program()
    program.add_vector(1, v[:5], "all")
    with pytest.raises(ValueError, match="rows of 5 values, but the model has n_embd = 64"):
        hook.set_program(program)


def test_a_program_keeps_alive_what_it_points_to(tiny: TinyModel) -> None:
    with hooked(tiny("llama")) as (hook, decode):
        calls: list[int] = []

        def set_program() -> weakref.ref[Any]:
            def function(rows: Floats) -> None:
                calls.append(len(rows))

            program = _native.Program()
            program.host_function(1, function, "all")
            program.capture(1, np.zeros((9, N_EMBD), dtype=np.float32), "all")
            program.energy_descent(2, linear(), {}, {})
            program.set_descent(0.1, 1, True, False, 0, 1.0, 0.0)
            hook.set_program(program)
            return weakref.ref(function)

        function = set_program()
        gc.collect()
        assert function() is not None
        hook.begin(9, ints(8), ints(0), ints(0))
        assert decode(9) == 0
        hook.end()
        assert calls == [4, 4, 1]
        hook.set_program(None)
        gc.collect()
        assert function() is None


def test_a_cycle_through_hook_and_function_is_collected() -> None:
    class Session:
        def __init__(self) -> None:
            self.hook = new_hook()
            program = _native.Program()
            program.host_function(1, self.intervene, "all")
            self.hook.set_program(program)

        def intervene(self, rows: Floats) -> None:
            pass

    session = weakref.ref(Session())
    gc.collect()
    assert session() is None


def test_nothing_is_reported_as_leaked_when_the_interpreter_ends() -> None:
    script = """
import numpy as np
from edge_eds import _native
from edge_eds.runtime.seam import ggml_functions
hook = _native.Hook(ggml_functions(), 4, 8)
program = _native.Program()
program.host_function(1, lambda rows: None, "all")
program.energy_descent(2, _native.LayerEnergy(8, None, {"merged": [(np.ones(8, np.float32), 0.0)]}), {}, {})
program.set_descent(0.1, 1, True, False, 0, 1.0, 0.0)
hook.set_program(program)
try:
    hook.gate_state(9)
except IndexError:
    pass
hook.begin(1, np.zeros(1, np.int32), np.zeros(1, np.int32), np.zeros(1, np.int32))
try:
    hook.end()
except _native.HookError as e:
    print(e.layer)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout.strip(), result.stderr.strip()) == (0, "1", "")


def test_the_addresses_are_stable() -> None:
    hook, other = new_hook(), new_hook()
    assert hook.callback_address == other.callback_address
    assert hook.user_data == hook.user_data != other.user_data
    call = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_bool, ctypes.c_void_p)(
        hook.callback_address
    )
    assert call(None, True, hook.user_data) is False  # not armed: the node is not even looked at


def test_the_stub_names_everything() -> None:
    stub = Path(__file__).parents[1] / "edge_eds" / "_native.pyi"
    if not stub.exists():
        pytest.skip("the stub lies in the source tree of an editable install only")
    text = stub.read_text()
    for owner in (_native.LayerEnergy, _native.Program, _native.Hook):
        assert f"class {owner.__name__}:" in text
        for name in vars(owner):
            if not name.startswith("_"):
                assert f"def {name}(" in text, f"{owner.__name__}.{name}"
