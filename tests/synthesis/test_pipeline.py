from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import pytest

from laterna.synthesis.pipeline import OrderedWork


async def gather(work: OrderedWork[int, int]) -> list[int]:
    found: list[int] = []
    while results := await work.next():
        found += results
    await work.stop()
    return found


def test_results_come_in_order_whatever_is_done_first() -> None:
    rng = random.Random(0)

    async def work(item: int) -> int:
        await asyncio.sleep(rng.random() / 1000)
        return item * item

    async def run() -> list[int]:
        return await gather(OrderedWork(iter(range(200)), work, at_once=16, ahead=32))

    assert asyncio.run(run()) == [item * item for item in range(200)]


def test_no_item_is_taken_that_lies_too_far_ahead_of_a_slow_one() -> None:
    taken: list[int] = []
    gate = asyncio.Event()

    def items() -> Iterator[int]:
        for item in range(100):
            taken.append(item)
            yield item

    async def work(item: int) -> int:
        if item == 0:
            await gate.wait()
        return item

    async def run() -> list[int]:
        ordered = OrderedWork(items(), work, at_once=4, ahead=10)
        asyncio.get_running_loop().call_later(0.05, gate.set)
        first = await ordered.next()
        # 10 done and one in the hands of each worker that waits for room.
        assert len(taken) <= 14
        return first + await gather(ordered)

    assert asyncio.run(run()) == list(range(100))


def test_an_error_of_the_work_ends_it_once_all_before_is_handed_out() -> None:
    class TroubleError(Exception):
        pass

    cancelled = []

    async def work(item: int) -> int:
        if item == 3:
            raise TroubleError
        try:
            await asyncio.sleep(0 if item < 3 else 60)
        except asyncio.CancelledError:
            cancelled.append(item)
            raise
        return item

    async def run() -> None:
        ordered = OrderedWork(iter(range(10)), work, at_once=2, ahead=10)
        try:
            await gather(ordered)
        finally:
            await ordered.stop()

    with pytest.raises(TroubleError):
        asyncio.run(run())
    assert cancelled == [4]


def test_an_error_of_the_items_is_raised() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("the file ended")

    async def work(item: int) -> int:
        return item

    async def run() -> list[int]:
        return await gather(OrderedWork(items(), work, at_once=3, ahead=3))

    with pytest.raises(OSError, match="the file ended"):
        asyncio.run(run())


def test_nothing_to_do() -> None:
    async def run() -> list[int]:
        return await gather(OrderedWork(iter(()), asyncio.sleep, at_once=3, ahead=3))

    assert asyncio.run(run()) == []
