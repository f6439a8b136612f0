"""What the engine may take, and how large a piece of the prompts a step has time for."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from statistics import median

from laterna.inference.batching.cache import WIDTHS, wide
from laterna.records import Record

CROWD = 3
"""Fewest that wait for a first token and may hold the others up for longer."""
ALIKE = 3
"""Times as many rows, or as few, to which writing takes about as long."""
RECENT = 7
"""Steps by which it is judged how long the next takes."""


class EngineSettings(Record):
    """What the engine may take. Bytes are of the model's own numbers on its own device."""

    rows: int = 32
    """Requests that are answered at once."""
    queue: int = 256
    """Requests that may wait."""
    cache_bytes: int | None = None
    """Keys and values of those that are answered; None: half of a GPU's free memory, 2 GiB else."""
    row_tokens: int | None = 0
    """Positions that are made ready in all rows, or as many as fit, before the first question.
    None: what the cache holds, shared among the rows, but at least 1,024 and at most the model's
    positions. 0: as they are needed; a prompt that is longer than any before then stops everyone
    for a moment."""
    prefix_bytes: int = 512 * 2**20
    """Keys and values that are kept of those that were answered."""
    image_bytes: int = 256 * 2**20
    """Tokens of images that are kept."""
    chunk: int = 512
    """Tokens of prompts that are taken in a step at most."""
    stall: float = 1.25
    """Time that prompts may take in a step while somebody watches an answer being written, in
    steps of that writing: at 1.25 the longest gap stays below 3 usual ones (benchmarks/serving.py,
    `long`)."""
    stall_seconds: float = 0.02
    """The same in seconds, where that is more: nobody sees so short a pause."""
    crowd_seconds: float = 0.25
    """The same while a crowd waits for its first tokens: three or more, and more than a third as
    many as are being answered."""
    image_batch: int = 16
    """Images, or tiles of them, that are encoded at once."""
    packed_bytes: int = 2 * 2**30
    """Copies of the language model's weights in a layout that a CPU multiplies faster by."""


class Pace:
    """How long steps took lately, and so how many tokens of prompts the next can take.

    Medians, because a busy machine holds single steps up.
    """

    def __init__(self, settings: EngineSettings) -> None:
        self.flat = False
        """Whether prompts share a forward with what is written."""
        self._settings = settings
        self._written = 0
        self._writers = 0
        self._writes: deque[float] = deque(maxlen=RECENT)  # seconds of steps that write alone
        self._pieces: deque[tuple[int, int, float]] = deque(maxlen=RECENT)

    def timed(self, writers: int, prompts: int) -> bool:
        """Say whether a step is worth a look at the clock: a thread's is dear (30 us where this was
        measured), so it is seldom read while nothing changes.
        """
        self._written += not prompts
        return bool(prompts) or writers != self._writers or self._written % RECENT == 0

    def stale(self, writers: int) -> bool:
        """Say whether a step should write alone: it is not known what writing to about so many
        takes, and so not how much longer a piece of a prompt makes it.
        """
        return self.flat and writers > 0 and not self._about(writers)

    def note(self, writers: int, tokens: int, seconds: float) -> None:
        """Take in how long a step took that wrote to rows, and computed tokens of prompts."""
        if tokens:
            self._pieces.append((writers, tokens, seconds))
            return
        if not self._about(writers):
            self._writes.clear()
        self._writers = writers
        self._writes.append(seconds)

    def _about(self, writers: int) -> bool:
        return self._writers <= ALIKE * writers <= ALIKE**2 * self._writers

    def affordable(self, writers: int, waiting: int) -> int:
        """Return how many tokens of prompts are taken in the time that they may take.

        A part of a step's time does not hang on its tokens: the weights are read once. A piece that
        shares a forward with what is written has that for nothing. For one that does not, about
        half a step that writes is taken for it; where that is wrong, the time for each token comes
        out wrong by as much the other way, and pieces of one size settle where they should.
        """
        limits = self._settings
        crowd = waiting >= CROWD and 3 * waiting > writers
        least = limits.crowd_seconds if crowd else limits.stall_seconds
        usual = median(self._writes) if self._writes else 0.0
        allowed = max(limits.stall * usual, least)
        fixed = min(usual, allowed) / 2
        each = [
            max(seconds - (usual if self.flat and beside else fixed), seconds / 8) / tokens
            for beside, tokens, seconds in self._pieces
        ]
        room = allowed if self.flat else allowed - fixed
        piece = int(room / median(each)) if each and allowed else 0
        return min(max(piece // WIDTHS * WIDTHS, WIDTHS), limits.chunk)


def end_to_end(left: Sequence[int], budget: int) -> list[int]:
    """Share a budget of tokens among prompts of which so many are left, one behind another.

    A prompt is not begun for a handful of tokens.
    """
    new: list[int] = []
    for tokens in left:
        room = budget - sum(new)
        if room <= 0 or (new and room < min(tokens, WIDTHS)):
            break
        new.append(min(tokens, room))
    return new


def side_by_side(left: Sequence[int], budget: int) -> list[int]:
    """Share it where all are as wide as the widest: the next is taken in part where it would be
    wider than there is room for.
    """
    count, widest = 1, min(wide(left[0]), budget)
    for tokens in left[1:]:
        most = budget // (count + 1)
        if most < widest:
            break
        count += 1
        widest = max(widest, wide(tokens)) if wide(tokens) <= most else widest
    return [min(tokens, widest) for tokens in left[:count]]
