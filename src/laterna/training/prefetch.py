"""Making things ahead of their use, in order, on threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


def in_order(make: Callable[[In], Out], wanted: Iterable[In], workers: int) -> Iterator[Out]:
    """Yield `make(one)` for each of `wanted`, in its order, as `map` does.

    `workers` threads make the next `workers` things while the caller works on the one before; 0
    makes each when it is asked for. Threads are enough: Pillow decodes and resizes, and torch
    computes, without Python's lock. What `make` raises is raised when its turn comes, so
    neither order nor outcome depends on the number of workers.
    """
    if workers == 0:
        yield from map(make, wanted)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="laterna-batches")
    waiting: deque[Future[Out]] = deque()
    try:
        for one in wanted:
            waiting.append(pool.submit(make, one))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
