"""The page as a real server gives it: its headers, its address, a Stop that frees a slot."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from laterna.serving import page as serving_page

from .conftest import Stub, png, until

Opened, Ask = Callable[..., Any], Callable[..., None]
STOP_AT_ONCE = """() => new MutationObserver(() => {
  if (document.querySelector(".answer [data-index]")) document.querySelector("#stop").click();
}).observe(document.querySelector("#messages"), { childList: true, subtree: true })"""


def test_nothing_comes_from_elsewhere(stub: Stub, opened: Opened) -> None:
    answer = opened(stub.url).request.get(stub.url)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'; script-src 'self'; style-src 'self';" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    for file in serving_page.FOLDER.iterdir():
        text = file.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 400, file.name
        assert "innerHTML" not in text and "insertAdjacentHTML" not in text, file.name
        assert "//" not in text.replace("http://www.w3.org/2000/svg", "").replace("// ", ""), (
            file.name
        )


def test_stop_frees_the_slot_of_the_engine(
    tiny_assistant: Any, run_app: Callable[[Any], Iterator[str]], opened: Opened, ask: Ask
) -> None:
    from laterna.inference.batching.pace import EngineSettings
    from laterna.inference.engine import Engine
    from laterna.serving.openai_api import ServerSettings, create_app

    engine = Engine(tiny_assistant, EngineSettings(rows=2, queue=2))
    for url in run_app(create_app(engine, ServerSettings(name="tiny"))):
        page = opened(url)
        page.evaluate(STOP_AT_ONCE)
        for _ in range(10):  # a tiny model's answer may be over before the browser has stirred
            page.click("#new-chat")
            ask(page, "Go on for long", wait=False)
            page.wait_for_selector(".answer[data-state=ended]")
            wait_until = time.monotonic() + 10
            while engine.stats().running and time.monotonic() < wait_until:
                time.sleep(0.02)
            stats = engine.stats()
            assert (stats.running, stats.waiting) == (0, 0)
            if stats.finished.get("cancelled"):
                break
        assert stats.finished.get("cancelled") == 1
        assert page.text_content(".figures").endswith("stopped")
    engine.close()


def test_the_real_server_explains(
    tiny_assistant: Any, run_app: Callable[[Any], Iterator[str]], opened: Opened, ask: Ask
) -> None:
    from laterna.inference.engine import Engine
    from laterna.serving.openai_api import ServerSettings, create_app

    engine = Engine(tiny_assistant)
    for url in run_app(create_app(engine, ServerSettings(name="tiny"))):
        page = opened(url)
        page.evaluate("localStorage.setItem('laterna.settings', '{\"max_tokens\": \"9\"}')")
        ask(page, "What is it?", png())
        page.click("text=Look closer")
        state, legend = "#look-state", "#legend"
        lit = f"document.querySelector({legend!r}).textContent.startsWith('Lit')"
        until(page, f"document.querySelector({state!r}).textContent.includes('no /v1') || {lit}")
        if "/v1/explain" in page.text_content("#look-state"):
            pytest.skip("needs /v1/explain")
        assert "What is it?" in page.text_content("#prompt pre")
        assert page.text_content("#prompt p").endswith(" 4 of them of this image")
        page.focus("#seen")
        for _ in range(9):
            page.keyboard.press("ArrowRight")
        assert page.text_content("#cell").startswith("Row 1, column 2: ")
    engine.close()


@pytest.mark.parametrize(
    ("host", "address"),
    [("127.0.0.1", "http://127.0.0.1:8000"), ("0.0.0.0", "http://127.0.0.1:8000"),
     ("::1", "http://[::1]:8000"), ("::", "http://[::1]:8000")],
)  # fmt: skip
def test_the_address_is_one_that_a_browser_here_reaches(host: str, address: str) -> None:
    from laterna.serving.listening import Listening

    assert Listening(host=host, port=8000, name="tiny").address == address


def test_the_browser_is_opened_when_the_server_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    class Server:
        started = should_exit = False

    visited: list[str] = []
    monkeypatch.setattr(serving_page.webbrowser, "open", lambda url: not visited.append(url))
    thread = serving_page.open_page(Server, "http://127.0.0.1:8000")
    time.sleep(0.1)
    assert visited == []
    Server.started = True
    thread.join(5)
    assert visited == ["http://127.0.0.1:8000"]
