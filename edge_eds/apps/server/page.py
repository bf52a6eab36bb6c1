"""The page at `/`: the files in page/ as they are, under the rule that nothing is loaded from outside."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI, Response
from fastapi.responses import FileResponse
from starlette.staticfiles import StaticFiles

FOLDER = Path(__file__).parent / "page"
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def add_page(app: FastAPI) -> None:
    """`/` is page/index.html, and /static/ the folder itself."""

    @app.get("/")
    async def page() -> Response:
        return FileResponse(FOLDER / "index.html", headers=_HEADERS)

    app.mount("/static", StaticFiles(directory=FOLDER))
