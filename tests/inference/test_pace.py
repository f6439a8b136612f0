"""How large a piece of the prompts a step takes."""

from __future__ import annotations

from typing import Any

import pytest

from laterna.inference.batching.cache import WIDTHS
from laterna.inference.batching.pace import RECENT, EngineSettings, Pace, end_to_end, side_by_side


@pytest.mark.parametrize(
    ("share", "left", "budget", "new"),
    [
        (side_by_side, [22, 108, 108], 60, [22, 24]),  # the second in part: not wider than the room
        (side_by_side, [22, 108, 108], 21, [21]),
        (side_by_side, [22, 108, 108], 348, [22, 108, 108]),
        (side_by_side, [108, 22], 130, [108]),  # two of 112 are more
        (end_to_end, [22, 108, 108], 60, [22, 38]),
        (end_to_end, [22, 108, 108], 21, [21]),
        (end_to_end, [22, 108, 108], 238, [22, 108, 108]),
        (end_to_end, [108, 22], 130, [108, 22]),
        (end_to_end, [22, 108], 24, [22]),  # none is begun for two tokens
        (end_to_end, [22, 2], 24, [22, 2]),  # but it may be as short
    ],
)
def test_prompts_share_a_step_and_are_taken_in_part(
    share: Any, left: list[int], budget: int, new: list[int]
) -> None:
    assert share(left, budget) == new


@pytest.mark.parametrize("flat", [True, False])
def test_a_piece_takes_the_time_that_it_may(flat: bool) -> None:
    """A step that writes takes 0.1 s. A piece takes 1 ms a token, and by itself 0.06 s besides."""
    pace = Pace(EngineSettings(stall=1.5, chunk=10_000))
    pace.flat = flat
    assert pace.affordable(4, 1) == WIDTHS  # nothing is known yet
    for seconds in (0.1, 0.1, 5.0, 0.1):  # once, the machine was held up
        pace.note(4, 0, seconds)
    piece, besides = 10, 0.1 if flat else 0.06
    for _ in range(4 * RECENT):
        pace.note(4 if flat else 0, piece, besides + 0.001 * piece)
        piece = pace.affordable(4, 1)
    assert piece == (144 if flat else 88)  # of 150, or 90: both take 0.15 s
    pace.note(4, piece, 9.0)
    assert pace.affordable(4, 1) == piece


def test_what_many_more_or_fewer_rows_take_is_looked_at_anew() -> None:
    pace = Pace(EngineSettings())
    pace.flat = True
    assert pace.timed(8, 0) and pace.stale(1) and not pace.stale(0)
    pace.note(8, 0, 0.2)
    assert not pace.timed(8, 0) and pace.timed(7, 0) and pace.timed(8, 1)
    assert [writers for writers in range(1, 40) if not pace.stale(writers)] == [*range(3, 25)]
    pace.note(4, 0, 0.1)
    assert pace.affordable(4, 1) == WIDTHS  # of pieces nothing is known yet
    pace.note(4, 100, 0.25)
    assert pace.affordable(4, 1) == 184  # of 187: 0.15 s is usual, a token takes 1 ms on top
    pace.note(1, 0, 0.05)  # so many fewer that the others no longer count
    assert not pace.stale(1) and pace.affordable(1, 1) == 24  # of 31: 0.0625 s, at 2 ms a token
    pace.flat = False
    assert not pace.stale(30)
