"""AnswerText: in whatever pieces it comes, the text is whole letters up to the first stop sequence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from edge_eds.runtime.answer_text import AnswerText


def pieces(data: bytes, seed: int) -> list[bytes]:
    """The bytes, cut at random places."""
    rng = np.random.default_rng(seed)
    cuts = sorted(int(cut) for cut in rng.integers(0, len(data) + 1, rng.integers(0, 9)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def read(parts: Sequence[bytes], stop: Sequence[str]) -> tuple[str, bool]:
    text = AnswerText(stop)
    shown = "".join(text.feed(part) for part in parts) + text.finish()
    return shown, text.stopped


@pytest.mark.parametrize(
    ("said", "stop", "expected"),
    [
        ("one two three", (), "one two three"),
        ("one two three", ("two",), "one "),
        ("one two three", ("three", "two"), "one "),  # the first in the text, not the first in the list
        ("one two three", ("wo t", "two"), "one "),  # the one that is complete first
        ("aaab", ("aab",), "a"),
        ("abababc", ("ababc",), "ab"),
        ("one two thre", ("three",), "one two thre"),
        ("Größe: 5 € 🙂 gut", ("🙂",), "Größe: 5 € "),
        ("stop", ("stop",), ""),
        ("text", ("",), "text"),
    ],
)
def test_the_text_ends_before_the_first_stop_sequence(said: str, stop: Sequence[str], expected: str) -> None:
    for seed in range(60):
        assert read(pieces(said.encode(), seed), stop) == (expected, expected != said)


def test_what_is_shown_is_never_taken_back_nor_held_back_for_nothing() -> None:
    text = AnswerText(("###",))
    parts = (b"a#", b"#", b"b", b"\xe2\x82", b"\xac", b"c")
    assert [text.feed(part) for part in parts] == ["a", "", "##b", "", "€", "c"]


def test_bytes_that_are_no_letters_are_shown_as_such() -> None:
    assert read([b"a\xff", b"b\xe2\x82"], ()) == ("a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}", False)


def test_after_a_stop_sequence_nothing_more_is_shown() -> None:
    text = AnswerText(("x",))
    assert [text.feed(part) for part in (b"ax", b"more", b"x")] == ["a", "", ""]
    assert text.finish() == ""
