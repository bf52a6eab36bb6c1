"""The routes of the server: from HTTP to the service and back.

A request is counted at the door: as many as can run and wait are let in, more are told to come back. Its work runs on a
thread of its own; here one waits for what it emits, and for the client to go away, which cancels it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import statistics
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import HTTPException
from fastapi.responses import JSONResponse
from sse_starlette.sse import AppStatus, EventSourceResponse, SendTimeoutError
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from edge_eds.apps.server import requests
from edge_eds.apps.server.errors import ApiError, ClientGoneError, as_api_error, shutting_down, too_busy
from edge_eds.apps.server.metrics import CONTENT_TYPE, Metrics
from edge_eds.apps.server.middleware import PROBLEM, Door, Journal
from edge_eds.apps.server.page import add_page
from edge_eds.apps.server.service import Emit, Service
from edge_eds.apps.server.settings import ServerSettings
from edge_eds.apps.server.worker import Claim
from edge_eds.errors import EdgeError

_BODY_SECONDS = 30.0
_DRAINED = 16  # times the allowed size of a body that is read and thrown away, so that the client hears why
_PING_SECONDS = 15
_SEND_SECONDS = 60.0  # for a client that reads nothing, and would keep its place for ever
_MAX_RETRY_AFTER = 60

Work = Callable[[Emit], Any]
_log = logging.getLogger("edge_eds.server")


class Desk:
    """Runs the work of requests on threads, as many at a time as may run and wait."""

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self._limit = settings.parallel + settings.queue
        self._threads = ThreadPoolExecutor(2 * self._limit, "edge-eds-request")  # a comparison takes two
        self._seconds: deque[float] = deque([1.0], maxlen=16)  # of the last requests
        self._open: set[Claim] = set()
        self.draining = False

    @property
    def is_busy(self) -> bool:
        """Whether any request is open."""
        return bool(self._open)

    def enter(self) -> Claim:
        """Let a request in; `leave` has to follow.

        Raises:
            ApiError: 503; there is no room, or the server shuts down.
        """
        if self.draining:
            raise shutting_down()
        if len(self._open) >= self._limit:
            rounds = len(self._open) / self._settings.parallel
            seconds = statistics.mean(self._seconds) * rounds
            raise too_busy(min(max(round(seconds), 1), _MAX_RETRY_AFTER))
        claim = Claim(self._settings.timeout)
        self._open.add(claim)
        return claim

    def leave(self, claim: Claim) -> None:
        """The request is over, in whichever way."""
        claim.cancel()
        self._open.remove(claim)
        self._seconds.append(time.monotonic() - claim.started)

    def start(self, work: Work) -> asyncio.Queue[Any]:
        """Run the work on a thread; what it emits, and at last its Future, come out of the queue."""
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[Any] = asyncio.Queue()

        def tell(event: Any) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody listens any more
                loop.call_soon_threadsafe(events.put_nowait, event)

        self._threads.submit(work, tell).add_done_callback(tell)
        return events

    def cancel(self) -> None:
        """End what is open between two tokens. May be called from a signal's handler."""
        for claim in tuple(self._open):
            claim.cancel(shutting_down())

    def close(self) -> None:
        """End what is open, and wait for the threads."""
        self.cancel()
        self._threads.shutdown()


class AnswerStream(EventSourceResponse):
    """Server-sent events that say when they are over, also where the client went before the first."""

    def __init__(self, content: AsyncIterator[dict[str, str]], on_close: Callable[[], None]) -> None:
        super().__init__(content, ping=_PING_SECONDS, sep="\n", send_timeout=_SEND_SECONDS)
        self._on_close = on_close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except SendTimeoutError:
            scope[PROBLEM] = f"the client has read nothing for {_SEND_SECONDS:g} s"
        finally:
            self._on_close()


def create_app(service: Service, settings: ServerSettings, metrics: Metrics) -> tuple[FastAPI, Desk]:
    """The application, and the desk where its requests are counted."""
    # Streams end when their answers do, also at a shutdown.
    AppStatus.disable_automatic_graceful_drain()  # type: ignore[no-untyped-call]
    app = FastAPI(title="edge-eds", docs_url=None, redoc_url=None, openapi_url=None)
    desk = Desk(settings)
    _add_errors(app)
    _add_facts(app, service, metrics)
    _add_answers(app, service, settings, desk)
    add_page(app)
    app.add_middleware(Door, settings=settings)
    if settings.cors:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["Retry-After"],
        )
    app.add_middleware(Journal, metrics=metrics)
    return app, desk


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(EdgeError)
    async def known(request: Request, error: EdgeError) -> Response:
        return _refusal(request.scope, as_api_error(error))

    @app.exception_handler(StarletteHTTPException)
    async def no_route(request: Request, error: HTTPException) -> Response:
        what = f"{request.method} {request.url.path}"
        message = f"{what}: there is no such method here" if error.status_code == 405 else f"{what}: not found"
        return _refusal(request.scope, ApiError(error.status_code, message, code="unknown_url", headers=error.headers))

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> Response:
        return _refusal(request.scope, ClientGoneError())

    @app.exception_handler(Exception)
    async def bug(request: Request, error: Exception) -> Response:
        return _refusal(request.scope, as_api_error(error))  # Starlette raises it again, for the log


