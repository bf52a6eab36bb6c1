"""Files that are whole or absent: written under a temporary name, flushed to the disk, then moved into place.

Beside errors.py at the bottom of the package, so that every layer writes its files in this one way.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def write_whole(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that a reader sees the old file or the whole new one.

    A pipe or a device is written to, not replaced. A symbolic link keeps pointing at the file, which is replaced.

    Raises:
        OSError: as the system gives it; `path` is then as it was.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            file.write(data)
        return
    with replacing(path) as draft:
        draft.write(data)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """An empty file beside `path`, to be written and read; it takes the place of `path` when the block ends.

    Where the block raises, it vanishes. A symbolic link keeps pointing at the file, which is replaced.

    Raises:
        OSError: as the system gives it; `path` is then as it was.
    """
    path = path.resolve()
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask()
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name + ".", suffix=".tmp")
    try:
        with open(handle, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, mode)  # a temporary file is private; the result need not be
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def size_text(n_bytes: float) -> str:
    """A size for people: 1234567 as "1.2 MB"."""
    for unit in ("bytes", "kB", "MB"):
        if n_bytes < 1000:
            return f"{n_bytes:.0f} {unit}" if unit == "bytes" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} GB"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
