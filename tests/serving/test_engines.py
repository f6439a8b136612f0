"""Engines behind `laterna serve`: exports by content, command lines, and the door in front."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from laterna.cli import main
from laterna.inference.assistant import Assistant
from laterna.inference.batching.pace import EngineSettings
from laterna.inference.engine import Engine
from laterna.model.vlm import VisionLanguageModel
from laterna.serving.door import ServerSettings, new_app
from laterna.serving.engines import ENGINES
from laterna.serving.listening import Listening, exported
from laterna.serving.llama_cpp import Behind, Child, command, running
from laterna.serving.openai_api import create_app

from .test_openai_api import about, hello, run_server

PLACE = Listening(host="127.0.0.1", port=8000, name="tiny")


@pytest.fixture
def checkpoint(tiny_assistant: VisionLanguageModel, tmp_path: Path) -> Path:
    return Assistant(tiny_assistant).save(tmp_path / "checkpoint")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LATERNA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_an_export_is_made_once_for_what_a_model_holds(
    checkpoint: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = exported(str(checkpoint), "gguf", "f16")
    assert folder.parent == cache / "exports"
    assert f"exporting {checkpoint} to {folder}" in capsys.readouterr().err
    shutil.move(checkpoint, tmp_path / "moved")
    assert exported(str(tmp_path / "moved"), "gguf", "f16") == folder
    assert capsys.readouterr().err == ""  # nothing was made again
    assert exported(str(tmp_path / "moved"), "gguf", "f32") != folder
    (folder / "mmproj.gguf").unlink()
    assert exported(str(tmp_path / "moved"), "gguf", "f16") == folder
    assert (folder / "mmproj.gguf").is_file()


def test_another_content_is_another_export(
    tiny_assistant: VisionLanguageModel, cache: Path, tmp_path: Path
) -> None:
    folders = []
    for number in range(2):
        with_other = Assistant(tiny_assistant).save(tmp_path / str(number))
        folders.append(exported(str(with_other), "gguf", "f16"))
        next(tiny_assistant.connector.parameters()).data += 1
    assert folders[0] != folders[1]


@pytest.mark.parametrize(
    ("engine", "option", "named"),
    [
        ("llama.cpp", ["--cache-gb", "2"], "--cache-gb"),
        ("llama.cpp", ["--dtype", "float32"], "--dtype"),
        ("vllm", ["--queue", "3"], "--queue"),
        ("vllm", ["--log-prompts"], "--log-prompts"),
    ],
)
def test_an_option_that_an_engine_lacks_is_refused(
    checkpoint: Path, engine: str, option: list[str], named: str, capsys: Any
) -> None:
    assert main(["serve", str(checkpoint), "--engine", engine, *option]) == 2
    assert f"{named}: --engine {engine} does not have it" in capsys.readouterr().err


def test_what_engines_lack_are_options() -> None:
    from msgspec.structs import fields

    from laterna.commands.base import Where
    from laterna.commands.serve import Serve

    known = {field.name for part in (Serve, Where) for field in fields(part)}
    assert ENGINES["torch"].lacks == frozenset()
    assert all(engine.lacks <= known for engine in ENGINES.values())


def test_missing_programs_are_told_in_one_sentence(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["serve", str(checkpoint), "--engine", "vllm"]) == 2
    assert "--engine vllm needs the program `vllm`" in capsys.readouterr().err
    monkeypatch.setattr("laterna.serving.llama_cpp.NEEDS", ("no_such_package",))
    assert main(["serve", str(checkpoint), "--engine", "llama.cpp"]) == 2
    told = capsys.readouterr().err
    assert "needs the package no_such_package" in told and "pip install" in told


def test_vllm_gets_a_folder_that_it_can_serve(checkpoint: Path, tmp_path: Path) -> None:
    """A stub stands for vLLM: it writes down how it was called."""
    stub = tmp_path / "bin" / "vllm"
    stub.parent.mkdir()
    stub.write_text(
        f"#!{sys.executable}\nimport json, os, sys\n"
        f"json.dump([sys.argv[1:], dict(os.environ)], open({str(tmp_path / 'call')!r}, 'w'))\n"
    )
    stub.chmod(0o755)
    run = subprocess.run(
        [sys.executable, "-m", "laterna", "serve", str(checkpoint), "--engine", "vllm",
         "--host", "0.0.0.0", "--port", "8010", "--name", "tiny", "--max-concurrency", "7",
         "--dtype", "bfloat16", "--allow-image-hosts", "images.example"],
        env={**os.environ, "PATH": f"{stub.parent}:{os.environ['PATH']}",
             "LATERNA_CACHE": str(tmp_path / "cache"), "LATERNA_API_KEY": "secret"},
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert "exporting" in run.stderr
    called, environment = json.loads((tmp_path / "call").read_text())
    folder = Path(called[1])
    assert called[0] == "serve"
    assert folder.parent == tmp_path / "cache" / "exports"
    options = dict(zip(called[2::2], called[3::2], strict=True))
    assert options == {"--host": "0.0.0.0", "--port": "8010", "--served-model-name": "tiny",
                       "--max-num-seqs": "7", "--dtype": "bfloat16",
                       "--allowed-media-domains": "images.example"}  # fmt: skip
    assert "secret" not in " ".join(called)
    assert environment["VLLM_API_KEY"] == "secret"
    assert environment["VLLM_MEDIA_URL_ALLOW_REDIRECTS"] == "0"
    assert json.loads((folder / "config.json").read_text())["model_type"] == "llava"
    assert "<image>" in (folder / "chat_template.jinja").read_text()


def test_vllm_fetches_no_image_unless_a_host_is_named() -> None:
    from laterna.serving.vllm import command as vllm

    words = vllm("vllm", Path("folder"), PLACE)
    assert words[words.index("--allowed-media-domains") + 1].endswith(".invalid")
    assert words[words.index("--dtype") + 1] == "auto"


def test_the_childs_command_line() -> None:
    words = command(PLACE, "model.gguf", "mmproj.gguf")
    assert words[1:4] == ["-m", "laterna.serving.watched", "llama_cpp.server"]
    options = dict(zip(words[4::2], words[5::2], strict=True))
    assert options["--chat_format"] == "mtmd"
    assert options["--interrupt_requests"] == "false"
    assert (options["--model"], options["--clip_model_path"]) == ("model.gguf", "mmproj.gguf")


LISTENS = """
import socket, sys, time
taken = socket.create_server(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])))
print(taken.getsockname()[1], flush=True)
time.sleep(300)
"""
STARTS = """
import subprocess, sys, time
words = [sys.executable, "-m", *sys.argv[1:], "--port", "0"]
child = subprocess.Popen(words, stdin=subprocess.PIPE)
time.sleep(300)
"""


@pytest.fixture
def listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module that listens on a port and never reads its standard input."""
    (tmp_path / "listens.py").write_text(LISTENS)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, sys.path)]))
    return "listens"


