"""What a teacher is, and what the ledger must know of one to tell its answers apart."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

import msgspec

from laterna.records import Message, Record, Reply, Usage


class Teacher(Protocol):
    """Answers a chat that ends with an image's proxy text."""

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return the reply to system message, examples and context, in that order."""


class Failed(Record):
    """A call that got no answer."""

    reason: str
    said: str = ""
    """What the endpoint said about it."""
    used: Usage = Usage()
    """Tokens that it may have been billed for, by estimate."""
    body: bytes = b""
    """What came in place of an answer, where it may have been billed."""


class Failures:
    """Calls that got no answer, counted by reason, with what was said first of each."""

    def __init__(self) -> None:
        """Begin to count."""
        self.counts: Counter[str] = Counter()
        self.said: dict[str, str] = {}

    def add(self, reason: str, said: str = "", count: int = 1) -> None:
        """Count a failure."""
        self.counts[reason] += count
        if said:
            self.said.setdefault(reason, said)


class Identity(Record):
    """Who is asked and how: with the messages, everything that is sent. No key is part of it."""

    teacher: str
    """The kind of endpoint; the batch API and single calls of one endpoint share their answers."""
    model: str
    base_url: str = ""
    parameters: dict[str, msgspec.Raw] = msgspec.field(default_factory=dict)
    """Every parameter that is sent besides model and messages, as JSON."""


class RemoteTeacher(Teacher, Protocol):
    """A teacher whose answers cost something, so that they are kept in a ledger."""

    identity: Identity
    """Who is asked, and with what parameters."""
    at_once: int
    """Requests that it can make use of at the same time."""
    failures: Failures
    """Calls that got no answer, those that were tried again included."""

    async def close(self) -> None:
        """Let go of connections."""


class NoAnswer(Exception):  # noqa: N818  (it is no fault of the program: the record is left out)
    """A request that got no answer although it was tried; `reason` is counted."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def request_key(identity: Identity, messages: Sequence[Message]) -> str:
    """Return the SHA-256 of the canonical JSON of all that is sent, hexadecimal."""
    content = {"identity": identity, "messages": messages}
    return hashlib.sha256(msgspec.json.encode(content, order="deterministic")).hexdigest()
