"""Ctrl-C stops an answer, and not the program."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class StopSwitch:
    """While entered, Ctrl-C is a wish to stop the answer that is being made.

    Once text streams, the wish is a flag that is looked at after each token, so that nothing is torn in the
    middle. Before that (a long prompt), and at a second press, it is a KeyboardInterrupt at once.
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

    def _press(self, number: int, frame: FrameType | None) -> None:
        if self.pressed or not self.streaming:
            self.pressed = True
            raise KeyboardInterrupt
        self.pressed = True
