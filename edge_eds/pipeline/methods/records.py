"""Folders of results that grow a record at a time, and that refuse what was made from something else.

A record is a line of a JSON-lines file, written when it is made: a run that was killed loses at most the one that it
was at.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_eds.energy.file import EnergyFile
from edge_eds.errors import InputError
from edge_eds.files import write_whole


def made(folder: Path) -> Path:
    """The folder, which is there now.

    Raises:
        InputError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error.strerror or error}") from error
    return folder


def claim(path: Path, wanted: dict[str, Any]) -> None:
    """Write what a folder is made from into a file of it, or check that it was made from the same.

    Raises:
        InputError: it was made from something else.
    """
    if not path.is_file():
        write_whole(path, (json.dumps(wanted, indent=1) + "\n").encode())
        return
    found = read_json(path)
    for key, value in wanted.items():
        if found.get(key) != value:
            raise InputError(
                f"{path.parent}: holds results with another {key}; choose another folder, or delete this one"
            )


def append(path: Path, record: Mapping[str, Any]) -> None:
    """Add a record."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def read_lines(path: Path) -> list[Any]:
    """The records of a file, none if it is not there; one that a kill cut short is taken away.

    Raises:
        InputError: it is damaged.
    """
    if not path.is_file():
        return []
    whole, _, rest = path.read_text(encoding="utf-8").rpartition("\n")
    if rest:
        write_whole(path, (whole + "\n").encode() if whole else b"")
    try:
        return [json.loads(line) for line in whole.splitlines()]
    except ValueError as error:
        raise InputError(f"{path}: is damaged: {error}; delete it") from error


def read_json(path: Path) -> Any:
    """The document in a file.

    Raises:
        InputError: it is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: is damaged: {error}; delete it") from error


def digest(value: object) -> str:
    """SHA-256 of what JSON makes of a value."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def digest_of(material: EnergyFile | Path | None) -> str | None:
    """SHA-256 of an energy file's content or of a file.

    Raises:
        InputError: the file cannot be read.
    """
    if material is None:
        return None
    try:
        data = material.read_bytes() if isinstance(material, Path) else material.to_onnx().SerializeToString()
    except OSError as error:
        raise InputError(f"{material}: cannot be read: {error.strerror or error}") from error
    return hashlib.sha256(data).hexdigest()
