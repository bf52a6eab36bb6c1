"""Models by name: which file a name means, and the way from a hub to a loaded model, with all that can go wrong."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import shutil
import signal
import struct
import sys
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import huggingface_hub
import huggingface_hub.constants
import huggingface_hub.file_download
import pytest
from command_line import assert_one_line, edge_eds, start
from hub_server import TOKEN, HubServer, Repository, hub_server
from runtime_examples import N_LAYER, make_energies
from steered_model import steered_model
from tiny_gguf import tiny_gguf

from edge_eds import EdgeLlama
from edge_eds.errors import InputError, ModelError
from edge_eds.runtime.energies import chosen_energy_file, user_energy_folder
from edge_eds.runtime.hub import fetch_model, snapshot_folder
from edge_eds.runtime.hub_name import choose_files, file_stem, parse_hub_name

REPO = "user/tiny-GGUF"
NAME = f"hf:{REPO}"


# -- which file a name means (llama.cpp's rules) ------------------------------------------------------------

FILES = [
    "README.md",
    "imatrix.gguf",
    "mmproj-model-f16.gguf",
    "model-IQ2_M.gguf",
    "model-Q4_0.gguf",
    "model-Q4_K_M.gguf",
    "model-Q5_K_S.gguf",
    "model-Q8_0.gguf",
]
PARTS = ["BF16/model-BF16-00002-of-00002.gguf", "BF16/model-BF16-00001-of-00002.gguf", *FILES]


@pytest.mark.parametrize(
    ("quant", "files", "expected"),
    [
        ("", FILES, ["model-Q4_K_M.gguf"]),
        ("", [file for file in FILES if "K_M" not in file], ["model-Q8_0.gguf"]),
        ("", ["mtp-x.gguf", "model-Q5_K_S.gguf", "model-Q4_0.gguf"], ["model-Q5_K_S.gguf"]),
        ("", ["model.gguf"], ["model.gguf"]),
        ("Q4_0", FILES, ["model-Q4_0.gguf"]),
        ("q5_k_s", FILES, ["model-Q5_K_S.gguf"]),
        ("Q4_K_M", ["UD/model-UD-Q4_K_M.gguf", *FILES], ["UD/model-UD-Q4_K_M.gguf"]),
        ("bf16", PARTS, ["BF16/model-BF16-00001-of-00002.gguf", "BF16/model-BF16-00002-of-00002.gguf"]),
        ("", PARTS[:2], ["BF16/model-BF16-00001-of-00002.gguf", "BF16/model-BF16-00002-of-00002.gguf"]),
    ],
)
def test_a_name_means_the_file_that_llama_cpp_takes(quant: str, files: list[str], expected: list[str]) -> None:
    name = parse_hub_name(NAME + (f":{quant}" if quant else ""))
    assert choose_files(name, files) == expected


@pytest.mark.parametrize(
    ("quant", "files", "words"),
    [
        ("Q3_K_L", FILES, ("no Q3_K_L", "IQ2_M, Q4_0, Q4_K_M, Q5_K_S, Q8_0")),
        ("Q4_K", FILES, ("no Q4_K ",)),  # followed by "." or "-", so not the beginning of Q4_K_M
        ("F16", FILES, ("no F16",)),  # an image encoder is no model
        ("", ["README.md", "model.safetensors"], ("no GGUF file", "model.safetensors", "-GGUF")),
        ("", [], ("no GGUF file", "no files at all")),
        ("", ["mmproj-f16.gguf"], ("no language models",)),
        ("bf16", PARTS[1:], ("part 2 of 2", "is missing")),
        ("Q", [f"m-Q{i}.gguf" for i in range(20)], ("Q11 and 8 more",)),
    ],
)
def test_a_name_that_means_no_file_says_what_there_is(quant: str, files: list[str], words: tuple[str, ...]) -> None:
    with pytest.raises(ModelError) as error:
        choose_files(parse_hub_name(NAME + (f":{quant}" if quant else "")), files)
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize("name", ["hf:", "hf:m", "hf:a/b/c", "hf:a/b:", "hf:a/b:c:d", "hf:../b", "hf:a/b c", "hf:a/"])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(InputError, match="hf:USER/REPO:QUANT"):
        parse_hub_name(name)


def test_the_parts_of_a_model_have_one_stem() -> None:
    assert file_stem("a/b/model-Q4_0-00001-of-00003.gguf") == file_stem(Path("b/model-Q4_0.gguf")) == "model-Q4_0"


# -- downloading --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return steered_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, home: Path, gguf: Path) -> Iterator[HubServer]:
    """A hub with one model, which huggingface_hub is pointed to as if it had been imported with this environment."""
    with hub_server() as hub:
        hub.repositories[REPO] = Repository(
            {"README.md": b"# tiny", "tiny-F32.gguf": gguf.read_bytes(), "tiny-Q8_0.gguf": b"never loaded" * 100}
        )
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(huggingface_hub.file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(home / "cache" / "huggingface" / "hub"))
        monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(home / "token"))
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
        yield hub


def blobs() -> list[Path]:
    return sorted(Path(huggingface_hub.constants.HF_HUB_CACHE).glob("models--*/blobs/*"))


@pytest.mark.parametrize("redirects", [True, False])
def test_a_model_is_fetched_once(hub: HubServer, gguf: Path, redirects: bool) -> None:
    hub.redirects = redirects
    path = fetch_model(f"{NAME}:f32")
    assert path.name == "tiny-F32.gguf"
    assert path.read_bytes() == gguf.read_bytes()
    assert hub.fetched() == [0]
    assert fetch_model(f"{NAME}:f32") == path
    assert hub.fetched() == [0]


def test_other_programs_find_it_in_the_cache(hub: HubServer) -> None:
    """huggingface_hub itself, and llama.cpp, which looks for refs/main."""
    path = fetch_model(f"{NAME}:F32")
    assert huggingface_hub.hf_hub_download(REPO, "tiny-F32.gguf", local_files_only=True) == str(path)
    folder = path.parents[2]
    assert (folder / "refs" / "main").read_text() == path.parent.name == hub.repositories[REPO].commit
    assert [blob.name for blob in blobs()] == [hashlib.sha256(path.read_bytes()).hexdigest()]


def test_what_changed_on_the_hub_is_fetched_anew(hub: HubServer, tmp_path: Path) -> None:
    before = fetch_model(f"{NAME}:F32")
    changed = tiny_gguf("llama", tmp_path / "changed.gguf", seed=1).read_bytes()
    hub.repositories[REPO] = Repository({"tiny-F32.gguf": changed}, commit="2" * 40)
    after = fetch_model(f"{NAME}:F32")
    assert after != before
    assert after.read_bytes() == changed


def test_all_parts_of_a_model_are_fetched(hub: HubServer) -> None:
    parts = {f"m-{number:05d}-of-00003.gguf": bytes([number]) * 2000 for number in (1, 2, 3)}
    hub.repositories["user/parts"] = Repository(parts)
    path = fetch_model("hf:user/parts")
    assert path.name == "m-00001-of-00003.gguf"
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == parts


CHUNK = huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE  # what was received is written in pieces of this size
BIG = random.Random(1).randbytes(2 * CHUNK + 1000)


def test_a_connection_that_breaks_is_resumed(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # huggingface_hub waits before it tries again
    hub.repositories[REPO].files["big.gguf"] = BIG
    hub.break_after = [CHUNK + 10, CHUNK + 10]
    assert fetch_model(f"{NAME}:big").read_bytes() == BIG
    assert hub.fetched() == [0, CHUNK, 2 * CHUNK]


def test_a_download_that_was_killed_goes_on_where_it_was(hub: HubServer) -> None:
    hub.repositories[REPO].files["big.gguf"] = BIG
    hub.pause = 30
    with start("inspect", f"{NAME}:big") as program:
        while not any(blob.stat().st_size >= 2 * CHUNK for blob in blobs()):
            assert program.poll() is None
            time.sleep(0.02)
        program.send_signal(signal.SIGKILL)
        program.wait()
    hub.pause = 0
    assert fetch_model(f"{NAME}:big").read_bytes() == BIG
    assert hub.fetched() == [0, 2 * CHUNK]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals of this kind")
def test_a_person_sees_a_bar_and_a_pipe_does_not(hub: HubServer, gguf: Path) -> None:
    import fcntl
    import pty
    import termios

    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    try:
        with start("inspect", f"{NAME}:F32", stderr=follower) as program:
            assert program.communicate(timeout=60)[0].startswith("tiny-F32.gguf")
        shown = os.read(leader, 65536).decode()
    finally:
        os.close(follower)
        os.close(leader)
    assert "tiny-F32.gguf: 100%" in shown
    hub.repositories[REPO] = Repository({"again-F32.gguf": gguf.read_bytes() + b"\0"}, commit="3" * 40)
    with start("inspect", f"{NAME}:F32") as program:
        told, said = program.communicate(timeout=60)
    assert told.startswith("again-F32.gguf") and said == ""


def test_what_arrives_damaged_is_not_kept(hub: HubServer, gguf: Path) -> None:
    hub.spoil = True
    with pytest.raises(ModelError, match="damaged"):
        fetch_model(f"{NAME}:F32")
    assert blobs() == []
    hub.spoil = False
    assert fetch_model(f"{NAME}:F32").read_bytes() == gguf.read_bytes()


def test_a_token_goes_to_the_hub_and_nowhere_else(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repositories[REPO].access = "gated"
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    fetch_model(f"{NAME}:F32")
    assert all(had_token != path.startswith("/blobs/") for _, path, _, had_token in hub.asked)


# -- without a network --------------------------------------------------------------------------------------


def no_network(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")


def offline(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def server_down(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.status = 503


@pytest.mark.parametrize("outage", [no_network, offline, server_down])
def test_a_cached_model_needs_no_network(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, outage: Callable[[HubServer, pytest.MonkeyPatch], None]
) -> None:
    path = fetch_model(f"{NAME}:F32")
    outage(hub, monkeypatch)
    assert fetch_model(f"{NAME}:F32") == path
    assert fetch_model(NAME) == path  # of what there is
    with pytest.raises(ModelError, match=r"not in .*no Q8_0 in this repository; it has F32.*connect"):
        fetch_model(f"{NAME}:Q8_0")
    with pytest.raises(ModelError, match=r"hf:user/other: http.*not in .*connect"):
        fetch_model("hf:user/other")


def test_the_environment_decides_as_for_huggingface_hub(
    hub: HubServer, gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE, in a program of its own."""
    call = ("inspect", f"{NAME}:F32", "--json")
    with start(*call) as program:
        stdout, stderr = program.communicate(timeout=60)
    assert program.returncode == 0, stderr
    assert json.loads(stdout)["model"]["bytes"] == gguf.stat().st_size
    asked = len(hub.asked)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with start(*call) as program:
        again, stderr = program.communicate(timeout=60)
    assert (program.returncode, again, stderr) == (0, stdout, "")
    assert len(hub.asked) == asked


