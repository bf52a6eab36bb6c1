"""What stands between the network and the routes: the log, who may ask, and where web pages may ask from.

Plain ASGI, so that streams and closed connections pass through as they are. A request line of the log names method,
path, status, seconds, and what was wrong; never a prompt, an answer or a key.
"""

from __future__ import annotations

import hmac
import json
import logging
import time
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge_eds.apps.server.errors import ApiError
from edge_eds.apps.server.metrics import Metrics
from edge_eds.apps.server.settings import ServerSettings, is_origin

PROBLEM = "edge_eds.problem"  # key of a scope: what was wrong with its request
_OPEN_PATHS = ("/", "/health")  # need no key; and /static/
_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
_log = logging.getLogger("edge_eds.server")


def printable(text: str, limit: int = 300) -> str:
    """Text of a client as it may stand in a line of the log."""
    shown = text if len(text) <= limit else text[:limit] + "..."
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in shown)


class Journal:
    """Logs and counts every request."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500
        started = time.monotonic()

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            seconds = time.monotonic() - started
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.requested(route, status, seconds)
            problem = scope.get(PROBLEM)
            why = f": {printable(problem)}" if problem else ""
            _log.info("%s %s %d %.3f s%s", scope["method"], printable(scope["path"]), status, seconds, why)


class Door:
    """Lets in who may ask: by key, by the name the server was called by, and by the page that asks."""

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self._app, self._settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            problem = self._problem(scope["path"], Headers(scope=scope))
            if problem is not None:
                await refuse(problem, scope, send)
                return
        await self._app(scope, receive, send)

    def _problem(self, path: str, headers: Headers) -> ApiError | None:
        origin, host = headers.get("origin"), headers.get("host", "")
        if origin is not None and not self._is_known(origin, host):
            advice = f"; start it with --cors {origin}" if is_origin(origin) else ""
            return ApiError(403, f"pages of {origin} may not use this server{advice}", code="origin_refused")
        key = self._settings.api_key
        if key is None:
            # A page on the network can make its own name point here; then the name gives it away.
            if self._settings.is_local and _name(host) not in _LOCAL_NAMES:
                return ApiError(
                    403, f"this server is called {host}, and answers to localhost alone; set --api-key to use another "
                    "name", code="host_refused",
                )  # fmt: skip
            return None
        if path in _OPEN_PATHS or path.startswith("/static/"):
            return None
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), key.encode()):
            return None
        return ApiError(
            401, "the API key is missing or wrong; send it as Authorization: Bearer KEY", code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )  # fmt: skip

    def _is_known(self, origin: str, host: str) -> bool:
        """Whether the page is our own, or of an origin that was named."""
        _, _, place = origin.partition("://")
        return (bool(place) and place == host) or "*" in self._settings.cors or origin in self._settings.cors


def _name(host: str) -> str:
    """The name in a Host header, without its port; "" if it is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:  # brackets that do not fit
        return ""


async def refuse(problem: ApiError, scope: Scope, send: Send) -> None:
    """Answer with an error object."""
    scope[PROBLEM] = str(problem)
    body = json.dumps(problem.document()).encode()
    headers = {**problem.headers, "content-type": "application/json", "content-length": str(len(body))}
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": problem.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
