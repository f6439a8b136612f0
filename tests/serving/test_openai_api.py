"""The API as its clients use it: the official `openai` client over a server on loopback."""

from __future__ import annotations

import base64
import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import httpx2
import openai
import pytest
import uvicorn
from PIL import Image

from laterna.inference.assistant import Assistant
from laterna.inference.batching.pace import EngineSettings
from laterna.inference.engine import Engine
from laterna.model.build import build_from_recipe
from laterna.model.vlm import VisionLanguageModel
from laterna.serving.door import ServerSettings
from laterna.serving.openai_api import create_app

KEY = "a-key"


class Served(NamedTuple):
    """A server with its model."""

    url: str
    engine: Engine
    model: VisionLanguageModel

    def client(self, key: str = KEY) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0)

    def post(self, body: Any, *, path: str = "/v1/chat/completions", key: str = KEY) -> Any:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return httpx2.post(
            f"{self.url}{path}",
            content=content,
            headers={"Authorization": f"Bearer {key}"},
            timeout=60,  # the machine may be busy
        )


def run_server(app: Any) -> Iterator[str]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(10)


@pytest.fixture
def served(tiny_assistant: VisionLanguageModel) -> Iterator[Served]:
    engine = Engine(tiny_assistant, EngineSettings(rows=4, queue=8))
    app = create_app(engine, ServerSettings(name="tiny", key=KEY, max_body=2_000_000))
    for url in run_server(app):
        yield Served(url, engine, tiny_assistant)
    engine.close()


def data_url(colour: str = "red", size: tuple[int, int] = (20, 30)) -> str:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def about(colour: str, text: str = "What colour is it?") -> list[Any]:
    image = {"type": "image_url", "image_url": {"url": data_url(colour)}}
    return [{"role": "user", "content": [image, {"type": "text", "text": text}]}]


def hello(**more: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4,
            "temperature": 0, **more}  # fmt: skip


def test_an_answer_is_the_assistants(served: Served) -> None:
    found = served.client().chat.completions.create(
        model="tiny", messages=about("red"), max_tokens=8, temperature=0
    )
    expected = Assistant(served.model).answer(
        Image.new("RGB", (20, 30), "red"), "What colour is it?", max_new_tokens=8
    )
    choice = found.choices[0]
    assert choice.message.content is not None
    assert choice.message.content == choice.message.content.lstrip()
    assert choice.message.content.strip() == expected
    assert (choice.message.role, found.object, found.model) == (
        "assistant",
        "chat.completion",
        "tiny",
    )
    assert choice.finish_reason in ("stop", "length")
    assert found.usage is not None
    assert 0 < found.usage.completion_tokens <= 8
    assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens


def test_a_stream_has_the_form_that_clients_read(served: Served) -> None:
    whole = served.client().chat.completions.create(**hello(max_tokens=12))
    asked = hello(max_tokens=12, stream=True, stream_options={"include_usage": True})
    lines = [line for line in served.post(asked).text.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    text = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks[:-1])
    assert text == whole.choices[0].message.content
    assert chunks[-2]["choices"][0]["delta"] == {}
    assert chunks[-2]["choices"][0]["finish_reason"] == whole.choices[0].finish_reason
    assert chunks[-1]["choices"] == []
    assert whole.usage is not None
    assert chunks[-1]["usage"]["completion_tokens"] == whole.usage.completion_tokens
    assert len({(c["id"], c["created"], c["object"]) for c in chunks}) == 1
    pieces = list(served.client().chat.completions.create(**hello(max_tokens=12, stream=True)))
    said = "".join(p.choices[0].delta.content or "" for p in pieces)
    assert said == text


def test_several_choices_logprobs_and_stops(served: Served) -> None:
    client = served.client()
    asked = hello(n=2, logprobs=True, top_logprobs=3, max_tokens=5, seed=3)
    asked["temperature"] = 1.5
    found = client.chat.completions.create(**asked)
    assert [choice.index for choice in found.choices] == [0, 1]
    again = client.chat.completions.create(**asked)
    assert [c.message.content for c in again.choices] == [c.message.content for c in found.choices]
    logprobs = found.choices[0].logprobs
    assert logprobs is not None and logprobs.content
    assert all(len(token.top_logprobs) == 3 and token.logprob <= 0 for token in logprobs.content)
    free = client.chat.completions.create(**hello(max_tokens=12)).choices[0].message.content
    assert free is not None
    stop = free[3:6]
    assert stop
    cut = client.chat.completions.create(**hello(max_tokens=12, stop=[stop])).choices[0]
    assert cut.message.content == free[: free.index(stop)]
    assert cut.finish_reason == "stop"
    both = client.chat.completions.create(**hello(max_tokens=1, max_completion_tokens=3))
    assert both.usage is not None and both.usage.completion_tokens == 3


