"""What a chat handler of llama-cpp-python is given in place of a Llama: it completes prompts through the worker.

So chat formats, stop tokens and tools are those of llama-cpp-python, while tokens are made side by side with those of
other requests. It remembers what the documents of handlers have no place for: tokens, traces, counts.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edge_eds.apps.server.worker import AnswerJob, Claim, Result, Token, Worker
from edge_eds.runtime.sampling import TokenSampling
from edge_eds.runtime.slots import Task

_SAMPLING = (
    "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repeat_penalty", "seed",
)  # fmt: skip


@dataclass(frozen=True)
class Wish:
    """What a request asks of every completion that is made for it."""

    model: str
    sampling: TokenSampling
    strength: float
    max_tokens: int
    stop: tuple[str, ...] = ()
    n_logprobs: int | None = None

    def handler_arguments(self) -> dict[str, Any]:
        """What a chat handler is told; it passes it on to `create_completion`."""
        arguments = {name: getattr(self.sampling, name) for name in _SAMPLING}
        return {**arguments, "model": self.model, "stop": list(self.stop), "max_tokens": self.max_tokens}


class StandIn:
    """A Llama for one request.

    results: one for each completion that is complete. asked: whether a first one waits for its slot or has it;
    on_accepted is called then.
    """

    verbose = False

    def __init__(self, worker: Worker, claim: Claim, wish: Wish, on_accepted: Callable[[], None]) -> None:
        self._worker, self._claim, self._wish = worker, claim, wish
        self._on_accepted = on_accepted
        self._tokens: list[Token] = []
        self.results: list[Result] = []
        self.asked = False

    def __getattr__(self, name: str) -> Any:
        """Facts of the model, as the id of a token or its metadata."""
        return getattr(self._worker.slots.session, name)

    def take_tokens(self) -> list[Token]:
        """The tokens since the last call."""
        tokens, self._tokens = self._tokens, []
        return tokens

    def create_completion(
        self,
        prompt: str | Sequence[int],
        *,
        stream: bool = False,
        stop: str | Sequence[str] | None = None,
        max_tokens: int | None = None,
        grammar: Any = None,
        logit_bias: Mapping[Any, float] | None = None,
        **others: Any,
    ) -> Any:
        """As llama_cpp.Llama.create_completion, of what handlers use of it.

        Not heeded: `logprobs` (see take_tokens), and `stopping_criteria`, which end an answer at the end-of-text token
        as everything here does.

        Raises:
            EdgeError: the prompt or a setting cannot be used; the server shuts down.
        """
        session = self._worker.slots.session
        tokens = session.tokenize(prompt.encode(), special=True) if isinstance(prompt, str) else prompt
        given = {name: others[name] for name in _SAMPLING if others.get(name) is not None}
        if grammar is not None:
            given["grammar"] = grammar._grammar
        if logit_bias:
            given["logit_bias"] = {int(token): bias for token, bias in logit_bias.items()}
        limit = self._wish.max_tokens
        task = Task(
            prompt=tuple(tokens),
            max_new_tokens=min(max_tokens, limit) if max_tokens else limit,
            sampling=replace(self._wish.sampling, **given),
            strength=self._wish.strength,
            n_logprobs=self._wish.n_logprobs,
        )
        self._worker.slots.check(task)
        job = AnswerJob(self._claim, task, (stop,) if isinstance(stop, str) else tuple(stop or ()))
        self._worker.submit(job)
        if not self.asked:
            self.asked = True
            self._on_accepted()
        chunks = self._chunks(job)
        return chunks if stream else self._whole(list(chunks))

    def _chunks(self, job: AnswerJob) -> Iterator[dict[str, Any]]:
        head = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": self._wish.model,
        }

        def chunk(text: str, finish_reason: str | None) -> dict[str, Any]:
            choice = {"text": text, "index": 0, "logprobs": None, "finish_reason": finish_reason}
            return {**head, "choices": [choice]}

        for piece in job.pieces():
            self._tokens += piece.tokens
            if piece.text or self._wish.n_logprobs is not None:
                yield chunk(piece.text, None)
        assert job.result is not None
        self.results.append(job.result)
        yield chunk("", job.result.finish_reason)

    def _whole(self, chunks: Sequence[dict[str, Any]]) -> dict[str, Any]:
        text = "".join(chunk["choices"][0]["text"] for chunk in chunks)
        choice = {**chunks[-1]["choices"][0], "text": text}
        n_prompt, n_new = self.results[-1].n_prompt, len(self.results[-1].pieces)
        counts = {"prompt_tokens": n_prompt, "completion_tokens": n_new, "total_tokens": n_prompt + n_new}
        return {**chunks[-1], "choices": [choice], "usage": counts}
