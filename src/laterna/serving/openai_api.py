"""The OpenAI chat API over HTTP: one assistant, one engine, many clients.

A request's path: body within its limits -> `protocol.read_request` -> images through `intake` ->
`Engine.submit` -> events -> chunks, or one body. Whoever goes away is cancelled.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from msgspec.structs import replace
from PIL import Image
from starlette.types import ASGIApp, Receive, Scope, Send

from laterna.data.chat import UnusableError
from laterna.errors import LaternaError
from laterna.inference.engine import Engine, QueueFullError, TooLongError
from laterna.inference.request import EngineStoppedError, Event
from laterna.inference.request import Request as Asked
from laterna.inference.sampling import Token
from laterna.records import Record
from laterna.serving.intake import IntakeSettings, RefusedImageError, open_image
from laterna.serving.metrics import Metrics
from laterna.serving.protocol import Answers, ApiError, ChatRequest, read_request, refuse
from laterna.version import __version__

LOG = logging.getLogger("laterna.serve")
_FINISH = {"stop": "stop", "length": "length", "cancelled": "stop", "deadline": "length"}
"""The API's words for why an answer ended."""


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


class OneSlash:
    """Reads `/v1//models` as `/v1/models`: some clients join addresses so."""

    def __init__(self, app: ASGIApp) -> None:
        """Stand before an application."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand on with a clean path."""
        if scope["type"] == "http":
            scope = {**scope, "path": re.sub("/{2,}", "/", scope["path"])}
        await self._app(scope, receive, send)


class Api:
    """The routes and what they share."""

    def __init__(self, engine: Engine, settings: ServerSettings) -> None:
        self.engine, self.settings = engine, settings
        self.metrics = Metrics(engine)
        self.created = int(time.time())
        # One thread, so that requests keep their order; not the threads that fetch images, which
        # slow hosts may hold.
        self._submitter = ThreadPoolExecutor(1, thread_name_prefix="submit")

    async def chat(self, request: Request) -> Response:
        """Answer `/v1/chat/completions`."""
        self.admit(request)
        asked = read_request(await self._body(request))
        self._known(asked.model)
        images = await self._images(asked)
        submitted = await self._submit(asked, images)
        name = f"chatcmpl-{uuid.uuid4().hex}"
        answers = Answers(
            name,
            int(time.time()),
            self.settings.name,
            self._show,
            logprobs=asked.decoding.logprobs is not None,
        )
        if asked.stream:
            stream = self._stream(submitted, answers, asked)
            return StreamingResponse(stream, media_type="text/event-stream")
        return JSONResponse(await self._whole(request, submitted, answers))

    async def models(self, request: Request) -> Response:
        """List the one model."""
        self.admit(request)
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def model(self, request: Request) -> Response:
        """Describe one model."""
        self.admit(request)
        self._known(request.path_params["name"])
        return JSONResponse(self._model())

    async def health(self, _: Request) -> Response:
        """Say whether answers can be had."""
        alive = self.engine.alive
        return JSONResponse({"status": "ok" if alive else "stopped"}, 200 if alive else 503)

    async def version(self, _: Request) -> Response:
        """Say which Laterna answers."""
        return JSONResponse({"version": __version__})

    async def figures(self, _: Request) -> Response:
        """Return the figures for Prometheus."""
        return Response(self.metrics.page(), media_type=self.metrics.media_type)

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

    async def _images(self, asked: ChatRequest) -> list[Image.Image]:
        opened: dict[str, Image.Image] = {}
        for number, address in enumerate(asked.addresses):
            if address in opened:
                continue  # earlier images come again with every turn
            try:
                opened[address] = await asyncio.to_thread(open_image, address, self.settings.images)
            except RefusedImageError as error:
                place = f"image {number + 1}: "
                raise refuse(place + str(error), "messages", error.code) from error
        return [opened[address] for address in asked.addresses]

    async def _submit(self, asked: ChatRequest, images: Sequence[Image.Image]) -> list[Asked]:
        """Hand a request to the engine; others' streams go on while it is made ready."""
        taking = self._submitter.submit(self._take, asked, images)
        try:
            return await asyncio.wrap_future(taking)
        except asyncio.CancelledError:
            taking.add_done_callback(_cancel)
            raise
        except Exception as error:
            raise _told(error) from error

    def _take(self, asked: ChatRequest, images: Sequence[Image.Image]) -> list[Asked]:
        decoding, submitted = asked.decoding, list[Asked]()
        try:
            for number in range(asked.choices):
                if decoding.seed is not None and number:
                    decoding = replace(decoding, seed=(decoding.seed + 1) % 2**63)
                most = self.settings.answer_seconds
                submitted.append(
                    self.engine.submit(asked.turns, images, decoding, deadline=most, fit=True)
                )
        except BaseException:
            for one in submitted:
                one.cancel()
            raise
        return submitted

    def _show(self, token: int) -> str:
        text: str = self.engine.model.tokenizer.decode([token])
        return text

    async def _whole(
        self, request: Request, submitted: Sequence[Asked], answers: Answers
    ) -> dict[str, Any]:
        gathering = asyncio.ensure_future(_all(submitted))
        gone = asyncio.ensure_future(_gone(request))
        try:
            await asyncio.wait([gathering, gone], return_when=asyncio.FIRST_COMPLETED)
            if not gathering.done():
                raise ApiError(499, "the client has gone", code="client_closed_request")
            choices = await gathering
        except EngineStoppedError as error:
            raise _told(error) from error
        finally:
            gone.cancel()
            gathering.cancel()
            self._ended(submitted)
        return answers.whole(choices, self._usage(submitted, answers))

    async def _stream(
        self, submitted: Sequence[Asked], answers: Answers, asked: ChatRequest
    ) -> AsyncIterator[str]:
        try:
            for index in range(len(submitted)):
                yield _sent(answers.first(index))
            async for index, event in _merged(submitted):
                if event.text or event.tokens:
                    yield _sent(answers.chunk(index, event))
                if event.finish is not None:
                    yield _sent(answers.last(index, _FINISH[event.finish]))
            if asked.usage:
                yield _sent(answers.closing(self._usage(submitted, answers)))
        except Exception as error:
            LOG.exception("stream ended")
            yield _sent(_told(error).body())
        finally:
            self._ended(submitted)
        yield "data: [DONE]\n\n"

    def _usage(self, submitted: Sequence[Asked], answers: Answers) -> dict[str, Any]:
        return answers.usage(
            len(submitted[0].ids),
            sum(len(one.tokens) for one in submitted),
            submitted[0].cached,
        )

    def _ended(self, submitted: Sequence[Asked]) -> None:
        for one in submitted:
            one.cancel()
            self.metrics.ended(one)
            LOG.info(
                json.dumps(
                    {
                        "request": one.number,
                        "prompt_tokens": len(one.ids),
                        "completion_tokens": len(one.tokens),
                        "finish": one.finish or "cancelled",
                        "seconds": round(time.monotonic() - one.arrived, 3),
                    }
                )
            )


