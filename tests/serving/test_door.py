"""What every server does before an engine is asked: who is let in, and what is opened for them."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Sequence
from typing import Any

import httpx2
import pytest
from PIL import Image

from laterna.inference.engine import Engine
from laterna.model.vlm import VisionLanguageModel
from laterna.serving.door import Door, Room, ServerSettings, new_app
from laterna.serving.intake import IntakeSettings
from laterna.serving.openai_api import create_app
from laterna.serving.protocol import read_request


def ask(app: Any, method: str, path: str, body: Any = None, **headers: str) -> Any:
    async def run() -> Any:
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(method, path, json=body, headers=headers)

    return asyncio.run(run())


def chat(*colours: str) -> dict[str, Any]:
    """Ask about images of 20 by 30 pixels."""
    parts = []
    for colour in colours:
        file = io.BytesIO()
        Image.new("RGB", (20, 30), colour).save(file, "PNG")
        url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
        parts.append({"type": "image_url", "image_url": {"url": url}})
    return {"messages": [{"role": "user", "content": parts}], "max_tokens": 1}


OWN = ["localhost", "LOCALHOST:80", "127.0.0.1:8000", "127.9.9.9", "[::1]:8000"]
FOREIGN = [
    "evil.example",
    "evil.example:8000",
    "127.0.0.1.evil.example",
    "localhost.evil.example:8000",
    "localhost@evil.example",
    "evil.example#localhost",
    "localhost:8000:evil.example",
    "10.0.0.1",
    "169.254.169.254",
    "0.0.0.0",
    "[::1",
    "[fe80::1]",
    "",
]


@pytest.mark.parametrize("path", ["/", "/web/app.js", "/v1/models", "/version"])
def test_without_a_key_only_names_of_this_machine_are_answered(path: str) -> None:
    app = new_app(Door(ServerSettings()))
    for host in OWN:
        assert ask(app, "GET", path, host=host).status_code == 200, host
    for host in FOREIGN:
        found = ask(app, "GET", path, host=host)
        assert found.status_code == 403, host
        assert found.json()["error"].keys() == {"message", "type", "param", "code"}
        assert found.json()["error"]["code"] == "foreign_host"
        assert repr(host) in found.json()["error"]["message"]
        assert found.headers["x-request-id"]


def test_without_a_key_no_page_from_elsewhere_is_answered(
    tiny_assistant: VisionLanguageModel,
) -> None:
    engine = Engine(tiny_assistant)
    app = create_app(engine, ServerSettings())

    def post(origin: str, path: str = "/v1/chat/completions") -> Any:
        return ask(app, "POST", path, chat("red"), origin=origin)

    assert post("http://localhost:8000").status_code == 200
    assert post("http://[::1]:8000").status_code == 200
    assert engine.stats().finished == {"length": 2}
    for origin in ["https://evil.example", "http://127.0.0.1@evil.example", "null", "localhost"]:
        for path in ["/v1/chat/completions", "/v1/explain"]:
            refused = post(origin, path)
            assert refused.status_code == 403, (origin, path)
            assert "Origin" in refused.json()["error"]["message"]
    assert engine.stats().finished == {"length": 2}
    engine.close()


def test_with_a_key_any_name_is_answered() -> None:
    app = new_app(Door(ServerSettings(key="a-key")))
    headers = {"authorization": "Bearer a-key", "host": "laterna.example", "origin": "https://x"}
    assert ask(app, "GET", "/v1/models", **headers).status_code == 200


@pytest.mark.parametrize("path", ["/v1/models/", "/v1//models//", "/v1/models"])
def test_a_slash_too_many_leads_nowhere_else(path: str) -> None:
    app = new_app(Door(ServerSettings()))
    assert ask(app, "GET", path).json()["object"] == "list"
    nowhere = ask(app, "GET", "/v1/nothing/")
    assert (nowhere.status_code, nowhere.json()["error"]["code"]) == (404, "unknown_url")
    posted = ask(app, "POST", path)
    assert (posted.status_code, "location" in posted.headers) == (405, False)


def test_a_requests_images_are_bounded_together(tiny_assistant: VisionLanguageModel) -> None:
    """Each may be large; 32 of the largest would take 5 GB."""
    engine = Engine(tiny_assistant)
    limits = IntakeSettings(max_pixels=600, request_pixels=1000)
    app = create_app(engine, ServerSettings(images=limits))
    for colours in [("red",), ("red", "red")]:  # the same twice is opened once
        assert ask(app, "POST", "/v1/chat/completions", chat(*colours)).status_code == 200
    for path in ["/v1/chat/completions", "/v1/explain"]:
        refused = ask(app, "POST", path, chat("red", "blue"))
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "image_too_large")
        assert "1,000 pixels in all" in refused.json()["error"]["message"]
    engine.close()


@pytest.mark.parametrize(("room", "at_once"), [(600, 1), (1200, 2), (1799, 2), (10**6, 5)])
def test_no_more_pixels_are_open_at_once_than_there_is_room_for(room: int, at_once: int) -> None:
    """Of 600 pixels each; in order of arrival."""
    behind = Door(ServerSettings(images=IntakeSettings(request_pixels=room)))
    colours = ("red", "blue", "green", "tan", "gold")
    asked = [read_request(json.dumps(chat(colour)).encode()) for colour in colours]
    going = most = 0

    async def use(images: Sequence[Image.Image]) -> tuple[int, int]:
        nonlocal going, most
        going += 1
        most = max(most, going)
        await asyncio.sleep(0.05)
        going -= 1
        return images[0].size

    async def together() -> list[tuple[int, int]]:
        tasks = [asyncio.create_task(behind.with_images(one, use)) for one in asked]
        return list(await asyncio.gather(*tasks))

    assert asyncio.run(together()) == [(20, 30)] * 5
    assert most == at_once


def test_whoever_goes_away_gives_the_room_back() -> None:
    room = Room(10)

    async def hold(pixels: int, seconds: float = 0.0) -> None:
        async with room.of(pixels):
            await asyncio.sleep(seconds)

    async def run() -> None:
        holding, waiting = (asyncio.create_task(hold(8, 60)) for _ in range(2))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.sleep(0)
        small = asyncio.create_task(hold(2))
        await asyncio.wait_for(small, 5)
        large = asyncio.create_task(hold(10))
        await asyncio.sleep(0)
        holding.cancel()
        await asyncio.wait_for(large, 5)

    asyncio.run(run())
