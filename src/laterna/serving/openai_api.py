"""The OpenAI chat API over HTTP: one assistant, one engine, many clients.

A request's path: body within its limits -> `protocol.read_request` -> images through `intake` ->
`Engine.submit` -> events -> chunks, or one body. Whoever goes away is cancelled.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from msgspec.structs import replace
from PIL import Image

from laterna.data.chat import UnusableError
from laterna.errors import LaternaError
from laterna.inference.batching.request import EngineStoppedError, Event
from laterna.inference.batching.request import Request as Asked
from laterna.inference.engine import Engine, QueueFullError, TooLongError
from laterna.inference.sampling import Token
from laterna.serving.door import LOG, Door, ServerSettings, new_app
from laterna.serving.explain_api import add_explain
from laterna.serving.metrics import Metrics
from laterna.serving.protocol import Answers, ApiError, ChatRequest, read_request, refuse, sent

_FINISH = {"stop": "stop", "length": "length", "cancelled": "stop", "deadline": "length"}
"""The API's words for why an answer ended."""


class Api(Door):
    """The routes that ask an engine, and what they share."""

    def __init__(self, engine: Engine, settings: ServerSettings) -> None:
        super().__init__(settings)
        self.engine = engine
        self.metrics = Metrics(engine)
        # One thread, so that requests keep their order; not the threads that fetch images, which
        # slow hosts may hold.
        self._submitter = ThreadPoolExecutor(1, thread_name_prefix="submit")

    async def chat(self, request: Request) -> Response:
        """Answer `/v1/chat/completions`."""
        self.admit(request)
        asked = read_request(await self._body(request))
        self._known(asked.model)
        self.log_prompt(request, asked)
        submitted = await self.with_images(asked, partial(self._submit, asked))
        answers = Answers(
            f"chatcmpl-{request.scope['request_id']}",
            int(time.time()),
            self.settings.name,
            self._show,
            logprobs=asked.decoding.logprobs is not None,
        )
        if asked.stream:
            stream = self._stream(request, submitted, answers, asked)
            return StreamingResponse(stream, media_type="text/event-stream")
        return JSONResponse(await self._whole(request, submitted, answers))

    async def health(self, _: Request) -> Response:
        """Say whether answers can be had."""
        alive = self.engine.alive
        return JSONResponse({"status": "ok" if alive else "stopped"}, 200 if alive else 503)

    async def figures(self, _: Request) -> Response:
        """Return the figures for Prometheus."""
        return Response(self.metrics.page(), media_type=self.metrics.media_type)

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
            self._ended(request, submitted)
        return answers.whole(choices, self._usage(submitted, answers))

    async def _stream(
        self,
        request: Request,
        submitted: Sequence[Asked],
        answers: Answers,
        asked: ChatRequest,
    ) -> AsyncIterator[str]:
        try:
            for index in range(len(submitted)):
                yield sent(answers.first(index))
            async for index, event in _merged(submitted):
                if event.text or event.tokens:
                    yield sent(answers.chunk(index, event))
                if event.finish is not None:
                    yield sent(answers.last(index, _FINISH[event.finish]))
            if asked.usage:
                yield sent(answers.closing(self._usage(submitted, answers)))
        except Exception as error:  # noqa: BLE001  to the log, and told
            LOG.exception("stream ended")
            yield sent(_told(error).body())
        finally:
            self._ended(request, submitted)
        yield "data: [DONE]\n\n"

    def _usage(self, submitted: Sequence[Asked], answers: Answers) -> dict[str, Any]:
        return answers.usage(
            len(submitted[0].ids),
            sum(len(one.tokens) for one in submitted),
            submitted[0].cached,
        )

    def _ended(self, request: Request, submitted: Sequence[Asked]) -> None:
        for one in submitted:
            one.cancel()
            self.metrics.ended(one)
        told = request.scope["told"]
        told["prompt_tokens"] = len(submitted[0].ids)
        told["completion_tokens"] = sum(len(one.tokens) for one in submitted)
        told["finish"] = ",".join(one.finish or "cancelled" for one in submitted)
        if self.settings.log_prompts:
            decode = self.engine.model.tokenizer.decode
            told["answers"] = [
                decode([token.id for token in one.tokens], skip_special_tokens=True)
                for one in submitted
            ]


def create_app(engine: Engine, settings: ServerSettings | None = None) -> FastAPI:
    """Return the application; the engine's end is the caller's."""
    api = Api(engine, settings or ServerSettings())
    app = new_app(api)
    app.add_route("/v1/chat/completions", api.chat, methods=["POST"])
    add_explain(app, api, _told)
    app.add_route("/health", api.health, methods=["GET"])
    app.add_route("/metrics", api.figures, methods=["GET"])
    return app


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
