"""Answers by llama.cpp: Laterna's own door in front, llama-cpp-python's server behind it.

That server opens every address that it is told, files of its machine too. So it runs as a child
that listens on loopback with a key of its own, and is handed images that `intake` has opened.
"""

from __future__ import annotations

import asyncio
import base64
import io
import os
import re
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, NamedTuple

import httpx2
import openai
from fastapi import Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from PIL import Image

from laterna.errors import LaternaError
from laterna.inference.batching.request import Event
from laterna.model.exporters.gguf import IMAGE_FILE, TEXT_FILE
from laterna.records import DEFAULT_IMAGE_TOKEN
from laterna.serving.door import LOG, Door, ServerSettings, new_app
from laterna.serving.listening import Listening, exported
from laterna.serving.protocol import Answers, ApiError, ChatRequest, read_request, refuse, sent
from laterna.serving.server import listen, require_packages, settings_of

MARK = "<__media__>"
"""What llama.cpp reads as an image, wherever it stands."""
NEEDS = ("llama_cpp", "pydantic_settings", "sse_starlette", "starlette_context")
_TOO_LONG = re.compile(r"exceed\w* (n_ctx|context window)")


class Child(NamedTuple):
    """The running server."""

    process: subprocess.Popen[bytes]
    url: str
    key: str
    said: deque[str]
    """The last lines of its standard error."""

    def listen(self) -> None:
        """Read what it says until it ends."""
        for line in self.process.stderr or ():
            self.said.append(line.decode(errors="replace"))

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self.process.poll() is None


def serve(listening: Listening) -> None:
    """Export a model to GGUF, once, and serve it until SIGTERM or Ctrl-C.

    Raises LaternaError when a package is missing, the format cannot hold the model, llama.cpp
    cannot read it, or the port is taken.
    """
    require_packages()
    if missing := [name for name in NEEDS if find_spec(name) is None]:
        raise LaternaError(
            f"--engine llama.cpp needs the package {missing[0]}; run "
            "`pip install 'llama-cpp-python[server]'` (it compiles for some minutes)"
        )
    folder = exported(listening.model, "gguf", "f16")
    with running(command(listening, str(folder / TEXT_FILE), str(folder / IMAGE_FILE))) as child:
        door = Behind(settings_of(listening), child, listening.queue)
        app = new_app(door)
        app.add_route("/v1/chat/completions", door.chat, methods=["POST"])
        app.add_route("/health", door.health, methods=["GET"])
        listen(app, listening)


def command(listening: Listening, text: str, images: str) -> list[str]:
    """Return the child's command line, but for where it listens."""
    options = {
        "model": text,
        "clip_model_path": images,
        "chat_format": "mtmd",  # renders the chat by the file's own template
        "model_alias": listening.name,
        "n_ctx": "0",  # the model's own length
        "logits_all": "false",  # or it keeps the logits of every position
        "interrupt_requests": "false",  # or a new request ends the one before
        "verbose": "false",
    }
    if listening.threads:
        options |= {"n_threads": str(listening.threads), "n_threads_batch": str(listening.threads)}
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    return [sys.executable, "-m", "laterna.serving.watched", "llama_cpp.server", *words]


@contextmanager
def running(words: Sequence[str]) -> Iterator[Child]:
    """Run the child until the end, ours by SIGKILL included (`watched`).

    Raises LaternaError when it does not come up.
    """
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    key = secrets.token_hex(16)
    left_out = ("HOST", "PORT", "CONFIG_FILE")  # these would overrule the command line
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    process = subprocess.Popen(
        [*words, "--host", "127.0.0.1", "--port", str(port)],
        env={**environment, "API_KEY": key},
        stdin=subprocess.PIPE,  # it ends when this does
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,  # read, for its end alone is shown: it holds every prompt
        start_new_session=True,  # Ctrl-C is for us: what is in flight may finish
    )
    child = Child(process, f"http://127.0.0.1:{port}/v1", key, deque(maxlen=12))
    reader = threading.Thread(target=child.listen, daemon=True)
    reader.start()
    try:
        _wait(child, port)
        yield child
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdin is not None:
            process.stdin.close()
        reader.join()


def _wait(child: Child, port: int) -> None:
    while child.alive:
        with socket.socket() as trial:
            if trial.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    time.sleep(0.1)  # for the last of what it says
    raise LaternaError(
        f"llama.cpp's server ended with status {child.process.returncode} before it could answer:\n"
        + "".join(child.said)
    )


