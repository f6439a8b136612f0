"""A teacher behind a ledger: asks only what was never answered, and keeps every answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from laterna.errors import LaternaError
from laterna.records import Message, Reply
from laterna.synthesis.budget import Budget
from laterna.synthesis.ledger import Ledger
from laterna.synthesis.settings import OPENAI_URL, Endpoint
from laterna.synthesis.teachers.base import Failures, Identity, RemoteTeacher, request_key
from laterna.synthesis.teachers.openai import openai_identity


class CachedTeacher:
    """The one way to ask a teacher whose answers cost something.

    `asked` and `found` count what was paid for in this run and what the ledger knew.
    """

    def __init__(self, teacher: RemoteTeacher, ledger: Ledger, budget: Budget) -> None:
        self.teacher = teacher
        self._ledger = ledger
        self.budget = budget
        self._under_way: dict[str, asyncio.Future[Reply]] = {}
        self.asked = 0
        self.found = 0

    def key(self, messages: Sequence[Message]) -> str:
        """Return the ledger's key of a request."""
        return request_key(self.teacher.identity, messages)

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return the answer from the ledger, or ask for it; NoAnswer when none is to be had."""
        key = self.key(messages)
        reply = self._ledger.find(key)
        if reply is not None:
            self.found += 1
            return reply
        same = self._under_way.get(key)
        if same is not None:
            # Two images with the same words: one request.
            return await asyncio.shield(same)
        future = asyncio.ensure_future(self._ask(key, messages))
        self._under_way[key] = future
        try:
            return await future
        finally:
            del self._under_way[key]

    async def _ask(self, key: str, messages: Sequence[Message]) -> Reply:
        self.budget.check()
        found = await self._ledger.claim(key, self.teacher.identity, messages)
        if found is not None:
            self.found += 1
        return found or await self._pay(key, messages)

    async def _pay(self, key: str, messages: Sequence[Message]) -> Reply:
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            reply = await self.teacher.complete(messages)
        except Exception:
            await self._ledger.release(key)
            raise
        self.asked += 1
        self.budget.pay(reply.usage)
        try:
            seconds = reply.seconds or loop.time() - started
            return await self._ledger.record(key, reply, seconds)
        finally:
            self.budget.committed(reply.usage)


class ReplayTeacher:
    """Answers from a ledger and nowhere else, for tests, audits and other output forms.

    It can be asked nothing: `CachedTeacher` finds the answers before it comes here.
    """

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
        f"{ledger.path}: several teachers' answers fit: {found}; "
        "name --model, --base-url and the parameters they were asked with"
    )
