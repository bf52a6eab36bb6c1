"""Files that people name on the command line: read and written with one clear line when it fails."""

from __future__ import annotations

import tempfile
from pathlib import Path

from edge_eds.errors import InputError
from edge_eds.files import write_whole


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8 to `path`, as write_bytes does."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`, all or nothing.

    Raises:
        InputError: a directory, a folder that is not there, no permission, a full disk.
    """
    check_writable(path)
    try:
        write_whole(path, data)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error


def check_writable(path: Path) -> None:
    """Say before the work what could not be written after it.

    Raises:
        InputError: a directory, a folder that is not there, or one in which no file can be made.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a directory; expected the name of a file to write")
    folder = path.resolve().parent
    if not folder.is_dir():
        raise InputError(f"{path}: cannot be written: there is no folder {path.parent}")
    if path.exists() and not path.is_file():
        return  # a pipe or a device: written to in place
    try:
        with tempfile.TemporaryFile(dir=folder):  # permissions say little to root, and nothing of a full disk
            pass
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error


def read_text(path: Path) -> str:
    """The UTF-8 text in `path`.

    Raises:
        InputError: a directory, no such file, no permission, not text.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a directory; expected a file")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
