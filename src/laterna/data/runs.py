"""Runs of learned tokens: where the borders of what a chat learns fall among its tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray


def find_borders(
    ends: NDArray[np.int64], firsts: Sequence[int], borders: Sequence[Sequence[int]]
) -> Iterator[list[int] | None]:
    """Yield for each of many chats the numbers of its tokens that begin at its borders.

    `ends` says how far the tokens of all chats together reach, 0 before the first; the tokens of a
    chat are those from its entry of `firsts` on. `borders` count as `ends` does (characters, or
    bytes), from the chat's own beginning. None is yielded where a token reaches over a border; of
    several tokens that begin at one, the first counts.
    """
    begins = np.repeat(ends[np.asarray(firsts)], [len(own) for own in borders])
    wanted = begins + np.fromiter(chain.from_iterable(borders), np.int64)
    found = np.searchsorted(ends, wanted)
    exact = (ends[np.minimum(found, len(ends) - 1)] == wanted).tolist()
    places, at = found.tolist(), 0
    for first, own in zip(firsts, borders, strict=True):
        mine = slice(at, at + len(own))
        at = mine.stop
        yield [place - first for place in places[mine]] if all(exact[mine]) else None


def join_runs(runs: Sequence[int]) -> list[int]:
    """Join runs that touch, and leave those without tokens out."""
    joined: list[int] = []
    for start, stop in zip(runs[::2], runs[1::2], strict=True):
        if joined and joined[-1] == start:
            joined[-1] = stop
        elif start < stop:
            joined += (start, stop)
    return joined
