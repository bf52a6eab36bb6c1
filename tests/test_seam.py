"""What edge-eds assumes of llama.cpp, one test for each numbered assumption of native/SEAM.md.

On llama.cpp as it is, through llama-cpp-python's low-level functions; of edge-eds only the native hook and
the addresses of ggml's functions take part. When llama-cpp-python moves, a failure here says which fell.
"""

from __future__ import annotations

import ctypes
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import llama_cpp
import numpy as np
import numpy.typing as npt
import pytest
from tiny_gguf import ARCHITECTURES

from edge_eds import _native
from edge_eds.runtime.seam import GGML_FUNCTIONS, ggml_functions

N_LAYER, N_EMBD = 4, 64
TOKENS = [int(token) for token in np.random.default_rng(3).integers(3, 259, 13)]
GGML_TYPE_F32 = 0
RECURRENT = ("mamba", "jamba", "lfm2")  # some or all of their layers keep a state instead of a KV cache
EMPTY = np.zeros(0, dtype=np.int32)

TinyModel = Callable[..., Path]
Floats = npt.NDArray[np.float32]


class Row(NamedTuple):
    """One row of a batch."""

    token: int
    pos: int
    seq: int = 0
    output: bool = True


class RawContext:
    """A model and a context of llama.cpp, with any eval callback; one thread."""

    def __init__(
        self,
        path: Path,
        callback: Any = None,
        user_data: int | None = None,
        *,
        n_ubatch: int = 512,
        n_seq_max: int = 1,
    ) -> None:
        model_params = llama_cpp.llama_model_default_params()
        model_params.n_gpu_layers = 0
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), model_params)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = 256, 256, n_ubatch
        params.n_threads = params.n_threads_batch = 1
        params.n_seq_max, params.kv_unified = n_seq_max, True
        params.type_k = params.type_v = GGML_TYPE_F32  # half precision would cost three digits,
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED  # and so does flash attention
        if callback is not None:
            params.cb_eval, params.cb_eval_user_data = callback, user_data
        self.ctx = llama_cpp.llama_init_from_model(self.model, params)
        assert self.ctx
        self.n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))

    def close(self) -> None:
        llama_cpp.llama_free(self.ctx)
        llama_cpp.llama_model_free(self.model)

    def decode(self, rows: Sequence[Row]) -> int:
        batch = llama_cpp.llama_batch_init(len(rows), 0, 1)
        batch.n_tokens = len(rows)
        for i, row in enumerate(rows):
            batch.token[i], batch.pos[i], batch.logits[i] = row.token, row.pos, row.output
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, row.seq
        try:
            return int(llama_cpp.llama_decode(self.ctx, batch))
        finally:
            llama_cpp.llama_batch_free(batch)

    def logits(self, row: int) -> Floats:
        values = llama_cpp.llama_get_logits_ith(self.ctx, row)
        return np.array(np.ctypeslib.as_array(values, (self.n_vocab,)), dtype=np.float32)


class Call(NamedTuple):
    """One call of the eval callback."""

    name: str
    ask: bool
    n_rows: int
    thread: int


class Recorder:
    """An eval callback in Python, which says yes to the names of `wanted` and writes down every call."""

    def __init__(self, wanted: str = r"$^", answer_when_computed: bool = True) -> None:
        self.calls: list[Call] = []
        self.wanted = wanted
        addresses = ggml_functions()
        get_name = ctypes.CFUNCTYPE(ctypes.c_char_p, ctypes.c_void_p)(addresses["ggml_get_name"])
        nrows = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)(addresses["ggml_nrows"])

        def record(tensor: int, ask: bool, user_data: int | None) -> bool:
            name = get_name(tensor).decode()
            self.calls.append(Call(name, ask, nrows(tensor), threading.get_ident()))
            return re.fullmatch(self.wanted, name) is not None if ask else answer_when_computed

        self.callback = llama_cpp.ggml_backend_sched_eval_callback(record)

    def asked(self, pattern: str) -> list[Call]:
        return [call for call in self.calls if call.ask and re.fullmatch(pattern, call.name)]


@contextmanager
def hooked(path: Path, **settings: Any) -> Iterator[tuple[_native.Hook, RawContext]]:
    hook = _native.Hook(ggml_functions(), N_LAYER, N_EMBD)
    callback = llama_cpp.ggml_backend_sched_eval_callback(hook.callback_address)
    with closing(RawContext(path, callback, hook.user_data, **settings)) as llama:
        yield hook, llama


