"""Models by name, hf:USER/REPO[:QUANT]: what a name means, and which files of a repository it chooses.

Takes names and lists of files; gives choices, by the rules of llama.cpp's -hf (common/download.cpp of the llama.cpp
in llama-cpp-python 0.3.36), so that one name means one file in both:

    which files count   .gguf, and not an image encoder, importance matrix or draft model (mmproj, imatrix, mtp-, ...)
    with a quant        the first of them whose path has the quant in it, upper or lower case, followed by "." or "-"
    without             the same for Q4_K_M, then for Q8_0, then the first of them
    a model in parts    NAME-00001-of-00003.gguf: the first part is chosen, and all parts come with it

Two things differ. The rules there take the quant as a regular expression, and here it is text. A preset.ini in a
repository, which llama.cpp's server would follow, is not looked at. Leaves out the network and the cache (hub.py).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edge_eds.errors import InputError, ModelError

PREFIX = "hf:"
_DEFAULT_QUANTS = ("Q4_K_M", "Q8_0")
_NO_MODELS = ("mmproj", "imatrix", "mtp-", "eagle3-", "dflash-", "dspark-")
_PART = r"[A-Za-z0-9_]+(?:[.-][A-Za-z0-9_]+)*"
_NAME = re.compile(rf"hf:({_PART}/{_PART})(?::([A-Za-z0-9_.-]+))?")
_SPLIT = re.compile(r"(.+)-(\d{5})-of-(\d{5})", re.IGNORECASE)
_QUANT = re.compile(r"[-.]([A-Z0-9_]+)$", re.IGNORECASE)
_SHOWN = 12  # quants or files that an error lists


@dataclass(frozen=True)
class HubName:
    """repo: USER/REPO. quant: "" where the name does not say."""

    repo: str
    quant: str = ""

    def __str__(self) -> str:
        return f"{PREFIX}{self.repo}" + (f":{self.quant}" if self.quant else "")


def is_hub_name(model: str | Path) -> bool:
    """Whether a model is given by name, and not as a path."""
    return str(model).startswith(PREFIX)


def parse_hub_name(text: str) -> HubName:
    """The parts of hf:USER/REPO[:QUANT].

    Raises:
        InputError: it has another form.
    """
    match = _NAME.fullmatch(text)
    if match is None:
        raise InputError(f"{text}: expected hf:USER/REPO or hf:USER/REPO:QUANT, for example hf:user/model-GGUF:Q4_K_M")
    return HubName(match[1], match[2] or "")


def choose_files(name: HubName, files: Sequence[str]) -> list[str]:
    """The GGUF that the name chooses, then its other parts where it comes in parts.

    Args:
        files: paths in the repository, in the order in which the hub lists them.

    Raises:
        ModelError: there is none; the message says what there is.
    """
    models = [file for file in files if _is_model(file) and _split(file)[1] == 1]
    for quant in (name.quant,) if name.quant else _DEFAULT_QUANTS:
        pattern = re.compile(re.escape(quant) + "[.-]", re.IGNORECASE)
        for file in models:
            if pattern.search(file):
                return [file, *_other_parts(name, file, files)]
    if not name.quant and models:
        return [models[0], *_other_parts(name, models[0], files)]
    raise ModelError(f"{name}: {_what_there_is(name, models, files)}")


def file_stem(path: Path | str) -> str:
    """The name of a model file without its suffix and without the number of its part."""
    stem = PurePosixPath(str(path).replace("\\", "/")).name.removesuffix(".gguf")
    match = _SPLIT.fullmatch(stem)
    return match[1] if match else stem


def parts_of(gguf: Path) -> list[Path]:
    """All files of a model: the given one, or the parts that lie beside it where the model comes in parts."""
    match = _SPLIT.fullmatch(gguf.stem)
    if match is None:
        return [gguf]
    numbers = range(1, int(match[3]) + 1)
    parts = [gguf.with_name(f"{match[1]}-{number:05d}-of-{match[3]}{gguf.suffix}") for number in numbers]
    return [part for part in parts if part.is_file()]


def _is_model(file: str) -> bool:
    name = file.rpartition("/")[2]
    return name.endswith(".gguf") and not any(word in name for word in _NO_MODELS)


def _split(file: str) -> tuple[str, int, int]:
    """(what the parts' paths have in common, number of this one, how many there are)."""
    stem = file.removesuffix(".gguf")
    match = _SPLIT.fullmatch(stem)
    return (match[1], int(match[2]), int(match[3])) if match else (stem, 1, 1)


def _other_parts(name: HubName, first: str, files: Sequence[str]) -> list[str]:
    stem, _, count = _split(first)
    parts = {
        number: file
        for file in files
        if file.endswith(".gguf")
        for its_stem, number, its_count in [_split(file)]
        if (its_stem, its_count) == (stem, count) and number > 1
    }
    missing = sorted(set(range(2, count + 1)) - set(parts))
    if missing:
        raise ModelError(f"{name}: part {missing[0]} of {count} of {first} is missing; choose another quant")
    return [parts[number] for number in sorted(parts)]


def _what_there_is(name: HubName, models: Sequence[str], files: Sequence[str]) -> str:
    if models:
        quants = dict.fromkeys(_quant(file) for file in models)
        return f"there is no {name.quant} in this repository; it has {_few(list(quants))}"
    if any(file.endswith(".gguf") for file in files):
        return "its GGUF files are no language models; expected one that generates text"
    return (
        f"there is no GGUF file in this repository, which has {_few(list(files)) or 'no files at all'}; "
        "conversions are often in a repository of their own, whose name ends in -GGUF"
    )


def _quant(file: str) -> str:
    """What would choose this file, as far as its name says; else the file."""
    match = _QUANT.search(_split(file)[0])
    return match[1].upper() if match else file


def _few(words: Sequence[str]) -> str:
    more = len(words) - _SHOWN
    return ", ".join(words[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
