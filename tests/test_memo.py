"""The memo of a search: what was finished is read and not computed again, and a kill loses at most one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_eds.errors import InputError
from edge_eds.pipeline.memo import Memo


def never() -> object:
    raise AssertionError("computed again")


def test_a_value_is_computed_once_and_outlives_the_memo(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    memo = Memo(path, "model")
    assert memo.get(["a", 1], lambda: [0.5, 2]) == [0.5, 2]
    assert memo.get(["a", 1], never) == [0.5, 2]
    assert Memo(path, "model").get(["a", 1], never) == [0.5, 2]


def test_of_several_keys_only_the_new_ones_are_computed(tmp_path: Path) -> None:
    memo = Memo(tmp_path / "trials.jsonl", "model")
    memo.get("b", lambda: 2)
    asked: list[list[int]] = []

    def compute(new: list[int]) -> list[int]:
        asked.append(new)
        return [10 * i for i in new]

    assert memo.get_all(["a", "b", "c"], compute) == [0, 2, 20]
    assert asked == [[0, 2]]


def test_a_line_that_was_cut_short_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    memo = Memo(path, "model")
    memo.get("a", lambda: 1)
    memo.get("b", lambda: 2)
    path.write_bytes(path.read_bytes()[:-5])
    memo = Memo(path, "model")
    assert memo.get("a", never) == 1
    assert memo.get("b", lambda: 3) == 3
    assert Memo(path, "model").get("b", never) == 3


def test_what_was_made_from_something_else_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    Memo(path, "model").get("a", lambda: 1)
    assert Memo(path, "another model").get("a", lambda: 2) == 2


def test_a_file_that_is_no_memo_is_an_error_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    path.write_text("notes\n")
    with pytest.raises(InputError, match="delete it"):
        Memo(path, "model")
    assert path.read_text() == "notes\n"