def sequence(tokens: Sequence[int], pos: int = 0, seq: int = 0, output: bool = True) -> list[Row]:
    return [Row(token, pos + i, seq, output) for i, token in enumerate(tokens)]


def capturing(layers: Sequence[int], n_rows: int) -> tuple[_native.Program, dict[int, Floats]]:
    out = {il: np.full((n_rows, N_EMBD), np.nan, dtype=np.float32) for il in layers}
    program = _native.Program()
    for il, rows in out.items():
        program.capture(il, rows, "all")
    return program, out


def run(hook: _native.Hook, llama: RawContext, program: _native.Program | None, rows: Sequence[Row]) -> None:
    """One decode of `rows` under `program`, without planned rows."""
    hook.set_program(program)
    hook.begin(len(rows), EMPTY, EMPTY, EMPTY)
    assert llama.decode(rows) == 0
    hook.end()


def all_logits(llama: RawContext, n_rows: int) -> Floats:
    return np.stack([llama.logits(i) for i in range(n_rows)])


# 1
def test_the_functions_are_those_of_the_loaded_ggml() -> None:
    """Each address lies in the ggml-base that llama-cpp-python has loaded; the process has no second one."""
    maps = Path("/proc/self/maps")
    addresses = ggml_functions()
    assert set(addresses) == set(GGML_FUNCTIONS)
    if not maps.exists():
        pytest.skip("the memory map of a process is read from /proc")
    mapped: dict[str, list[tuple[int, int]]] = {}
    for line in maps.read_text().splitlines():
        span, *_, path = line.split(maxsplit=5)
        if path.startswith("/"):
            start, end = (int(x, 16) for x in span.split("-"))
            mapped.setdefault(path, []).append((start, end))
    ggml = [path for path in mapped if "libggml-base" in path]
    assert len(ggml) == 1
    folder = Path(llama_cpp.__file__).parent.resolve()
    assert folder in Path(ggml[0]).resolve().parents
    for name, address in addresses.items():
        assert any(start <= address < end for start, end in mapped[ggml[0]]), name


# 2
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_each_node_is_asked_once_and_computed_before_the_next_ask(tiny: TinyModel, arch: str) -> None:
    """The core counts rows when it is asked, and decides at one layer what it answers at the next."""
    recorder = Recorder(wanted=r"l_out-\d+")
    with closing(RawContext(tiny(arch), recorder.callback)) as llama:
        assert llama.decode(sequence(TOKENS)) == 0
    computed = [i for i, call in enumerate(recorder.calls) if not call.ask]
    asked = recorder.asked(r"l_out-\d+")
    assert len(computed) == len(asked) == N_LAYER
    for i in computed:
        before, call = recorder.calls[i - 1], recorder.calls[i]
        assert before.ask
        assert before.name == call.name
        assert before.n_rows == call.n_rows


# 3
def test_the_callback_runs_on_the_thread_that_decodes(tiny: TinyModel) -> None:
    """The hook has no locks: only the thread inside llama_decode touches it."""
    recorder = Recorder(wanted=r"l_out-\d+")
    with closing(RawContext(tiny("llama"), recorder.callback)) as llama:
        thread = threading.Thread(target=llama.decode, args=(sequence(TOKENS),))
        thread.start()
        thread.join()
    assert {call.thread for call in recorder.calls} == {thread.ident}


# 4
def test_nothing_is_called_outside_of_a_decode(tiny: TinyModel) -> None:
    """Making a context reserves its graphs without computing them; a hook needs no begin() for that."""
    recorder = Recorder(wanted=r".*")
    with closing(RawContext(tiny("llama"), recorder.callback)) as llama:
        assert recorder.calls == []
        assert llama.decode(sequence(TOKENS)) == 0
        n_calls = len(recorder.calls)
        memory = llama_cpp.llama_get_memory(llama.ctx)
        llama_cpp.llama_memory_seq_rm(memory, 0, 5, -1)
        llama_cpp.llama_memory_clear(memory, True)
        llama.logits(0)
        assert len(recorder.calls) == n_calls


