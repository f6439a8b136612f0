"""The ledger's tables and every statement on them; `ledger.py` says when they run.

Anyone can read the file with SQL: the view `calls` holds one row a request with all that was
sent, all that came back, and what it used.
"""

from __future__ import annotations

import hashlib
import os
import socket
import sqlite3
import time
from collections.abc import Sequence
from contextlib import suppress
from enum import Enum
from pathlib import Path

import msgspec

from laterna.records import Message, Record, Reply, Usage
from laterna.synthesis.teachers.base import Identity

APPLICATION = 0x4C415452  # "LATR", in the file's header
VERSION = 1
LEASE_SECONDS = 120.0
"""How long a process of another machine may be silent before its claims are taken over."""

_SCHEMA = f"""
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {VERSION};
CREATE TABLE identities (
    id INTEGER PRIMARY KEY, identity TEXT NOT NULL UNIQUE,
    answers INTEGER NOT NULL DEFAULT 0, prompt_tokens INTEGER NOT NULL DEFAULT 0,
    completion_tokens INTEGER NOT NULL DEFAULT 0, seconds REAL NOT NULL DEFAULT 0);
CREATE TABLE openings (
    id INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE, messages TEXT NOT NULL);
CREATE TABLE owners (
    owner TEXT PRIMARY KEY, host TEXT NOT NULL, pid INTEGER NOT NULL, started TEXT NOT NULL,
    seen REAL NOT NULL);
CREATE TABLE batches (
    tag TEXT PRIMARY KEY, identity INTEGER NOT NULL, owner TEXT NOT NULL,
    batch_id TEXT, collected INTEGER NOT NULL DEFAULT 0, made_at REAL NOT NULL);
CREATE TABLE requests (
    key TEXT PRIMARY KEY, identity INTEGER NOT NULL, opening INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('claimed', 'answered')), owner TEXT, batch TEXT,
    claimed_at REAL NOT NULL, answered_at REAL, seconds REAL, finish_reason TEXT,
    prompt_tokens INTEGER, completion_tokens INTEGER, last_message TEXT NOT NULL, reply TEXT);
CREATE INDEX requests_of_batch ON requests (batch) WHERE batch IS NOT NULL;
CREATE INDEX requests_claimed ON requests (owner) WHERE state = 'claimed';
CREATE VIEW calls AS
    SELECT key, state, json_extract(identities.identity, '$.model') AS model,
        json_extract(identities.identity, '$.base_url') AS base_url, identities.identity,
        json_insert(openings.messages, '$[#]', json(last_message)) AS messages,
        reply, finish_reason, requests.prompt_tokens, requests.completion_tokens,
        claimed_at, answered_at, requests.seconds, batch
    FROM requests JOIN identities ON identities.id = requests.identity
        JOIN openings ON openings.id = requests.opening;
"""


class Claim(Enum):
    """What came of claiming a request that has no answer yet."""

    OURS = "ours"
    HELD = "held"
    """A process that lives is asking it."""


class Totals(Record):
    """What one identity's answers in a ledger come to."""

    identity: Identity
    answers: int
    usage: Usage
    seconds: float
    """Summed over calls, so that `seconds / answers` is how long one takes."""


class Owner(Record):
    """One run that holds claims: a process, told apart from later ones of the same number."""

    name: str
    host: str
    pid: int
    started: str


def this_process() -> Owner:
    """Return an owner for a new run in this process."""
    host, pid = socket.gethostname(), os.getpid()
    name = f"{host}/{pid}/{os.urandom(6).hex()}"
    return Owner(name=name, host=host, pid=pid, started=_started(pid))


def create(connection: sqlite3.Connection) -> None:
    """Make the tables in an empty file; two processes may try at once."""
    connection.execute("BEGIN IMMEDIATE")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if not version:
        for statement in _SCHEMA.split(";\n"):
            connection.execute(statement)
    connection.execute("COMMIT")


