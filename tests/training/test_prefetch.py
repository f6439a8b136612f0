from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from laterna.training.dataloader import in_order


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_the_order_is_that_of_what_is_wanted_however_long_each_takes(workers: int) -> None:
    later = [threading.Event() for _ in range(4)]

    def make(number: int) -> int:
        # With several threads, the second is done before the first.
        if workers > 1 and number == 0:
            assert later[1].wait(timeout=10)
        later[number].set()
        return number * 10

    assert list(in_order(make, range(4), workers)) == [0, 10, 20, 30]


def test_no_more_is_made_ahead_than_there_are_workers() -> None:
    asked: list[int] = []

    def wanted() -> Iterator[int]:
        for number in range(100):
            asked.append(number)
            yield number

    made = in_order(lambda number: number, wanted(), workers=2)
    assert next(made) == 0
    assert asked == [0, 1, 2]
    assert next(made) == 1
    assert asked == [0, 1, 2, 3]


def test_an_error_comes_in_its_turn() -> None:
    def make(number: int) -> int:
        if number == 2:
            raise ValueError("two")
        return number

    made = in_order(make, range(9), workers=4)
    assert [next(made), next(made)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(made)


def test_a_caller_who_leaves_early_leaves_no_thread_behind() -> None:
    made = in_order(lambda number: number, range(1000), workers=3)
    next(made)
    made.close()  # type: ignore[attr-defined]
    left = [thread for thread in threading.enumerate() if "laterna-batches" in thread.name]
    assert left == []
