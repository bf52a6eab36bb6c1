"""Reads files of prompts: CSV, JSON and JSONL alike become rows of named text fields.

What a column means is for the callers (prompts.py, suites.py). Every complaint is one line that names the
file and, where there is one, the line.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_eds.errors import InputError

SUFFIXES = (".csv", ".json", ".jsonl")
INTENTS = ("benign", "harmful")
MAX_CHARACTERS = 100_000  # more than the context of a model that a laptop runs
_JSON_FORM = "a list of objects, or one such list under one key"
PROMPT_COLUMNS = ("prompt", "instruction", "goal", "Goal", "text", "forbidden_prompt", "Behavior")


@dataclass(frozen=True)
class Row:
    """One row of a prompt file.

    number: its line in a CSV or JSONL file, its position in a JSON list; both from 1.
    """

    path: Path
    number: int
    fields: Mapping[str, str]

    @property
    def where(self) -> str:
        """File and row, as error messages begin."""
        return f"{self.path}: {'item' if self.path.suffix.lower() == '.json' else 'line'} {self.number}"

    def text(self, column: str) -> str:
        """The text of a column without white space around it.

        Raises:
            InputError: it is missing, empty or longer than any prompt.
        """
        value = self.fields.get(column, "").strip()
        if not value:
            raise InputError(f"{self.where}: {column} is empty; expected some text")
        if len(value) > MAX_CHARACTERS:
            raise InputError(f"{self.where}: {column} has {len(value)} characters, expected at most {MAX_CHARACTERS}")
        return value

    def intent(self, column: str = "intent") -> str:
        """The row's label.

        Raises:
            InputError: anything but benign and harmful.
        """
        value = self.text(column).lower()
        if value not in INTENTS:
            raise InputError(f"{self.where}: {column} is {_short(value)}, expected benign or harmful")
        return value


def read_rows(path: Path) -> list[Row]:
    """All rows of a file, at least one. Numbers, lists and the like become their JSON text, null becomes "".

    Raises:
        InputError: the file is missing, a directory, empty, not UTF-8, or not what its suffix says.
    """
    suffix = path.suffix.lower()
    if path.is_dir():
        raise InputError(f"{path}: is a directory; expected a file ending in {', '.join(SUFFIXES)}")
    if suffix not in SUFFIXES:
        raise InputError(f"{path}: unknown kind of file; expected a name ending in {', '.join(SUFFIXES)}")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: is not UTF-8 text (byte 0x{error.object[error.start]:02x} at position {error.start})"
        ) from error
    if not text.strip():
        raise InputError(f"{path}: is empty; expected prompts")
    read = {".csv": _csv_rows, ".json": _json_rows, ".jsonl": _jsonl_rows}[suffix]
    rows = [Row(path, number, fields) for number, fields in read(path, text)]
    if not rows:
        raise InputError(f"{path}: has no rows; expected prompts")
    for row in rows:
        if any(_has_surrogate(value) for value in row.fields.values()):
            raise InputError(f"{row.where}: holds half of a surrogate pair, which is no text")
    return rows


def columns(rows: Sequence[Row]) -> list[str]:
    """The names of all columns, in order of appearance."""
    return list(dict.fromkeys(name for row in rows for name in row.fields))


def find_column(rows: Sequence[Row], names: Iterable[str], what: str) -> str:
    """The first of `names` that is a column.

    Raises:
        InputError: none is; the message lists the columns that there are.
    """
    found = columns(rows)
    names = list(names)
    for name in names:
        if name in found:
            return name
    there = ", ".join(map(_short, found))
    raise InputError(f"{rows[0].path}: no column with {what}; expected {' or '.join(names)}, found {there}")


def _csv_rows(path: Path, text: str) -> Iterable[tuple[int, dict[str, str]]]:
    # newline="" leaves line ends inside quoted fields as they are
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader)]
        if len(set(header)) < len(header):
            raise InputError(f"{path}: two columns have the same name in the header {', '.join(map(_short, header))}")
        for values in reader:
            if not any(value.strip() for value in values):
                continue
            if len(values) != len(header):
                where = f"{path}: line {reader.line_num}"
                raise InputError(f"{where}: {len(values)} fields, expected {len(header)} as in the header")
            yield reader.line_num, dict(zip(header, values, strict=True))
    except csv.Error as error:
        if "field limit" in str(error):
            size = csv.field_size_limit()
            raise InputError(
                f"{path}: line {reader.line_num}: a field has over {size} characters, expected at most {MAX_CHARACTERS}"
            ) from error
        raise InputError(f"{path}: line {reader.line_num}: is not CSV: {error}") from error


def _jsonl_rows(path: Path, text: str) -> Iterable[tuple[int, dict[str, str]]]:
    # not splitlines: it would also cut at separators that JSON allows inside a string
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, _fields(f"{path}: line {number}", _parse(f"{path}: line {number}", line))


def _json_rows(path: Path, text: str) -> Iterable[tuple[int, dict[str, str]]]:
    data = _parse(str(path), text)
    if isinstance(data, dict):
        lists = {key: value for key, value in data.items() if isinstance(value, list)}
        if len(lists) != 1:
            raise InputError(f"{path}: has {len(lists)} lists at the top; expected {_JSON_FORM}")
        (data,) = lists.values()
    if not isinstance(data, list):
        raise InputError(f"{path}: is {_kind(data)}; expected {_JSON_FORM}")
    for number, item in enumerate(data, 1):
        yield number, _fields(f"{path}: item {number}", item)


def _parse(where: str, text: str) -> object:
    try:
        return json.loads(text)
    except RecursionError as error:
        raise InputError(f"{where}: is nested too deeply") from error
    except ValueError as error:
        raise InputError(f"{where}: is not JSON: {error}") from error


def _fields(where: str, item: object) -> dict[str, str]:
    if not isinstance(item, dict):
        raise InputError(f"{where}: is {_kind(item)}; expected an object")
    return {
        key: "" if value is None else value if isinstance(value, str) else json.dumps(value)
        for key, value in item.items()
    }


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")


def _has_surrogate(text: str) -> bool:
    return any("\ud800" <= char <= "\udfff" for char in text)


def _short(text: str) -> str:
    shown = text if len(text) <= 40 else text[:37] + "..."
    return repr(shown) if shown != text or not shown.isprintable() or not shown else shown
