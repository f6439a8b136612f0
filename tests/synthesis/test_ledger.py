from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest

from laterna import files
from laterna.errors import LaternaError
from laterna.records import Message, Reply, Usage
from laterna.synthesis.ledger import Ledger
from laterna.synthesis.teachers.base import Failed, Identity, request_key

GPT = Identity(
    teacher="openai", model="gpt", base_url="http://x/v1", parameters={"n": msgspec.Raw(b"1")}
)
MESSAGES = (
    Message(role="system", content="Be kind."),
    Message(role="user", content="A dög's kite."),
)
KEY = request_key(GPT, MESSAGES)
REPLY = Reply(text="Yes.", finish_reason="stop", usage=Usage(prompt_tokens=7, completion_tokens=2))


async def answer(ledger: Ledger, key: str = KEY) -> Reply:
    assert await ledger.claim(key, GPT, MESSAGES) is None
    return await ledger.record(key, REPLY, 1.5)


def test_totals_of_another_process_are_read_anew(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l") as ours, Ledger(tmp_path / "l") as theirs:
        asyncio.run(answer(theirs))
        assert ours.totals == ()
        ours.refresh()
        assert ours.totals == theirs.totals != ()


def test_the_key_covers_everything_that_is_sent() -> None:
    others = [
        msgspec.structs.replace(GPT, **changes)
        for changes in (
            {"model": "gpt2"},
            {"base_url": "http://y/v1"},
            {"parameters": {"n": msgspec.Raw(b"2")}},
            {"parameters": {}},
        )
    ]
    keys = {request_key(identity, MESSAGES) for identity in (GPT, *others)}
    keys |= {request_key(GPT, MESSAGES[:1]), request_key(GPT, MESSAGES[::-1])}
    assert len(keys) == 7
    shuffled = {"b": msgspec.Raw(b"1"), "a": msgspec.Raw(b"2")}
    ordered = dict(sorted(shuffled.items()))
    assert request_key(msgspec.structs.replace(GPT, parameters=shuffled), MESSAGES) == request_key(
        msgspec.structs.replace(GPT, parameters=ordered), MESSAGES
    )


def test_an_answer_is_found_again_by_anyone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as ledger:
        assert ledger.find(KEY) is None
        assert asyncio.run(answer(ledger)) == REPLY
        assert ledger.find(KEY) == REPLY
        (total,) = ledger.totals
        assert (total.identity, total.answers, total.usage) == (GPT, 1, REPLY.usage)
        assert total.seconds == 1.5
    with Ledger(path) as ledger:
        assert asyncio.run(ledger.claim(KEY, GPT, MESSAGES)) == REPLY
        assert ledger.totals == (total,)


def test_plain_sql_reads_what_was_sent_and_said(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as ledger:
        asyncio.run(answer(ledger))
    row = sqlite3.connect(path).execute(
        "SELECT key, state, model, base_url, messages, reply, finish_reason, prompt_tokens,"
        " completion_tokens, seconds, identity FROM calls"
    )
    (found,) = row.fetchall()
    assert found[:4] == (KEY, "answered", "gpt", "http://x/v1")
    assert json.loads(found[4]) == [msgspec.to_builtins(message) for message in MESSAGES]
    assert found[5:10] == ("Yes.", "stop", 7, 2, 1.5)
    assert json.loads(found[10])["parameters"] == {"n": 1}


def test_while_one_run_writes_others_may_only_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LOCK_WAIT", 0.0)

    async def both() -> None:
        with Ledger(tmp_path / "l") as one, Ledger(tmp_path / "l") as two:
            await answer(one)
            assert two.find(KEY) == REPLY
            with pytest.raises(LaternaError, match=r"/l: in use by another run: .*process"):
                await two.claim("other", GPT, MESSAGES)
        with Ledger(tmp_path / "l") as later:
            assert await later.claim("other", GPT, MESSAGES) is None

    asyncio.run(both())


def test_a_closed_run_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "l"
    with Ledger(path) as ledger:
        assert asyncio.run(ledger.claim(KEY, GPT, MESSAGES)) is None
    assert sqlite3.connect(path).execute("SELECT count(*) FROM requests").fetchone() == (0,)
    assert not (tmp_path / ".l.lock").exists()


def test_what_a_killed_process_held_is_asked_again(tmp_path: Path) -> None:
    code = f"""
import asyncio, time
from pathlib import Path
from laterna.records import Message
from laterna.synthesis.ledger import Ledger
from laterna.synthesis.teachers.base import Identity
ledger = Ledger(Path({str(tmp_path / "l")!r}))
identity = Identity(teacher="t", model="m")
print(asyncio.run(ledger.claim({KEY!r}, identity, [Message(role="user", content="x")])), flush=True)
time.sleep(60)
"""
    source = str(Path(__file__).parents[2] / "src")
    holder = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": source},
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"None\n"
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    held = sqlite3.connect(tmp_path / "l").execute("SELECT key, state FROM requests")
    assert held.fetchall() == [(KEY, "claimed")]
    with Ledger(tmp_path / "l") as ledger:
        assert asyncio.run(answer(ledger)) == REPLY


def test_of_two_answers_the_first_counts_and_both_are_paid(tmp_path: Path) -> None:
    later = Reply(text="No.", finish_reason="stop", usage=REPLY.usage)

    async def both() -> None:
        with Ledger(tmp_path / "l") as ledger:
            await answer(ledger)
            assert await ledger.record(KEY, later, 1.0) == REPLY
            (total,) = ledger.totals
            assert (total.answers, total.usage.prompt_tokens) == (1, 14)

    asyncio.run(both())


def test_many_writes_share_a_commit(tmp_path: Path) -> None:
    async def many() -> float:
        with Ledger(tmp_path / "l") as ledger:
            started = time.monotonic()
            await asyncio.gather(*(answer(ledger, f"key {number}") for number in range(500)))
            assert ledger.totals[0].answers == 500
            return time.monotonic() - started

    assert asyncio.run(many()) < 5


@pytest.mark.parametrize("content", [b"not a database at all, but long enough" * 40, None])
def test_a_file_that_is_no_ledger_is_left_alone(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "thesis.db"
    if content is None:
        sqlite3.connect(path).execute("CREATE TABLE chapters (text)").connection.commit()
    else:
        path.write_bytes(content)
    before = path.read_bytes()
    with pytest.raises(LaternaError, match=r"thesis\.db: (cannot be read as|not) a ledger"):
        Ledger(path)
    if content is not None:
        assert path.read_bytes() == before


def test_a_ledger_that_must_exist(tmp_path: Path) -> None:
    with pytest.raises(LaternaError, match="no such ledger"):
        Ledger(tmp_path / "none", create=False)
    assert list(tmp_path.iterdir()) == []


def test_a_ledger_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    async def write() -> None:
        with Ledger(tmp_path / "l") as ledger:
            await ledger.do(lambda rows: rows._connection.execute("SELECT nothing"))

    with pytest.raises(LaternaError, match="the ledger cannot be written: near"):
        asyncio.run(write())


def test_whoever_comes_while_another_makes_the_file_waits(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite"
    maker = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    maker.execute("BEGIN IMMEDIATE")
    maker.execute("CREATE TABLE begun (a)")
    threading.Timer(0.3, lambda: maker.execute("ROLLBACK")).start()
    with Ledger(path) as ledger:
        assert ledger.totals == ()
    maker.close()


def test_one_step_that_fails_takes_no_other_with_it_and_the_thread_lives_on(tmp_path: Path) -> None:
    async def steps() -> list[object]:
        with Ledger(tmp_path / "l") as ledger:
            await ledger.claim(KEY, GPT, MESSAGES)
            too_large = msgspec.structs.replace(REPLY, usage=Usage(prompt_tokens=2**70))
            return await asyncio.gather(
                ledger.record(KEY, too_large, 0.1),
                answer(ledger, "other"),
                ledger.do(lambda rows: 1 // 0),
                return_exceptions=True,
            )

    large, other, division = asyncio.run(steps())
    assert other == REPLY, "what was paid is kept"
    for error in (large, division):
        assert isinstance(error, LaternaError)
        assert "the ledger cannot be written" in str(error)
    with Ledger(tmp_path / "l") as ledger:
        assert ledger.find("other") == REPLY
        assert ledger.find(KEY) is None


def test_a_thread_that_dies_ends_the_run_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object, **__: object) -> None:
        raise MemoryError("no room")

    async def both() -> None:
        with Ledger(tmp_path / "l") as ledger:
            monkeypatch.setattr(ledger, "_commit", die)
            for _ in range(2):
                with pytest.raises(LaternaError, match="can no longer be written: no room"):
                    await asyncio.wait_for(ledger.claim(KEY, GPT, MESSAGES), 20)

    asyncio.run(both())


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        ("UPDATE requests SET reply = NULL", "is marked as answered and holds no answer; delete"),
        ("UPDATE requests SET reply = x'ff00'", "is marked as answered and holds no answer"),
        ("UPDATE requests SET body = 'nothing'", "is damaged; delete its row"),
        ("UPDATE identities SET identity = 'x'", "the ledger is damaged: JSON is malformed"),
        ("DROP TABLE requests", "the ledger is damaged: no such table"),
    ],
)
def test_a_damaged_row_is_a_sentence(tmp_path: Path, damage: str, complaint: str) -> None:
    path = tmp_path / "l"
    with Ledger(path) as ledger:
        asyncio.run(answer(ledger))
    with sqlite3.connect(path) as opened:
        opened.execute("PRAGMA ignore_check_constraints = 1")
        opened.execute(damage)
    with pytest.raises(LaternaError, match=complaint), Ledger(path) as ledger:
        ledger.find(KEY)


def test_a_damaged_page_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "l"

    async def many(ledger: Ledger) -> None:
        await asyncio.gather(*(answer(ledger, f"key {number}") for number in range(300)))

    with Ledger(path) as ledger:
        asyncio.run(many(ledger))
    content = bytearray(path.read_bytes())
    assert len(content) > 20 * 4096
    for page in range(9, len(content) // 4096):
        content[page * 4096 : page * 4096 + 64] = b"\xa5" * 64
    path.write_bytes(content)
    with pytest.raises(LaternaError, match="the ledger is damaged"), Ledger(path) as ledger:
        for number in range(300):
            ledger.find(f"key {number}")


def test_a_ledger_of_version_1_keeps_its_answers(tmp_path: Path) -> None:
    path = tmp_path / "l"
    with Ledger(path) as ledger:
        asyncio.run(answer(ledger))
    with sqlite3.connect(path) as opened:  # back to what version 1 was
        for table in ("requests", "identities"):
            opened.execute("DROP VIEW IF EXISTS calls")
            opened.execute(f"ALTER TABLE {table} DROP COLUMN estimated")
        opened.execute("ALTER TABLE requests DROP COLUMN body")
        opened.execute("DROP TABLE failures")
        opened.execute("CREATE TABLE owners (owner TEXT)")
        for table in ("requests", "batches"):
            opened.execute(f"ALTER TABLE {table} ADD COLUMN owner TEXT")
        opened.execute("CREATE INDEX requests_claimed ON requests (owner)")
        opened.execute("PRAGMA user_version = 1")
    with Ledger(path) as ledger:
        assert ledger.find(KEY) == REPLY
        (total,) = ledger.totals
        assert (total.answers, total.usage, total.lost) == (1, REPLY.usage, Usage())
    with Ledger(path) as again, sqlite3.connect(path) as opened:
        assert again.find(KEY) == REPLY
        assert opened.execute("SELECT reply, estimated FROM calls").fetchall() == [("Yes.", 0)]


def test_calls_without_an_answer_are_counted_by_reason_with_what_was_said_first(
    tmp_path: Path,
) -> None:
    guess = Usage(prompt_tokens=10, completion_tokens=300, estimated=1)

    async def fail(ledger: Ledger) -> None:
        for said in ("first", "second"):
            failed = Failed(reason="timeout", said=said, used=guess, body=b"x" * 100_000)
            await ledger.do(lambda rows, failed=failed: rows.fail(GPT, failed))
        await ledger.do(lambda rows: rows.fail(GPT, Failed(reason="HTTP 429", said="slower")))

    with Ledger(tmp_path / "l") as ledger:
        asyncio.run(fail(ledger))
        (total,) = ledger.totals
        assert total.lost == Usage(prompt_tokens=20, completion_tokens=600, estimated=2)
        assert (total.answers, total.usage) == (0, Usage())
    with sqlite3.connect(tmp_path / "l") as opened:
        rows = opened.execute("SELECT reason, said, calls, length(body) FROM failures ORDER BY 1")
        assert rows.fetchall() == [("HTTP 429", "slower", 1, None), ("timeout", "first", 2, 65536)]
