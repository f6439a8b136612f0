from __future__ import annotations

import asyncio
import email.utils
import itertools
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from laterna.errors import LaternaError
from laterna.records import Message, Reply, Usage
from laterna.synthesis.settings import Endpoint
from laterna.synthesis.teachers import client as module
from laterna.synthesis.teachers.base import Failed, Identity, NoAnswer
from laterna.synthesis.teachers.foreign import NoReply, read_reply
from laterna.synthesis.teachers.openai import OpenAITeacher, openai_identity

Start = Callable[..., Any]


class Payer:
    """Pays whatever it costs; `check` may be told to do more before each call."""

    def __init__(self, check: Callable[[], None] = lambda: None) -> None:
        self.check = check
        self.told: list[Failed] = []

    def affordable(self, estimates: Sequence[Usage]) -> int:
        return len(estimates)

    async def failed(self, identity: Identity, failed: Failed) -> None:
        self.told.append(failed)


def ask(endpoint: Endpoint, number: int = 1) -> tuple[list[Reply | BaseException], Counter[str]]:
    """Ask that many different things at once."""

    async def run() -> tuple[list[Reply | BaseException], Counter[str]]:
        teacher = OpenAITeacher(endpoint, Payer())
        chats = [(Message(role="user", content=f"Nr {n}"),) for n in range(number)]
        calls = (teacher.complete(chat) for chat in chats)
        replies = await asyncio.gather(*calls, return_exceptions=True)
        await teacher.close()
        return replies, teacher.failures.counts

    return asyncio.run(run())


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(module, "_LONGEST_PAUSE", 0.05)


def test_an_answer_is_read_whole(start_stub: Start) -> None:
    endpoint = Endpoint(model="m", base_url=start_stub().url, temperature=0.2, max_tokens=1)
    (reply,), retries = ask(endpoint)
    assert isinstance(reply, Reply)
    assert reply.text.startswith("The mood of it all")
    assert reply.finish_reason == "length", "cut off by max_tokens"
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (1, 40)
    assert not retries


def test_the_time_of_a_call_holds_no_wait_to_be_sent(start_stub: Start) -> None:
    """Six at once through one place: together their calls took no longer than the whole."""
    stub = start_stub("--delay", "0.1", "0.1")
    started = time.monotonic()
    replies, _ = ask(Endpoint(model="m", base_url=stub.url, concurrency=1), 6)
    wall = time.monotonic() - started
    seconds = [reply.seconds for reply in replies if isinstance(reply, Reply)]
    assert len(seconds) == 6
    assert min(seconds) >= 0.1
    assert sum(seconds) <= wall


def test_what_fails_is_tried_again_until_all_is_answered(start_stub: Start, quick: None) -> None:
    stub = start_stub("--fail", "0.4", "--silence", "5", "--seed", "1")
    endpoint = Endpoint(model="m", base_url=stub.url, timeout=0.5, concurrency=8, tries=30)
    replies, retries = ask(endpoint, 40)
    assert all(isinstance(reply, Reply) for reply in replies)
    assert len({reply.text for reply in replies if isinstance(reply, Reply)}) == 40
    stats = stub.stats()
    assert stats["distinct"] == stats["paid"] == 40
    # The stub still holds calls that were given up.
    assert stats["most_flying"] <= 8 + stats["failed"]["silence"]
    failed = stats["failed"]
    assert min(failed.values()) > 0
    assert len(failed) == 4
    assert retries == {
        "HTTP 429": failed["429"],
        "HTTP 500": failed["500"],
        "connection": failed["cut"],
        "timeout": failed["silence"],
    }


def test_retry_after_is_honoured(start_stub: Start, quick: None) -> None:
    stub = start_stub("--always", "429", "--retry-after", "0")
    endpoint = Endpoint(model="m", base_url=stub.url, tries=2)
    started = time.monotonic()
    (error,), _ = ask(endpoint)
    assert isinstance(error, NoAnswer)
    assert error.reason == "no answer: HTTP 429"
    assert time.monotonic() - started < 2
    slow = start_stub("--fail", "0.9", "--retry-after", "1.3", "--silence", "0", "--seed", "3")
    waited: list[float] = []

    async def run() -> None:
        teacher = OpenAITeacher(
            Endpoint(model="m", base_url=slow.url, tries=50, timeout=5),
            Payer(lambda: waited.append(now())),
        )
        await teacher.complete((Message(role="user", content="x"),))
        await teacher.close()

    now = time.monotonic
    asyncio.run(run())
    gaps = [later - earlier for earlier, later in itertools.pairwise(waited)]
    assert slow.stats()["failed"]["429"] == sum(gap >= 1.3 for gap in gaps) > 0


def test_a_long_wait_is_said_once_and_a_longer_one_ends_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr(module, "_said_until", {})
    waits = iter([5.0, 90.0, 90.0, 3600.0])

    async def call() -> None:
        raise module.Failure("HTTP 429", "busy", wait=next(waits))

    with pytest.raises(LaternaError) as error:
        asyncio.run(module.try_again(call, 8, "http://x/v1"))
    assert slept == [5.0, 90.0, 90.0]
    assert capsys.readouterr().err == (
        "http://x/v1: the endpoint asks to wait 1 min 30 s (HTTP 429: busy); waiting\n"
    )
    assert str(error.value) == (
        "http://x/v1: the endpoint asks to wait 1 h 0 min (HTTP 429: busy), and a run waits 10 min "
        "0 s at most; what was answered is in the ledger: run the same command again after that "
        "time"
    )