# 5
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_graph_that_is_used_again_calls_the_callback_again(tiny: TinyModel, arch: str) -> None:
    """One token after the other: llama.cpp keeps the graph, and the callback with it."""
    n_prompt = 5
    program, whole = capturing([1], len(TOKENS))
    with hooked(tiny(arch)) as (hook, llama):
        run(hook, llama, program, sequence(TOKENS))
    with hooked(tiny(arch)) as (hook, llama):
        run(hook, llama, None, sequence(TOKENS[:n_prompt]))
        for pos in range(n_prompt, len(TOKENS)):
            program, out = capturing([1], 1)
            run(hook, llama, program, [Row(TOKENS[pos], pos)])
            np.testing.assert_allclose(out[1][0], whole[1][pos], rtol=1e-4, atol=1e-4)
        assert llama_cpp.llama_perf_context(llama.ctx).n_reused > 0


# 6
def test_shifting_the_cache_computes_no_block_output(tiny: TinyModel) -> None:
    """The graph that moves positions runs inside the next llama_decode, through the same callback."""
    with closing(RawContext(tiny("llama"))) as llama:
        memory = llama_cpp.llama_get_memory(llama.ctx)
        assert llama_cpp.llama_memory_can_shift(memory)
    recorder = Recorder()
    with closing(RawContext(tiny("llama"), recorder.callback)) as llama:
        assert llama.decode(sequence(TOKENS)) == 0
        memory = llama_cpp.llama_get_memory(llama.ctx)
        assert llama_cpp.llama_memory_seq_rm(memory, 0, 2, 6)
        llama_cpp.llama_memory_seq_add(memory, 0, 6, -1, -4)
        recorder.calls.clear()
        assert llama.decode([Row(40, len(TOKENS) - 4)]) == 0
    assert [call.name for call in recorder.asked(r"l_out-\d+")] == [f"l_out-{il}" for il in range(N_LAYER)]
    names = [call.name for call in recorder.calls]
    shift = names[: names.index("embd")]  # what comes before the model itself
    assert shift
    assert all(name.startswith("cache_k_l") for name in shift)


# 7
def test_the_callback_and_its_data_are_fixed_when_the_context_is_made(tiny: TinyModel) -> None:
    """llama.cpp copies both addresses, so the hook has to live as long as the context."""
    fields = {field[0]: field[1] for field in llama_cpp.llama_context_params._fields_}
    assert fields["cb_eval"] is llama_cpp.ggml_backend_sched_eval_callback
    assert fields["cb_eval_user_data"] is ctypes.c_void_p
    with hooked(tiny("llama")) as (hook, llama):
        for _ in range(2):  # each of two contexts calls its own hook
            with hooked(tiny("llama")) as (other, other_llama):
                program, out = capturing([1], 1)
                hook.set_program(program)
                hook.begin(1, EMPTY, EMPTY, EMPTY)
                assert other_llama.decode([Row(TOKENS[0], 0)]) == 0
                assert np.isnan(out[1]).all()
                hook.abort()
                run(other, other_llama, program, [Row(TOKENS[1], 1)])
                assert np.isfinite(out[1]).all()
        run(hook, llama, program, [Row(TOKENS[0], 0)])


# 8
def test_false_after_a_computed_node_gives_wrong_logits_and_no_error(tiny: TinyModel) -> None:
    """Why the callback latches errors: llama_decode skips the rest of the graph and reports success."""
    rows = sequence(TOKENS)
    with closing(RawContext(tiny("llama"))) as llama:
        assert llama.decode(rows) == 0
        plain = llama.logits(len(rows) - 1)
    stopping = Recorder(answer_when_computed=False)
    with closing(RawContext(tiny("llama"), stopping.callback)) as llama:
        # other logits, in the memory that is then left as it is
        assert llama.decode(sequence(TOKENS[::-1])) == 0
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(llama.ctx), True)
        stopping.wanted = r"l_out-1"
        assert llama.decode(rows) == 0
        assert not np.allclose(llama.logits(len(rows) - 1), plain, atol=0.1)


