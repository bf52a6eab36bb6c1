"""The one thread that owns the model: it takes jobs from a queue, and gives back pieces of answers.

A job belongs to a Claim, one for each HTTP request, which can be cancelled and has a deadline; both are looked at
between two tokens. Everything that goes wrong with a job is told to whoever waits for it, and the worker goes on.
Leaves out HTTP, prompts and documents.
"""

from __future__ import annotations

import codecs
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

from edge_eds.apps.server.errors import ApiError, ClientGoneError, shutting_down, too_slow
from edge_eds.apps.server.metrics import Metrics
from edge_eds.errors import EdgeError
from edge_eds.runtime.answer_text import AnswerText
from edge_eds.runtime.slots import Answering, Slots, Task, TokenLogprobs
from edge_eds.runtime.trace import Trace

_log = logging.getLogger("edge_eds.server")


@dataclass(eq=False)
class Claim:
    """What one HTTP request has of the worker. `cancel` may be called from any thread."""

    seconds: float
    cancelled: ApiError | None = None
    started: float = field(default_factory=time.monotonic)

    def cancel(self, why: ApiError | None = None) -> None:
        """What is being made ends between two tokens; unless told otherwise, because nobody waits any longer."""
        self.cancelled = self.cancelled or why or ClientGoneError()

    def problem(self) -> ApiError | None:
        """Why the work for this request should end now."""
        if self.cancelled is not None:
            return self.cancelled
        return too_slow(self.seconds) if time.monotonic() - self.started > self.seconds else None


@dataclass(frozen=True)
class Token:
    """One token of an answer: its bytes, and its log-probabilities where they were asked for."""

    id: int
    bytes: bytes
    logprobs: TokenLogprobs | None


@dataclass(frozen=True)
class Piece:
    """What is new of an answer: text that can be shown, and the tokens."""

    text: str
    tokens: tuple[Token, ...]


@dataclass(frozen=True)
class Result:
    """An answer that is complete. pieces: its text token by token."""

    finish_reason: str  # "stop" | "length"
    strength: float
    n_prompt: int
    n_cached: int
    pieces: tuple[str, ...]
    trace: Trace


@dataclass(eq=False)
class Job:
    """Something that is run with a free slot, on the worker's thread; `wait` gives what it returns."""

    claim: Claim
    run: Callable[[Slots], Any]
    _events: SimpleQueue[Any] = field(default_factory=SimpleQueue, repr=False)

    def tell(self, event: object) -> None:
        """Called by the worker."""
        self._events.put(event)

    def wait(self) -> Any:
        """What `run` returned, or the exception that ended it."""
        event = self._events.get()
        if isinstance(event, BaseException):
            raise event
        return event


class AnswerJob(Job):
    """An answer to be made; iterate over `pieces`, then `result` is there."""

    def __init__(self, claim: Claim, task: Task, stop: tuple[str, ...] = ()) -> None:
        super().__init__(claim, lambda slots: slots.begin(task))
        self.task = task
        self.result: Result | None = None
        self._text = AnswerText(stop)
        self._letters = codecs.getincrementaldecoder("utf-8")("replace")
        self._pieces: list[str] = []

    def pieces(self) -> Iterator[Piece]:
        """The pieces as they come.

        Raises:
            EdgeError: what ended the answer; ApiError where it was the server.
        """
        while True:
            event = self.wait()
            if isinstance(event, Result):
                self.result = event
                return
            yield event

    def advance(self, slots: Slots, answer: Answering) -> Result | EdgeError | None:
        """Tell what is new of the answer; returns what ends it, which is not told yet. Called by the worker."""
        if answer.error is not None:
            return answer.error
        new = []
        text = ""
        for i in range(len(self._pieces), len(answer.tokens)):
            piece = slots.piece(answer.tokens[i])
            new.append(Token(answer.tokens[i], piece, answer.logprobs[i] if answer.logprobs else None))
            self._pieces.append(self._letters.decode(piece))
            text += self._text.feed(piece)
        if answer.finish_reason is not None:
            text += self._text.finish()
        if new or text:
            self.tell(Piece(text, tuple(new)))
        if answer.finish_reason is None and not self._text.stopped:
            return None
        slots.cancel(answer)
        return Result(
            finish_reason="stop" if self._text.stopped else str(answer.finish_reason),
            strength=self.task.strength,
            n_prompt=len(self.task.prompt),
            n_cached=answer.n_cached,
            pieces=tuple(self._pieces),
            trace=answer.trace,
        )