def test_a_watched_program_ends_when_its_parent_is_killed(listens: str) -> None:
    words = [sys.executable, "-c", STARTS, "laterna.serving.watched", listens]
    parent = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert _listens(int(parent.stdout.readline()))
    parent.kill()
    assert parent.stdout.read() == ""  # it ends when nobody holds the pipe: the child is gone


@pytest.mark.parametrize("watched", [True, False])
def test_the_childs_standard_input_is_what_it_is_watched_by(listens: str, watched: bool) -> None:
    words = [*(["laterna.serving.watched"] if watched else []), listens]
    with running([sys.executable, "-m", *words]) as child:
        assert child.alive and child.process.stdin is not None
        child.process.stdin.close()
        try:
            child.process.wait(30 if watched else 1)
        except subprocess.TimeoutExpired:
            assert not watched
        assert child.alive is not watched


def _listens(port: int) -> bool:
    with socket.socket() as trial:
        return trial.connect_ex(("127.0.0.1", port)) == 0


class Ended:
    """A process that has ended."""

    def poll(self) -> int:
        return 1


class Running(Ended):
    def poll(self) -> None:  # type: ignore[override]
        return None


@pytest.fixture
def direct(tiny_assistant: VisionLanguageModel) -> Iterator[str]:
    """A server of Laterna's own, which stands for the child of the one in front."""
    engine = Engine(tiny_assistant, EngineSettings(rows=4, queue=8))
    yield from run_server(create_app(engine, ServerSettings(name="tiny", key="child")))
    engine.close()