class Rows:
    """Statements on one connection, all run inside a transaction of the caller's."""

    def __init__(self, connection: sqlite3.Connection, owner: Owner) -> None:
        self._connection = connection
        self._owner = owner
        self._numbers: dict[str, int] = {}

    def forget(self) -> None:
        """Forget what was looked up: the transaction it belongs to was undone."""
        self._numbers.clear()

    def beat(self) -> None:
        """Say that this owner lives, and strike out those that do not."""
        owner, now = self._owner, time.time()
        self._connection.execute(
            "INSERT INTO owners VALUES (?, ?, ?, ?, ?) ON CONFLICT (owner) DO UPDATE SET seen = ?",
            (owner.name, owner.host, owner.pid, owner.started, now, now),
        )
        rows = self._connection.execute("SELECT owner, host, pid, started, seen FROM owners")
        for name, host, pid, started, seen in rows.fetchall():
            local = host == owner.host
            dead = (local and not _lives(pid, started)) or now - seen > LEASE_SECONDS
            if dead and name != owner.name:
                self._connection.execute("DELETE FROM owners WHERE owner = ?", (name,))

    def claim(self, key: str, identity: Identity, messages: Sequence[Message]) -> Reply | Claim:
        """Claim a request for this owner, unless it is answered or held by one that lives."""
        *before, last = messages
        self._connection.execute(
            "INSERT INTO requests (key, identity, opening, state, owner, claimed_at, last_message)"
            " VALUES (?, ?, ?, 'claimed', ?, ?, ?)"
            " ON CONFLICT (key) DO UPDATE SET owner = excluded.owner,"
            "   claimed_at = excluded.claimed_at"
            " WHERE state = 'claimed' AND requests.owner NOT IN (SELECT owner FROM owners)",
            (
                key,
                self._identity(identity),
                self._opening(before),
                self._owner.name,
                time.time(),
                msgspec.json.encode(last).decode(),
            ),
        )
        reply = find(self._connection, key)
        if reply is not None:
            return reply
        statement = "SELECT owner FROM requests WHERE key = ?"
        (holder,) = self._connection.execute(statement, (key,)).fetchone()
        return Claim.OURS if holder == self._owner.name else Claim.HELD

    def record(self, key: str, reply: Reply, seconds: float) -> Reply:
        """Keep an answer; return the one that counts, which is the first that came."""
        usage = reply.usage
        kept = self._connection.execute(
            "UPDATE requests SET state = 'answered', owner = NULL, answered_at = ?, seconds = ?,"
            " finish_reason = ?, prompt_tokens = ?, completion_tokens = ?, reply = ?"
            " WHERE key = ? AND state = 'claimed'",
            (
                time.time(),
                seconds,
                reply.finish_reason,
                usage.prompt_tokens,
                usage.completion_tokens,
                reply.text,
                key,
            ),
        )
        # Counted even when another answer stands: it was paid for.
        self._connection.execute(
            "UPDATE identities SET answers = answers + ?, prompt_tokens = prompt_tokens + ?,"
            " completion_tokens = completion_tokens + ?, seconds = seconds + ?"
            " WHERE id = (SELECT identity FROM requests WHERE key = ?)",
            (kept.rowcount, usage.prompt_tokens, usage.completion_tokens, seconds, key),
        )
        if kept.rowcount:
            return reply
        return find(self._connection, key) or reply

    def release(self, key: str) -> None:
        """Give a claim of this owner back, unanswered, unless it waits in a batch."""
        self._connection.execute(
            "DELETE FROM requests"
            " WHERE key = ? AND state = 'claimed' AND owner = ? AND batch IS NULL",
            (key, self._owner.name),
        )

    def leave(self) -> None:
        """Give back all claims of this owner but those that wait in a batch, and strike it out."""
        self._connection.execute(
            "DELETE FROM requests WHERE owner = ? AND state = 'claimed' AND batch IS NULL",
            (self._owner.name,),
        )
        self._connection.execute("DELETE FROM owners WHERE owner = ?", (self._owner.name,))

    def plan_batch(self, tag: str, identity: Identity, keys: Sequence[str]) -> None:
        """Note that these requests are about to be sent as one batch, told by its tag."""
        number = self._identity(identity)
        self._connection.execute(
            "INSERT INTO batches (tag, identity, owner, made_at) VALUES (?, ?, ?, ?)",
            (tag, number, self._owner.name, time.time()),
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

    def adopt_batches(self, identity: Identity) -> list[tuple[str, str | None, list[str]]]:
        """Take over the open batches of owners that live no more: tag, endpoint's name, keys."""
        found = self._connection.execute(
            "UPDATE batches SET owner = ? WHERE identity = ? AND NOT collected"
            " AND owner NOT IN (SELECT owner FROM owners) RETURNING tag, batch_id",
            (self._owner.name, self._identity(identity)),
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


_REMEMBERED = 1000
"""Row numbers kept in mind; the openings of repairs are all different."""


def find(connection: sqlite3.Connection, key: str) -> Reply | None:
    """Return the answer to a request, None where there is none yet."""
    row = connection.execute(
        "SELECT reply, finish_reason, prompt_tokens, completion_tokens FROM requests"
        " WHERE key = ? AND state = 'answered'",
        (key,),
    ).fetchone()
    if row is None:
        return None
    text, finish_reason, read, written = row
    usage = Usage(prompt_tokens=read, completion_tokens=written)
    return Reply(text=text, finish_reason=finish_reason, usage=usage)


def totals(connection: sqlite3.Connection) -> tuple[Totals, ...]:
    """Return what each identity's answers come to."""
    rows = connection.execute(
        "SELECT identity, answers, prompt_tokens, completion_tokens, seconds FROM identities"
        " ORDER BY id"
    )
    return tuple(
        Totals(
            identity=msgspec.json.decode(identity, type=Identity),
            answers=answers,
            usage=Usage(prompt_tokens=read, completion_tokens=written),
            seconds=seconds,
        )
        for identity, answers, read, written, seconds in rows
    )


def _started(pid: int) -> str:
    """Return when a process started, where the system tells; "gone" for one that has ended."""
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "gone" if fields[0] in ("Z", "X") else fields[19]
    return ""


def _lives(pid: int, started: str) -> bool:
    """Tell whether a process of this machine still is the one that started then."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return _started(pid) == started
