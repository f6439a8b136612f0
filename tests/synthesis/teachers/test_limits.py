from __future__ import annotations

import asyncio

import pytest

from laterna.synthesis.teachers.client import Limits, RateLimiter


class FakeClock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_a_rate_a_minute_is_kept_and_a_second_of_it_may_be_caught_up() -> None:
    clock = FakeClock()
    pace = RateLimiter(120, clock, clock.sleep)

    async def take(number: int) -> list[float]:
        times = []
        for _ in range(number):
            await pace.take()
            times.append(clock.now - 100)
        return times

    assert asyncio.run(take(4)) == pytest.approx([0.0, 0.5, 1.0, 1.5])
    clock.now += 60
    # After a minute's rest two are free (a second's worth), not 120.
    assert asyncio.run(take(4)) == pytest.approx([61.5, 61.5, 61.5, 62.0])


def test_a_large_amount_passes_and_is_paid_for_by_those_after_it() -> None:
    clock = FakeClock()
    pace = RateLimiter(600, clock, clock.sleep)

    async def take() -> list[float]:
        times = []
        for amount in (100, 1, 1):
            await pace.take(amount)
            times.append(clock.now - 100)
        return times

    assert asyncio.run(take()) == pytest.approx([0.0, 10.0, 10.1])


def test_estimates_are_settled() -> None:
    clock = FakeClock()
    pace = RateLimiter(60, clock, clock.sleep)

    async def take() -> float:
        await pace.take(30)
        pace.settle(-20)
        await pace.take(1)
        return clock.now - 100

    assert asyncio.run(take()) == pytest.approx(10.0)


def test_no_rate_is_no_limit() -> None:
    clock = FakeClock()
    asyncio.run(RateLimiter(0, clock, clock.sleep).take(1e9))
    assert clock.now == 100


def test_no_more_calls_than_allowed_are_in_flight() -> None:
    async def most(concurrency: int) -> int:
        limits = Limits(concurrency)
        flying = highest = 0

        async def call() -> None:
            nonlocal flying, highest
            async with limits.slot(1):
                flying += 1
                highest = max(highest, flying)
                await asyncio.sleep(0.001)
                flying -= 1

        await asyncio.gather(*(call() for _ in range(20)))
        return highest

    assert asyncio.run(most(3)) == 3


def test_the_stricter_of_both_rates_holds() -> None:
    clock = FakeClock()
    limits = Limits(1, 60, 600, clock, clock.sleep)

    async def calls(tokens: float) -> float:
        begun = clock.now
        for _ in range(3):
            async with limits.slot(tokens):
                pass
        return clock.now - begun

    assert asyncio.run(calls(1)) == pytest.approx(2.0)  # a call a second
    clock.now += 60
    assert asyncio.run(calls(100)) == pytest.approx(19.0)  # 10 s a call, a second caught up
