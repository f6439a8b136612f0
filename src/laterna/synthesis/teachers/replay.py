"""Answers from a recorded ledger and nowhere else: for tests, audits and other output forms."""

from __future__ import annotations

from collections.abc import Sequence

from laterna.errors import LaternaError
from laterna.records import Message, Reply
from laterna.synthesis.ledger import Ledger
from laterna.synthesis.settings import OPENAI_URL, Endpoint
from laterna.synthesis.teachers.base import Failures, Identity, request_key
from laterna.synthesis.teachers.openai import openai_identity


class ReplayTeacher:
    """A teacher that can be asked nothing: `Recorded` finds the answers before it comes here."""

    at_once = 1

    def __init__(self, endpoint: Endpoint, ledger: Ledger) -> None:
        self.identity = replay_identity(endpoint, ledger)
        self.failures = Failures()
        self._path = ledger.path

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Raise LaternaError: the ledger holds no answer to this."""
        key = request_key(self.identity, messages)
        raise LaternaError(
            f"{self._path}: no answer of {self.identity.model} under the key {key}; replay asks "
            "nobody: were the annotations, kinds and prompts the same?"
        )

    async def close(self) -> None:
        """Do nothing: there is nothing to let go of."""


def replay_identity(endpoint: Endpoint, ledger: Ledger | None) -> Identity:
    """Return whose answers are replayed: all that the ledger holds, or those of the flags.

    Raises LaternaError where the ledger holds answers of several and the flags name none of them.
    """
    if ledger is None:
        raise LaternaError("replay needs a ledger that exists")
    held = [total.identity for total in ledger.totals if total.answers]
    if endpoint.model:
        named = [one for one in held if one.model == endpoint.model]
        exact = openai_identity(endpoint)
        held = [exact] if exact in named else named
        if endpoint.base_url != OPENAI_URL:
            held = [one for one in held if one.base_url == endpoint.base_url.rstrip("/")]
    if len(held) == 1:
        return held[0]
    found = ", ".join(f"{one.model} at {one.base_url or 'home'}" for one in held) or "none"
    raise LaternaError(
        f"{ledger.path}: it must be clear whose answers to replay, and these fit: {found}; "
        "name --model, --base-url and the parameters they were asked with"
    )
