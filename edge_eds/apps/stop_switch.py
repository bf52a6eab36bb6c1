"""Ctrl-C stops an answer, and not the program."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_eds.runtime.session import EdgeLlama


class StopSwitch:
    """While entered, Ctrl-C is a wish to stop the answer that is being made.

    Once text streams, the wish is a flag that is looked at between two tokens, so that nothing is torn in the middle.
    Before that (a long prompt), and at a second press, it is a KeyboardInterrupt at once.
    """

    def __init__(self) -> None:
        self.pressed = False
        self.streaming = False
        self._previous: Any = None

    def __enter__(self) -> StopSwitch:
        if threading.current_thread() is threading.main_thread():  # elsewhere signals cannot be taken
            self._previous = signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    @contextmanager
    def watching(self, llm: EdgeLlama) -> Iterator[None]:
        """For a while, `llm` evaluates no further token once the switch is pressed: KeyboardInterrupt then.

        Asked at the tokens and not at the text, of which llama-cpp-python gives none while a letter is incomplete.
        """
        evaluate = llm.eval

        def evaluate_unless_pressed(tokens: Sequence[int]) -> None:
            if self.pressed:
                raise KeyboardInterrupt
            evaluate(tokens)

        llm.__dict__["eval"] = evaluate_unless_pressed  # hides the method of this one session
        try:
            yield
        finally:
            del llm.__dict__["eval"]

    def _press(self, number: int, frame: FrameType | None) -> None:
        if self.pressed or not self.streaming:
            self.pressed = True
            raise KeyboardInterrupt
        self.pressed = True