def test_log_probabilities_are_those_of_the_text_shown(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole and streamed, of an answer that ends by itself: its end of turn is not listed."""
    asked = hello(max_tokens=12, logprobs=True)
    whole = served.post(asked).json()["choices"][0]
    tokens = [token["token"] for token in whole["logprobs"]["content"]]
    assert "".join(tokens).lstrip() == whole["message"]["content"]
    (end,) = served.model.tokenizer(tokens[5], add_special_tokens=False).input_ids
    first = tokens.index(tokens[5])
    monkeypatch.setattr(served.model, "end_of_turn", lambda: [end])
    monkeypatch.setattr(served.engine, "_ends", (None, frozenset()))
    ended = served.post(asked).json()
    assert ended["choices"][0]["finish_reason"] == "stop"
    assert ended["usage"]["completion_tokens"] == first + 1
    listed = ended["choices"][0]["logprobs"]["content"]
    assert [token["token"] for token in listed] == tokens[:first]
    chunks = [
        json.loads(line.removeprefix("data: "))["choices"][0]
        for line in served.post({**asked, "stream": True}).text.split("\n\n")
        if line.startswith("data: {")
    ]
    parts = [chunk["logprobs"]["content"] for chunk in chunks if chunk["logprobs"]]
    assert [token for part in parts for token in part] == listed


def test_making_a_request_ready_stops_nobody(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one is tokenized and its images prepared, the loop answers the others, in order."""
    submit, order, in_time, healthy = served.engine.submit, [], [], threading.Event()

    def slowly(turns: Any, *rest: Any, **options: Any) -> Any:
        order.append(turns[-1].text)
        in_time.append(healthy.wait(5))
        return submit(turns, *rest, **options)

    monkeypatch.setattr(served.engine, "submit", slowly)
    texts = ["one", "two", "three"]
    bodies = [hello(messages=[{"role": "user", "content": text}]) for text in texts]
    with ThreadPoolExecutor(3) as threads:
        asked = []
        for body in bodies:
            asked.append(threads.submit(served.post, body))
            time.sleep(0.1)
        assert httpx2.get(f"{served.url}/health").status_code == 200
        healthy.set()
        assert [one.result().status_code for one in asked] == [200] * 3
    assert order == texts
    assert all(in_time)


def test_images_in_any_turn_and_again(served: Served) -> None:
    chat = about("red")
    client = served.client()
    first = client.chat.completions.create(model="tiny", messages=chat, max_tokens=6, temperature=0)
    chat += [{"role": "assistant", "content": first.choices[0].message.content}]
    chat += about("blue", "And this one?")
    client.chat.completions.create(model="tiny", messages=chat, max_tokens=6, temperature=0)
    stats = served.engine.stats()
    assert (stats.image_queries, stats.image_hits) == (3, 1)
    parts = [{"type": "text", "text": "What is "}, chat[0]["content"][0],
             {"type": "input_image", "image_url": data_url("blue")}]  # fmt: skip
    found = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": parts}],
        max_tokens=6,  # type: ignore[misc]
    )
    assert found.choices[0].finish_reason in ("stop", "length")


def test_models_health_version_and_metrics(served: Served) -> None:
    client = served.client()
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "laterna"
    headers = {"Authorization": f"Bearer {KEY}"}
    assert httpx2.get(f"{served.url}/v1//models", headers=headers).json()["object"] == "list"
    assert httpx2.get(f"{served.url}/health").json() == {"status": "ok"}
    assert httpx2.get(f"{served.url}/version").json()["version"]
    client.chat.completions.create(**hello())
    page = httpx2.get(f"{served.url}/metrics").text
    for name in ("laterna:num_requests_running 0.0", "laterna:generation_tokens_total 4.0",
                 "laterna:time_to_first_token_seconds_count 1.0",
                 'laterna:request_success_total{finished_reason="length"} 1.0'):  # fmt: skip
        assert name in page


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"tools": [{"type": "function"}]}, "tools", "unsupported_parameter"),
        ({"response_format": {"type": "json_object"}}, "response_format", "unsupported_parameter"),
        ({"frequency_penalty": 0.5}, "frequency_penalty", "unsupported_parameter"),
        ({"temperature": 3}, "temperature", "invalid_value"),
        ({"temperature": "hot"}, "temperature", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_tokens": 1.5}, "max_tokens", "invalid_value"),
        ({"max_tokens": True}, "max_tokens", "invalid_value"),
        ({"top_p": 0}, "top_p", "invalid_value"),
        ({"n": 99}, "n", "invalid_value"),
        ({"seed": "x"}, "seed", "invalid_value"),
        ({"stop": ["a"] * 5}, "stop", "invalid_value"),
        ({"stop": ""}, "stop", "invalid_value"),
        ({"top_logprobs": 3}, "top_logprobs", "invalid_value"),
        ({"stream": "yes"}, "stream", "invalid_value"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": "hi"}, "messages", "invalid_value"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0]", "invalid_value"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content", "invalid_value"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
         "messages[0].content[0]", "unsupported_parameter"),
        ({"messages": [{"role": "user", "content": "see <image>"}]},
         "messages[0].content[0]", "invalid_value"),
        ({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]},
         "messages", "invalid_value"),
        ({"model": "gpt-4"}, "model", "model_not_found"),
        ({"messages": [{"role": "user", "content": "apple " * 600}]}, "messages",
         "context_length_exceeded"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_by_name(
    served: Served, change: dict[str, Any], param: str, code: str
) -> None:
    answer = served.post(hello(**change))
    error = answer.json()["error"]
    assert answer.status_code == (404 if code == "model_not_found" else 400)
    assert (error["param"], error["code"]) == (param, code)
    assert error["type"] == "invalid_request_error"
    assert error["message"]


def test_harmless_fields_are_ignored(served: Served) -> None:
    harmless = {"user": "u", "store": True, "metadata": {"a": "b"}, "parallel_tool_calls": False,
                "tools": [], "tool_choice": "none", "logit_bias": {}, "service_tier": "auto",
                "presence_penalty": 0, "frequency_penalty": 0.0, "stop": None, "seed": None,
                "response_format": {"type": "text"}, "unknown": [1]}  # fmt: skip
    assert served.post(hello(**harmless)).status_code == 200


def test_bad_images_are_the_clients_fault(served: Served) -> None:
    for url, code in (
        ("file:///etc/hostname", "invalid_image_url"),
        ("/etc/hostname", "invalid_image_url"),
        ("http://127.0.0.1/x.png", "image_host_not_allowed"),
        ("data:image/png;base64,AAAA", "invalid_image"),
        ("data:image/png;base64,!", "invalid_base64"),
    ):
        part = {"type": "image_url", "image_url": {"url": url}}
        answer = served.post(hello(messages=[{"role": "user", "content": [part]}]))
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)
        assert "image 1: " in answer.json()["error"]["message"]


