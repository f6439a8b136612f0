"""Chats tokenised word by word, and where what they learn begins and ends.

What a shape fixes is tokenised once, from the first place to the last in each piece at which any
tokenizer here begins a word whatever stands around. The rest are words, each remembered. Every word
says what it was made from, so where the borders of the spans are borders of tokens, the learned
tokens decode to the text of the spans.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from laterna.data.cutting import SURE
from laterna.data.runs import find_borders, join_runs
from laterna.data.shapes import Fitted, Shape
from laterna.data.words import AFTER_TOKEN, INSIDE, OPENING, SPACED, Packed, UnprovedError, Words
from laterna.records import Record

Place = tuple[int, int]
"""A place in the text of a shape: the number of a piece, and a character of it."""

_NEVER = re.compile("(?!)")


class _Section(Record, frozen=True):
    """Text of a chat that its shape does not fix."""

    begin: Place
    end: Place
    where: int
    """At which kind of place (`words`) its first word stands."""


class _Cut(Record, frozen=True):
    """A shape's text, cut: fixed tokens before the first section, between two, behind the last."""

    sections: tuple[_Section, ...]
    fixed: tuple[Packed, ...]


class WordLevel:
    """Tokenises chats with one tokenizer, word by word."""

    def __init__(self, words: Words, sentinel: str, sentinel_id: int, picture: int) -> None:
        """Take the added token that stands for a picture, its id, and what to write for that."""
        self._words = words
        self._sentinel = sentinel
        self._ids = (sentinel_id, picture)
        self._sure = _NEVER if words.added_spaces else SURE
        self._cuts: dict[Shape, _Cut | None] = {}

    def tokenise(
        self, chats: Sequence[Fitted], pictures: Sequence[int]
    ) -> list[tuple[NDArray[np.int32], list[int]] | None]:
        """Return for each chat its ids, and where what it learns begins and ends, in turn.

        `pictures` are those that each should show. None stands for a chat of which its words do
        not prove that.
        """
        packed = [
            self._encode(chat) if chat.rendered.text.count(self._sentinel) == shown else None
            for chat, shown in zip(chats, pictures, strict=True)
        ]
        good = [chat for chat, one in zip(chats, packed, strict=True) if one is not None]
        found = iter(self._find(good, [one for one in packed if one is not None]))
        return [None if one is None else next(found) for one in packed]

    def _encode(self, chat: Fitted) -> Packed | None:
        cut = self._cut(chat.shape)
        if cut is None:
            return None
        text, starts = chat.rendered.text, chat.starts
        parts = [cut.fixed[0]]
        try:
            for section, fixed in zip(cut.sections, cut.fixed[1:], strict=True):
                (a, i), (b, j) = section.begin, section.end
                said = text[starts[a] + i : starts[b] + j]
                parts += (self._words.tokenise(said, section.where), fixed)
        except UnprovedError:
            return None
        return b"".join(parts)

    def _find(
        self, chats: Sequence[Fitted], packed: Sequence[Packed]
    ) -> list[tuple[NDArray[np.int32], list[int]] | None]:
        if not packed:
            return []
        flat = np.frombuffer(b"".join(packed), np.int32).reshape(-1, 2)
        spaced: list[int] = np.flatnonzero(flat[:, 1] >= SPACED).tolist()
        ids = flat[:, 0].copy()
        ids[ids == self._ids[0]] = self._ids[1]
        ends: NDArray[np.int64] = np.concatenate([[0], np.cumsum(flat[:, 1] % SPACED)])
        firsts = list(accumulate((len(one) // 8 for one in packed), initial=0))
        borders = [[border for span in chat.rendered.spans for border in span] for chat in chats]
        placed = find_borders(ends, firsts[:-1], borders)
        made: list[tuple[NDArray[np.int32], list[int]] | None] = []
        for first, stop, places in zip(firsts[:-1], firsts[1:], placed, strict=True):
            runs = join_runs(places or ())
            # A space that no text has is taken off where the learned tokens begin with it.
            whole = all(
                bisect_right(spaced, first + start) == bisect_left(spaced, first + end)
                for start, end in zip(runs[::2], runs[1::2], strict=True)
            )
            made.append((ids[first:stop], runs) if whole and places is not None else None)
        return made

    def _cut(self, shape: Shape) -> _Cut | None:
        if shape not in self._cuts:
            try:
                self._cuts[shape] = self._cut_between(shape)
            except UnprovedError:
                self._cuts[shape] = None
        return self._cuts[shape]

    def _cut_between(self, shape: Shape) -> _Cut:
        """Cut a shape. Raises UnprovedError for one whose own words prove nothing."""
        last = len(shape.pieces) - 1
        at, where = (0, 0), OPENING
        sections: list[_Section] = []
        fixed: list[Packed] = []
        for number, piece in enumerate(shape.pieces):
            borders = self._borders(piece)
            if not borders and 0 < number < last:
                continue
            begin = 0 if number == 0 else borders[0][0] if borders else len(piece)
            end, after = borders[-1][1:] if borders else (0, OPENING)
            end = len(piece) if number == last else end
            if number:
                sections.append(_Section(begin=at, end=(number, begin), where=where))
            own = self._words.tokenise(piece[begin:end], INSIDE if number else OPENING)
            fixed.append(own)
            at, where = (number, end), after
        return _Cut(sections=tuple(sections), fixed=tuple(fixed))

    def _borders(self, piece: str) -> list[tuple[int, int, int]]:
        """Return where a piece may be cut: from, to, and at which kind of place what follows is."""
        tokens = [
            (found.start(), found.end(), AFTER_TOKEN)
            for found in self._words.added.finditer(piece)
            if self._words.stands_apart(found.group())
        ]
        sure = [(found.start(), found.start(), INSIDE) for found in self._sure.finditer(piece)]
        return sorted([*tokens, *sure])
