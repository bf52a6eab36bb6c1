"""Which tokens of a prompt are the message that the answer is to: what a gate may read beside the prompt's end.

Takes the tokens of a prompt; gives the positions of the message in it. In a chat that is the last message: after the
template's tail, which every prompt of that template ends with, is taken off, the tokens back to the special one before
them. A prompt that does not end like a chat is a message as a whole. The last token is never part of it: the gate reads
that one in any case.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llama_cpp import llama_cpp as llama_api

from edge_eds.errors import EdgeError

if TYPE_CHECKING:
    from edge_eds.runtime.session import EdgeLlama

MAX_MESSAGE_TOKENS = 256
"""Of a longer message its last ones: they are decoded again for every answer to it."""

NO_MESSAGE = range(0)


class MessageFinder:
    """Finds messages in the prompts of one session."""

    def __init__(self, llm: EdgeLlama) -> None:
        self._llm = llm
        self._vocab = llama_api.llama_model_get_vocab(llm.model)
        self._tail: list[int] | None = None  # found when it is first needed

    def find(self, prompt: Sequence[int]) -> range:
        """Positions of the message in the prompt, at most MAX_MESSAGE_TOKENS."""
        if self._tail is None:
            self._tail = self._chat_tail()
        n_tail = len(self._tail)
        is_chat = n_tail > 0 and list(prompt[-n_tail:]) == self._tail
        stop = max(len(prompt) - (n_tail if is_chat else 1), 0)
        start = stop
        while start > 0 and stop - start < MAX_MESSAGE_TOKENS and not self._is_special(prompt[start - 1]):
            start -= 1
        return range(start, stop)

    def _is_special(self, token: int) -> bool:
        return bool(
            llama_api.llama_vocab_is_control(self._vocab, token) or llama_api.llama_vocab_is_eog(self._vocab, token)
        )

    def _chat_tail(self) -> list[int]:
        """What the prompts of two chats that differ in their message end with alike; nothing without a chat format."""
        try:
            one, other = (self._llm.chat_tokens(message) for message in ("yes", "no"))
        except EdgeError:
            return []
        n = 0
        while n < min(len(one), len(other)) and one[-1 - n] == other[-1 - n]:
            n += 1
        return one[len(one) - n :]
