"""What a teacher is, and what the ledger must know of one to tell its answers apart."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

import msgspec

from laterna.records import Message, Record, Reply


class Teacher(Protocol):
    """Answers a chat that ends with a picture's proxy text."""

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return the reply to system message, examples and context, in that order."""


class Identity(Record):
    """Who is asked and how: with the messages, everything that is sent. No key is part of it."""

    teacher: str
    """The kind of endpoint; the batch API and single calls of one endpoint share their answers."""
    model: str
    base_url: str = ""
    parameters: dict[str, msgspec.Raw] = msgspec.field(default_factory=dict)
    """Every parameter that is sent besides model and messages, as JSON."""


class AskedTeacher(Teacher, Protocol):
    """A teacher whose answers cost something, so that they are kept in a ledger."""

    @property
    def identity(self) -> Identity:
        """Who is asked, and with what parameters."""

    @property
    def at_once(self) -> int:
        """Requests that it can make use of at the same time."""

    @property
    def retries(self) -> Counter[str]:
        """Tries that failed and were made again, by reason."""

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
