"""Endpoints that answer oddly: what was paid is kept, counted and read; nothing is a traceback."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from laterna.errors import LaternaError
from laterna.synthesis.builder import Reject
from laterna.synthesis.run import Summary, rejects_file, synthesize
from laterna.synthesis.settings import Endpoint, Spending
from laterna.synthesis.teachers import batch as batch_module
from laterna.synthesis.teachers import client

Start = Callable[..., Any]
KEY = "sk-never-to-be-stored"
CONCURRENCY = 2
REQUESTS = 6


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(client, "_LONGEST_PAUSE", 0.05)
    monkeypatch.setattr(batch_module, "_QUIET_SECONDS", 0.05)
    monkeypatch.setattr(client, "ANSWER_BYTES", 2**20)


@pytest.fixture
def six(some_contexts: Path) -> Path:
    """Six of the contexts."""
    lines = some_contexts.read_text().splitlines()[:REQUESTS]
    some_contexts.write_text("\n".join(lines))
    return some_contexts


def ask(contexts: Path, url: str, model: str, teacher: str = "openai", **spending: Any) -> Summary:
    timeout = 0.5 if model == "odd drip" else 30
    endpoint = Endpoint(
        model=model, base_url=url, tries=2, timeout=timeout, concurrency=CONCURRENCY, poll=0.02
    )
    out = contexts.parent / "o.json"
    money = Spending(input_price=0, output_price=25_000, **spending)
    return synthesize(
        contexts, out, teacher=teacher, endpoint=endpoint, kinds=("detail",), spending=money
    )


def ledger(contexts: Path, statement: str) -> list[Any]:
    with closing(sqlite3.connect(contexts.parent / "o.ledger.sqlite")) as opened:
        return opened.execute(statement).fetchall()


READ = {
    "usage-null": 6, "usage-missing": 6, "usage-float": 0, "usage-text": 0, "usage-huge": 6,
    "usage-negative": 6, "usage-odd": 6, "parts": 0, "think": 0, "surrogate": 0, "nul": 0,
    "latin-1": 0, "bom": 0, "stream": 6, "gzip": 0, 'finish-"eos"': 0, "finish-null": 0,
    'finish-"STOP"': 0, 'finish-"end_turn"': 0,
}  # fmt: skip
"""Modes whose answers are read, with the number of calls counted by estimate."""
TAKEN_OFF = {
    "parts": "thoughts", "think": "thoughts", "surrogate": "invisible characters",
    "nul": "invisible characters",
}  # fmt: skip


@pytest.mark.parametrize("mode", READ)
def test_what_does_not_matter_is_read_leniently_within_the_budget_and_paid_once(
    stub: Any, six: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    before = stub.stats()["odd"].get(mode, 0)
    # A reply is about a dollar; by estimate up to 1.3, so that two of them may be enough.
    some = ask(six, stub.url, f"odd {mode}", budget=2.5)
    paid = stub.stats()["odd"][mode] - before
    assert (3 if READ.get(mode) == 0 else 2) <= paid <= 3 + CONCURRENCY - 1
    assert some.records == {"detail": paid}
    summary = ask(six, stub.url, f"odd {mode}")
    assert summary.records == {"detail": 6}
    assert summary.calls is not None
    assert (summary.calls.asked, summary.calls.found) == (6 - paid, paid)
    assert summary.calls.estimated == READ[mode]
    if READ[mode]:
        assert "6 calls by estimate" in summary.line()
        assert summary.calls.spent == pytest.approx(7.4, abs=0.4), "about 49 tokens a reply"
    else:
        assert summary.calls.spent == pytest.approx(6)
    assert summary.stripped == ({TAKEN_OFF[mode]: 6} if mode in TAKEN_OFF else {})
    for (body,) in ledger(six, "SELECT body FROM requests"):
        assert body, "kept as it came"
    made = (six.parent / "o.json").read_bytes()
    assert b"Well." not in made
    assert b"\\u0000" not in made
    again = ask(six, stub.url, f"odd {mode}")
    assert again.calls is not None
    assert (again.calls.asked, again.calls.found) == (0, 6)
    assert (six.parent / "o.json").read_bytes() == made
    assert stub.stats()["odd"][mode] - before == 6


FAILS = {
    "html": ("broken answer", "Sign in to the guest network"),
    "empty": ("broken answer", "an empty answer"),
    "cut": ("broken answer", '{"id": "x"'),
    "deep": ("broken answer", "[[["),
    "binary": ("broken answer", ""),
    "digits": ("broken answer", '{"choices": 999'),
    "error-in-200": ("HTTP 503", "Upstream is gone"),
    "bomb": ("broken answer", "an answer of more than 1 MiB"),
    "broken-gzip": ("connection", ""),
    "reset": ("connection", ""),
    "drip": ("timeout", "no whole answer within 0.5 s"),
    "endless": ("broken answer", "an answer of more than 1 MiB"),
    "gateway": ("HTTP 504", "504 Gateway Time-out"),
}
"""Modes that give no answer and may be billed, with the reason and what is said first."""


@pytest.mark.parametrize("mode", FAILS)
def test_what_is_no_answer_is_counted_by_estimate_and_said(
    stub: Any, six: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    reason, said = FAILS[mode]
    before = stub.stats()["odd"].get(mode, 0)
    # 300 tokens by estimate, 7.5 dollars a call: the third call is the last.
    with pytest.raises(LaternaError) as caught:
        ask(six, stub.url, f"odd {mode}", budget=16)
    paid = stub.stats()["odd"][mode] - before
    assert (3 if READ.get(mode) == 0 else 2) <= paid <= 3 + CONCURRENCY - 1
    assert f"{paid} {reason}" in str(caught.value)
    assert said in str(caught.value)
    assert f"{paid} calls by estimate" in str(caught.value)
    (row,) = ledger(six, "SELECT reason, said, calls, completion_tokens FROM failures")
    assert (row[0], row[2], row[3]) == (reason, paid, 300 * paid)
    assert said in row[1]
    lines = rejects_file(six.parent / "o.json").read_bytes().splitlines()
    rejects = [msgspec.json.decode(line, type=Reject).verdict.findings[0] for line in lines]
    assert len(rejects) == REQUESTS
    assert any(said in finding.detail for finding in rejects)


@pytest.mark.parametrize(
    ("reason", "rejected"),
    [
        ('"length"', "truncated"),
        ('"MAX_TOKENS"', "truncated"),
        ('"model_length"', "truncated"),
        ('"content_filter"', "not finished"),
        ('"SAFETY"', "not finished"),
        ('"error"', "not finished"),
        ('"tool_calls"', "not finished"),
        ('"abort"', "not finished"),
        ('"insufficient_system_resource"', "not finished"),
        ('"whatever comes next"', "not finished"),
    ],
)
def test_only_good_finish_reasons_finish(
    stub: Any, six: Path, monkeypatch: pytest.MonkeyPatch, reason: str, rejected: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.raises(LaternaError, match=f"6 {rejected}: .*; asked 6, answered before 0"):
        ask(six, stub.url, f"odd finish-{reason}")
    assert ledger(six, "SELECT count(*) FROM requests WHERE state = 'answered'") == [(6,)]


def test_a_refusal_under_a_key_of_its_own_is_no_answer(
    stub: Any, six: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.raises(LaternaError, match=r"6 not finished: .*refusal: This is not something"):
        ask(six, stub.url, "odd refusal")
    assert ledger(six, "SELECT count(*) FROM requests WHERE state = 'answered'") == [(6,)]


def test_redirects_are_not_followed(stub: Any, six: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.raises(LaternaError) as caught:
        ask(six, stub.url, "odd redirect")
    assert "it sends to http://elsewhere.invalid/v1/chat/completions, which" in str(caught.value)
    assert "hidden" not in str(caught.value)


def test_a_masked_key_is_not_shown_either(
    stub: Any, six: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.raises(LaternaError, match=r"HTTP 401: Incorrect API key provided: \(a key\)") as e:
        ask(six, stub.url, "odd masked-key")
    content = b"".join(path.read_bytes() for path in six.parent.glob("o.ledger.sqlite*"))
    for shown in (str(e.value).encode(), content):
        assert b"****" not in shown
        assert b"ored" not in shown.replace(b"is stored", b"").replace(b"restored", b"")


@pytest.mark.parametrize(
    "url", ["http://me:hush@127.0.0.1/v1", "http://127.0.0.1/v1?key=hush", "http://127.0.0.1/#hush"]
)
def test_an_address_that_may_hold_a_secret_is_refused_unseen(six: Path, url: str) -> None:
    with pytest.raises(LaternaError, match="--base-url: leave out") as caught:
        ask(six, url, "m")
    assert "hush" not in str(caught.value)
    assert not list(six.parent.glob("o.*"))


@pytest.mark.parametrize("url", ["127.0.0.1/v1", "ftp://x/v1", "http://", "http://x:port/v1"])
def test_what_is_no_address(six: Path, url: str) -> None:
    with pytest.raises(LaternaError, match="--base-url: not an address"):
        ask(six, url, "m")


def test_a_page_in_place_of_a_batchs_status_ends_the_run_and_the_batch_is_found_again(
    start_stub: Start, six: Path
) -> None:
    page = start_stub("--batch-page")
    with pytest.raises(LaternaError, match=r"gives no answer \(broken answer: Gateway\); batches"):
        ask(six, page.url, "m", teacher="batch")
    page.close()
    stats = ledger(six, "SELECT state, batch IS NOT NULL, count(*) FROM requests GROUP BY 1, 2")
    assert stats == [("claimed", 1, 6)]


def test_a_cancelled_batch_is_not_made_anew(start_stub: Start, six: Path) -> None:
    cancelled = start_stub("--cancel-batches")
    with pytest.raises(LaternaError, match="6 not asked: the batch was cancelled"):
        ask(six, cancelled.url, "m", teacher="batch")
    assert cancelled.stats()["batches"] == 1


@pytest.mark.parametrize("mode", ["parts", "usage-null", "usage-huge", "think"])
def test_a_batchs_rows_are_read_as_single_answers_are(
    start_stub: Start, six: Path, mode: str
) -> None:
    stub = start_stub("--batch-model", mode)
    summary = ask(six, stub.url, "m", teacher="batch")
    assert summary.records == {"detail": 6}
    assert summary.calls is not None
    assert summary.calls.estimated == READ[mode]
    assert (stub.stats()["paid"], stub.stats()["batches"]) == (6, 1)


def test_a_page_in_place_of_a_batchs_answers_is_not_paid_for_anew(
    start_stub: Start, six: Path
) -> None:
    stub = start_stub("--batch-file", "<html><title>Sign in</title></html>")
    for _ in range(2):
        with pytest.raises(LaternaError, match=r"holds no answers \(Sign in\); run again to fetch"):
            ask(six, stub.url, "m", teacher="batch")
    assert (stub.stats()["paid"], stub.stats()["batches"], stub.stats()["twice"]) == (6, 1, 0)


def test_answers_that_a_finished_batch_does_not_hold_are_counted_as_paid(
    start_stub: Start, six: Path
) -> None:
    stub = start_stub("--batch-file", "")
    with pytest.raises(LaternaError, match=r"6 no answer: batch completed.*\(12 calls by estimate"):
        ask(six, stub.url, "m", teacher="batch")
    assert (stub.stats()["batches"], stub.stats()["twice"]) == (2, 6)


def test_a_batch_is_no_larger_than_the_budget_is_good_for(start_stub: Start, six: Path) -> None:
    stub = start_stub()
    # 300 tokens by estimate, 7.5 dollars a call; a reply costs a dollar.
    summary = ask(six, stub.url, "m", teacher="batch", budget=8.0)
    assert summary.records == {"detail": 6}
    assert stub.stats()["batches"] == 6
    assert stub.stats()["twice"] == 0
