"""Finds phrases of place in a sentence: where in the picture, or how to another thing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

PICTURE_WORDS = frozenset(
    "image picture photo photograph frame scene view shot composition room".split()
)
"""What a side may be a side of, to be a side of the picture; a room fills its picture."""

_SIDES = "left|right|top|bottom|upper|lower|center|centre|middle"
_PHRASE = re.compile(
    rf"""
    (?P<vertical>\b(?:above|below)\b)
  | \b(?:on|at|in|to|near|along|occupying|from)\ (?:the|its|his|her|their)
      (?:\ far|\ extreme|\ very)?\ (?P<first>{_SIDES})(?:\ (?P<second>{_SIDES}))?\b
      (?P<part>\ hand\ side|\ side|\ corner|\ part|\ half|\ portion|\ edge|\ area|\ section
        |\ region)?(?!\ \w*hand\b)
  | \b(?P<bare>left|right)(?P<of>\ hand\ side|\ side)?(?=\ of\b)
    """,
    re.VERBOSE,
)
_LOOSE = frozenset(
    "further farther more closer towards toward nearer almost mostly partially facing turned "
    "turning looking leaning pointing pointed heading moving looks look faces turns leans points "
    "heads moves gazes gazing glances walks run runs going goes".split()
)
"""Words that make of a side a direction or a tendency."""
_BOUNDARY = frozenset(
    """. , ; : ! ? and while with is are there we you that which where can sits stands stand
    sit""".split()
)
_ACROSS = {"left": -1, "right": 1, "center": 0, "centre": 0, "middle": 0}
_DOWN = {"top": -1, "upper": -1, "bottom": 1, "lower": 1}


class Phrase(NamedTuple):
    """One phrase of place."""

    first: int
    """Index of its first word."""
    last: int
    """Index after its last word, an "of the" included."""
    across: int | None
    """-1 left, 0 middle, 1 right; None where it does not say."""
    down: int | None
    """-1 top or above, 0 middle, 1 bottom or below; None where it does not say."""
    of_picture: bool
    """A place in the picture; else a relation to whatever follows."""
    weak: bool
    """It may be a place on a thing ("flowers at the top"), unless it says what the thing is."""
    loose: bool
    """A direction or tendency, which boxes cannot decide ("further to the left")."""


def find_places(spoken: tuple[str, ...]) -> Iterator[Phrase]:
    """Yield the phrases of place of a sentence's words, in order."""
    joined = " ".join(spoken)
    for match in _PHRASE.finditer(joined):
        first = joined.count(" ", 0, match.start())
        last = first + match.group().strip().count(" ") + 1
        phrase = _phrase(match, spoken, first, last)
        if phrase is not None:
            yield phrase


def _phrase(match: re.Match[str], spoken: tuple[str, ...], first: int, last: int) -> Phrase | None:
    before = spoken[max(0, first - 3) : first]
    if "," in before:
        before = before[before.index(",") + 1 :]
    loose = bool(_LOOSE.intersection(before))
    if match["vertical"]:
        side = -1 if match["vertical"] == "above" else 1
        return Phrase(first, last, None, side, False, False, loose)
    words = [word for word in (match["first"], match["second"], match["bare"]) if word]
    across = next((_ACROSS[word] for word in words if word in _ACROSS), None)
    down = next((_DOWN[word] for word in words if word in _DOWN), None)
    if words[0] in ("center", "centre", "middle"):
        down = 0
    after = spoken[last : last + 1]
    if after == ("of",):
        return _of_something(spoken, first, last, across, down, loose)
    if match["bare"]:
        return None
    side_named = bool(match["part"])
    if not side_named and after and after[0] not in _BOUNDARY:
        return None  # "on the right track"
    weak = down is not None and across in (None, 0)
    return Phrase(first, last, across, down, True, weak, loose)


def _of_something(
    spoken: tuple[str, ...],
    first: int,
    last: int,
    across: int | None,
    down: int | None,
    loose: bool,
) -> Phrase | None:
    last += 1
    while spoken[last : last + 1] in (("the",), ("this",), ("that",), ("a",), ("an",), ("entire",)):
        last += 1
    if PICTURE_WORDS.intersection(spoken[last : last + 1]):
        return Phrase(first, last + 1, across, down, True, False, loose)
    if across and down is None:
        return Phrase(first, last, across, None, False, False, loose)
    # "at the top of the hill", "in the middle of the road": no box tells where that is
    return Phrase(first, last, across, down, False, False, True)