class Worker:
    """Runs jobs on the slots of one model, in the order in which they came, as many at a time as there are slots."""

    def __init__(self, slots: Slots, metrics: Metrics) -> None:
        self._slots, self._metrics = slots, metrics
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._answers: dict[Answering, AnswerJob] = {}
        self._draining = self._closed = False
        self._thread = threading.Thread(target=self._work, name="edge-eds-worker", daemon=True)
        metrics.watch(lambda: len(self._waiting), lambda: len(self._answers))
        self._thread.start()

    @property
    def slots(self) -> Slots:
        """The model, for its facts and `check`; only the worker decodes with it."""
        return self._slots

    @property
    def is_alive(self) -> bool:
        """Whether jobs are still taken and run."""
        return self._thread.is_alive() and not self._draining

    def submit(self, job: Job) -> None:
        """Put a job into the queue.

        Raises:
            ApiError: the server shuts down.
        """
        with self._changed:
            if self._draining:
                raise shutting_down()
            self._waiting.append(job)
            self._changed.notify()

    def drain(self) -> None:
        """Finish what runs; what waits is refused, and so is everything from now on."""
        with self._changed:
            self._draining = True
            refused = list(self._waiting)
            self._waiting.clear()
        for job in refused:
            job.tell(shutting_down())

    def close(self) -> None:
        """Drain, wait for what runs, and free the model."""
        self.drain()
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        self._slots.close()

    # -- the worker's own thread

    def _work(self) -> None:
        try:
            while self._wait_for_work():
                self._turn()
        finally:
            self.drain()  # whatever ends the thread, nobody waits for it in vain

    def _wait_for_work(self) -> bool:
        """False when there will be none any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._answers or self._closed)
            return bool(self._answers) or not self._closed

    def _turn(self) -> None:
        """One decode for all who have a slot."""
        try:
            self._sweep()
            self._begin_waiting()
            for answer in self._slots.step() if self._answers else ():
                self._advance(answer)
        except Exception as error:  # told to everybody who waits for it, and the worker goes on
            _log.error("the worker failed: %s", error, exc_info=error)
            for job in self._answers.values():
                self._metrics.ended("error")
                job.tell(error)
            self._answers.clear()
            self._slots.reset()

    def _sweep(self) -> None:
        """End what nobody waits for, and what took too long."""
        with self._changed:
            for job in list(self._waiting):
                problem = job.claim.problem()
                if problem is not None:
                    self._waiting.remove(job)
                    job.tell(problem)
        for answer, job in list(self._answers.items()):
            problem = job.claim.problem()
            if problem is not None:
                self._slots.cancel(answer)
                self._metrics.ended("cancelled" if job.claim.cancelled else "timeout")
                del self._answers[answer]
                job.tell(problem)

    def _begin_waiting(self) -> None:
        while self._slots.n_free:
            with self._changed:
                if not self._waiting:
                    return
                job = self._waiting.popleft()
            try:
                outcome = job.run(self._slots)
            except Exception as error:  # told to whoever waits for it
                job.tell(error)
                continue
            if isinstance(job, AnswerJob):
                self._answers[outcome] = job
            else:
                job.tell(outcome)

    def _advance(self, answer: Answering) -> None:
        job = self._answers[answer]
        end = job.advance(self._slots, answer)
        if end is None:
            return
        del self._answers[answer]
        if isinstance(end, Result):
            self._metrics.answered(end.n_prompt, end.n_cached, len(end.pieces), end.finish_reason, end.trace.gate)
        else:
            self._metrics.ended("error")
        job.tell(end)
