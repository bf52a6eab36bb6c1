"""A server that speaks the part of a Hugging Face hub's protocol that downloading needs, on 127.0.0.1.

HubServer holds repositories in memory and remembers what it was asked. It answers, like the hub, with
    GET  /api/models/USER/REPO                              the commit
    GET  /api/models/USER/REPO/tree/COMMIT?recursive=true   the files, with SHA-256 of the large ones
    HEAD /USER/REPO/resolve/COMMIT/PATH                     commit, ETag and size; large files are elsewhere:
    GET  /blobs/SHA256                                      the bytes, also from the middle (Range)
on the host localhost, and not 127.0.0.1, as the hub has another host for them. Without `redirects` a file comes from
where it was asked for, as from a simple mirror. Faults are settings: break_after (bytes after which the connection is
cut, one for each request), pause (seconds before the last byte), spoil (another last byte), status of every answer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from time import sleep
from typing import Any

LARGE = 1000  # bytes from which a file is kept as the hub keeps large files
TOKEN = "hf_" + "x" * 34


@dataclass
class Repository:
    """files: path -> content, in the hub's order. access: public | private | gated."""

    files: dict[str, bytes]
    access: str = "public"
    commit: str = "1" * 40


@dataclass
class HubServer:
    """What the server holds, and what it was asked: (method, path, first byte, whether a token came along)."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    url: str = ""
    asked: list[tuple[str, str, int, bool]] = field(default_factory=list)
    break_after: list[int] = field(default_factory=list)
    status: int = 200
    redirects: bool = True
    spoil: bool = False
    pause: float = 0.0

    def fetched(self) -> list[int]:
        """First bytes of the files that were asked for."""
        return [first for method, path, first, _ in self.asked if method == "GET" and not path.startswith("/api/")]


@contextmanager
def hub_server() -> Iterator[HubServer]:
    """A hub that answers until the block ends."""
    hub = HubServer()

    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing on stderr: a client that was killed is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def log_message(self, *_: Any) -> None:
        """Nothing on stderr."""

    def _answer(self) -> None:
        path = self.path.partition("?")[0]
        self.hub.asked.append((self.command, path, self._first_byte(), self._token() is not None))
        if self.hub.status != 200:
            self._send(self.hub.status, b"{}")
        elif path.startswith("/blobs/"):
            self._blob(path.rpartition("/")[2])
        else:
            self._repository([part for part in path.split("/") if part])

    def _repository(self, parts: list[str]) -> None:
        if parts[:2] == ["api", "models"]:
            parts = parts[2:]
        repo = self.hub.repositories.get("/".join(parts[:2]))
        token = self._token()
        if token is not None and token != TOKEN:
            self._refuse(401, "", "Invalid credentials in Authorization header")
        elif repo is None or (repo.access == "private" and token is None):
            self._refuse(401 if token is None else 404, "RepoNotFound", "Repository not found")
        elif len(parts) == 2:
            self._json({"id": "/".join(parts), "sha": repo.commit, "siblings": [], "private": False})
        elif parts[2] == "tree":
            self._json([_entry(path, content) for path, content in repo.files.items()])
        elif repo.access == "gated" and token is None:
            self._refuse(401, "GatedRepo", "Access to this model is restricted")
        elif "/".join(parts[4:]) not in repo.files:
            self._refuse(404, "EntryNotFound", "Entry not found")
        else:
            self._file(repo, "/".join(parts[4:]))

    def _file(self, repo: Repository, path: str) -> None:
        content = repo.files[path]
        headers = {"X-Repo-Commit": repo.commit, "ETag": f'"{_git_hash(content)}"'}
        if len(content) < LARGE:
            self._send(200, content, headers)
            return
        digest = hashlib.sha256(content).hexdigest()
        headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(content))}
        if not self.hub.redirects:
            self._bytes(content, headers)
            return
        place = f"{self.hub.url.replace('127.0.0.1', 'localhost')}/blobs/{digest}"
        self._send(302, b"", {**headers, "Location": place})

    def _blob(self, digest: str) -> None:
        contents = [content for repo in self.hub.repositories.values() for content in repo.files.values()]
        self._bytes(next(content for content in contents if hashlib.sha256(content).hexdigest() == digest), {})

    def _bytes(self, content: bytes, headers: dict[str, str]) -> None:
        if self.hub.spoil:
            content = content[:-1] + bytes([content[-1] ^ 1])
        first = self._first_byte()
        self.send_response(206 if first else 200)
        for name, value in {**headers, "Content-Length": str(len(content) - first)}.items():
            self.send_header(name, value)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.hub.break_after:
            self.wfile.write(content[first : first + self.hub.break_after.pop(0)])
            self.close_connection = True
            return
        self.wfile.write(content[first:-1])
        sleep(self.hub.pause)
        self.wfile.write(content[-1:])

    def _refuse(self, status: int, code: str, message: str) -> None:
        self._send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": message})

    def _json(self, document: Any) -> None:
        self._send(200, json.dumps(document).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _first_byte(self) -> int:
        return int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])

    def _token(self) -> str | None:
        value = self.headers.get("Authorization")
        return None if value is None else value.removeprefix("Bearer ")


def _entry(path: str, content: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": _git_hash(content)}
    if len(content) >= LARGE:
        digest = hashlib.sha256(content).hexdigest()
        entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 134}
    return entry


def _git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
