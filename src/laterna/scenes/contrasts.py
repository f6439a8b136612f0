"""What tells two images of the world apart: the things of which questions about both are made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from laterna.records import Truth

ContrastKind = Literal["object", "colour", "both"]
"""`object`: which of the two shows such a thing; `colour`: which shows it in this colour, while
both show one; `both`: whether both show one, which cannot be told from either image alone."""
CONTRASTS: tuple[ContrastKind, ...] = ("object", "colour", "both")
FIRST, SECOND, YES, NO = "first", "second", "yes", "no"
MOST_AHEAD = 2
"""How much more often than the other an answer may have been given for another such question."""


def is_in_balance(answer: str, given: Mapping[str, int]) -> bool:
    """Tell whether an answer may be given once more, by how often each answer was given.

    Most pairs allow but one answer to whether both show something: without a bound that one would
    be right for nearly all.
    """
    other = {FIRST: SECOND, SECOND: FIRST, YES: NO, NO: YES}[answer]
    return given.get(answer, 0) < given.get(other, 0) + MOST_AHEAD


class Contrast(NamedTuple):
    """A question about two images that has one answer."""

    kind: ContrastKind
    category: str
    colour: str
    """Empty where it does not matter."""
    answer: str


def contrasts(first: Truth, second: Truth) -> list[Contrast]:
    """Return every contrast of two images, in a fixed order."""
    kinds = [{toy.category for toy in truth.toys} for truth in (first, second)]
    things = [{(toy.colour, toy.category) for toy in truth.toys} for truth in (first, second)]
    found = []
    for category in sorted(kinds[0] | kinds[1]):
        here, there = (category in one for one in kinds)
        if here != there:
            answer = FIRST if here else SECOND
            found.append(Contrast("object", category, "", answer))
        found.append(Contrast("both", category, "", YES if here and there else NO))
    for colour, category in sorted(things[0] ^ things[1]):
        if category in kinds[0] & kinds[1]:
            answer = FIRST if (colour, category) in things[0] else SECOND
            found.append(Contrast("colour", category, colour, answer))
    return found
