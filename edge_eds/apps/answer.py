"""One answer of a session: streamed, timed, and with what steering did to it.

Takes a session and messages; gives an Answer. Leaves out where the text goes (the caller's `on_text`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from typing import Any

from edge_eds.apps.session import Session
from edge_eds.apps.settings import Sampling
from edge_eds.apps.stop_switch import StopSwitch
from edge_eds.errors import InputError
from edge_eds.runtime.chat_prompt import render_chat
from edge_eds.runtime.trace import TokenTrace, Trace

Message = Mapping[str, str]  # {"role": "system" | "user" | "assistant", "content": ...}


@dataclass(frozen=True)
class SteeringReport:
    """What steering did to one answer.

    gate: "benign", "harmful", "uncertain", "ungated", or None where nothing was to be steered.
    energies: means over everything that was written, None if nothing was. refusal_in_sight: whether the plain model was
    about to refuse; None where nothing asked.
    """

    gate: str | None = None
    gate_score: float | None = None
    touched_tokens: int = 0
    energy_before: float | None = None
    energy_after: float | None = None
    tokens: tuple[TokenTrace, ...] = ()
    refusal_in_sight: bool | None = None

    @classmethod
    def of(cls, trace: Trace) -> SteeringReport:
        """The report of a session's trace."""
        return cls(
            trace.gate,
            trace.gate_score,
            trace.touched_tokens,
            trace.energy_before,
            trace.energy_after,
            tuple(trace.tokens()),
            trace.refusal_in_sight,
        )

    def document(self) -> dict[str, Any]:
        """As `--json` shows it."""
        return {
            "gate": self.gate,
            "gate_score": self.gate_score,
            "refusal_in_sight": self.refusal_in_sight,
            "touched_tokens": self.touched_tokens,
            "energy_before": self.energy_before,
            "energy_after": self.energy_after,
        }


@dataclass(frozen=True)
class Answer:
    """One answer.

    pieces: its text token by token; "" for a token that only completes a letter with the next one.
    finish_reason: "stop", "length" (max_tokens reached), "context" (the context is full) or "interrupted".
    strength: how hard it was steered; 0 for a plain answer.
    """

    text: str
    finish_reason: str
    strength: float
    pieces: tuple[str, ...] = ()
    n_prompt: int = 0
    seconds_to_first_token: float = 0.0
    seconds: float = 0.0
    steering: SteeringReport = field(default_factory=SteeringReport)

    @property
    def tokens_per_second(self) -> float:
        """Speed of generation, without the time for the prompt."""
        if len(self.pieces) > 1 and self.seconds > self.seconds_to_first_token:
            return (len(self.pieces) - 1) / (self.seconds - self.seconds_to_first_token)
        return len(self.pieces) / self.seconds if self.seconds > 0 else 0.0

    def document(self, model: str) -> dict[str, Any]:
        """As `--json` shows it; finish_reason is "length" for a full context, too."""
        return {
            "text": self.text,
            "model": model,
            "finish_reason": "length" if self.finish_reason == "context" else self.finish_reason,
            "steering": self.steering.document(),
            "timings": {
                "prompt_tokens": self.n_prompt,
                "completion_tokens": len(self.pieces),
                "seconds_to_first_token": round(self.seconds_to_first_token, 4),
                "seconds": round(self.seconds, 4),
                "tokens_per_second": round(self.tokens_per_second, 2),
            },
        }


def generate(
    session: Session,
    messages: Sequence[Message],
    sampling: Sampling,
    on_text: Callable[[str], None] | None = None,
    stop: StopSwitch | None = None,
) -> Answer:
    """Answer a conversation at the session's present strength.

    Args:
        on_text: is given each piece of text as it comes.
        stop: ends the answer as "interrupted" when it is pressed; None leaves Ctrl-C a KeyboardInterrupt.

    Raises:
        PromptTooLongError: the conversation does not fit the context.
        InputError: text that is not Unicode.
    """
    pressed: KeyboardInterrupt | None = None  # while on_text ran; it is a wish to stop there as here
    with closing(answering(session, messages, sampling, stop)) as answer:
        while True:
            try:
                text = next(answer) if pressed is None else answer.throw(pressed)
                pressed = None
            except StopIteration as end:
                result: Answer = end.value
                return result
            try:
                if on_text is not None:
                    on_text(text)
            except KeyboardInterrupt as error:
                pressed = error


def answering(
    session: Session, messages: Sequence[Message], sampling: Sampling, stop: StopSwitch | None = None
) -> Generator[str, None, Answer]:
    """`generate` as a generator: each piece of text as it comes, and at the end the Answer. Closing it ends the answer.

    Raises:
        as `generate`.
    """
    llm = session.llm
    for message in messages:
        _check_text(message["content"])
    n_prompt = len(render_chat(llm, messages))
    pieces: list[str] = []
    finish_reason = "stop"
    first = 0.0
    started = time.perf_counter()
    chunks = llm.create_chat_completion(
        messages=[dict(message) for message in messages],
        stream=True,
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        seed=sampling.drawn().seed,
    )
    try:
        with nullcontext() if stop is None else stop.watching(llm):
            for chunk in chunks:
                choice = chunk["choices"][0]
                text = choice["delta"].get("content") or ""
                finish_reason = choice["finish_reason"] or finish_reason
                if text:
                    first = first or time.perf_counter() - started
                    # The newest token is not evaluated yet. Bytes of a letter come together, with its last token,
                    # and those of a letter that was never ended come after the last token.
                    n_new = llm.n_tokens + 1 - n_prompt - len(pieces)
                    pieces += [""] * n_new
                    pieces[-1] += text
                    yield text
                if stop is not None:
                    stop.streaming = True
    except KeyboardInterrupt:
        if stop is None:
            raise
        finish_reason = "interrupted"
    finally:
        chunks.close()
    if finish_reason == "length" and len(pieces) < sampling.max_tokens:
        finish_reason = "context"
    return Answer(
        text="".join(pieces),
        finish_reason=finish_reason,
        strength=session.strength,
        pieces=tuple(pieces),
        n_prompt=n_prompt,
        seconds_to_first_token=first,
        seconds=time.perf_counter() - started,
        steering=SteeringReport.of(llm.last_trace),
    )


def _check_text(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError("the prompt is not UTF-8 text; expected Unicode") from error
