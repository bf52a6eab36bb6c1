"""Prompts -> hidden states at the prompt's end and over the message, and the model's own judged answer.

Takes a model and prompts; leaves a folder of shards, each a float16 array of states with a JSON-lines
neighbour, and `collect.json`, which says what made them. A shard is written whole or not at all, and a run
that was killed goes on with the first shard that is missing. Leaves out what the labels mean (training).

    collect.json           model fingerprint, prompt-set hash, settings, versions
    shard-00000.npy        float16 (n, 2, n_layers, n_embd), block outputs at the prompt's last token, and their mean
                           over the tokens of the message (runtime/message.py)
    shard-00000.jsonl      n lines: id, category, split, intent, prompt, answer, label, first_token
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_eds import __version__
from edge_eds.energy.fingerprint import ModelFingerprint
from edge_eds.errors import InputError
from edge_eds.files import write_whole
from edge_eds.pipeline.judge import judge
from edge_eds.pipeline.prompts import LabelledPrompt, PromptSet
from edge_eds.runtime.batch import BatchRunner
from edge_eds.runtime.batch_run import Generation

FORMAT_VERSION = 2
SHARD_SIZE = 64
MANIFEST = "collect.json"


@dataclass(frozen=True)
class CollectSettings:
    """max_new_tokens: how much of each answer is generated and judged. splits: which of the prompts are collected.
    max_prompts: at most so many of them, what is matched together; None collects all.
    """

    max_new_tokens: int = 20
    splits: tuple[str, ...] = ("train", "validation")
    max_prompts: int | None = None


@dataclass(frozen=True)
class Example:
    """One prompt with the model's own answer.

    intent: benign | harmful | ordinary (an everyday request: benign, and nothing about it sounds dangerous).
    label: refusal | partial | answer | degenerate. group: examples of one group are matched (a pair's two
    halves).
    """

    id: str
    group: str
    category: str
    split: str
    intent: str
    prompt: str
    answer: str
    label: str
    first_token: int  # -1: the answer is empty


@dataclass(frozen=True)
class Collection:
    """What `collect` left: examples and their states, in the order of the prompts."""

    fingerprint: ModelFingerprint
    prompt_set_hash: str
    layers: tuple[int, ...]
    examples: tuple[Example, ...]
    states: npt.NDArray[np.float16]  # (n, n_layers, n_embd)
    message_states: npt.NDArray[np.float16]  # (n, n_layers, n_embd)

    def layer(self, il: int, rows: npt.NDArray[Any] | slice = slice(None)) -> npt.NDArray[np.float32]:
        """float32 (n, n_embd), the states of one layer at the prompts' ends, of some rows or of all."""
        return self.states[rows, self.layers.index(il)].astype(np.float32)

    def message_layer(self, il: int) -> npt.NDArray[np.float32]:
        """float32 (n, n_embd), the mean states of one layer over the messages."""
        return self.message_states[:, self.layers.index(il)].astype(np.float32)


