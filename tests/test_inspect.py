"""`edge-eds inspect`: what is in the file, what can be done to it, and which energies are for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from command_line import edge_eds
from gguf import GGUFReader
from runtime_examples import N_LAYER, make_energies
from steered_model import steered_model
from tiny_gguf import tiny_gguf

from edge_eds.energy.outlook import OutlookSpec
from edge_eds.runtime.energies import user_energy_folder
from edge_eds.runtime.hub_name import parts_of

Tiny = Callable[..., Path]


def document(*args: object) -> dict[str, Any]:
    outcome = edge_eds("inspect", *args, "--json")
    assert (outcome.code, outcome.stderr) == (0, "")
    read: dict[str, Any] = json.loads(outcome.stdout)
    return read


def text(*args: object) -> str:
    outcome = edge_eds("inspect", *args)
    assert (outcome.code, outcome.stderr) == (0, "")
    return outcome.stdout


def test_shapes_and_types_are_those_of_the_file(tmp_path: Path) -> None:
    path = tiny_gguf("llama", tmp_path / "tiny.gguf", n_layer=3, quant="q8_0")
    model = document(path)["model"]
    tensors = GGUFReader(path).tensors
    assert model["shape"]["parameters"] == sum(int(np.prod(tensor.shape)) for tensor in tensors)
    assert model["bytes"] == path.stat().st_size
    told = {
        row["name"].replace("*", str(il)): (row["shape"], row["type"])
        for row in model["tensors"]
        for il in row["layers"] or [0]
    }
    assert told == {t.name: ([int(n) for n in t.shape], t.tensor_type.name) for t in tensors}
    assert sum(entry["tensors"] for entry in model["tensor_types"].values()) == len(tensors)
    assert sum(entry["bytes"] for entry in model["tensor_types"].values()) == sum(int(t.n_bytes) for t in tensors)
    shown = text(path)
    for word in ("llama", "n_layer 3, n_embd 64", "n_head_kv 2", "Q8_0", "blk.*.attn_q.weight", "layers 0-2"):
        assert word in shown


def test_layers_say_what_can_be_done_to_them_and_why_not(tiny: Tiny) -> None:
    layers = document(tiny("llama", n_layer=3))["layers"]
    assert [(row["steerable"], row["readable"]) for row in layers] == [(True, True), (True, True), (False, True)]
    assert [bool(row["reason"]) for row in layers] == [False, False, True]
    shown = text(tiny("llama", n_layer=3))
    assert "steerable     0-1" in shown and "not 2" in shown and "the last layer" in shown


def test_the_chat_template_is_shown_at_work(tmp_path: Path) -> None:
    def template(jinja: str | None) -> Any:
        path = tiny_gguf("llama", tmp_path / "tiny.gguf", n_layer=2, chat_template=jinja)
        return document(path)["model"]["chat_template"], text(path)

    known, shown = template("{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}[assistant]")
    assert known["prompt"].endswith("[user]How are you?[assistant]") and known["system"]
    assert "with a system prompt" in shown
    refusal = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('none') }}{% endif %}"
    refusing, shown = template(refusal + "{{ messages[0]['content'] }}")
    assert (refusing["system"], refusing["error"]) == (False, "") and "refuses a system prompt" in shown
    useless, shown = template("{{ raise_exception('tools only') }}")
    assert useless["prompt"] is None and "tools only" in useless["error"] and "--chat-format" in shown
    none, shown = template(None)
    assert none is None and "--chat-format" in shown


def test_every_energy_file_is_listed_with_what_keeps_it_from_fitting(tmp_path: Path, tiny: Tiny) -> None:
    path = steered_model(tmp_path)
    (tmp_path / "broken.energy.onnx").write_bytes(b"no")
    user_energy_folder().mkdir(parents=True)
    make_energies(tiny("qwen3", n_layer=N_LAYER)).save(user_energy_folder() / "others.energy.onnx")
    shown = document(path)
    found = {Path(row["path"]).name: row for row in shown["energies_found"]}
    assert found["tiny.energy.onnx"] == {**found["tiny.energy.onnx"], "fits": True, "differs": [], "reason": ""}
    assert not found["others.energy.onnx"]["fits"] and "architecture" in found["others.energy.onnx"]["differs"]
    assert not found["broken.energy.onnx"]["fits"] and "ONNX" in found["broken.energy.onnx"]["reason"]
    assert shown["energy"]["path"] == str(tmp_path / "tiny.energy.onnx")
    assert str(user_energy_folder()) in shown["energy_folders"]
    lines = text(path)
    assert "tiny.energy.onnx (taken)" in lines and "another architecture" in lines


def test_without_energies_it_says_where_it_looked(tiny: Tiny) -> None:
    path = tiny("llama", n_layer=N_LAYER)
    assert document(path)["energy"] is None
    shown = text(path)
    assert "edge-eds fit" in shown and str(path.parent) in shown and str(user_energy_folder()) in shown
    asked_for_none = document(path, "--energy", "none")
    assert asked_for_none["energy"] is None


def test_a_model_in_parts_is_all_of_them(tmp_path: Path) -> None:
    parts = [tmp_path / f"m-{number:05d}-of-00012.gguf" for number in range(1, 13)]
    for path in (*parts, tmp_path / "m-00001-of-00003.gguf", tmp_path / "m.gguf"):
        path.touch()
    assert parts_of(parts[0]) == parts
    assert parts_of(tmp_path / "m.gguf") == [tmp_path / "m.gguf"]


def test_a_terminal_gets_headings(tmp_path: Path) -> None:
    from edge_eds.apps.inspection_text import BAD, HEADING, describe

    styles = {style for _, style in describe(document(steered_model(tmp_path)))}
    assert HEADING in styles and BAD not in styles


def test_the_outlook_of_energies_is_shown(tmp_path: Path) -> None:
    gguf = tiny_gguf("llama", tmp_path / "tiny.gguf", n_layer=N_LAYER)
    energies = make_energies(gguf, outlook=OutlookSpec((40, 57), 0.5))
    energies.save(tmp_path / "tiny.energy.onnx")
    assert "refusals begin with token 40 or 57: in sight from a lead of 0.5" in text(gguf)


def test_scores_are_read_by_people_whatever_their_form(tmp_path: Path) -> None:
    gguf = tiny_gguf("llama", tmp_path / "tiny.gguf", n_layer=N_LAYER)
    share = {"value": 0.1839, "low": 0.1161, "high": 0.2779}
    scores = {
        "auc": {"fr": {"2": 0.9621, "3": 1.0}, "gate": {"auc": 0.5}},
        "verdict": {"everyday": {"n": 87, "plain": share}},
        "lost": 0.25,
        "remark": "by hand",
        "nothing": {},
    }
    replace(make_energies(gguf), scores=scores).save(tmp_path / "tiny.energy.onnx")
    shown = {line[2:15].strip(): line[16:] for line in text(gguf).splitlines() if line.startswith("  ")}
    assert shown["auc"] == "fr: 2 0.962, 3 1.000; gate: auc 0.500"
    assert shown["verdict"] == "everyday: n 87, plain 0.184 (0.116-0.278)"
    assert (shown["lost"], shown["remark"], shown["nothing"]) == ("0.250", "by hand", "")
