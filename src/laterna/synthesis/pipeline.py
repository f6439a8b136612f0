"""Work on many items at once, results in the order of the items, in bounded memory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Generic, TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class OrderedWork(Generic[_Item, _Result]):
    """Does `work` on each item, on up to `at_once` at a time, and hands out results in order.

    A result waits until all before it are handed out, and no item is begun that lies `ahead` or
    more of them: that bounds what is held, and how long one slow item can be waited out.
    """

    def __init__(
        self,
        items: Iterator[_Item],
        work: Callable[[_Item], Awaitable[_Result]],
        *,
        at_once: int,
        ahead: int,
    ) -> None:
        self._items = enumerate(items)
        self._work = work
        self._at_once, self._ahead = at_once, max(ahead, at_once)
        self._done: dict[int, _Result] = {}
        self._handed_out = 0
        self._ready, self._room = asyncio.Event(), asyncio.Event()
        self._working: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self._started = False

    async def next(self) -> list[_Result]:
        """Return the results that are next in order, at least one; none when all are handed out.

        Raises what `work` or the items raised.
        """
        if not self._started:
            self._start()
        while self._handed_out not in self._done and self._working and not self._failure:
            self._ready.clear()
            await self._ready.wait()
        results = []
        while self._handed_out in self._done:
            results.append(self._done.pop(self._handed_out))
            self._handed_out += 1
        if not results and self._failure:
            raise self._failure
        # Wakes all that wait now, and shuts again for those that find the room taken.
        self._room.set()
        self._room.clear()
        return results

    async def stop(self) -> None:
        """Cancel what is still being worked on, and wait until it has ended."""
        for worker in self._working:
            worker.cancel()
        await asyncio.gather(*self._working, return_exceptions=True)

    def _start(self) -> None:
        self._started = True
        for _ in range(self._at_once):
            worker = asyncio.get_running_loop().create_task(self._run())
            self._working.add(worker)
            worker.add_done_callback(self._ended)

    def _ended(self, worker: asyncio.Task[None]) -> None:
        self._working.discard(worker)
        failure = None if worker.cancelled() else worker.exception()
        self._failure = self._failure or failure
        self._ready.set()

    async def _run(self) -> None:
        for number, item in self._items:
            while number >= self._handed_out + self._ahead:
                await self._room.wait()
            self._done[number] = await self._work(item)
            if number == self._handed_out:
                self._ready.set()