# 9
def test_llama_decode_is_called_without_the_gil(tiny: TinyModel) -> None:
    """Host functions take the GIL inside llama_decode; a ctypes call that held it would block for ever."""
    seen: list[tuple[int, ...]] = []
    program = _native.Program()
    program.host_function(1, lambda rows: seen.append(rows.shape), "all")
    with hooked(tiny("llama"), n_ubatch=5) as (hook, llama):
        run(hook, llama, program, sequence(TOKENS))
    assert seen == [(5, N_EMBD), (5, N_EMBD), (3, N_EMBD)]


# 10
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_each_layer_has_one_block_output_of_this_name(tiny: TinyModel, arch: str) -> None:
    """One node l_out-<il> for every layer and micro-batch, in the order of the layers."""
    recorder = Recorder()
    with closing(RawContext(tiny(arch), recorder.callback, n_ubatch=5)) as llama:
        assert llama.decode(sequence(TOKENS)) == 0
    names = [call.name for call in recorder.asked(r"l_out-\d+")]
    assert names == [f"l_out-{il}" for il in range(N_LAYER)] * 3


# 11
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_block_outputs_are_float32_rows_one_for_each_token(tiny: TinyModel, arch: str) -> None:
    with hooked(tiny(arch), n_ubatch=5) as (hook, llama):
        hook.begin_probe()
        assert llama.decode(sequence(TOKENS)) == 0
        seen = hook.end_probe()
    assert [record[0] for record in seen] == [*range(N_LAYER)] * 3
    for il, n_embd, n_rows, n_bytes in seen[:N_LAYER]:
        assert (n_embd, n_rows, n_bytes) == (N_EMBD, 5, 5 * N_EMBD * 4), f"layer {il}"
    assert {n_rows for _, _, n_rows, _ in seen[-N_LAYER:]} == {3}


# 12
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_last_layer_has_only_the_rows_of_outputs(tiny: TinyModel, arch: str) -> None:
    """Why it is never steered: its rows are no longer the batch's rows, and may be none."""
    rows = [*sequence(TOKENS[:-1], output=False), Row(TOKENS[-1], len(TOKENS) - 1)]
    with hooked(tiny(arch), n_ubatch=5) as (hook, llama):
        hook.begin_probe()
        assert llama.decode(rows) == 0
        seen = hook.end_probe()
    n_rows = {il: [n for layer, _, n, _ in seen if layer == il] for il in range(N_LAYER)}
    for il in range(N_LAYER - 1):
        assert n_rows[il] == [5, 5, 3]
    assert n_rows[N_LAYER - 1] == [0, 0, 1]


# 13
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_observing_changes_no_bit(tiny: TinyModel, arch: str) -> None:
    rows = sequence(TOKENS)
    with closing(RawContext(tiny(arch), n_ubatch=5)) as llama:
        assert llama.decode(rows) == 0
        plain = all_logits(llama, len(rows))
    program, _ = capturing(range(N_LAYER), len(rows))
    for observing in (None, program):
        with hooked(tiny(arch), n_ubatch=5) as (hook, llama):
            run(hook, llama, observing, rows)
            np.testing.assert_array_equal(all_logits(llama, len(rows)), plain)


# 14
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_an_edit_is_what_the_next_layer_reads(tiny: TinyModel, arch: str) -> None:
    """Adding a vector to l_out-<il> is, bit for bit, llama.cpp's own control vector at layer il."""
    rows = sequence(TOKENS)
    vector = np.random.default_rng(5).normal(size=N_EMBD).astype(np.float32)
    for il in range(1, N_LAYER - 1):
        data = np.zeros((N_LAYER - 1, N_EMBD), dtype=np.float32)  # from layer 1 on
        data[il - 1] = vector
        with closing(RawContext(tiny(arch), n_ubatch=5)) as llama:
            pointer = data.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            done = llama_cpp.llama_set_adapter_cvec(llama.ctx, pointer, data.size, N_EMBD, il, il)
            assert done == 0
            assert llama.decode(rows) == 0
            expected = all_logits(llama, len(rows))
        program = _native.Program()
        program.add_vector(il, vector, "all")
        with hooked(tiny(arch), n_ubatch=5) as (hook, llama):
            run(hook, llama, program, rows)
            np.testing.assert_array_equal(all_logits(llama, len(rows)), expected)
            assert hook.rows_written == len(rows)
            run(hook, llama, None, [Row(50, len(rows))])
            unsteered_after = llama.logits(0)
        assert not np.array_equal(unsteered_after, expected[-1])