def create_app(engine: Engine, settings: ServerSettings | None = None) -> FastAPI:
    """Return the application; the engine's end is the caller's."""
    api = Api(engine, settings or ServerSettings())
    app = FastAPI(title="Laterna", version=__version__, docs_url=None, redoc_url=None,
                  openapi_url=None)  # fmt: skip
    app.add_middleware(OneSlash)
    app.add_route("/v1/chat/completions", api.chat, methods=["POST"])
    app.add_route("/v1/models", api.models, methods=["GET"])
    app.add_route("/v1/models/{name:path}", api.model, methods=["GET"])
    app.add_route("/health", api.health, methods=["GET"])
    app.add_route("/version", api.version, methods=["GET"])
    app.add_route("/metrics", api.figures, methods=["GET"])
    app.add_exception_handler(ApiError, _answer_error)
    app.add_exception_handler(404, _answer_unknown)
    app.add_exception_handler(405, _answer_unknown)
    app.add_exception_handler(Exception, _answer_fault)
    app.state.api = api
    return app


async def _answer_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    headers = {"Retry-After": str(error.retry)} if error.retry else {}
    return JSONResponse(error.body(), error.status, headers=headers)


async def _answer_unknown(request: Request, error: Exception) -> Response:
    status = int(getattr(error, "status_code", 404))
    what = f"{request.method} {request.url.path[:100]}"
    return JSONResponse(
        ApiError(status, f"{what}: no such route", code="unknown_url").body(), status
    )


async def _answer_fault(_: Request, __: Exception) -> Response:
    fault = ApiError(500, "the server failed; its log says how", code="internal_error")
    return JSONResponse(fault.body(), 500)


def _told(error: BaseException) -> ApiError:
    """Return what a client is told of an error of the engine's."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, QueueFullError):
        return ApiError(429, str(error), code="queue_full", retry=1)
    if isinstance(error, TooLongError):
        return refuse(str(error), "messages", "context_length_exceeded")
    if isinstance(error, EngineStoppedError):
        return ApiError(503, "the engine has stopped; it must be started again",
                        code="engine_stopped", retry=30)  # fmt: skip
    if isinstance(error, LaternaError | UnusableError):
        return refuse(str(error), "messages")
    return ApiError(500, "the server failed; its log says how", code="internal_error")


def _cancel(taking: Future[list[Asked]]) -> None:
    """Cancel what was taken for somebody who has gone meanwhile."""
    if not taking.cancelled() and taking.exception() is None:
        for one in taking.result():
            one.cancel()


def _sent(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False, separators=(',', ':'))}\n\n"


async def _all(submitted: Sequence[Asked]) -> list[tuple[str, str, list[Token]]]:
    return list(await asyncio.gather(*(_gathered(one) for one in submitted)))


async def _said(request: Asked) -> AsyncIterator[Event]:
    """Yield an answer's events without the blank that many templates put before its first word."""
    begun = False
    async for event in request:
        text = event.text if begun else event.text.lstrip()
        begun = begun or bool(text)
        yield event._replace(text=text)


async def _gathered(request: Asked) -> tuple[str, str, list[Token]]:
    """Wait for a whole answer: its text, its finish reason and the tokens that show."""
    text, tokens, finish = "", list[Token](), "stop"
    async for event in _said(request):
        text += event.text
        tokens.extend(event.tokens)
        finish = _FINISH[event.finish] if event.finish else finish
    return text, finish, tokens


async def _merged(submitted: Sequence[Asked]) -> AsyncIterator[tuple[int, Any]]:
    """Yield the events of several answers as they come."""
    if len(submitted) == 1:
        async for event in _said(submitted[0]):
            yield 0, event
        return
    news: asyncio.Queue[tuple[int, Any]] = asyncio.Queue()

    async def follow(index: int, request: Asked) -> None:
        try:
            async for event in _said(request):
                await news.put((index, event))
        except Exception as error:  # noqa: BLE001  told by whoever reads
            await news.put((index, error))

    tasks = [asyncio.create_task(follow(*pair)) for pair in enumerate(submitted)]
    try:
        going = len(tasks)
        while going:
            index, event = await news.get()
            if isinstance(event, Exception):
                raise event
            going -= event.finish is not None
            yield index, event
    finally:
        for task in tasks:
            task.cancel()


async def _gone(request: Request) -> None:
    while not await request.is_disconnected():
        await asyncio.sleep(0.1)