def test_retry_after_may_be_a_date() -> None:
    in_a_minute = email.utils.formatdate(time.time() + 60, usegmt=True)
    assert module._wish(in_a_minute) == pytest.approx(60, abs=2)
    assert module._wish("2.5") == 2.5
    assert module._wish("1500", 0.001) == 1.5
    assert module._wish("1e9") == 1e9
    assert module._wish("-3") == module._wish("soon") == module._wish(None) == 0


def test_pauses_double_and_differ() -> None:
    for number, longest in ((0, 1), (1, 2), (3, 8), (6, 60), (20, 60)):
        pauses = [module.backoff(number) for _ in range(50)]
        assert longest / 2 <= min(pauses) < max(pauses) <= longest
        assert len(set(pauses)) > 40


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_no_retry_mends_ends_the_run(start_stub: Start, status: int) -> None:
    stub = start_stub("--always", str(status))
    (error,), retries = ask(Endpoint(model="m", base_url=stub.url))
    assert isinstance(error, LaternaError)
    assert f"refuses all requests (HTTP {status}" in str(error)
    assert retries == {f"HTTP {status}": 1}


def test_a_refused_request_is_not_repeated_and_many_in_a_row_end_the_run(
    start_stub: Start,
) -> None:
    stub = start_stub("--always", "400")
    errors, retries = ask(Endpoint(model="m", base_url=stub.url, concurrency=1), 20)
    assert retries == {"HTTP 400": 20}
    assert [type(error) for error in errors] == [NoAnswer] * 19 + [LaternaError]
    assert "20 requests in a row got no answer" in str(errors[-1])


def test_nobody_at_the_address(start_stub: Start, quick: None) -> None:
    stub = start_stub()
    stub.close()
    (error,), retries = ask(Endpoint(model="m", base_url=stub.url, tries=3))
    assert isinstance(error, NoAnswer)
    assert retries == {"connection": 3}


def test_a_rate_is_kept(start_stub: Start) -> None:
    stub = start_stub()
    started = time.monotonic()
    ask(Endpoint(model="m", base_url=stub.url, requests_per_minute=600), 16)
    # A second's worth (10) may go at once when time has passed; none has, so 15 gaps of 0.1 s.
    assert 1.4 < time.monotonic() - started < 8


def test_a_call_can_be_forbidden(start_stub: Start) -> None:
    stub = start_stub()

    def forbid() -> None:
        raise NoAnswer("no money", "")

    async def run() -> None:
        teacher = OpenAITeacher(Endpoint(model="m", base_url=stub.url), Payer(forbid))
        with pytest.raises(NoAnswer, match="no money"):
            await teacher.complete((Message(role="user", content="x"),))
        await teacher.close()

    asyncio.run(run())
    assert stub.stats()["paid"] == 0


def test_the_identity_holds_every_parameter() -> None:
    endpoint = Endpoint(
        model="m", base_url="http://x/v1/", temperature=0.5, parameters=('effort="low"',)
    )
    identity = openai_identity(endpoint)
    assert identity.base_url == "http://x/v1"
    assert msgspec.json.encode(identity.parameters, order="sorted") == (
        b'{"effort":"low","temperature":0.5}'
    )
    same = openai_identity(msgspec.structs.replace(endpoint, concurrency=99, timeout=1, tries=1))
    assert same == identity, "how fast is not what"
    with pytest.raises(LaternaError, match="name the model"):
        openai_identity(Endpoint())
    with pytest.raises(LaternaError, match="--max-tokens: give one of them"):
        openai_identity(Endpoint(model="m", max_tokens=5, parameters=("max_tokens=6",)))


def test_odd_completions() -> None:
    refused = b'{"choices": [{"message": {"content": null, "refusal": "I cannot."}}]}'
    reply = read_reply(refused, 7)
    used = Usage(prompt_tokens=7, completion_tokens=2, estimated=1)
    assert reply == Reply(text="I cannot.", finish_reason="refusal: I cannot.", usage=used)
    beside = b'{"choices": [{"message": {"content": "A dog.", "refusal": "I cannot."}}]}'
    assert read_reply(beside, 7).text == "A dog."
    assert read_reply(beside, 7).finish_reason == ""
    for broken in (b'{"choices": []}', b"{}", b"<html>"):
        with pytest.raises(NoReply):
            read_reply(broken)


def test_the_key_is_never_logged(
    start_stub: Start, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG)
    stub = start_stub("--always", "401")
    (error,), _ = ask(Endpoint(model="m", base_url=stub.url))
    assert "Bearer sk-never-to-be-stored" in stub.stats()["keys"], "it was sent"
    assert "sk-never-to-be-stored" not in caplog.text + str(error)
    assert "no (the key)" in str(error), "the endpoint repeated it"
