"""`laterna serve --engine llama.cpp` for real, where it is built (`make test-gguf`)."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import openai
import pytest

from laterna.inference.assistant import Assistant
from laterna.model.build import build_from_recipe
from laterna.recipe import load_recipe

from .test_openai_api import about

for package in ("llama_cpp", "pydantic_settings", "sse_starlette", "starlette_context"):
    pytest.importorskip(package, reason="llama-cpp-python is not installed; see make test-gguf")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The untaught nano assistant behind llama.cpp; SIGTERM ends it and its child."""
    folder = tmp_path_factory.mktemp("served")
    checkpoint = Assistant(build_from_recipe(load_recipe("nano"))).save(folder / "nano")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    log = folder / "log"
    words = [sys.executable, "-m", "laterna", "serve", str(checkpoint), "--engine", "llama.cpp",
             "--name", "nano", "--port", str(port), "--threads", "1"]  # fmt: skip
    environment = {name: os.environ[name] for name in os.environ if "API_KEY" not in name}
    with log.open("w") as file:
        process = subprocess.Popen(words, stderr=file, env=environment)
    found = f"http://127.0.0.1:{port}"
    while True:
        assert process.poll() is None, log.read_text()
        try:
            httpx2.get(f"{found}/health")
            break
        except httpx2.TransportError:
            time.sleep(0.1)
    child = children(process.pid)
    yield found
    assert len(child) == 1
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert not Path(f"/proc/{child[0]}").exists()
    assert "colour" not in log.read_text()  # no prompts, of llama.cpp neither


def children(parent: int) -> list[int]:
    stats = {int(path.parent.name): path.read_text() for path in Path("/proc").glob("[0-9]*/stat")}
    return [pid for pid, stat in stats.items() if int(stat.rpartition(")")[2].split()[1]) == parent]


def test_llama_cpp_answers_as_laterna_does(url: str) -> None:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    assistant = Assistant(build_from_recipe(load_recipe("nano")))
    chat = [{"role": "user", "content": "What is on the table?"}]
    found = client.chat.completions.create(
        model="nano", messages=chat, max_tokens=24, temperature=0  # type: ignore[arg-type]
    )  # fmt: skip
    expected = assistant.answer(None, "What is on the table?", max_new_tokens=24)
    assert (found.choices[0].message.content or "").strip() == expected
    chat = about("red")
    whole = client.chat.completions.create(
        model="nano", messages=chat, max_tokens=12, temperature=0
    )
    pieces = client.chat.completions.create(
        model="nano", messages=chat, max_tokens=12, temperature=0, stream=True
    )
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces)
    assert text == whole.choices[0].message.content != ""
    assert whole.usage is not None and whole.usage.prompt_tokens > 64  # the image's own
    assert client.chat.completions.create(
        model="nano", messages=about("blue"), max_tokens=12, temperature=0
    ).id.startswith("chatcmpl-")


@pytest.mark.parametrize("stream", [False, True])
def test_what_is_too_long_or_no_image_is_the_clients_fault(url: str, stream: bool) -> None:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    part = {"type": "image_url", "image_url": {"url": "file:///etc/hostname"}}
    for content, code in (
        ("apple " * 3000, "context_length_exceeded"),
        ([part], "invalid_image_url"),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(
                model="nano", messages=[{"role": "user", "content": content}], stream=stream
            )  # type: ignore[call-overload]
        assert caught.value.code == code