class Behind(Door):
    """Hands requests on to a child, which answers one after another."""

    def __init__(self, settings: ServerSettings, child: Child, queue: int) -> None:
        super().__init__(settings)
        self._child, self._most, self._going = child, 1 + queue, 0
        # A connection that the child broke off must not be used again.
        self._client = openai.AsyncOpenAI(
            base_url=child.url,
            api_key=child.key,
            max_retries=0,
            timeout=None,
            default_headers={"Connection": "close"},
        )

    async def health(self, _: Request) -> Response:
        """Say whether answers can be had."""
        alive = self._child.alive
        return JSONResponse({"status": "ok" if alive else "stopped"}, 200 if alive else 503)

    async def chat(self, request: Request) -> Response:
        """Answer `/v1/chat/completions`."""
        self.admit(request)
        asked = read_request(await self._body(request))
        self._known(asked.model)
        _require_plain(asked)
        self.log_prompt(request, asked)
        body = await self.with_images(asked, lambda images: asyncio.to_thread(_body, asked, images))
        if self._going >= self._most:
            raise ApiError(
                429, f"{self._going} requests wait; try again later", code="queue_full", retry=1
            )
        name = f"chatcmpl-{request.scope['request_id']}"
        answers = Answers(name, int(time.time()), self.settings.name, str, logprobs=False)
        if not asked.stream:
            return JSONResponse(await self._whole(request, body, answers))
        events = self._events(body)
        first = await anext(events)  # before the answer's head: an error still has its status
        stream = self._stream(request, first, events, answers)
        return StreamingResponse(stream, media_type="text/event-stream")

    async def _whole(
        self, request: Request, body: dict[str, Any], answers: Answers
    ) -> dict[str, Any]:
        self._going += 1
        try:
            found = await self._client.chat.completions.create(**body)
        except openai.OpenAIError as error:
            raise self._told(error) from error
        finally:
            self._going -= 1
        choice, usage = found.choices[0], found.usage
        counted = (usage.prompt_tokens, usage.completion_tokens) if usage else (0, 0)
        text = (choice.message.content or "").lstrip()
        self._ended(request, choice.finish_reason, text)
        request.scope["told"].update(prompt_tokens=counted[0], completion_tokens=counted[1])
        return answers.whole(
            [(text, choice.finish_reason, ())], answers.usage(counted[0], counted[1], 0)
        )

    async def _events(self, body: dict[str, Any]) -> AsyncIterator[Event]:
        """Yield what the child says, the last with its finish reason. Raises ApiError."""
        self._going += 1
        begun = False
        try:
            async with await self._client.chat.completions.create(**body, stream=True) as stream:
                async for chunk in stream:
                    choice = chunk.choices[0]
                    text = choice.delta.content or ""
                    text = text if begun else text.lstrip()
                    begun = begun or bool(text)
                    finish = choice.finish_reason
                    yield Event(text, (), "length" if finish == "length" else finish and "stop")
                    if finish:
                        return
            await self._fault(body)
        except (openai.OpenAIError, httpx2.HTTPError) as error:
            if begun:
                raise self._told(error) from error
            await self._fault(body)
        finally:
            self._going -= 1

    async def _fault(self, body: dict[str, Any]) -> None:
        """Raise what a stream that broke off did not say: asked again without one, it does."""
        try:
            await self._client.chat.completions.create(**{**body, "max_tokens": 1})
        except openai.OpenAIError as error:
            raise self._told(error) from error
        raise ApiError(503, "llama.cpp broke the answer off", code="engine_failed", retry=1)

    async def _stream(
        self,
        request: Request,
        first: Event,
        events: AsyncIterator[Event],
        answers: Answers,
    ) -> AsyncIterator[str]:
        said, finish, event = "", "cancelled", first
        try:
            yield sent(answers.first(0))
            while True:
                said += event.text
                if event.text:
                    yield sent(answers.chunk(0, event))
                if event.finish is not None:
                    finish = event.finish
                    yield sent(answers.last(0, finish))
                    break
                event = await anext(events)
        except ApiError as error:
            LOG.exception("stream ended")
            yield sent(error.body())
        finally:
            await events.aclose()  # type: ignore[attr-defined]
            self._ended(request, finish, said)
        yield "data: [DONE]\n\n"

    def _ended(self, request: Request, finish: str, text: str) -> None:
        request.scope["told"]["finish"] = finish
        if self.settings.log_prompts:
            request.scope["told"]["answers"] = [text]

    def _told(self, error: Exception) -> ApiError:
        """Return what a client is told of an error of the child: none of its own words."""
        if _TOO_LONG.search(str(error)):
            return refuse(
                "the chat is longer than the model's positions; shorten it",
                "messages",
                "context_length_exceeded",
            )
        if not self._child.alive:
            return ApiError(503, "the engine has stopped; it must be started again",
                            code="engine_stopped", retry=30)  # fmt: skip
        LOG.error("llama.cpp: %s", str(error)[:500])
        return ApiError(500, "llama.cpp failed; the log says how", code="internal_error")


def _require_plain(asked: ChatRequest) -> None:
    unsupported = {"n": asked.choices > 1, "logprobs": asked.decoding.logprobs is not None}
    for name, given in unsupported.items():
        if given:
            raise refuse(f"{name}: not supported with llama.cpp", name, "unsupported_parameter")
    if any(MARK in turn.text for turn in asked.turns):
        raise refuse(f"messages: {MARK} stands for an image and cannot be written", "messages")


def _body(asked: ChatRequest, images: Sequence[Image.Image]) -> dict[str, Any]:
    """Return what the child is asked; each image a PNG in the place of its mark."""
    left = iter(images)
    messages = []
    for turn in asked.turns:
        content: Any = turn.text
        if DEFAULT_IMAGE_TOKEN in turn.text:
            lines = turn.text.split("\n")
            content = [_image(next(left)) if line == DEFAULT_IMAGE_TOKEN
                       else {"type": "text", "text": line} for line in lines]  # fmt: skip
        messages.append({"role": turn.role, "content": content})
    decoding = asked.decoding
    neutral = {"min_p": 0.0, "repeat_penalty": 1.0, "top_k": decoding.top_k}
    return {
        "model": asked.model or "",
        "messages": messages,
        "max_tokens": decoding.max_new_tokens,
        "temperature": decoding.temperature,
        "top_p": decoding.top_p,
        "seed": None if decoding.seed is None else decoding.seed % 2**32,
        "stop": list(decoding.stop),
        "extra_body": neutral,  # llama.cpp's own defaults would change the answer
    }


def _image(image: Image.Image) -> dict[str, Any]:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    letters = base64.b64encode(file.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{letters}"}}
