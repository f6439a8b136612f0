"""`/v1/explain`: what in an image an answer hangs on, over the same door as the chat.

The work is done in pieces by the engine, between its steps; one explanation at a time asks for
them, from a thread of its own.
"""

from __future__ import annotations

import asyncio
import base64
import io
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol

import msgspec
from fastapi import FastAPI, Request, Response
from PIL import Image

from laterna.inference.engine import Engine
from laterna.inference.explain import METHODS, explain
from laterna.inference.explanation import Asked, Explanation, View
from laterna.serving.door import Room
from laterna.serving.protocol import (
    ApiError,
    ChatRequest,
    ExplainRequest,
    read_explain_request,
    refuse,
)

WAITING = 8
"""Explanations that may wait for the one that is being made; more are told to come again."""


class Server(Protocol):
    """What the route shares with the others: the engine, the limits, and how requests are read."""

    engine: Engine
    settings: Any

    def admit(self, request: Request) -> None:
        """Raise ApiError for a request without the key."""
        ...

    def _known(self, model: str | None) -> None: ...

    async def _body(self, request: Request) -> bytes: ...

    async def with_images(
        self,
        asked: ChatRequest,
        use: Callable[[Sequence[Image.Image]], Awaitable[bytes]],
        room: Room | None = None,
    ) -> bytes:
        """Open a request's images and hand them on."""
        ...


class ExplainRoute:
    """Answers `/v1/explain`; `told` turns an error into what a client is told of it."""

    def __init__(self, server: Server, told: Callable[[BaseException], ApiError]) -> None:
        self._server, self._told = server, told
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="explain")
        # Of its own: an explanation may take minutes, and chats are not to wait for it.
        self._room = Room(server.settings.images.request_pixels)
        self._going = 0

    async def __call__(self, request: Request) -> Response:
        """Explain, within the time of an answer, unless the client goes away."""
        server = self._server
        server.admit(request)
        asked = read_explain_request(await server._body(request), METHODS)
        server._known(asked.chat.model)
        if self._going > WAITING:
            raise ApiError(
                429,
                f"{WAITING} explanations wait, which is all that may; try again later",
                code="queue_full",
                retry=5,
            )
        self._going += 1
        try:
            explained = partial(self._explained, request, asked)
            found = await server.with_images(asked.chat, explained, self._room)
        finally:
            self._going -= 1
        return Response(found, media_type="application/json")

    async def _explained(
        self, request: Request, asked: ExplainRequest, images: Sequence[Image.Image]
    ) -> bytes:
        gone = threading.Event()
        seconds = float(self._server.settings.answer_seconds)
        until = time.monotonic() + seconds

        def proceed() -> None:
            if gone.is_set():
                raise ApiError(499, "the client has gone", code="client_closed_request")
            if time.monotonic() >= until:
                raise refuse(
                    f"the explanation takes longer than {seconds:g} seconds; give a larger window",
                    "window",
                    "explanation_too_long",
                )

        def work() -> bytes:
            chat = asked.chat
            found = explain(
                self._server.engine,
                Asked(
                    chat.turns,
                    images,
                    asked.answer,
                    asked.image,
                    asked.methods,
                    asked.window,
                    chat.decoding.max_new_tokens,
                ),
                proceed,
            )
            return msgspec.json.encode(body_of(found, self._server.settings.name))

        working = asyncio.get_running_loop().run_in_executor(self._pool, work)
        try:
            while not working.done():
                await asyncio.wait([working], timeout=0.1)
                if not working.done() and await request.is_disconnected():
                    gone.set()
            return working.result()
        except Exception as error:
            raise self._told(error) from error
        finally:
            gone.set()


def add_explain(app: FastAPI, server: Server, told: Callable[[BaseException], ApiError]) -> None:
    """Add the route to an application."""
    app.add_route("/v1/explain", ExplainRoute(server, told).__call__, methods=["POST"])


def body_of(found: Explanation, model: str) -> dict[str, Any]:
    """Return the body of an explanation; methods that were not asked for are absent."""
    image = found.image
    views = [_view(view) for view in image.views]
    methods = {name: getattr(found, name) for name in METHODS}
    return {
        "object": "explanation",
        "model": model,
        "prompt": found.prompt,
        "prompt_tokens": found.prompt_tokens,
        "answer": found.answer,
        "tokens": found.tokens,
        "image": {"index": image.index, **views[0], "views": views, "tokens": image.tokens},
        **{name: value for name, value in methods.items() if value is not None},
    }


def _view(view: View) -> dict[str, Any]:
    data = io.BytesIO()
    view.image.save(data, "PNG")
    return {
        "width": view.image.width,
        "height": view.image.height,
        "data": "data:image/png;base64," + base64.b64encode(data.getvalue()).decode("ascii"),
        "grid": {"rows": view.rows, "columns": view.columns},
    }
