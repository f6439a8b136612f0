"""What every server does before an engine is asked, and what it writes down afterwards.

A request is admitted by its key, its body and images are read within their limits, and one line
of JSON says how it ended. Routes are added by whoever has an engine to answer with.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from PIL import Image
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from laterna.records import Record
from laterna.serving.intake import (
    IntakeSettings,
    RefusedImageError,
    decode_image,
    image_size,
    read_image,
)
from laterna.serving.listening import is_own
from laterna.serving.page import add_page
from laterna.serving.protocol import ApiError, ChatRequest, refuse
from laterna.version import __version__

Result = TypeVar("Result")
LOG = logging.getLogger("laterna.serve")
_QUIET = frozenset({"/health", "/metrics"})
"""Asked every few seconds by what watches a server: logged only where they fail."""


class ServerSettings(Record):
    """Limits of the server."""

    name: str = "laterna"
    """The model's name in requests and answers."""
    key: str = ""
    """API key that every request must bring; empty: none."""
    max_body: int = 50 * 10**6
    """Bytes of a request's body (OpenAI's own limit)."""
    body_seconds: float = 30.0
    """Until a body must be there."""
    answer_seconds: float = 600.0
    """Until an answer is ended where it stands."""
    images: IntakeSettings = IntakeSettings()
    log_prompts: bool = False
    """Whether the log holds what was asked and answered; images never are in it."""


class JsonLines(logging.Formatter):
    """Writes each record as one line of JSON: its `told`, or else its message."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        moment = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, Any] = {"time": moment.isoformat(timespec="milliseconds")}
        told = getattr(record, "told", None)
        line |= told or {"level": record.levelname.lower(), "message": record.getMessage()}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


class OneSlash:
    """Reads `/v1//models` and `/v1/models/` as `/v1/models`: some clients join addresses so."""

    def __init__(self, app: ASGIApp) -> None:
        """Stand before an application."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand on with a clean path."""
        if scope["type"] == "http":
            path = re.sub("/{2,}", "/", scope["path"])
            scope = {**scope, "path": path.rstrip("/") or "/"}
        await self._app(scope, receive, send)


class OwnNames:
    """Answers only who calls the server by a name of this machine, and only its own pages.

    For servers without a key. A page from elsewhere can give its own name the address 127.0.0.1
    (DNS rebinding), and can send a chat to this machine without asking anyone (cross-site request
    forgery); the headers Host and Origin tell, for no page can write them.
    """

    def __init__(self, app: ASGIApp) -> None:
        """Stand before an application."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand on, or answer 403."""
        if scope["type"] != "http" or not (why := _foreign(Headers(scope=scope))):
            await self._app(scope, receive, send)
            return
        scope.get("told", {})["error"] = "foreign_host"
        refused = ApiError(
            403,
            f"{why}; a server without an API key answers this machine alone, as localhost or "
            "127.0.0.1",
            code="foreign_host",
        )
        await JSONResponse(refused.body(), 403)(scope, receive, send)


def _foreign(headers: Headers) -> str:
    """Say what in a request is not of this machine; empty: nothing."""
    if not all(map(is_own, map(_host_of, headers.getlist("host") or [""]))):
        return f"the header Host ({headers.get('host', '')[:100]!r}) is no name of this machine"
    for origin in headers.getlist("origin"):
        if not is_own(_host_of(origin.partition("://")[2])):
            return f"the header Origin ({origin[:100]!r}) names a page from elsewhere"
    return ""


def _host_of(netloc: str) -> str:
    """Return the host of `host`, `host:port` or `[host]:port`; empty where it is none of these."""
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:@/\[\]]+))(?::\d*)?", netloc)
    return (found[1] or found[2]).lower() if found else ""


