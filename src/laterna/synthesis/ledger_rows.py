"""The ledger's tables and every statement on them; `ledger.py` says when they run.

Anyone can read the file with SQL: the view `calls` holds one row a request with all that was
sent, all that came back, and what it used.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Sequence
from importlib import resources

import msgspec

from laterna.records import Message, Record, Reply, Usage
from laterna.synthesis.teachers.base import Failed, Identity
from laterna.synthesis.teachers.foreign import NoReply, read_reply

APPLICATION = 0x4C415452  # "LATR", in the file's header
VERSION = 3
FAILED_BYTES = 64 * 2**10
"""So much is kept of the first body of each reason that holds no answer."""
_REMEMBERED = 1000
"""Row numbers kept in mind; the openings of repairs are all different."""

_STEPS = (
    resources.files(__package__).joinpath("ledger.sql").read_text("utf-8").split("-- version ")[1:]
)
"""What makes each version of the one before, its number first."""


class Totals(Record):
    """What one identity's answers in a ledger come to."""

    identity: Identity
    answers: int
    usage: Usage
    seconds: float
    """Summed over calls, so that `seconds / answers` is how long one takes."""
    lost: Usage = Usage()
    """What calls without an answer may have been billed for."""


def create(connection: sqlite3.Connection) -> None:
    """Make the tables in an empty file, or what one of an earlier version lacks; two may try."""
    connection.execute("BEGIN IMMEDIATE")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    for step in _STEPS[version:]:
        for statement in step.partition("\n")[2].split(";"):
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.execute("COMMIT")


class Rows:
    """Statements on one connection, all run inside a transaction of the caller's."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._numbers: dict[str, int] = {}

    def forget(self) -> None:
        """Forget what was looked up: the transaction it belongs to was undone."""
        self._numbers.clear()

    def claim(self, key: str, identity: Identity, messages: Sequence[Message]) -> Reply | None:
        """Return the answer to a request, or note that it is about to be asked."""
        *before, last = messages
        self._connection.execute(
            "INSERT INTO requests (key, identity, opening, state, claimed_at, last_message)"
            " VALUES (?, ?, ?, 'claimed', ?, ?)"
            " ON CONFLICT (key) DO UPDATE SET claimed_at = excluded.claimed_at"
            " WHERE state = 'claimed'",
            (
                key,
                self._identity(identity),
                self._opening(before),
                time.time(),
                msgspec.json.encode(last).decode(),
            ),
        )
        return find(self._connection, key)

    def record(self, key: str, reply: Reply, seconds: float) -> Reply:
        """Keep an answer; return the one that counts, which is the first that came."""
        usage = reply.usage
        kept = self._connection.execute(
            "UPDATE requests SET state = 'answered', answered_at = ?, seconds = ?,"
            " finish_reason = ?, prompt_tokens = ?, completion_tokens = ?, estimated = ?,"
            " reply = ?, body = ? WHERE key = ? AND state = 'claimed'",
            (
                time.time(),
                seconds,
                reply.finish_reason,
                usage.prompt_tokens,
                usage.completion_tokens,
                usage.estimated,
                reply.text,
                reply.body or None,
                key,
            ),
        )
        # Counted even when another answer stands: it was paid for.
        self._connection.execute(
            "UPDATE identities SET answers = answers + ?, prompt_tokens = prompt_tokens + ?,"
            " completion_tokens = completion_tokens + ?, estimated = estimated + ?,"
            " seconds = seconds + ? WHERE id = (SELECT identity FROM requests WHERE key = ?)",
            (
                kept.rowcount,
                usage.prompt_tokens,
                usage.completion_tokens,
                usage.estimated,
                seconds,
                key,
            ),
        )
        if kept.rowcount:
            return reply
        return find(self._connection, key) or reply

    def fail(self, identity: Identity, failed: Failed) -> None:
        """Count a call without an answer, with what was said and sent first of its reason."""
        used = failed.used
        self._connection.execute(
            "INSERT INTO failures VALUES (?, ?, ?, 1, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
            " calls = calls + 1, prompt_tokens = prompt_tokens + excluded.prompt_tokens,"
            " completion_tokens = completion_tokens + excluded.completion_tokens,"
            " estimated = estimated + excluded.estimated",
            (
                self._identity(identity),
                failed.reason,
                failed.said,
                used.prompt_tokens,
                used.completion_tokens,
                used.estimated,
                failed.body[:FAILED_BYTES] or None,
            ),
        )

    def release(self, key: str | None = None) -> None:
        """Give a claim back unanswered, or all of them; not those that wait in a batch."""
        self._connection.execute(
            "DELETE FROM requests WHERE state = 'claimed' AND batch IS NULL"
            " AND key = coalesce(?, key)",
            (key,),
        )

    def plan_batch(self, tag: str, identity: Identity, keys: Sequence[str]) -> None:
        """Note that these requests are about to be sent as one batch, told by its tag."""
        self._connection.execute(
            "INSERT INTO batches (tag, identity, made_at) VALUES (?, ?, ?)",
            (tag, self._identity(identity), time.time()),
        )
        rows = [(tag, key) for key in keys]
        self._connection.executemany("UPDATE requests SET batch = ? WHERE key = ?", rows)

    def name_batch(self, tag: str, batch_id: str) -> None:
        """Note the endpoint's name of a batch."""
        self._connection.execute("UPDATE batches SET batch_id = ? WHERE tag = ?", (batch_id, tag))

    def end_batch(self, tag: str) -> None:
        """Note that a batch is collected, or was never made: what it left open may be asked."""
        self._connection.execute("UPDATE batches SET collected = 1 WHERE tag = ?", (tag,))
        self._connection.execute(
            "UPDATE requests SET batch = NULL WHERE batch = ? AND state = 'claimed'", (tag,)
        )

    def open_batches(self, identity: Identity) -> list[tuple[str, str | None, list[str]]]:
        """Return the batches that are not collected: tag, the endpoint's name, keys."""
        found = self._connection.execute(
            "SELECT tag, batch_id FROM batches WHERE identity = ? AND NOT collected",
            (self._identity(identity),),
        ).fetchall()
        waiting = "SELECT key FROM requests WHERE batch = ? AND state = 'claimed'"
        return [
            (tag, name, [key for (key,) in self._connection.execute(waiting, (tag,))])
            for tag, name in found
        ]

    def _identity(self, identity: Identity) -> int:
        text = msgspec.json.encode(identity, order="deterministic").decode()
        return self._number(text, "identities", "identity", (text,))

    def _opening(self, messages: Sequence[Message]) -> int:
        text = msgspec.json.encode(messages).decode()
        digest = hashlib.sha256(text.encode()).hexdigest()
        return self._number(digest, "openings", "digest, messages", (digest, text))

    def _number(self, name: str, table: str, columns: str, values: tuple[str, ...]) -> int:
        """Return the row number of a text that many requests share, adding it when it is new."""
        if name not in self._numbers:
            marks = ", ".join("?" * len(values))
            self._connection.execute(
                f"INSERT INTO {table} ({columns}) VALUES ({marks}) ON CONFLICT DO NOTHING", values
            )
            first = columns.partition(",")[0]
            row = self._connection.execute(f"SELECT id FROM {table} WHERE {first} = ?", (name,))
            if len(self._numbers) > _REMEMBERED:
                self._numbers.clear()
            (self._numbers[name],) = row.fetchone()
        return self._numbers[name]


