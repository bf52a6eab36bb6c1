"""How the server listens and what it allows, checked when made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from edge_eds.apps.settings import MAX_INT, check_range
from edge_eds.errors import SettingsError
from edge_eds.runtime.slots import MAX_PARALLEL

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def is_origin(text: str) -> bool:
    """Whether it is an origin of web pages, as browsers send it. `null` is none: every page can send that."""
    try:
        parts = urlsplit(text)
    except ValueError:  # brackets that do not fit
        return False
    return bool(parts.scheme and parts.netloc) and not (parts.path or parts.query or parts.fragment)


@dataclass(frozen=True)
class ServerSettings:
    """What the options of `edge-eds serve` say.

    port 0: any that is free. port_file: where the port is written once the server listens. api_key None: everybody
    who reaches the server may use it. cors: origins of web pages that may. queue: requests that may wait. max_tokens:
    the longest answer; max_body: bytes of a request; timeout: seconds of a request, its waiting included.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    port_file: Path | None = None
    api_key: str | None = None
    cors: tuple[str, ...] = ()
    parallel: int = 1
    queue: int = 16
    max_tokens: int = 4096
    max_body: int = 4 * 1024 * 1024
    timeout: float = 600.0
    temperature: float = 0.0
    seed: int | None = None
    alias: str | None = None

    def __post_init__(self) -> None:
        check_range("--port", self.port, 0, 65535)
        check_range("--parallel", self.parallel, 1, MAX_PARALLEL)
        check_range("--queue", self.queue, 0, 10_000)
        check_range("--max-tokens", self.max_tokens, 1, MAX_INT)
        check_range("--max-body", self.max_body, 1024, 2**30)
        if not (math.isfinite(self.timeout) and 0 < self.timeout <= 86_400):
            raise SettingsError(f"--timeout is {self.timeout:g}, expected seconds above 0 and at most 86400")
        if not self.host.strip():
            raise SettingsError("--host is empty, expected an address such as 127.0.0.1")
        if self.api_key is not None and not (self.api_key.strip() and self.api_key.isascii()):
            raise SettingsError("--api-key is empty or has letters beyond ASCII, which no HTTP header can carry")
        if self.alias is not None and (not self.alias.strip() or ":" in self.alias):
            raise SettingsError(f"--alias is {self.alias!r}, expected a name without a colon")
        for origin in self.cors:
            if origin != "*" and not is_origin(origin):
                raise SettingsError(f"--cors is {origin!r}, expected an origin such as https://example.org, or *")

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches the server."""
        return self.host in _LOOPBACK
