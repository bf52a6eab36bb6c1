"""The text of an answer from the bytes of its tokens: whole letters, up to the first stop sequence.

Takes bytes and gives text that can be shown at once: a letter that is not complete yet, and what may become a stop
sequence, is held back.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class AnswerText:
    """The text of one answer. stopped: a stop sequence was met, and everything before it was given."""

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._stop = [sequence for sequence in stop if sequence]
        self._letters = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.stopped = False

    def feed(self, piece: bytes) -> str:
        """The text that one more token makes certain."""
        return self._release(self._letters.decode(piece))

    def finish(self) -> str:
        """What is left at the answer's end."""
        rest = self._release(self._letters.decode(b"", final=True)) + self._held
        self._held = ""
        return rest

    def _release(self, text: str) -> str:
        if self.stopped:
            return ""
        text = self._held + text
        # The one that is complete first, so that it does not matter in which pieces the text comes.
        found = [(at + len(sequence), at) for sequence in self._stop if (at := text.find(sequence)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)[1]]
        n_held = max((_overlap(text, sequence) for sequence in self._stop), default=0)
        self._held = text[len(text) - n_held :]
        return text[: len(text) - n_held]


def _overlap(text: str, sequence: str) -> int:
    """Length of the longest end of `text` that begins `sequence`."""
    for n in range(min(len(sequence) - 1, len(text)), 0, -1):
        if text.endswith(sequence[:n]):
            return n
    return 0