def find(connection: sqlite3.Connection, key: str) -> Reply | None:
    """Return the answer to a request, read from what came; None where there is none yet.

    Raises ValueError for a row that is damaged.
    """
    row = connection.execute(
        "SELECT reply, finish_reason, prompt_tokens, completion_tokens, estimated, body"
        " FROM requests WHERE key = ? AND state = 'answered'",
        (key,),
    ).fetchone()
    if row is None:
        return None
    text, finish_reason, read, written, estimated, body = row
    if body is not None:
        try:
            came = read_reply(bytes(body))
            text, finish_reason = came.text, came.finish_reason
        except (NoReply, TypeError) as error:
            raise ValueError(f"the answer to {key} is damaged; {_DELETE}") from error
    if not (isinstance(text, str) and isinstance(finish_reason, str)):
        raise ValueError(f"the request {key} is marked as answered and holds no answer; {_DELETE}")
    usage = Usage(prompt_tokens=read or 0, completion_tokens=written or 0, estimated=estimated or 0)
    return Reply(text=text, finish_reason=finish_reason, usage=usage, body=bytes(body or b""))


_DELETE = "delete its row (DELETE FROM requests WHERE key = …) to have it asked again"


def totals(connection: sqlite3.Connection) -> tuple[Totals, ...]:
    """Return what each identity's answers, and calls without one, come to."""
    rows = connection.execute(
        "SELECT identity, answers, prompt_tokens, completion_tokens, estimated, seconds,"
        " (SELECT sum(prompt_tokens) FROM failures WHERE identity = identities.id),"
        " (SELECT sum(completion_tokens) FROM failures WHERE identity = identities.id),"
        " (SELECT sum(estimated) FROM failures WHERE identity = identities.id)"
        " FROM identities ORDER BY id"
    )
    return tuple(
        Totals(
            identity=msgspec.json.decode(identity, type=Identity),
            answers=answers,
            usage=Usage(prompt_tokens=read, completion_tokens=written, estimated=estimated),
            seconds=seconds,
            lost=Usage(*(0 if count is None else count for count in lost)),
        )
        for identity, answers, read, written, estimated, seconds, *lost in rows
    )
