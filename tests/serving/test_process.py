"""`laterna serve` as a process of its own: what it logs, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import pytest

from laterna.inference.assistant import Assistant
from laterna.model.vlm import VisionLanguageModel

from .test_openai_api import about, hello

pytestmark = pytest.mark.slow  # each starts a process, which imports torch


class Process(NamedTuple):
    url: str
    process: subprocess.Popen[str]
    log: Path

    def post(self, body: Any, **more: Any) -> httpx2.Response:
        return httpx2.post(f"{self.url}/v1/chat/completions", json=body, timeout=60, **more)

    def lines(self) -> list[dict[str, Any]]:
        """What it logged, but for what it says to a person at its start."""
        written = self.log.read_text().splitlines()
        return [json.loads(line) for line in written if not line.startswith("serving ")]


@pytest.fixture
def start(tiny_assistant: VisionLanguageModel, tmp_path: Path) -> Iterator[Callable[..., Process]]:
    checkpoint = str(Assistant(tiny_assistant).save(tmp_path / "checkpoint"))
    started: list[subprocess.Popen[str]] = []

    def begin(*options: str) -> Process:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
        log = tmp_path / f"{port}.log"
        words = [sys.executable, "-m", "laterna", "serve", checkpoint, "--name", "tiny", "--device",
                 "cpu", "--port", str(port), *options]  # fmt: skip
        environment = {name: os.environ[name] for name in os.environ if "API_KEY" not in name}
        with log.open("w") as file:
            process = subprocess.Popen(words, stderr=file, env=environment, text=True)
        started.append(process)
        found = Process(f"http://127.0.0.1:{port}", process, log)
        while process.poll() is None:
            try:
                if httpx2.get(f"{found.url}/health").status_code == 200:
                    return found
            except httpx2.TransportError:
                time.sleep(0.05)
        raise AssertionError(log.read_text())

    yield begin
    for process in started:
        process.kill()
        process.wait()


def test_each_request_is_one_line_without_what_was_asked(start: Callable[..., Process]) -> None:
    served = start()
    chat = about("red", "Is the SECRET here?")
    first = served.post(hello(messages=chat))
    assert served.post(hello(temperature=9)).status_code == 400
    assert httpx2.get(f"{served.url}/nothing").status_code == 404
    assert httpx2.get(f"{served.url}/metrics").status_code == 200
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(30) == 0
    right, wrong, nothing = served.lines()
    assert right["route"] == "POST /v1/chat/completions"
    assert right["id"] == first.headers["x-request-id"]
    assert first.json()["id"] == f"chatcmpl-{right['id']}"
    assert (right["status"], right["completion_tokens"], right["finish"]) == (200, 4, "length")
    assert right["prompt_tokens"] == first.json()["usage"]["prompt_tokens"]
    assert 0 < right["seconds"] < 60 and right["time"].startswith("20")
    assert (wrong["status"], wrong["error"]) == (400, "invalid_value")
    assert (nothing["status"], nothing["route"]) == (404, "GET /nothing")
    written = served.log.read_text()
    assert "SECRET" not in written and "base64" not in written


def test_prompts_are_logged_where_that_is_asked_for_but_never_images(
    start: Callable[..., Process],
) -> None:
    served = start("--log-prompts")
    answer = served.post(hello(messages=about("red", "Is it here?")))
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(30) == 0
    (line,) = served.lines()
    assert line["messages"] == [{"role": "user", "text": "<image>\nIs it here?"}]
    assert line["answers"][0].strip() == answer.json()["choices"][0]["message"]["content"].strip()
    assert "base64" not in served.log.read_text()


def streaming(served: Process) -> tuple[threading.Thread, list[str]]:
    """Begin a stream of eight long answers; return when its first words are there."""
    begun, lines = threading.Event(), list[str]()

    def read() -> None:
        body = hello(stream=True, max_tokens=240, n=8)
        url = f"{served.url}/v1/chat/completions"
        try:
            with httpx2.stream("POST", url, json=body, timeout=60) as answer:
                for line in answer.iter_lines():
                    lines.append(line)
                    begun.set()
        except httpx2.TransportError:
            lines.append("broken off")

    thread = threading.Thread(target=read)
    thread.start()
    assert begun.wait(30)
    return thread, lines


def test_sigterm_lets_answers_finish_and_takes_no_more(start: Callable[..., Process]) -> None:
    served = start("--grace", "60", "--max-concurrency", "1")
    thread, lines = streaming(served)
    served.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    with pytest.raises(httpx2.TransportError):
        served.post(hello())
    assert thread.is_alive()  # still writing
    thread.join(60)
    assert [line for line in lines if line][-1] == "data: [DONE]"
    assert sum('"finish_reason":"' in line for line in lines) == 8
    assert served.process.wait(30) == 0
    (line,) = served.lines()
    assert set(line["finish"].split(",")) <= {"length", "stop"}


def test_who_is_not_done_within_the_grace_time_is_cut_off(start: Callable[..., Process]) -> None:
    served = start("--grace", "0", "--max-concurrency", "1")
    thread, lines = streaming(served)
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(30) == 0
    thread.join(60)
    assert lines[-1] == "broken off"
    assert "data: [DONE]" not in lines
    (line,) = [line for line in served.lines() if "finish" in line]
    assert "cancelled" in line["finish"]
    assert not any("traceback" in line for line in served.lines())
