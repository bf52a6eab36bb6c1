"""Errors as clients of OpenAI's API know them: a status, and {"error": {"message", "type", "param", "code"}}.

ApiError is what the server itself finds wrong with a request; `as_api_error` turns any other error of edge-eds into
one. What is nobody's wish (a bug) is a 500 without details: those belong into the log.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge_eds.errors import EdgeError, InputError, PromptTooLongError

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    408: "timeout_error",
    499: "client_closed_request",
    503: "service_unavailable_error",
    504: "timeout_error",
}


class ApiError(EdgeError):
    """A request that is not answered as it was asked.

    param: the field that is at fault, as in "messages.0.role". code: for programs.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code
        self.headers = dict(headers or {})

    def document(self) -> dict[str, Any]:
        """The body of the response."""
        kind = "server_error" if self.status == 500 else _TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


class ClientGoneError(ApiError):
    """The client went away; nobody reads this."""

    def __init__(self) -> None:
        super().__init__(499, "the client closed the connection", code="cancelled")


def invalid(message: str, param: str | None, code: str = "invalid_value") -> ApiError:
    """A field with a value that cannot be used."""
    return ApiError(400, message, param=param, code=code)


def too_long(message: str, param: str) -> ApiError:
    """More tokens than the context holds; param: the field that they came in."""
    return invalid(message, param, code="context_length_exceeded")


def too_busy(retry_after: int) -> ApiError:
    """The queue is full."""
    message = f"the server is busy and its queue is full; try again in {retry_after} s"
    return ApiError(503, message, code="queue_full", headers={"Retry-After": str(retry_after)})


def shutting_down() -> ApiError:
    """The server finishes what runs and takes nothing new."""
    message = "the server is shutting down and takes no new requests"
    return ApiError(503, message, code="shutting_down", headers={"Retry-After": "5"})


def too_slow(seconds: float) -> ApiError:
    """The time limit of a request has passed."""
    # Clients that try again by themselves would only make it worse.
    headers = {"x-should-retry": "false"}
    message = f"the answer took longer than the server's limit of {seconds:g} s"
    return ApiError(504, message, code="timeout", headers=headers)


def as_api_error(error: BaseException) -> ApiError:
    """What the client is told about an error."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, PromptTooLongError):
        return too_long(str(error), "messages")
    if isinstance(error, InputError):
        return invalid(str(error), None)
    if isinstance(error, EdgeError):
        return ApiError(500, str(error), code="steering_failed")
    return ApiError(500, "the server met an error of its own; its log says more", code="internal_error")
