from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from laterna.errors import LaternaError
from laterna.synthesis.run import Summary, synthesize
from laterna.synthesis.settings import Endpoint
from laterna.synthesis.teachers import batch as module
from laterna.synthesis.teachers import client

Start = Callable[..., Any]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_QUIET_SECONDS", 0.1)


def make(contexts: Path, url: str, out: Path, teacher: str = "batch", **changes: Any) -> Summary:
    endpoint = Endpoint(model="m", base_url=url, poll=0.05, **changes)
    ledger = out.parent / "l.sqlite"
    return synthesize(contexts, out, teacher=teacher, endpoint=endpoint, ledger=ledger)


def test_a_batch_and_single_calls_share_their_answers(
    start_stub: Start, some_contexts: Path, tmp_path: Path
) -> None:
    stub = start_stub("--batch-seconds", "0.3")
    one, two, three = (tmp_path / f"{number}.json" for number in range(3))
    summary = make(some_contexts, stub.url, one)
    assert summary.records == {"conversation": 24, "detail": 24, "reasoning": 24}
    assert summary.calls is not None
    assert (summary.calls.asked, stub.stats()["batches"]) == (72, 1)
    again = make(some_contexts, stub.url, two, teacher="openai")
    assert again.calls is not None
    assert (again.calls.asked, again.calls.found) == (0, 72)
    assert one.read_bytes() == two.read_bytes().replace(b'"teacher":"openai"', b'"teacher":"batch"')
    small = make(some_contexts, start_stub().url, three, batch_size=30)
    assert small.records == summary.records
    assert stub.stats()["twice"] == 0


def test_expired_rows_are_asked_again(
    start_stub: Start, some_contexts: Path, tmp_path: Path
) -> None:
    stub = start_stub("--expire", "0.3", "--seed", "2")
    summary = make(some_contexts, stub.url, tmp_path / "o.json")
    assert summary.records == {"conversation": 24, "detail": 24, "reasoning": 24}
    stats = stub.stats()
    assert (stats["paid"], stats["twice"]) == (72, 0)
    assert stats["batches"] > 1
    assert summary.calls is not None
    assert summary.calls.retries["batch expired"] > 5


def test_rows_that_always_expire_are_left_out_and_counted(
    start_stub: Start, some_contexts: Path, tmp_path: Path
) -> None:
    stub = start_stub("--expire", "1")
    with pytest.raises(LaternaError, match=r"no record could be made .*no answer: batch expired"):
        make(some_contexts, stub.url, tmp_path / "o.json", tries=2)
    assert stub.stats()["batches"] == 2


@pytest.mark.parametrize("named", [True, False])
def test_a_run_that_dies_finds_its_batch_again(
    start_stub: Start,
    some_contexts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    named: bool,
) -> None:
    """Killed while it waits, or between the making of the batch and noting its name."""
    stub = start_stub("--batch-seconds", "1")

    async def die(*_: object) -> None:
        raise LaternaError("killed here")

    with monkeypatch.context() as patched, pytest.raises(LaternaError, match="killed here"):
        patched.setattr(module.BatchTeacher, "_follow", die)
        make(some_contexts, stub.url, tmp_path / "o.json")
    if not named:
        with sqlite3.connect(tmp_path / "l.sqlite") as connection:
            connection.execute("UPDATE batches SET batch_id = NULL")
    summary = make(some_contexts, stub.url, tmp_path / "o.json")
    assert summary.records == {"conversation": 24, "detail": 24, "reasoning": 24}
    stats = stub.stats()
    assert (stats["batches"], stats["paid"], stats["twice"]) == (1, 72, 0)


def test_a_batch_that_was_never_made_is_made_anew(
    start_stub: Start, some_contexts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = start_stub()

    async def die(*_: object) -> None:
        raise LaternaError("killed here")

    with monkeypatch.context() as patched, pytest.raises(LaternaError, match="killed here"):
        patched.setattr(module.BatchTeacher, "_make", die)
        make(some_contexts, stub.url, tmp_path / "o.json")
    assert make(some_contexts, stub.url, tmp_path / "o.json").records["detail"] == 24
    assert stub.stats()["batches"] == 1


def test_of_a_batch_that_failed_in_part_what_may_pass_is_asked_again(
    start_stub: Start, some_contexts: Path, tmp_path: Path
) -> None:
    """Refused rows are left out and counted; rows of a 500 and broken ones are asked again."""
    stub = start_stub("--row-faults", "0.4", "--seed", "5")
    summary = make(some_contexts, stub.url, tmp_path / "o.json", tries=30)
    stats = stub.stats()
    refused = stats["failed"]["400"]
    assert min(stats["failed"].values()) > 2, stats["failed"]
    assert [problem.reason for problem in summary.problems] == [
        "no answer: refused in a batch"
    ] * refused
    assert sum(summary.records.values()) == stats["paid"] == 72 - refused
    assert stats["twice"] == 0
    assert summary.calls is not None
    assert summary.calls.retries == {
        "refused in a batch": refused,
        "HTTP 500": stats["failed"]["500"],
        "broken answer": stats["failed"]["broken"],
    }
    assert summary.calls.estimated == stats["failed"]["broken"], "they may have been paid for"


def test_a_batch_that_failed_as_a_whole_says_why_and_not_the_key(
    start_stub: Start, some_contexts: Path, tmp_path: Path
) -> None:
    stub = start_stub("--fail-batches")
    with pytest.raises(LaternaError, match=r"batch batch-0: no tokens left for \(the key\)"):
        make(some_contexts, stub.url, tmp_path / "o.json")


def test_an_endpoint_that_refuses_a_batch_is_told_without_the_key(
    start_stub: Start, some_contexts: Path, tmp_path: Path
) -> None:
    stub = start_stub("--always", "401")
    with pytest.raises(LaternaError) as caught:
        make(some_contexts, stub.url, tmp_path / "o.json")
    assert "Bearer sk-never-to-be-stored" in stub.stats()["keys"], "it was sent"
    assert "(the key)" in str(caught.value), "the endpoint repeated it"
    assert "sk-never-to-be-stored" not in str(caught.value)


def test_retry_after_is_honoured_by_the_batch_api_too(
    start_stub: Start, some_contexts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "backoff", lambda number: 0.0)
    stub = start_stub("--busy", "2", "--retry-after", "0.8")
    started = time.monotonic()
    summary = make(some_contexts, stub.url, tmp_path / "o.json")
    assert time.monotonic() - started >= 1.6
    assert summary.records["detail"] == 24
    assert stub.stats()["failed"] == {"busy": 2}
