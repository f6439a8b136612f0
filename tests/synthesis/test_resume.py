"""No request lost, none paid twice: runs that are killed, run together, stopped and shared."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest

from laterna.errors import LaternaError
from laterna.records import Message
from laterna.synthesis.builder import Reject
from laterna.synthesis.run import dry_run, rejects_file, synthesize
from laterna.synthesis.settings import Endpoint, Job, Shard, Spending
from laterna.synthesis.teachers.base import Identity
from laterna.synthesis.teachers.openai import request_body

Start = Callable[..., Any]
SOURCE = str(Path(__file__).parents[2] / "src")
REQUESTS = 72
"""24 images in three kinds; some of the replies are bad, and asked again once."""
CONCURRENCY = 8


def command(contexts: Path, out: Path, url: str) -> list[str]:
    code = "import sys; from laterna.cli import main; sys.exit(main(sys.argv[1:]))"
    words = f"synthesize --annotations {contexts} --out {out} --teacher openai --repair 1"
    words += f" --model m --base-url {url} --concurrency {CONCURRENCY}"
    words += f" --ledger {out.parent / 'l.sqlite'}"
    return [sys.executable, "-c", code, *words.split()]


def begin(contexts: Path, out: Path, url: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(contexts, out, url),
        env=os.environ | {"PYTHONPATH": SOURCE},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(run: subprocess.Popen[str]) -> str:
    said, _ = run.communicate(timeout=120)
    assert run.returncode == 0, said
    return said


def kill_and_resume(start_stub: Start, contexts: Path, folder: Path, kills: int) -> None:
    """Kill one run at so many random moments, from its start to its end, and compare its files.

    Both runs ask the same address, which is part of what a ledger's key is made of.
    """
    quiet = start_stub("--bad", "0.2")
    whole = folder / "whole" / "o.json"
    finish(begin(contexts, whole, quiet.url))
    once = quiet.stats()
    assert once["twice"] == 0
    quiet.close()
    stub = start_stub("--bad", "0.2", "--delay", "0.1", "0.4", "--port", quiet.port)
    assert stub.url == quiet.url
    out = folder / "killed" / "o.json"
    rng = random.Random(kills)
    flying: set[str] = set()
    for moment in sorted(rng.sample(range(once["paid"]), kills)):
        run = begin(contexts, out, stub.url)
        kill_after(run, stub, moment, rng.random() / 10)
        flying |= claimed(out.parent / "l.sqlite")
    said = finish(begin(contexts, out, stub.url))
    assert out.read_bytes() == whole.read_bytes()
    assert rejects_file(out).read_bytes() == rejects_file(whole).read_bytes()
    stats = stub.stats()
    assert stats["distinct"] == once["distinct"] > REQUESTS
    assert set(stats["again"]) <= flying, "paid again though it was not under way at a kill"
    assert stats["paid"] - stats["distinct"] <= kills * CONCURRENCY
    assert "answered before" in said
    again = finish(begin(contexts, out, stub.url))
    assert "; asked 0, answered before" in again
    assert stub.stats()["paid"] == stats["paid"]


def kill_after(run: subprocess.Popen[str], stub: Any, paid: int, seconds: float) -> None:
    """Kill a run some time after the endpoint has answered so many requests of all runs."""
    deadline = time.monotonic() + 60
    while stub.stats()["distinct"] < paid and time.monotonic() < deadline:
        assert run.poll() is None, "it ended before its moment"
        time.sleep(0.01)
    time.sleep(seconds)
    run.kill()
    run.wait()


def claimed(ledger: Path) -> set[str]:
    """The bodies of the requests that a ledger holds as asked and not answered."""
    if not ledger.exists():
        return set()
    with closing(sqlite3.connect(ledger)) as opened:
        rows = opened.execute("SELECT identity, messages FROM calls WHERE state = 'claimed'")
        return {
            sha256(
                request_body(
                    msgspec.json.decode(identity, type=Identity),
                    msgspec.json.decode(messages, type=list[Message]),
                )
            ).hexdigest()
            for identity, messages in rows
        }


def test_killed_at_random_moments_and_resumed(
    start_stub: Start, some_contexts: Path, tmp_path: Path
) -> None:
    kill_and_resume(start_stub, some_contexts, tmp_path, kills=2)


@pytest.mark.slow
def test_killed_twenty_times_and_resumed(
    start_stub: Start, coco_mini: Path, tmp_path: Path
) -> None:
    kill_and_resume(start_stub, coco_mini, tmp_path, kills=20)


def test_two_processes_on_one_ledger_ask_nothing_twice(
    start_stub: Start, some_contexts: Path, tmp_path: Path
) -> None:
    """One writes to the ledger; the other says so, and run again finds every answer."""
    stub = start_stub("--delay", "0.02", "0.1")
    outs = [tmp_path / "one.json", tmp_path / "two.json"]
    runs = [begin(some_contexts, out, stub.url) for out in outs]
    for out, run in zip(outs, runs, strict=True):
        said, _ = run.communicate(timeout=120)
        if run.returncode:  # it waits 10 seconds for a run that is ending
            assert run.returncode == 2
            assert "l.sqlite: another run is at work there: synthesis (process" in said
            finish(begin(some_contexts, out, stub.url))
    assert outs[0].read_bytes() == outs[1].read_bytes()
    stats = stub.stats()
    assert (stats["paid"], stats["twice"]) == (REQUESTS, 0)


def make(contexts: Path, out: Path, url: str, **changes: Any) -> Any:
    endpoint = Endpoint(model="m", base_url=url, concurrency=4)
    return synthesize(contexts, out, teacher="openai", endpoint=endpoint, **changes)


def test_the_key_is_stored_nowhere(
    start_stub: Start, some_contexts: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    stub = start_stub()
    make(some_contexts, tmp_path / "o.json", stub.url)
    assert "Bearer sk-never-to-be-stored" in stub.stats()["keys"]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) >= 4, "contexts, records, rejects, ledger"
    for path in files:
        assert b"sk-never-to-be-stored" not in path.read_bytes(), path
    assert "sk-never-to-be-stored" not in "".join(capfd.readouterr())


def test_the_budget_is_a_hard_stop_and_more_of_it_goes_on(
    start_stub: Start, some_contexts: Path, tmp_path: Path
) -> None:
    stub = start_stub("--delay", "0.01", "0.03")
    out = tmp_path / "o.json"
    # 40 tokens of each reply at a dollar: a reply costs a dollar.
    price = Spending(input_price=0, output_price=25_000, budget=20)
    first = make(some_contexts, out, stub.url, spending=price)
    assert 20 <= stub.stats()["paid"] <= 20 + 3, "no more over it than calls in flight"
    paid = stub.stats()["paid"]
    assert sum(first.records.values()) == paid
    assert [p.reason for p in first.problems] == ["not asked: the budget is spent"] * (72 - paid)
    assert first.calls.spent == pytest.approx(paid)
    assert f"; ${paid:.4f} in all" in first.line()
    with pytest.raises(LaternaError, match="a budget needs the price of 'm'"):
        make(some_contexts, out, stub.url, spending=Spending(budget=3))
    make(some_contexts, out, stub.url, spending=price)
    assert stub.stats()["paid"] == paid, "the same budget is not spent again"
    more = msgspec.structs.replace(price, budget=100)
    assert make(some_contexts, out, stub.url, spending=more).records["detail"] == 24
    assert (stub.stats()["paid"], stub.stats()["twice"]) == (72, 0)


def test_a_dry_run_asks_nothing_and_writes_nothing(
    start_stub: Start, some_contexts: Path, tmp_path: Path
) -> None:
    stub = start_stub()
    out = tmp_path / "o.json"
    endpoint = Endpoint(model="m", base_url=stub.url)
    spending = Spending(input_price=2.5, output_price=10)
    job = Job(annotations=some_contexts, teacher="openai", endpoint=endpoint, spending=spending)
    line = dry_run(job, out)
    assert "to ask: 72 requests (24 conversation, 24 detail, 24 reasoning)" in line
    assert "assumed lengths and times), $" in line
    assert list(tmp_path.iterdir()) == [some_contexts]
    make(some_contexts, out, stub.url, kinds=("detail",))
    line = dry_run(job, out)
    assert "(24 conversation, 24 reasoning), answered before: 24" in line
    assert "lengths and times as so far" in line
    assert stub.stats()["paid"] == 24


def test_rejected_replies_are_mended_by_asking_again(
    start_stub: Start, some_contexts: Path, tmp_path: Path
) -> None:
    stub = start_stub("--bad", "0.3")
    out = tmp_path / "o.json"
    plain = make(some_contexts, out, stub.url)
    bad = plain.rejected["source leak"]
    assert 5 < bad < 50
    assert sum(plain.records.values()) == 72 - bad
    mended = make(some_contexts, out, stub.url, repair=1)
    assert sum(mended.records.values()) == 72
    assert (mended.calls.asked, mended.calls.found) == (bad, 72)
    assert (mended.repaired, mended.rejected) == (bad, {"source leak": bad})
    lines = rejects_file(out).read_bytes().splitlines()
    rejects = [msgspec.json.decode(line, type=Reject) for line in lines]
    assert len(rejects) == bad
    assert all("caption" in r.verdict.findings[0].sentence for r in rejects)


def test_a_reply_said_before_is_left_out_with_its_words(
    start_stub: Start, some_contexts: Path, tmp_path: Path
) -> None:
    """Two images of the same captions and boxes are one request, and one record."""
    line = some_contexts.read_text().splitlines()[0]
    twin = msgspec.json.decode(line) | {"id": "000000999999", "image": "twin.jpg"}
    pair = tmp_path / "pair.jsonl"
    pair.write_text(f"{line}\n{msgspec.json.encode(twin).decode()}\n")
    stub = start_stub()
    out = tmp_path / "o.json"
    summary = make(pair, out, stub.url, kinds=("detail",))
    assert (summary.records, summary.rejected) == ({"detail": 1}, {"near-duplicate": 1})
    assert [(p.reason, p.where) for p in summary.problems] == [
        ("near-duplicate", "image 000000999999, detail")
    ]
    assert stub.stats()["paid"] == 1
    (record,) = msgspec.json.decode(out.read_bytes())
    (reject,) = rejects_file(out).read_bytes().splitlines()
    found = msgspec.json.decode(reject, type=Reject)
    assert found.id == "000000999999-detail"
    assert found.verdict.findings[0].sentence == record["conversations"][1]["value"]


def test_replay_answers_from_the_ledger_alone(
    start_stub: Start, some_contexts: Path, tmp_path: Path
) -> None:
    stub = start_stub()
    out, replayed, ledger = tmp_path / "o.json", tmp_path / "r.json", tmp_path / "l.sqlite"
    make(some_contexts, out, stub.url, ledger=ledger, kinds=("detail", "reasoning"))
    stub.close()
    kinds = ("detail", "reasoning")
    synthesize(some_contexts, replayed, teacher="replay", ledger=ledger, kinds=kinds)
    assert replayed.read_bytes().replace(b'"replay"', b'"openai"') == out.read_bytes()
    with pytest.raises(LaternaError, match=r"l\.sqlite: no answer of m under the key [0-9a-f]{64}"):
        synthesize(some_contexts, replayed, teacher="replay", ledger=ledger)
    with pytest.raises(LaternaError, match=r"none\.sqlite: no such ledger"):
        synthesize(some_contexts, replayed, teacher="replay", ledger=tmp_path / "none.sqlite")


def test_shards_together_are_the_whole(
    start_stub: Start, some_contexts: Path, tmp_path: Path
) -> None:
    stub = start_stub()
    ledger = tmp_path / "l.sqlite"
    whole = make(some_contexts, tmp_path / "o.jsonl", stub.url, ledger=ledger, form="jsonl")
    parts = [tmp_path / f"{number}.jsonl" for number in (1, 2, 3)]
    made = [
        make(
            some_contexts, part, stub.url, ledger=ledger, form="jsonl", shard=Shard(number=n, of=3)
        )
        for n, part in enumerate(parts, start=1)
    ]
    assert [summary.scenes for summary in made] == [8, 8, 8]
    lines = [line for part in parts for line in part.read_text().splitlines()]
    assert sorted(lines) == sorted((tmp_path / "o.jsonl").read_text().splitlines())
    assert stub.stats()["paid"] == sum(whole.records.values()) == 72