class Logged:
    """Gives each request an id (header `x-request-id`) and writes a line of JSON at its end.

    Routes add what they know to `request.scope["told"]`.
    """

    def __init__(self, app: ASGIApp) -> None:
        """Stand before an application."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand on, and log."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, name, status = time.monotonic(), uuid.uuid4().hex, 0
        told: dict[str, Any] = {}

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message.get("headers", ()), (b"x-request-id", name.encode())]
                message = {**message, "headers": headers}
            await send(message)

        try:
            await self._app({**scope, "told": told, "request_id": name}, receive, note)
        except asyncio.CancelledError:  # the grace time is over; uvicorn closes the connection
            told["error"] = "cut_off"
        except Exception:
            status = 500
            raise
        finally:
            if status != 200 or scope["path"] not in _QUIET:
                line = {
                    "id": name,
                    "route": f"{scope['method']} {scope['path']}"[:100],
                    "status": status,
                    "seconds": round(time.monotonic() - begun, 3),
                }
                LOG.info("request", extra={"told": {**line, **told}})


class Room:
    """Lets so many pixels be open at once, in order of arrival; no request has more than `most`."""

    def __init__(self, most: int) -> None:
        self._most, self._taken = most, 0
        self._line, self._freed = asyncio.Lock(), asyncio.Event()

    @asynccontextmanager
    async def of(self, pixels: int) -> AsyncIterator[None]:
        """Wait until there is room for so many, and hold it."""
        async with self._line:
            while self._taken and self._taken + pixels > self._most:
                self._freed.clear()
                await self._freed.wait()
            self._taken += pixels
        try:
            yield
        finally:
            self._taken -= pixels
            self._freed.set()


class Door:
    """Admits requests, reads them, and describes the one model."""

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self.created = int(time.time())
        self._room = Room(settings.images.request_pixels)

    async def models(self, request: Request) -> Response:
        """List the one model."""
        self.admit(request)
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def model(self, request: Request) -> Response:
        """Describe one model."""
        self.admit(request)
        self._known(request.path_params["name"])
        return JSONResponse(self._model())

    async def version(self, _: Request) -> Response:
        """Say which Laterna answers."""
        return JSONResponse({"version": __version__})

    def admit(self, request: Request) -> None:
        """Raise ApiError for a request without the key, where one is asked for."""
        given = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        key = self.settings.key
        if key and not hmac.compare_digest(given.encode(), key.encode()):
            raise ApiError(401, "the API key is missing or wrong", code="invalid_api_key")

    def _known(self, model: str | None) -> None:
        if model not in (None, "", self.settings.name):
            raise ApiError(
                404,
                f"the model {model[:100]!r} is not served here; it is {self.settings.name!r}",
                code="model_not_found",
                param="model",
            )

    def _model(self) -> dict[str, Any]:
        return {
            "id": self.settings.name,
            "object": "model",
            "created": self.created,
            "owned_by": "laterna",
        }

    async def _body(self, request: Request) -> bytes:
        body = bytearray()
        try:
            async with asyncio.timeout(self.settings.body_seconds):
                async for piece in request.stream():
                    body += piece
                    if len(body) > self.settings.max_body:
                        raise ApiError(
                            413,
                            f"the body has more than {self.settings.max_body:,} bytes",
                            code="request_too_large",
                        )
        except TimeoutError as error:
            raise ApiError(408, "the body did not come in time", code="request_timeout") from error
        return bytes(body)

    async def with_images(
        self,
        asked: ChatRequest,
        use: Callable[[Sequence[Image.Image]], Awaitable[Result]],
        room: Room | None = None,
    ) -> Result:
        """Open a request's images, hand them on, and let them go.

        They are fetched first, which may take its time, and opened when there is `room`, by
        default that of the chats. Raises ApiError for an image that is refused.
        """
        limits = self.settings.images
        sent: dict[str, tuple[int, bytes]] = {}
        pixels = 0
        for number, address in enumerate(asked.addresses):
            if address in sent:
                continue  # earlier images come again with every turn
            content = await _taken(number, read_image, address, limits)
            width, height = await _taken(number, image_size, content, limits)
            sent[address], pixels = (number, content), pixels + width * height
            if pixels > limits.request_pixels:
                raise refuse(
                    f"the images have more than {limits.request_pixels:,} pixels in all; send "
                    "fewer or smaller ones",
                    "messages",
                    "image_too_large",
                )
        if not sent:
            return await use([])
        async with (room or self._room).of(pixels):
            opened = {
                address: await _taken(number, decode_image, content, limits)
                for address, (number, content) in sent.items()
            }
            return await use([opened[address] for address in asked.addresses])

    def log_prompt(self, request: Request, asked: ChatRequest) -> None:
        """Write down what is asked, where the server's owner wants that; images as marks."""
        if self.settings.log_prompts:
            turns = [{"role": turn.role, "text": turn.text} for turn in asked.turns]
            request.scope["told"]["messages"] = turns


async def _taken(
    number: int, work: Callable[[Any, IntakeSettings], Result], given: Any, limits: IntakeSettings
) -> Result:
    """Do a piece of work on an image in a thread; what refuses it becomes an ApiError."""
    try:
        return await asyncio.to_thread(work, given, limits)
    except RefusedImageError as error:
        raise refuse(f"image {number + 1}: {error}", "messages", error.code) from error


def new_app(door: Door) -> FastAPI:
    """Return an application with the model's routes, a log, and errors in the API's form."""
    app = FastAPI(title="Laterna", version=__version__, docs_url=None, redoc_url=None,
                  openapi_url=None, redirect_slashes=False)  # fmt: skip
    if not door.settings.key:
        app.add_middleware(OwnNames)
    app.add_middleware(OneSlash)
    app.add_middleware(Logged)
    app.add_route("/v1/models", door.models, methods=["GET"])
    app.add_route("/v1/models/{name:path}", door.model, methods=["GET"])
    app.add_route("/version", door.version, methods=["GET"])
    add_page(app)
    app.add_exception_handler(ApiError, _answer_error)
    app.add_exception_handler(ClientDisconnect, _answer_nobody)
    app.add_exception_handler(404, _answer_unknown)
    app.add_exception_handler(405, _answer_unknown)
    app.add_exception_handler(Exception, _answer_fault)
    app.state.api = door
    return app


async def _answer_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    headers = {"Retry-After": str(error.retry)} if error.retry else {}
    request.scope["told"]["error"] = error.code
    return JSONResponse(error.body(), error.status, headers=headers)


async def _answer_nobody(request: Request, _: Exception) -> Response:
    return await _answer_error(
        request, ApiError(499, "the client has gone", code="client_closed_request")
    )


async def _answer_unknown(request: Request, error: Exception) -> Response:
    status = int(getattr(error, "status_code", 404))
    what = f"{request.method} {request.url.path[:100]}"
    return JSONResponse(
        ApiError(status, f"{what}: no such route", code="unknown_url").body(), status
    )


async def _answer_fault(_: Request, __: Exception) -> Response:
    fault = ApiError(500, "the server failed; its log says how", code="internal_error")
    return JSONResponse(fault.body(), 500)