def _add_facts(app: FastAPI, service: Service, metrics: Metrics) -> None:
    @app.get("/health")
    async def health() -> Response:
        alive = service.is_alive
        return JSONResponse({"status": "ok" if alive else "shutting down"}, 200 if alive else 503)

    @app.get("/metrics")
    async def counters() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    @app.get("/v1/models")
    async def models() -> Response:
        return JSONResponse({"object": "list", "data": service.models()})

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> Response:
        return JSONResponse(service.model(name))


def _add_answers(app: FastAPI, service: Service, settings: ServerSettings, desk: Desk) -> None:
    async def body(request: Request, kind: type[requests.Request]) -> requests.Request:
        content = await _read(request, settings.max_body)
        return await asyncio.to_thread(requests.parse, kind, content)  # others are served while a large one is read

    async def answered(request: Request, stream: bool | None, *works: Callable[[Claim, Emit], Any]) -> Any:
        """What the works return, or a stream of what the single one emits."""
        claim = desk.enter()
        try:
            queues = [desk.start(lambda emit, work=work: work(claim, emit)) for work in works]  # type: ignore[misc]
            if stream:
                first = await queues[0].get()
                if isinstance(first, Future):
                    first.result()
        except BaseException:
            desk.leave(claim)
            raise
        if stream:
            return AnswerStream(_events(queues[0], request.scope), lambda: desk.leave(claim))
        try:
            return await _while_connected(request, claim, asyncio.gather(*map(_result, queues)))
        finally:
            desk.leave(claim)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        wanted = await body(request, requests.ChatRequest)
        return _response(await answered(request, wanted.stream, lambda claim, emit: service.chat(wanted, claim, emit)))

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        wanted = await body(request, requests.CompletionRequest)
        return _response(
            await answered(request, wanted.stream, lambda claim, emit: service.complete(wanted, claim, emit))
        )

    @app.post("/v1/embeddings")
    async def embeddings(request: Request) -> Response:
        wanted = await body(request, requests.EmbeddingRequest)
        return _response(await answered(request, False, lambda claim, _: service.embed(wanted, claim)))

    @app.post("/v1/eds/energy")
    async def energy(request: Request) -> Response:
        wanted = await body(request, requests.EnergyRequest)
        return _response(await answered(request, False, lambda claim, _: service.energy(wanted, claim)))

    @app.post("/v1/eds/compare")
    async def compare(request: Request) -> Response:
        plain, steered = service.comparison(await body(request, requests.ChatRequest))
        both = await answered(
            request,
            False,
            lambda claim, emit: service.chat(plain, claim, emit),
            lambda claim, emit: service.chat(steered, claim, emit),
        )
        document = {"object": "eds.comparison", "model": service.name}
        return JSONResponse({**document, "plain": both[0], "steered": both[1]})


def _response(answer: Any) -> Response:
    return answer if isinstance(answer, Response) else JSONResponse(answer[0])


def _refusal(scope: Scope, error: ApiError) -> Response:
    scope[PROBLEM] = str(error)
    return JSONResponse(error.document(), error.status, error.headers)


async def _read(request: Request, limit: int) -> bytes:
    """The body of a request.

    Raises:
        ApiError: 413; it is too large. 408; it takes too long to come.
    """
    chunks: list[bytes] = []
    n_bytes = 0

    async def read() -> None:
        nonlocal n_bytes
        async for chunk in request.stream():
            n_bytes += len(chunk)
            if n_bytes <= limit:
                chunks.append(chunk)
            elif n_bytes > _DRAINED * limit:
                return

    length = request.headers.get("content-length", "")
    waits = "expect" in request.headers  # for our word before it sends the body
    if not (waits and length.isdigit() and int(length) > limit):
        try:
            await asyncio.wait_for(read(), _BODY_SECONDS)
        except asyncio.TimeoutError as error:
            raise ApiError(408, f"the body did not come within {_BODY_SECONDS:g} s", code="timeout") from error
        if n_bytes <= limit:
            return b"".join(chunks)
    raise ApiError(413, f"the body has more than {limit} bytes, the server's limit", code="body_too_large")


async def _result(events: asyncio.Queue[Any]) -> Any:
    """What the work returns."""
    while True:
        event = await events.get()
        if isinstance(event, Future):
            return event.result()


async def _while_connected(request: Request, claim: Claim, results: asyncio.Future[list[Any]]) -> list[Any]:
    """The results, unless the client goes away: then the work is cancelled.

    Raises:
        ClientGoneError: nobody waits for them.
    """

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    leaving = asyncio.ensure_future(gone())
    either: set[asyncio.Future[Any]] = {results, leaving}
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not results.done():
            claim.cancel()
        return await results
    finally:
        leaving.cancel()


async def _events(events: asyncio.Queue[Any], scope: Scope) -> AsyncIterator[dict[str, str]]:
    """What the work emits, as server-sent events; an error is the last of them."""
    while True:
        event = await events.get()
        if not isinstance(event, Future):
            yield {"data": json.dumps(event)}
            continue
        problem = event.exception()
        if problem is not None:
            error = as_api_error(problem)
            if not isinstance(problem, EdgeError):
                _log.error("an answer failed: %s", problem, exc_info=problem)
            scope[PROBLEM] = str(error)
            yield {"data": json.dumps(error.document())}
        else:
            yield {"data": "[DONE]"}
        return