# -- what goes wrong ----------------------------------------------------------------------------------------


def missing(hub: HubServer) -> None:
    hub.repositories.clear()


def private(hub: HubServer) -> None:
    hub.repositories[REPO].access = "private"


def gated(hub: HubServer) -> None:
    hub.repositories[REPO].access = "gated"


def wrong_token(hub: HubServer) -> None:
    os.environ["HF_TOKEN"] = "hf_wrong"  # set anew by the test before, and so restored after it


def too_many(hub: HubServer) -> None:
    hub.status = 418


def broken(hub: HubServer) -> None:
    hub.break_after = [0] * 100


def without_gguf(hub: HubServer) -> None:
    hub.repositories[REPO].files = {"model.safetensors": b"weights"}


def without_quant(hub: HubServer) -> None:
    hub.repositories[REPO].files = {"m-Q2_K.gguf": b"1", "m-Q6_K.gguf": b"2"}


WRONG: dict[str, tuple[Callable[[HubServer], None], tuple[str, ...]]] = {
    "missing": (missing, ("no such repository, or it is private", "HF_TOKEN")),
    "private": (private, ("no such repository, or it is private", "HF_TOKEN")),
    "gated": (gated, ("consent", f"/{REPO}", "HF_TOKEN")),
    "wrong-token": (wrong_token, ("status 401", "the token was refused")),
    "another-status": (too_many, ("status 418",)),
    "broken": (broken, ("broke off", "goes on where it was")),
    "no-gguf": (without_gguf, ("no GGUF file", "model.safetensors")),
    "no-quant": (without_quant, ("no F32", "Q2_K, Q6_K")),
}