def collect(
    runner: BatchRunner,
    prompt_set: PromptSet,
    folder: Path,
    settings: CollectSettings | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Collection:
    """Collect states and answers of all prompts into `folder`, going on where an earlier run was stopped.

    Args:
        runner: the model, unsteered.
        prompt_set: what is asked; of its splits those that the settings name.
        on_progress: called with (prompts done, prompts in all); the first call counts what lay there already.

    Raises:
        InputError: the folder holds a collection of another model, other prompts or other settings.
    """
    settings = settings or CollectSettings()
    layers = runner.session.steerable_layers
    prompts = wanted_prompts(prompt_set, settings)
    manifest = {
        "format_version": FORMAT_VERSION,
        "fingerprint": asdict(runner.fingerprint),
        "prompt_set_hash": prompt_set.hash,
        "n_prompts": len(prompts),
        "layers": list(layers),
        "settings": {**asdict(settings), "splits": list(settings.splits)},
    }
    _claim(folder, manifest)
    shards = [
        range(first, min(first + SHARD_SIZE, len(prompts))) for first in range(0, len(prompts), SHARD_SIZE)
    ]
    missing = [number for number in range(len(shards)) if not _answers_path(folder, number).is_file()]
    done = len(prompts) - sum(len(shards[number]) for number in missing)
    if on_progress:
        on_progress(done, len(prompts))
    for number in missing:
        rows = [prompts[i] for i in shards[number]]
        count = done

        def finished(_: int, __: Generation) -> None:
            nonlocal count
            count += 1
            if on_progress:
                on_progress(count, len(prompts))

        generations = runner.generate(
            [runner.chat_tokens(item.text) for item in rows],
            max_new_tokens=settings.max_new_tokens,
            capture_layers=layers,
            on_done=finished,
        )
        _write_shard(folder, number, rows, generations, layers)
        done += len(rows)
    return load_collection(folder)


def load_collection(folder: Path) -> Collection:
    """Read a finished collection.

    Raises:
        InputError: not a collection, not finished, or damaged.
    """
    manifest = _read_manifest(folder)
    if manifest is None:
        raise InputError(
            f"{folder}: holds no collection ({MANIFEST} is missing); make one with `edge-eds collect`"
        )
    examples: list[Example] = []
    states = []
    names = {field.name for field in fields(Example)}
    n_shards = -(-manifest["n_prompts"] // SHARD_SIZE)
    for number in range(n_shards):
        try:
            lines = _answers_path(folder, number).read_text(encoding="utf-8").splitlines()
            states.append(np.load(_states_path(folder, number)))
        except FileNotFoundError as error:
            raise InputError(
                f"{folder}: the collection is not finished ({number} of {n_shards} parts); run `edge-eds collect` again"
            ) from error
        except (OSError, ValueError) as error:
            raise InputError(
                f"{_states_path(folder, number)}: is damaged: {error}; delete it and collect again"
            ) from error
        rows = [json.loads(line) for line in lines]
        if len(rows) != len(states[-1]) or any(set(row) != names for row in rows):
            raise InputError(
                f"{_answers_path(folder, number)}: does not fit its states; delete both and collect again"
            )
        examples += [Example(**row) for row in rows]
    both = np.concatenate(states)
    return Collection(
        ModelFingerprint(**manifest["fingerprint"]),
        manifest["prompt_set_hash"],
        tuple(manifest["layers"]),
        tuple(examples),
        both[:, 0],
        both[:, 1],
    )


def collected_settings(folder: Path) -> CollectSettings | None:
    """With what settings a folder's collection was begun; None where there is none.

    Raises:
        InputError: not a collection that can be read.
    """
    manifest = _read_manifest(folder)
    if manifest is None:
        return None
    found = manifest["settings"]
    return CollectSettings(found["max_new_tokens"], tuple(found["splits"]), found["max_prompts"])


def wanted_prompts(prompt_set: PromptSet, settings: CollectSettings) -> list[LabelledPrompt]:
    """What is asked, in order. A part of all is drawn by the groups' names, so it is the same part everywhere."""
    ordinary = [
        LabelledPrompt(item.id, item.id, item.category, item.split, "ordinary", item.prompt)
        for item in prompt_set.ordinary
    ]
    prompts = [prompt for prompt in (*prompt_set.labelled(), *ordinary) if prompt.split in settings.splits]
    if settings.max_prompts is None or settings.max_prompts >= len(prompts):
        return prompts
    sizes = Counter(prompt.group for prompt in prompts)
    kept, n = set(), 0
    for group in sorted(sizes, key=lambda name: hashlib.sha256(name.encode()).digest()):
        n += sizes[group]
        if n > settings.max_prompts:
            break
        kept.add(group)
    return [prompt for prompt in prompts if prompt.group in kept]


def _claim(folder: Path, manifest: dict[str, Any]) -> None:
    found = _read_manifest(folder)
    if found is None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            whole = {**manifest, "edge_eds_version": __version__}
            write_whole(folder / MANIFEST, json.dumps(whole, indent=1).encode())
        except OSError as error:
            raise InputError(f"{folder}: cannot be written: {error.strerror or error}") from error
        return
    for key, value in manifest.items():
        if found.get(key) != value:
            raise InputError(
                f"{folder}: holds a collection with another {key.replace('_', ' ')}; "
                "choose another folder, or delete it"
            )


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except NotADirectoryError as error:
        raise InputError(f"{folder}: is a file; expected a folder") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format_version") != FORMAT_VERSION:
        raise InputError(f"{path}: is not a collection that this version of edge-eds can read")
    return manifest


def _write_shard(
    folder: Path,
    number: int,
    items: Sequence[LabelledPrompt],
    generations: Sequence[Generation],
    layers: Sequence[int],
) -> None:
    states = np.stack([_states(generation, layers) for generation in generations])
    lines = []
    for item, generation in zip(items, generations, strict=True):
        example = Example(
            id=item.id,
            group=item.group,
            category=item.category,
            split=item.split,
            intent=item.intent,
            prompt=item.text,
            answer=generation.text,
            label=judge(item.text, generation.text).label,
            first_token=generation.tokens[0] if generation.tokens else -1,
        )
        lines.append(json.dumps(asdict(example)))
    buffer = io.BytesIO()
    np.save(buffer, np.clip(states, *_float16_range()).astype(np.float16))
    try:
        write_whole(_states_path(folder, number), buffer.getvalue())
        # Second, as it is what says that the shard is there.
        write_whole(_answers_path(folder, number), ("\n".join(lines) + "\n").encode())
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error.strerror or error}") from error


def _states(generation: Generation, layers: Sequence[int]) -> npt.NDArray[np.float32]:
    """(2, n_layers, n_embd): at the prompt's end, and over the message."""
    assert generation.states is not None and generation.message_states is not None
    return np.stack([[states[il] for il in layers] for states in (generation.states, generation.message_states)])


def _float16_range() -> tuple[float, float]:
    info = np.finfo(np.float16)
    return float(info.min), float(info.max)


def _states_path(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}.npy"


def _answers_path(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}.jsonl"
