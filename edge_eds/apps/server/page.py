"""The page at `/`: the files in page/ as they are, under the rule that nothing is loaded from outside.

Types are named here and not looked up, since browsers refuse a script whose type is wrong, and systems differ.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI, HTTPException, Response
from fastapi.responses import FileResponse

FOLDER = Path(__file__).parent / "page"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def add_page(app: FastAPI) -> None:
    """`/` is page/index.html, and /static/NAME the other files of the folder."""
    files = {path.name: path for path in FOLDER.iterdir() if path.suffix in TYPES}

    def answer(path: Path) -> Response:
        return FileResponse(path, media_type=TYPES[path.suffix], headers=_HEADERS)

    @app.get("/")
    async def page() -> Response:
        return answer(files["index.html"])

    @app.get("/static/{name}")
    async def file(name: str) -> Response:
        if name not in files:
            raise HTTPException(404)
        return answer(files[name])
