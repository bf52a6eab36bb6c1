"""A stand-in for EdgeLlama that answers what it is told to, for tests of what the commands make of answers.

It speaks one word a token, refuses unless it is steered, and can be interrupted in the middle of an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edge_eds.apps.session import Session
from edge_eds.energy.network import HEADS
from edge_eds.energy.settings import Steering
from edge_eds.errors import PromptTooLongError
from edge_eds.runtime.energies import ModelFiles
from edge_eds.runtime.trace import Trace, taken_of

PLAIN_ANSWER, STEERED_ANSWER = "Sorry, I can't help.", "Use the kill command."


class FakeLlama:
    """Answers PLAIN_ANSWER without and STEERED_ANSWER with steering; `asked` keeps the conversations.

    n_ctx: how many words a conversation may have. at_token: called before each token, with its number from 0.
    """

    def __init__(self, strength: float = 1.0, n_ctx: int = 10_000) -> None:
        self.energy_file: object | None = object()
        self.energy_path = Path("fake.energy.onnx")
        self.last_trace = Trace()
        self.n_tokens = 0
        self.asked: list[list[Mapping[str, str]]] = []
        self.programs: list[float] = [strength]
        self.at_token: Callable[[int], None] = lambda i: None
        self._n_ctx = n_ctx

    @contextmanager
    def steered(self, steering: Steering) -> Iterator[None]:
        self.programs.append(steering.strength)
        yield
        self.programs.append(self.programs[0])

    def create_chat_completion(self, messages: list[Mapping[str, str]], max_tokens: int, **_: Any) -> Iterator[Any]:
        if len(rendered(self, messages)) > self._n_ctx:
            raise PromptTooLongError(f"the prompt takes more than {self._n_ctx} tokens")
        self.asked.append(list(messages))
        return self._chunks(messages, max_tokens)

    def _chunks(self, messages: Sequence[Mapping[str, str]], max_tokens: int) -> Iterator[Any]:
        steered = self.programs[-1] > 0
        words = (STEERED_ANSWER if steered else PLAIN_ANSWER).split()
        self.last_trace = self._trace() if steered else Trace()
        n_prompt = len(rendered(self, messages))
        for i, word in enumerate(words[:max_tokens]):
            self.at_token(i)
            self.eval([i])
            self.n_tokens = n_prompt + i
            yield _chunk({"content": word if i == 0 else f" {word}"})
        yield _chunk({}, "length" if len(words) > max_tokens else "stop")

    def eval(self, tokens: Sequence[int]) -> None:
        """Where an answer can be stopped."""

    @staticmethod
    def _trace() -> Trace:
        # the gate's reading, then two descents: the prompt's end is touched, the first new token is not
        harm, fr = HEADS.index("harm"), HEADS.index("fr")
        rows = [
            (0, 0, 5, harm, -2.0, -2.0, 0, 0.0),
            (0, 0, 9, fr, 3.0, -1.0, 3, 0.15),
            (0, 1, 9, fr, 0.5, 0.5, 0, 0.0),
        ]
        return Trace(taken_of(rows), gate="benign", gate_score=-2.0)

    def close(self) -> None:
        """Nothing to free."""


def rendered(llm: object, messages: Sequence[Mapping[str, str]]) -> list[int]:
    """A token for each word and each message."""
    return [0] * sum(1 + len(message["content"].split()) for message in messages)


def fake_session(n_ctx: int = 10_000) -> Session:
    """A session on a FakeLlama; `render_chat` of edge_eds.apps.answer has to be `rendered`."""
    return Session(FakeLlama(n_ctx=n_ctx), ModelFiles(Path("fake.gguf")), 1.0)  # type: ignore[arg-type]


def _chunk(delta: Mapping[str, str], finish_reason: str | None = None) -> dict[str, Any]:
    return {"choices": [{"delta": delta, "finish_reason": finish_reason}]}
