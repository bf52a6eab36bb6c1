"""Results of finished work in one file of JSON lines, so that a search that was killed goes on where it was.

A search that draws everything from its seed asks for the same things in the same order when it is run again; what it
had finished is then read instead of computed. Takes keys and functions; gives their results. A line that a kill cut
short is dropped. Leaves out what makes a key unique: whatever a result depends on belongs into it, or into `made_from`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edge_eds.errors import InputError
from edge_eds.files import write_whole


class Memo:
    """JSON values by key.

    Args:
        path: the file; None keeps the results in memory only.
        made_from: what all results depend on; a file that was made from something else is begun anew.

    Raises:
        InputError: the file cannot be read or written.
    """

    def __init__(self, path: Path | None, made_from: object) -> None:
        self._path = path
        self._values: dict[str, Any] = {}
        header = {"made_from": _digest(made_from)}
        if path is None:
            return
        try:
            lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
            whole = [line for line in lines if line.endswith(b"\n")]
            if not whole or json.loads(whole[0]) != header:
                whole = [json.dumps(header).encode() + b"\n"]
            self._values = {record["key"]: record["value"] for record in map(json.loads, whole[1:])}
            if whole != lines:
                write_whole(path, b"".join(whole))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: cannot be used: {error}; delete it to begin anew") from error

    def get(self, key: object, compute: Callable[[], Any]) -> Any:
        """The value of a key, computed and kept if it is new; as JSON gives it back."""
        return self.get_all([key], lambda _: [compute()])[0]

    def get_all(self, keys: Sequence[object], compute: Callable[[list[int]], Sequence[Any]]) -> list[Any]:
        """The values of several keys; `compute` is given the indices of those that are new."""
        digests = [_digest(key) for key in keys]
        new = [i for i, digest in enumerate(digests) if digest not in self._values]
        if new:
            for i, value in zip(new, compute(new), strict=True):
                self._put(digests[i], value)
        return [self._values[digest] for digest in digests]

    def _put(self, digest: str, value: Any) -> None:
        line = json.dumps({"key": digest, "value": value})
        self._values[digest] = json.loads(line)["value"]
        if self._path is not None:
            try:
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(line + "\n")
            except OSError as error:
                raise InputError(f"{self._path}: cannot be written: {error.strerror or error}") from error


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:24]