@pytest.mark.parametrize(("fault", "words"), list(WRONG.values()), ids=list(WRONG))
def test_what_goes_wrong_is_one_line(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, fault: Callable[[HubServer], None], words: tuple[str, ...]
) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # huggingface_hub waits before it tries again
    monkeypatch.setenv("HF_TOKEN", "")
    fault(hub)
    assert_one_line(edge_eds("run", f"{NAME}:F32", "-p", "hi"), (f"{NAME}:F32", *words))


def test_without_the_extra_it_is_named(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert_one_line(edge_eds("run", NAME, "-p", "hi"), ("huggingface_hub", "edge-eds[hf]"))


def test_a_model_larger_than_the_disk_is_refused_before(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 500, 500))
    assert_one_line(edge_eds("run", f"{NAME}:F32", "-p", "hi"), ("1.4 MB", "500 bytes left", "HF_HOME"))
    assert hub.fetched() == []


def test_a_disk_that_fills_is_one_line(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(huggingface_hub.file_download, "http_get", full)
    assert_one_line(edge_eds("run", f"{NAME}:F32", "-p", "hi"), ("is full", "goes on where it was"))


# -- energies -----------------------------------------------------------------------------------------------


def energy_bytes(gguf: Path, tmp_path: Path, **changes: Any) -> bytes:
    make_energies(gguf, n_tokens=2, **changes).save(tmp_path / "made.energy.onnx")
    return (tmp_path / "made.energy.onnx").read_bytes()


def test_energies_come_from_the_models_repository(hub: HubServer, gguf: Path, tmp_path: Path) -> None:
    """By name, or else the one that was made for this model, wherever in the repository it lies."""
    ours = energy_bytes(gguf, tmp_path)
    others = energy_bytes(tiny_gguf("qwen3", tmp_path / "other.gguf", n_layer=N_LAYER), tmp_path)
    files = hub.repositories[REPO].files
    files |= {"energies/a.energy.onnx": others, "energies/b.energy.onnx": ours}
    path = fetch_model(f"{NAME}:F32")
    assert chosen_energy_file("auto", path, None).read_bytes() == ours
    assert chosen_energy_file("auto", path, None).name == "b.energy.onnx"
    hub.repositories[REPO] = Repository({**files, "tiny-F32.energy.onnx": ours}, commit="3" * 40)
    with closing(EdgeLlama(f"{NAME}:F32", n_ctx=64, verbose=False)) as llm:
        assert llm.energy_file is not None
        folder = snapshot_folder(Path(llm.model_path))
    assert folder is not None and folder.name == "3" * 40
    assert {file.name for file in folder.iterdir()} == {"tiny-F32.gguf", "tiny-F32.energy.onnx"}


def test_energies_come_from_a_repository_of_their_own(hub: HubServer, gguf: Path, tmp_path: Path) -> None:
    ours = energy_bytes(gguf, tmp_path)
    others = energy_bytes(tiny_gguf("qwen3", tmp_path / "other.gguf", n_layer=N_LAYER), tmp_path)
    hub.repositories["me/energies"] = Repository({"a.energy.onnx": others, "b.energy.onnx": ours})
    hub.repositories["me/others"] = Repository({"a.energy.onnx": others})
    hub.repositories["me/none"] = Repository({"README.md": b"none"})
    call = ("run", gguf, "-p", "hi", "--max-tokens", 2, "--json", "--energy")
    outcome = edge_eds(*call, "hf:me/energies")
    assert outcome.code == 0, outcome.stderr
    assert json.loads(outcome.stdout)["steering"]["touched_tokens"] == 2
    assert_one_line(edge_eds(*call, "hf:me/others"), ("another model", "qwen3"))
    assert_one_line(edge_eds(*call, "hf:me/none"), ("no energy file",))
    assert_one_line(edge_eds(*call, "hf:me/nowhere"), ("no such repository",))


def test_without_energies_none_are_fetched(hub: HubServer, gguf: Path, tmp_path: Path) -> None:
    hub.repositories[REPO].files["tiny-F32.energy.onnx"] = energy_bytes(gguf, tmp_path)
    outcome = edge_eds("run", f"{NAME}:F32", "-p", "hi", "--energy", "none", "--max-tokens", 2)
    assert outcome.code == 0, outcome.stderr
    assert len(hub.fetched()) == 1


def test_energies_of_the_users_data_folder_serve_a_hub_model(hub: HubServer, gguf: Path) -> None:
    """Where `fit` puts them: the cache is not ours, and every version of a model has a folder of its own there."""
    path = fetch_model(f"{NAME}:F32")
    user_energy_folder().mkdir(parents=True)
    make_energies(gguf).save(user_energy_folder() / "tiny-F32.energy.onnx")
    assert chosen_energy_file("auto", path, None).parent == user_energy_folder()
