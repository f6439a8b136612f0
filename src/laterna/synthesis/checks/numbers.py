"""Reads the number that counts a thing, and the vague words that stand in a number's place."""

from __future__ import annotations

from typing import NamedTuple

from laterna.scenes.vocabulary import COLLECTIVES, TENS, UNITS, Mention

NUMBER_WORDS = {word: number for number, word in enumerate(UNITS)} | TENS
_SINGLE = frozenset("single lone sole solitary".split())
_AT_LEAST_TWO = frozenset("another both".split())
_NAMES_NO_NUMBER = frozenset(
    "number no route flight line platform gate room track lane size age aged : year highway street "
    "at since in".split()
)
"""After these a number is a name, a time or an age: "number three", "at 10"."""
_INVARIANT = frozenset("sheep broccoli".split())
_PAIRED = frozenset("skis scissors".split())
"""A pair of these is one thing, and annotators box either: they are not counted."""
MORE_THAN_ONE = frozenset("several many multiple numerous various few dozens couple".split())
"""Words of a reply that claim more than one."""
_BETWEEN = frozenset(
    """a an the red orange yellow green blue purple pink brown black white grey gray gold
    silver tan beige dark light bright colorful colourful small smaller large larger big
    bigger little tiny huge massive giant tall short long young old older elderly adult
    baby wild cute fluffy different separate individual empty full wooden metal plastic
    glass leather ceramic stuffed vintage antique modern parked visible other additional
    more distinct identical similar matching beautiful lovely adorable domestic male
    female uniformed standing sitting lying seated stacked brightly colored coloured colour
    color double fresh ripe cooked whole half main bright striped spotted rough smooth
    plain shiny clear dry wet dirty clean ornate decorative round square rectangular and
    , top bottom left right""".split()
)
"""Words that may stand between a number and what is counted."""
_REACH = 5


class Counted(NamedTuple):
    """The number that counts a mention."""

    value: int
    first: int
    """Index of the number's first word."""
    at_least: bool = False
    """There may be more: "another", "both"."""


def read_number(word: str) -> int | None:
    """Return the number that a word tells; None for other words."""
    if word.isdigit() and len(word) <= 3:
        return int(word)
    return NUMBER_WORDS.get(word)


def count_of(spoken: tuple[str, ...], mention: Mention) -> Counted | None:
    """Return the number that counts a mention, or None.

    Colours, sizes and the like may stand between: "three small brown dogs". A number above one
    before a singular counts nothing ("the 22 bus"), nor does one before a plural.
    """
    if mention.category in _PAIRED:
        return None
    for at in range(mention.first - 1, max(-1, mention.first - 1 - _REACH), -1):
        found = _number_at(spoken, at, mention)
        if found is not None:
            agrees = mention.plural == (found.value != 1) or mention.category in _INVARIANT
            agrees = agrees or (
                found.value == 1 and at == mention.first - 1
            )  # "how many dogs? one"
            beside = spoken[at + 1 : at + 2] == (",",)  # "the other one, a dog"
            return found if (agrees or found.at_least) and not beside else None
        if spoken[at] not in _BETWEEN:
            return None
    return None


def several_at(spoken: tuple[str, ...], mention: Mention) -> bool:
    """Tell whether a vague word claims more than one of a mention."""
    return mention.plural and bool(MORE_THAN_ONE.intersection(spoken[: mention.first][-3:]))


def _number_at(spoken: tuple[str, ...], at: int, mention: Mention) -> Counted | None:
    word, before = spoken[at], spoken[at - 1] if at else ""
    if word == "of" and before in COLLECTIVES:
        return _collective(spoken, at - 1)
    if word in ("dozen", "hundred"):
        return _collective(spoken, at)
    if word in _SINGLE:
        return None if mention.category == "bed" else Counted(1, at)
    if word in _AT_LEAST_TWO:
        return Counted(2, at, at_least=True)
    value = read_number(word)
    if value is None or before in _NAMES_NO_NUMBER:
        return None
    if before == "." and spoken[at - 2 : at - 1] and read_number(spoken[at - 2]) is not None:
        return None
    if value < 10 and before in TENS:
        return Counted(TENS[before] + value, at - 1)
    return Counted(value, at)


def _collective(spoken: tuple[str, ...], at: int) -> Counted | None:
    """Read "a pair", "two dozen", "half a dozen" that ends at an index."""
    value = COLLECTIVES[spoken[at]]
    before = spoken[max(0, at - 2) : at]
    if before == ("half", "a"):
        return Counted(value // 2, at - 2)
    times = read_number(before[-1]) if before else None
    return Counted(value * (times or 1), at - 1 if times else at)
