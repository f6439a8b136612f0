"""The page: static files of `web/`, which talk to the public API alone."""

from __future__ import annotations

import sys
import threading
import time
import webbrowser
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response

FOLDER = Path(__file__).parent / "web"
KINDS = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
HEADERS = {
    # Nothing from elsewhere, nothing inline: what a model writes cannot become a script.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def add_page(app: FastAPI) -> None:
    """Serve `index.html` at `/` and the other files under `/web/`.

    They hold no secret, so they are given without the API key; the page asks a person for it.
    """
    for file in sorted(FOLDER.iterdir()):
        path = "/" if file.name == "index.html" else f"/web/{file.name}"
        app.add_route(path, _giver(file.read_bytes(), KINDS[file.suffix]), methods=["GET"])


def _giver(content: bytes, kind: str) -> Callable[[Request], Awaitable[Response]]:
    async def give(_: Request) -> Response:
        return Response(content, media_type=kind, headers=HEADERS)

    return give


def open_page(server: Any, address: str) -> threading.Thread:
    """Open the page in a browser as soon as a server (of uvicorn's) listens; returns at once."""

    def wait_and_open() -> None:
        while not (server.started or server.should_exit):
            time.sleep(0.05)
        if server.started and not webbrowser.open(address):
            sys.stderr.write(f"no browser could be opened; go to {address}\n")

    thread = threading.Thread(target=wait_and_open, daemon=True)
    thread.start()
    return thread
