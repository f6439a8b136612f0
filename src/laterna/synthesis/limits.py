"""How fast an endpoint may be asked: calls in flight, calls a minute, tokens a minute."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

_BURST_SECONDS = 1.0
"""Unused allowance that may be caught up at once, in seconds of the rate: endpoints that
promise a rate a minute also look at shorter spans."""


class RateLimiter:
    """A token bucket: lets through so much a minute, in the order of asking.

    It keeps the time at which all that was let through is paid for, and may run ahead of it by
    the burst only; an amount larger than the burst passes and is paid for by those after it.
    """

    def __init__(
        self,
        per_minute: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Prepare a bucket; `per_minute` 0 lets everything through."""
        self._seconds_each = 60 / per_minute if per_minute else 0.0
        self._clock = clock
        self._sleep = sleep
        self._paid_until = clock()

    async def take(self, amount: float = 1) -> None:
        """Wait until this amount may pass."""
        if not self._seconds_each:
            return
        now = self._clock()
        start = max(self._paid_until, now - _BURST_SECONDS)
        self._paid_until = start + amount * self._seconds_each
        if start > now:
            await self._sleep(start - now)

    def settle(self, difference: float) -> None:
        """Correct an amount that was taken by estimate: what it was more (or less) in truth."""
        self._paid_until += difference * self._seconds_each


class Limits:
    """The three limits of one endpoint together."""

    def __init__(
        self,
        concurrency: int,
        requests_per_minute: float = 0,
        tokens_per_minute: float = 0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Prepare the limits; a rate of 0 is no limit."""
        self._slots = asyncio.Semaphore(concurrency)
        self._requests = RateLimiter(requests_per_minute, clock, sleep)
        self._tokens = RateLimiter(tokens_per_minute, clock, sleep)

    @asynccontextmanager
    async def slot(self, tokens: float) -> AsyncIterator[None]:
        """Hold one call in flight, of so many tokens by estimate; wait until it may start."""
        async with self._slots:
            await self._requests.take()
            await self._tokens.take(tokens)
            yield

    def settle(self, estimated: float, used: float) -> None:
        """Tell how many tokens a call used in truth."""
        self._tokens.settle(used - estimated)
