"""A browser, and a stub of the API whose answers are known. Skipped where there is no browser."""

from __future__ import annotations

import asyncio
import base64
import io
import shutil
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = [
    "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
ROWS, COLUMNS = 2, 3
MARKUP = """<img src=x onerror="document.title='owned'"> **bold** <script>alert(1)</script>"""


def png(colour: str = "red", size: tuple[int, int] = (60, 40)) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def data_url(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode()


@dataclass
class Stub:
    """The public API with answers of its own; it keeps what it was asked."""

    key: str = ""
    explains: bool = True
    probabilities: bool = True
    drop: float = 1.0
    """By how much the log probability falls while the first patch is hidden; the last: twice."""
    asked: list[dict[str, Any]] = field(default_factory=list)
    explained: list[dict[str, Any]] = field(default_factory=list)
    gone: int = 0
    url: str = ""

    def app(self) -> Any:
        from fastapi import FastAPI

        from laterna.serving.page import add_page

        app = FastAPI()
        app.add_route("/v1/models", self.models)
        app.add_route("/v1/chat/completions", self.chat, methods=["POST"])
        app.add_route("/v1/explain", self.explain, methods=["POST"])
        add_page(app)
        return app

    def refusal(self, request: Any) -> Any:
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            return error(401, "the API key is missing or wrong", "invalid_api_key")
        return None

    async def models(self, request: Any) -> Any:
        from fastapi.responses import JSONResponse

        listed = {"object": "list", "data": [{"id": "stub"}]}
        return self.refusal(request) or JSONResponse(listed)

    async def chat(self, request: Any) -> Any:
        from fastapi.responses import StreamingResponse

        body = await request.json()
        self.asked.append(body)
        if refused := self.refusal(request):
            return refused
        if body.get("logprobs") and not self.probabilities:
            return error(400, "logprobs: not supported", "unsupported_parameter", param="logprobs")
        content = body["messages"][-1]["content"]
        question = content if isinstance(content, str) else content[-1]["text"]
        if question == "busy":
            return error(429, "the queue is full", "queue_full", retry=7)
        return StreamingResponse(self.stream(question), media_type="text/event-stream")

    async def stream(self, question: str) -> AsyncIterator[str]:
        yield chunk({"role": "assistant", "content": ""})
        if question == "broken":
            yield chunk({"content": "Half"}, logprobs=[("Half", -0.1)])
            yield sent({"error": {"message": "the engine has stopped", "code": "engine_stopped"}})
            return
        if question == "slow":
            try:
                for _ in range(1000):
                    yield chunk({"content": " word"}, logprobs=[(" word", -0.5)])
                    await asyncio.sleep(0.02)
            finally:
                self.gone += 1
            return
        if question == "cut":
            yield chunk({"content": "Half"})
            return
        pieces = [MARKUP] if question == "markup" else ["A", " red", f" box {len(self.asked)}."]
        for piece in pieces:
            yield chunk({"content": piece}, logprobs=[(piece, -0.0305), (" blue", -3.5)])
        yield chunk({}, finish="stop")
        usage = {"prompt_tokens": 12, "completion_tokens": len(pieces)}
        yield sent({"choices": [], "usage": usage})
        yield "data: [DONE]\n\n"

    async def explain(self, request: Any) -> Any:
        from fastapi.responses import JSONResponse

        body = await request.json()
        self.explained.append(body)
        if not self.explains:
            return error(404, "POST /v1/explain: no such route", "unknown_url")
        return JSONResponse(explanation(body, self.drop))


def explanation(body: dict[str, Any], drop: float = 1.0) -> dict[str, Any]:
    """The answer "A box": "A" hangs on the first patch, " box" on the last, against the first."""

    def lit(*cells: tuple[int, int, float]) -> list[list[float]]:
        found = [[0.0] * COLUMNS for _ in range(ROWS)]
        for row, column, value in cells:
            found[row][column] = value * drop
        return found

    grid = {"rows": ROWS, "columns": COLUMNS}
    seen = {"data": data_url(png("green")), "width": 60, "height": 40, "grid": grid}
    maps = {
        "overall": lit((0, 0, 1.0), (1, 2, 2.0)),
        "tokens": [lit((0, 0, 1.0)), lit((1, 2, 2.0), (0, 0, -2.0))],
    }
    methods = {
        "occlusion": {"window": 1, **maps},
        "attention": {**maps, "note": "Layer 3."},
        "words": {
            "words": [
                [[[f"word{row}{column}", 0.5], ["near", 0.25], ["far", -0.125]]
                 for column in range(COLUMNS)]
                for row in range(ROWS)
            ]
        },
    }  # fmt: skip
    return {
        "object": "explanation", "model": "stub", "answer": "A box", "prompt_tokens": 9,
        "prompt": "USER: <image>\nWhat?\nASSISTANT: ",
        "tokens": [{"text": "A", "logprob": -0.5}, {"text": " box", "logprob": -0.25}],
        "image": {"index": body["image"], "tokens": 6, "views": [seen], **seen},
        **{name: methods[name] for name in body["methods"]},
    }  # fmt: skip


def sent(body: dict[str, Any]) -> str:
    import json

    return f"data: {json.dumps(body)}\n\n"


def chunk(
    delta: dict[str, str], finish: str | None = None, logprobs: Sequence[tuple[str, float]] = ()
) -> str:
    choice: dict[str, Any] = {"index": 0, "delta": delta, "finish_reason": finish}
    if logprobs:
        (token, logprob), *_ = logprobs
        top = [{"token": text, "logprob": value} for text, value in logprobs]
        choice["logprobs"] = {
            "content": [{"token": token, "logprob": logprob, "top_logprobs": top}]
        }
    return sent({"choices": [choice]})


def error(status: int, message: str, code: str, retry: int = 0, param: str = "") -> Any:
    from fastapi.responses import JSONResponse

    headers = {"Retry-After": str(retry)} if retry else {}
    body = {"error": {"message": message, "code": code, "param": param}}
    return JSONResponse(body, status, headers=headers)


def until(page: Any, expression: str, seconds: float = 10) -> None:
    """Wait for JavaScript to be true (Playwright's own way needs eval, which the page forbids)."""
    end = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < end, expression
        time.sleep(0.02)


def run(app: Any) -> Iterator[str]:
    uvicorn = pytest.importorskip("uvicorn")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    server = uvicorn.Server(
        uvicorn.Config(app, port=port, log_level="error", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(10)


@pytest.fixture
def stub() -> Iterator[Stub]:
    found = Stub()
    for url in run(found.app()):
        found.url = url
        yield found


@pytest.fixture
def run_app() -> Callable[[Any], Iterator[str]]:
    return run


# A module's, no longer: Playwright keeps an event loop running in this thread while it is open.
@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if CHROMIUM is None:
        pytest.skip("needs chromium")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens pages in a fresh profile; at the end nothing may have gone wrong in any of them."""
    contexts, faults = [], []

    def open_page(url: str, **settings: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1200, "height": 800}, **settings})
        context.set_default_timeout(8000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: dialog.accept())
        page.on(
            "request",
            lambda asked: asked.url.startswith((url, "data:", "blob:")) or faults.append(asked.url),
        )
        page.goto(url)
        page.wait_for_selector("#model option, dialog[open]", state="attached")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


@pytest.fixture
def ask() -> Callable[..., None]:
    """Asks a question on a page, with images, and waits for the answer's end."""

    def ask(page: Any, question: str, *images: bytes, wait: bool = True) -> None:
        if images:
            page.set_input_files(
                "#files",
                [
                    {"name": f"{number}.png", "mimeType": "image/png", "buffer": image}
                    for number, image in enumerate(images)
                ],
            )
            until(page, f"document.querySelectorAll('#attached li').length == {len(images)}")
        before = page.locator("#messages > li").count()
        page.fill("#question", question)
        page.press("#question", "Enter")
        if wait:
            last = f"#messages > li:nth-child({before + 2})"
            until(page, f"document.querySelector({last!r})?.dataset.state === 'ended'")

    return ask