def in_front(url: str, process: Any, queue: int = 4) -> Iterator[str]:
    child = Child(process, f"{url}/v1", "child", deque())
    door = Behind(ServerSettings(name="tiny", key="front"), child, queue)
    app = new_app(door)
    app.add_route("/v1/chat/completions", door.chat, methods=["POST"])
    app.add_route("/health", door.health, methods=["GET"])
    yield from run_server(app)


def client(url: str, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)


def test_the_door_in_front_hands_chats_on_and_answers_in_the_same_form(direct: str) -> None:
    chat = [*about("red"), {"role": "assistant", "content": "Red."}, *about("blue", "And this?")]
    asked: dict[str, Any] = {"model": "tiny", "messages": chat, "max_tokens": 9, "temperature": 0}
    expected = client(direct, "child").chat.completions.create(**asked)
    for url in in_front(direct, Running()):
        front = client(url, "front")
        found = front.chat.completions.create(**asked)
        assert found.choices[0].message.content == expected.choices[0].message.content
        assert found.choices[0].finish_reason == expected.choices[0].finish_reason
        assert found.usage is not None and expected.usage is not None
        assert found.usage.prompt_tokens == expected.usage.prompt_tokens
        chunks = list(front.chat.completions.create(**asked, stream=True))
        said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert said == expected.choices[0].message.content
        assert chunks[-1].choices[0].finish_reason == expected.choices[0].finish_reason
        assert [model.id for model in front.models.list()] == ["tiny"]
        assert httpx2.get(f"{url}/health", timeout=60).status_code == 200


def test_the_door_in_front_refuses_before_the_child_is_asked(direct: str) -> None:
    headers = {"Authorization": "Bearer front"}
    part = {"type": "image_url", "image_url": {"url": "file:///etc/hostname"}}
    for url in in_front(direct, Running(), queue=-1):
        for change, code in (
            ({"n": 2}, "unsupported_parameter"),
            ({"logprobs": True}, "unsupported_parameter"),
            ({"tools": [1]}, "unsupported_parameter"),
            ({"messages": [{"role": "user", "content": "<__media__>"}]}, "invalid_value"),
            ({"messages": [{"role": "user", "content": [part]}]}, "invalid_image_url"),
            ({}, "queue_full"),
        ):
            answer = httpx2.post(
                f"{url}/v1/chat/completions", json=hello(**change), headers=headers, timeout=60
            )
            assert answer.json()["error"]["code"] == code
            assert answer.status_code == (429 if code == "queue_full" else 400)
        with pytest.raises(openai.AuthenticationError):
            client(url, "other").models.list()


@pytest.mark.parametrize("stream", [False, True])
def test_what_goes_wrong_behind_is_told_in_front(direct: str, stream: bool) -> None:
    chat = [{"role": "user", "content": "apple " * 600}]
    for url in in_front(direct, Running()):  # Laterna's own words are not llama.cpp's
        with pytest.raises(openai.InternalServerError, match="the log says how"):
            client(url, "front").chat.completions.create(
                model="tiny", messages=chat, stream=stream  # type: ignore[call-overload]
            )  # fmt: skip
    for url in in_front("http://127.0.0.1:9", Ended()):
        assert httpx2.get(f"{url}/health", timeout=60).status_code == 503
        with pytest.raises(openai.InternalServerError) as caught:
            client(url, "front").chat.completions.create(**hello(stream=stream))
        assert caught.value.status_code == 503
        assert caught.value.response.headers["retry-after"] == "30"


def test_images_go_on_as_png() -> None:
    from PIL import Image

    from laterna.serving.llama_cpp import _body
    from laterna.serving.protocol import read_request

    body = json.dumps(hello(messages=about("red"), seed=-1, top_k=3)).encode()
    found = _body(read_request(body), [Image.new("RGB", (20, 30), "red")])
    image, text = found["messages"][0]["content"]
    assert image["image_url"]["url"].startswith("data:image/png;base64,")
    assert text == {"type": "text", "text": "What colour is it?"}
    assert found["extra_body"] == {"min_p": 0.0, "repeat_penalty": 1.0, "top_k": 3}
    assert found["seed"] == 2**32 - 1