# 15
def test_parts_of_a_tensor_are_read_and_written_in_place(tiny: TinyModel) -> None:
    """ggml_backend_tensor_get and _set take an offset and a size in bytes, and are done when they return."""
    rows = sequence(TOKENS)
    planned = np.array([2, 3, 9], dtype=np.int32)
    zeros = np.zeros(3, dtype=np.int32)
    program, before = capturing([1], len(rows))
    with hooked(tiny("llama")) as (hook, llama):
        run(hook, llama, program, rows)
    edited, after = capturing([1], len(rows))
    some = np.zeros((3, N_EMBD), dtype=np.float32)
    edited.capture(1, some, "planned")
    edited.add_vector(1, np.ones(N_EMBD, dtype=np.float32), "planned")
    with hooked(tiny("llama")) as (hook, llama):
        hook.set_program(edited)
        hook.begin(len(rows), planned, zeros, planned)
        assert llama.decode(rows) == 0
        hook.end()
        reread, again = capturing([1], 1)
        run(hook, llama, reread, [Row(40, len(rows))])  # the tensor of the next decode is not the edited one
    expected = before[1].copy()
    expected[planned] += 1
    np.testing.assert_array_equal(after[1], expected)
    np.testing.assert_array_equal(some, expected[planned])
    assert np.isfinite(again[1]).all()


# 16
@pytest.mark.parametrize("n_ubatch", [1, 4, 512])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_rows_come_in_the_order_of_the_batch(tiny: TinyModel, arch: str, n_ubatch: int) -> None:
    """Row i of the batch is row i of the micro-batches one after the other: it depends on tokens 0 to i."""
    program, out = capturing([1], len(TOKENS))
    with hooked(tiny(arch), n_ubatch=n_ubatch) as (hook, llama):
        run(hook, llama, program, sequence(TOKENS))
    changed, alone = capturing([1], len(TOKENS))
    other = [*TOKENS[:7], TOKENS[7] ^ 1, *TOKENS[8:]]
    with hooked(tiny(arch), n_ubatch=n_ubatch) as (hook, llama):
        run(hook, llama, changed, sequence(other))
    same = [bool(np.array_equal(a, b)) for a, b in zip(out[1], alone[1], strict=True)]
    assert same[:7] == [True] * 7
    assert same[7] is False


# 17
@pytest.mark.parametrize("n_ubatch", [1, 4, 512])
@pytest.mark.parametrize("arch", [arch for arch in ARCHITECTURES if arch not in RECURRENT])
def test_rows_of_several_sequences_keep_their_order_in_a_unified_cache(
    tiny: TinyModel, arch: str, n_ubatch: int
) -> None:
    """Interleaved sequences are not sorted by sequence, as they would be with a cache for each."""
    a, b = TOKENS[:6], TOKENS[6:12]
    rows = [row for pair in zip(sequence(a, seq=0), sequence(b, seq=1), strict=True) for row in pair]
    mixed, out = capturing([1], len(rows))
    with hooked(tiny(arch), n_ubatch=n_ubatch, n_seq_max=2) as (hook, llama):
        run(hook, llama, mixed, rows)
    for tokens, part in ((a, out[1][0::2]), (b, out[1][1::2])):
        program, alone = capturing([1], len(tokens))
        with hooked(tiny(arch), n_seq_max=2) as (hook, llama):
            run(hook, llama, program, sequence(tokens))
        np.testing.assert_allclose(part, alone[1], rtol=1e-4, atol=1e-4)


# 18
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_one_row_for_each_sequence_keeps_its_order(tiny: TinyModel, arch: str) -> None:
    """What a batch of answers decodes: one new token each. It holds for recurrent models too."""
    prompts = [TOKENS[:4], TOKENS[4:9], TOKENS[9:]]
    with hooked(tiny(arch), n_seq_max=3) as (hook, llama):
        for seq, prompt in enumerate(prompts):
            run(hook, llama, None, sequence(prompt, seq=seq))
        program, out = capturing([1], 3)
        run(hook, llama, program, [Row(40 + seq, len(prompt), seq) for seq, prompt in enumerate(prompts)])
    for seq, prompt in enumerate(prompts):
        program, alone = capturing([1], 1)
        with hooked(tiny(arch)) as (hook, llama):
            run(hook, llama, None, sequence(prompt))
            run(hook, llama, program, [Row(40 + seq, len(prompt))])
        np.testing.assert_allclose(out[1][seq], alone[1][0], rtol=1e-4, atol=1e-4)