def test_wrong_bodies_keys_and_routes(served: Served) -> None:
    for body in (b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"messages": NaN}'):
        assert served.post(body).status_code == 400
    assert served.post(b"x" * 2_000_001).status_code == 413
    wrong = served.post(hello(), key="other")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (401, "invalid_api_key")
    with pytest.raises(openai.AuthenticationError):
        served.client("other").models.list()
    with pytest.raises(openai.NotFoundError, match="no such route"):
        served.client().embeddings.create(model="tiny", input="x")
    assert served.post({}, path="/v1/models").status_code == 405


def test_a_full_queue_is_told_with_a_time(served: Served) -> None:
    long = hello(max_tokens=200, stream=True)
    with httpx2.Client(timeout=30) as client:
        headers = {"Authorization": f"Bearer {KEY}"}
        url = f"{served.url}/v1/chat/completions"
        full = {**long, "n": 8}
        answers = [client.post(url, json=full, headers=headers) for _ in range(1)]
        assert answers[0].status_code == 200
    engine = Engine(served.model, EngineSettings(rows=1, queue=0))
    for address in run_server(create_app(engine, ServerSettings(name="tiny"))):
        refused = httpx2.post(f"{address}/v1/chat/completions", json=hello())
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["error"]["type"] == "rate_limit_error"
    engine.close()


def test_whoever_goes_away_is_cancelled(served: Served) -> None:
    with served.client().chat.completions.create(**hello(max_tokens=180, stream=True)) as stream:
        next(iter(stream))
    until = time.monotonic() + 10
    while not served.engine.stats().finished and time.monotonic() < until:
        time.sleep(0.02)
    stats = served.engine.stats()
    assert (stats.running, stats.waiting, stats.finished.get("cancelled")) == (0, 0, 1)


def test_a_dead_engine_is_told(served: Served) -> None:
    served.engine.close()
    assert httpx2.get(f"{served.url}/health").status_code == 503
    answer = served.post(hello())
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")
    assert answer.json()["error"]["type"] == "server_error"


def test_a_recipe_can_be_served(tiny_recipe: Any) -> None:
    model = build_from_recipe(tiny_recipe)
    engine = Engine(model)
    assert engine.one_by_one == ""
    engine.close()


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1)])
def test_images_that_are_hardly_there_are_answered(served: Served, size: tuple[int, int]) -> None:
    part = {"type": "image_url", "image_url": {"url": data_url("red", size)}}
    answer = served.post(hello(messages=[{"role": "user", "content": [part]}]))
    assert (answer.status_code, answer.json()["usage"]["completion_tokens"]) == (200, 4)
    assert served.engine.alive


def test_a_client_that_leaves_before_its_body_is_whole_is_no_fault(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    port = int(served.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 90\r\n"
            b"Authorization: Bearer " + KEY.encode() + b"\r\n\r\n{"
        )
    until = time.monotonic() + 10
    with caplog.at_level("INFO", logger="laterna.serve"):
        while not caplog.records and time.monotonic() < until:
            time.sleep(0.01)
    (record,) = caplog.records
    assert (record.told["error"], record.exc_info) == ("client_closed_request", None)  # type: ignore[attr-defined]
