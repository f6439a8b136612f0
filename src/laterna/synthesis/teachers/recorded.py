"""A teacher behind a ledger: asks only what was never answered, and keeps every answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from laterna.records import Message, Reply
from laterna.synthesis.cost import Purse
from laterna.synthesis.ledger import Claim, Ledger
from laterna.synthesis.teachers.base import AskedTeacher, request_key

_FIRST_LOOK, _LAST_LOOK = 0.25, 5.0
"""Seconds between looks at a request that another process is asking."""


class Recorded:
    """The one way to ask a teacher whose answers cost something.

    `asked` and `found` count what was paid for in this run and what the ledger knew.
    """

    def __init__(self, teacher: AskedTeacher, ledger: Ledger, purse: Purse) -> None:
        self._teacher = teacher
        self._ledger = ledger
        self._purse = purse
        self._under_way: dict[str, asyncio.Future[Reply]] = {}
        self.asked = 0
        self.found = 0

    def key(self, messages: Sequence[Message]) -> str:
        """Return the ledger's key of a request."""
        return request_key(self._teacher.identity, messages)

    async def complete(self, messages: Sequence[Message]) -> Reply:
        """Return the answer from the ledger, or ask for it; NoAnswer when none is to be had."""
        key = self.key(messages)
        reply = self._ledger.find(key)
        if reply is not None:
            self.found += 1
            return reply
        same = self._under_way.get(key)
        if same is not None:
            # Two pictures with the same words: one request.
            return await asyncio.shield(same)
        future = asyncio.ensure_future(self._ask(key, messages))
        self._under_way[key] = future
        try:
            return await future
        finally:
            del self._under_way[key]

    async def _ask(self, key: str, messages: Sequence[Message]) -> Reply:
        pause = _FIRST_LOOK
        while True:
            self._purse.check()
            claim = await self._ledger.claim(key, self._teacher.identity, messages)
            if isinstance(claim, Reply):
                self.found += 1
                return claim
            if claim is Claim.OURS:
                return await self._pay(key, messages)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LAST_LOOK)

    async def _pay(self, key: str, messages: Sequence[Message]) -> Reply:
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            reply = await self._teacher.complete(messages)
        except Exception:
            await self._ledger.release(key)
            raise
        self.asked += 1
        self._purse.pay(reply.usage)
        try:
            seconds = reply.seconds or loop.time() - started
            return await self._ledger.record(key, reply, seconds)
        finally:
            self._purse.committed(reply.usage)