# 18
@pytest.mark.parametrize("arch", RECURRENT)
def test_recurrent_models_reorder_the_rows_of_several_sequences(tiny: TinyModel, arch: str) -> None:
    """The limit of what the hook can serve: if this fails, llama.cpp has changed and the limit can go."""
    rows = [*sequence(TOKENS[:9], seq=0), *sequence(TOKENS[9:], seq=1)]
    program, out = capturing([0], len(rows))
    with hooked(tiny(arch), n_seq_max=2) as (hook, llama):
        run(hook, llama, program, rows)
    program, alone = capturing([0], 9)
    with hooked(tiny(arch)) as (hook, llama):
        run(hook, llama, program, sequence(TOKENS[:9]))
    near = [bool(np.allclose(a, b, rtol=1e-3, atol=1e-3)) for a, b in zip(out[0], alone[0], strict=False)]
    assert near == [True] * 4 + [False] * 5  # four rows of each sequence, then the rest of the longer one


# 20
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_last_row_can_be_taken_back_and_decoded_again(tiny: TinyModel, arch: str) -> None:
    """After an edit that was taken back, the row and the one after it are those of a context that never saw it."""
    edit = _native.Program()
    edit.add_vector(1, np.full(N_EMBD, 0.7, dtype=np.float32), "all")
    end = len(TOKENS) - 1
    found = []
    for steps in ([None], [edit, None], [edit], [None, edit]):
        with hooked(tiny(arch)) as (hook, llama):
            run(hook, llama, None, sequence(TOKENS[:end]))
            for i, program in enumerate(steps):
                went = i == 0 or llama_cpp.llama_memory_seq_rm(llama_cpp.llama_get_memory(llama.ctx), 0, end, -1)
                assert went is not (i > 0 and arch in RECURRENT)
                if went:
                    run(hook, llama, program, [Row(TOKENS[end], end)])
                    first = llama.logits(0).copy()
            run(hook, llama, None, [Row(40, end + 1)])
            found.append((first, llama.logits(0).copy()))
    plain, taken_back, edited, edited_again = found
    assert not np.array_equal(plain, edited)
    if arch not in RECURRENT:
        assert np.array_equal(plain, taken_back) and np.array_equal(edited, edited_again)


def test_the_document_names_each_test_and_each_test_the_number_of_its_assumption() -> None:
    text = (Path(__file__).parents[1] / "native" / "SEAM.md").read_text()
    source = Path(__file__).read_text()
    tests = dict(re.findall(r"^# (\d+)\n(?:@.*\n)*def (test_\w+)", source, re.MULTILINE))
    named = re.findall(r"^(\d+)\. (.*?)(?=^\d+\. |^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert [int(number) for number, _ in named] == [*range(1, len(named) + 1)]
    for number, assumption in named:
        assert number in tests or "not tested" in assumption
        if number in tests:
            assert tests[number] in assumption


# 21
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_decode_that_is_stopped_at_its_first_node_has_asked_about_all(tiny: TinyModel, arch: str) -> None:
    """So a session learns at its start which layers there are, for less than a token's time."""
    rows, recorder, n_computed = sequence(TOKENS), Recorder(), 0

    def stop(_: Any) -> bool:
        nonlocal n_computed
        n_computed += 1
        return True

    stopping = llama_cpp.ggml_abort_callback(stop)
    with closing(RawContext(tiny(arch))) as llama:
        assert llama.decode(rows) == 0
        plain = all_logits(llama, len(rows))
    with closing(RawContext(tiny(arch), recorder.callback)) as llama:
        llama_cpp.llama_set_abort_callback(llama.ctx, stopping, None)
        assert llama.decode(rows) == 2
        assert n_computed == 1
        assert [call.name for call in recorder.asked(r"l_out-\d+")] == [f"l_out-{il}" for il in range(N_LAYER)]
        llama_cpp.llama_set_abort_callback(llama.ctx, llama_cpp.ggml_abort_callback(), None)
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(llama.ctx), True)
        assert llama.decode(rows) == 0
        assert np.array_equal(all_logits(llama, len(rows)), plain)
