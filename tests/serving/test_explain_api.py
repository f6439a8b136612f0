"""`/v1/explain`: the contract that the page is built on, and its limits."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import httpx2
import pytest
from msgspec.structs import replace
from PIL import Image

from laterna.inference.assistant import Assistant
from laterna.inference.engine import Engine, EngineStats
from laterna.model.vlm import VisionLanguageModel
from laterna.serving import explain_api
from laterna.serving.openai_api import ServerSettings, create_app

Result = TypeVar("Result")
NOISE = Image.effect_noise((28, 28), 90).convert("RGB")
QUESTION = "What colour is the bicycle?"


def data_url(image: Image.Image = NOISE) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def asked(*later: tuple[str, str], **more: Any) -> dict[str, Any]:
    image = {"type": "image_url", "image_url": {"url": data_url()}}
    first = {"role": "user", "content": [image, {"type": "text", "text": QUESTION}]}
    messages = [first, *({"role": role, "content": text} for role, text in later)]
    return {"model": "tiny", "messages": messages, **more}


class Served:
    """An application over a tiny model, asked without a socket."""

    def __init__(self, model: VisionLanguageModel, **settings: Any) -> None:
        self.model, self.engine = model, Engine(model)
        self.app = create_app(self.engine, ServerSettings(name="tiny", **settings))

    def together(self, ask: Callable[[httpx2.AsyncClient], Awaitable[Result]]) -> Result:
        async def run() -> Result:
            transport = httpx2.ASGITransport(app=self.app)
            async with httpx2.AsyncClient(
                transport=transport, base_url="http://localhost"
            ) as client:
                return await ask(client)

        return asyncio.run(run())

    def explain(self, body: Any, **headers: str) -> Any:
        return self.together(lambda to: to.post("/v1/explain", json=body, headers=headers))


@pytest.fixture
def served(tiny_assistant: VisionLanguageModel) -> Iterator[Served]:
    one = Served(tiny_assistant)
    yield one
    one.engine.close()


def test_an_explanation_has_the_form_that_the_page_reads(served: Served) -> None:
    body = asked(("assistant", "It is red."), methods=["occlusion", "attention", "words"])
    found = served.explain(body).json()
    same = Assistant(served.model).explain(
        NOISE, QUESTION, "It is red.", ("occlusion", "attention", "words")
    )
    assert (found["object"], found["model"]) == ("explanation", "tiny")
    assert found["prompt"] == f"<s>USER: <image>\n{QUESTION} ASSISTANT:" == same.prompt
    assert (found["prompt_tokens"], found["answer"]) == (same.prompt_tokens, "It is red.")
    assert "".join(token["text"] for token in found["tokens"]).strip() == "It is red."
    assert [token["logprob"] for token in found["tokens"]] == pytest.approx(
        [token.logprob for token in same.tokens], abs=1e-4
    )
    image = found["image"]
    grid = {"rows": 2, "columns": 2}
    assert image.keys() == {"index", "width", "height", "data", "grid", "views", "tokens"}
    assert (image["index"], image["width"], image["height"], image["tokens"]) == (0, 28, 28, 4)
    assert image["grid"] == grid
    assert image["views"] == [
        {"data": image["data"], "width": 28, "height": 28, "grid": grid},
    ]
    shown = Image.open(io.BytesIO(base64.b64decode(image["data"].partition(",")[2])))
    assert list(shown.get_flattened_data()) == list(NOISE.get_flattened_data())
    assert same.occlusion is not None and same.words is not None
    assert found["occlusion"]["window"] == 1
    for row, expected in zip(found["occlusion"]["overall"], same.occlusion.overall, strict=True):
        assert row == pytest.approx(expected, abs=1e-4)
    assert len(found["occlusion"]["tokens"]) == len(found["tokens"])
    assert found["attention"].keys() == {"overall", "tokens", "note"}
    assert [len(cell) for row in found["words"]["words"] for cell in row] == [3] * 4
    assert found["words"]["words"][0][0][0][0] == same.words.words[0][0][0][0]


def test_without_an_answer_it_is_written_and_without_methods_nothing_is_covered(
    served: Served,
) -> None:
    found = served.explain(asked(methods=[], max_tokens=5)).json()
    assert found["answer"] == Assistant(served.model).answer(NOISE, QUESTION, max_new_tokens=5)
    assert not {"occlusion", "attention", "words", "lens"} & found.keys()
    assert "occlusion" in served.explain(asked(max_tokens=2)).json()


def test_an_answer_of_the_servers_own_is_explained_in_the_tokens_that_it_wrote(
    served: Served, tiny_assistant: VisionLanguageModel
) -> None:
    """What an untrained model writes is cut into other tokens when its text is read again."""
    elsewhere = Served(tiny_assistant)  # where nothing was written
    others = 0
    for seed in range(3):
        chat = {**asked(), "max_tokens": 24, "temperature": 2, "seed": seed, "logprobs": True}
        choice = served.together(lambda to, chat=chat: to.post("/v1/chat/completions", json=chat))
        said = choice.json()["choices"][0]["message"]["content"]
        body = asked(("assistant", said), methods=[])
        found = served.explain(body).json()
        written = [one["logprob"] for one in choice.json()["choices"][0]["logprobs"]["content"]]
        explained = [one["logprob"] for one in found["tokens"]]
        assert explained == pytest.approx(written, abs=1e-4)
        others += len(elsewhere.explain(body).json()["tokens"]) != len(explained)
    assert others, "the texts read again are the same tokens: nothing was tested"
    elsewhere.engine.close()


def test_a_chat_goes_on_while_an_answer_is_explained(served: Served) -> None:
    chat = {**asked(), "max_tokens": 30, "temperature": 0}

    async def both(to: httpx2.AsyncClient) -> list[Any]:
        calls = [to.post("/v1/chat/completions", json=chat)]
        calls += [to.post("/v1/explain", json=asked(max_tokens=4)) for _ in range(3)]
        return list(await asyncio.gather(*calls))

    answer, *explained = served.together(both)
    alone = Assistant(served.model).answer(NOISE, QUESTION, max_new_tokens=30)
    assert answer.json()["choices"][0]["message"]["content"].strip() == alone
    assert [one.status_code for one in explained] == [200] * 3
    first, _, last = (one.json() for one in explained)
    assert first["answer"] == last["answer"]
    for row, same in zip(first["occlusion"]["overall"], last["occlusion"]["overall"], strict=True):
        assert row == pytest.approx(same, abs=1e-4)  # covered in batches of other sizes


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ([], 400, "the body must be a JSON object"),
        ({"model": "tiny"}, 400, "messages: must be a list"),
        ({"messages": [{"role": "user", "content": "Hi"}]}, 400, "image: the chat has 0 images"),
        (asked(image=1), 400, "image: the chat has 1 images"),
        (asked(image=True), 400, "image: must be a whole number"),
        (asked(methods="occlusion"), 400, "methods: must be a list of occlusion, attention"),
        (asked(methods=["occlusion", {}]), 400, "methods: must be a list of"),
        (asked(window=0), 400, "window: must be a whole number from 1"),
        (asked(max_tokens=0), 400, "max_tokens: must be a whole number from 1"),
        (asked(("assistant", "")), 400, "the answer is empty"),
        (asked(("assistant", "Red.<image>")), 400, "cannot be written"),
        (asked(("assistant", "Red."), ("assistant", "Blue.")), 400, "the last message must be"),
        (asked(("assistant", "It is red. " * 300)), 400, "the model has 256 positions"),
        ({**asked(), "model": "other"}, 404, "is not served here"),
    ],
)
def test_what_cannot_be_explained_is_told_in_the_apis_form(
    served: Served, body: Any, status: int, message: str
) -> None:
    answer = served.explain(body)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"].keys() == {"message", "type", "param", "code"}
    assert message in answer.json()["error"]["message"]


def test_the_limits_are_the_chats(tiny_assistant: VisionLanguageModel) -> None:
    served = Served(tiny_assistant, key="a-key", max_body=5000, answer_seconds=1e-9)
    assert served.explain(asked()).status_code == 401
    key = {"Authorization": "Bearer a-key"}
    assert served.explain(asked(pad="x" * 5000), **key).status_code == 413
    late = served.explain(asked(), **key)
    assert (late.status_code, late.json()["error"]["code"]) == (400, "explanation_too_long")
    served.engine.close()
    stopped = Served(tiny_assistant)
    stopped.engine.close()
    assert stopped.explain(asked()).status_code == 503


def test_more_than_may_wait_are_told_to_come_again(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explain_api, "WAITING", 1)

    async def many(to: httpx2.AsyncClient) -> list[Any]:
        calls = [to.post("/v1/explain", json=asked(max_tokens=2)) for _ in range(5)]
        return list(await asyncio.gather(*calls))

    answers = served.together(many)
    statuses = sorted(one.status_code for one in answers)
    assert statuses == [200, 200, 429, 429, 429]
    refused = next(one for one in answers if one.status_code == 429)
    assert refused.headers["Retry-After"] == "5"
    assert refused.json()["error"]["code"] == "queue_full"
    assert served.explain(asked(max_tokens=2)).status_code == 200


def test_an_explanation_ends_when_its_client_goes_away(
    tiny_assistant: VisionLanguageModel,
) -> None:
    class Slow(Engine):
        calls = 0

        def call(self, work: Callable[[], Result]) -> Result:
            self.calls += 1
            time.sleep(0.2)
            return super().call(work)

        def stats(self) -> EngineStats:
            return replace(super().stats(), running=1)  # so each window is a piece

    engine = Slow(tiny_assistant)
    app = create_app(engine, ServerSettings(name="tiny"))
    body = json.dumps(asked(("assistant", "Red."))).encode()
    host = [(b"host", b"localhost")]
    scope = {"type": "http", "method": "POST", "path": "/v1/explain", "headers": host,
             "query_string": b"", "http_version": "1.1"}  # fmt: skip
    messages = [{"type": "http.request", "body": body}]
    sent: list[Any] = []

    async def receive() -> Any:
        return messages.pop() if messages else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 499
    assert 0 < engine.calls < 6  # the image, the answer and four windows would be six
    engine.close()
