"""Finds phrases of place in a sentence: where in the picture, or how to another thing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

from laterna.synthesis.checks.viewing import is_viewers

PICTURE_WORDS = frozenset(
    "image picture photo photograph frame scene view shot composition room".split()
)
"""What a side may be a side of, to be a side of the picture; a room fills its picture."""

Anchor = Literal["picture", "bare", "next", "owner", "pronoun", "order", "compared"]
"""What the side is a side of: the picture; it does not say ("on the left"); the thing that
follows ("left of the cat", "further left than the cat"); the thing that owns it ("the cat's
left"); what a pronoun stands for ("its left"); what is "compared with". `order` is "from left
to right"."""

_SIDES = "left|right|top|bottom|upper|lower|center|centre|middle"
_PARTS = (
    "side|corner|part|half|portion|edge|border|area|section|region|end|third|quarter|margin"
    "|foreground|background"
)
_PHRASE = re.compile(
    rf"""
    (?P<vertical>\b(?:above|below)\b)
  | \b(?:from\ )?(?P<order>left\ to\ right|right\ to\ left)\b
  | \b(?:further|farther|more)(?:\ to(?:wards?)?\ the)?\ (?P<compared>left|right)\ than\b
  | \b(?:further|farther|more)\ (?:to\ the\ )?(?P<tending>left|right)(?=\ [.,;]|$)
  | \bthe\ (?P<most>left|right)most(?:\ one)?(?=\ of\ the\ (?:two|pair)\b)
  | (?:(?<=look\ )|(?<=looking\ )|(?<=glancing\ ))(?P<aside>left|right)(?=\ ,)
  | (?:\b(?P<preposition>on|at|in|to|near|along|from|occupying|occupies|tak(?:es|ing)\ up)\ )?\b
      (?:(?P<article>the|its|his|her|their)|(?P<owner>(?:the|a|an|this|that)\ (?:\w+\ ){{1,3}})s)
      (?:\ far|\ extreme|\ very|\ immediate|\ direct)?
      \ (?P<first>{_SIDES})(?:\ (?P<second>{_SIDES}))?\b
      (?P<part>(?:\ hand)?\ (?:{_PARTS})\b)?(?!\ \w*hand\b)
  | \b(?P<near>left|right)(?:\ hand)?(?:\ side)?(?=\ of\b)
    """,
    re.VERBOSE,
)
_LOOSE = frozenset(
    "further farther more closer nearer almost mostly partially facing faces turned "
    "turning looking leaning pointing pointed heading moving looks look face turns leans points "
    "heads moves gazes gazing glances walks run runs going goes".split()
)
"""Words that make of a side a direction or a tendency, unless it is the viewer who looks."""
_STILL = frozenset(
    "is are was were located positioned placed situated visible seen found standing sitting lying "
    "stands sits lies set , . ; :".split()
)
"""Words after which "toward the left edge" is where a thing is, not where it goes."""
_SEEING = frozenset("sees can may finds notices might could spots".split())
_MOVING = frozenset(
    "moving walking running riding flying driving moves move walks walk runs run flies fly drives "
    "drive rides ride crosses crossing cross travels traveling passes pass".split()
)
"""Words that make of "from left to right" a way to go."""
_COMING = frozenset(
    "enter enters entering come comes coming approach approaches approaching emerge emerges "
    "emerging arrive arrives arriving taken shot photographed seen viewed shines shining".split()
)
"""Words that make of "from the left" where something comes from."""
_BOUNDARY = frozenset(
    """. , ; : ! ? and while with is are there we you that which where can sits stands stand
    sit by as stood lies rests hangs a an the in on at near behind next has have had was were wears
    wearing holds holding also appears seems""".split()
)
_ARTICLES = frozenset("the this that a an entire whole".split())
_ACROSS = {"left": -1, "right": 1, "center": 0, "centre": 0, "middle": 0}
_DOWN = {"top": -1, "upper": -1, "bottom": 1, "lower": 1}
PRONOUNS = frozenset("it him her them which whom".split())


class Phrase(NamedTuple):
    """One phrase of place."""

    first: int
    """Index of its first word."""
    last: int
    """Index after its last word; after "of the", where a thing follows."""
    across: int | None
    """-1 left, 0 middle, 1 right; None where it does not say."""
    down: int | None
    """-1 top or above, 1 bottom or below; None where it does not say, as "in the middle"."""
    anchor: Anchor
    word: str = ""
    """The pronoun of a `pronoun`; the owner's words of an `owner`."""
    weak: bool = False
    """It may be a place on a thing ("flowers at the top"), unless it says what the thing is."""
    loose: bool = False
    """A direction or tendency, which boxes cannot decide ("further to the left")."""
    part: bool = False
    """It names a part: "the left side", "the right half"."""

    @property
    def is_one_word(self) -> bool:
        """Tell whether it is "on the left" or "to the right", and no more."""
        sideways = bool(self.across) and self.down is None
        return self.anchor == "bare" and sideways and not self.part


def find_places(spoken: tuple[str, ...]) -> Iterator[Phrase]:
    """Yield the phrases of place of a sentence's words, in order."""
    joined = " ".join(spoken)
    for match in _PHRASE.finditer(joined):
        first = joined.count(" ", 0, match.start())
        last = first + match.group().count(" ") + 1
        phrase = _phrase(match, spoken, first, last)
        if phrase is not None:
            yield phrase


def _phrase(match: re.Match[str], spoken: tuple[str, ...], first: int, last: int) -> Phrase | None:
    if match["order"]:
        way = -1 if match["order"].startswith("left") else 1
        moving = _any_of(_MOVING, spoken, max(0, first - 3), first)
        return Phrase(first, last, way, None, "order", loose=moving)
    if single := match["most"] or match["tending"] or match["aside"]:
        return _of_one_word(match, spoken, Phrase(first, last, _ACROSS[single], None, "bare"))
    if match["compared"]:
        return Phrase(first, last, _ACROSS[match["compared"]], None, "next")
    loose = _is_loose(spoken, first)
    if match["preposition"] == "from" and _COMING.intersection(spoken[:first]):
        loose = True
    if match["vertical"]:
        side = -1 if match["vertical"] == "above" else 1
        return Phrase(first, last, None, side, "next", loose=loose)
    words = [word for word in (match["first"], match["second"], match["near"]) if word]
    across = next((_ACROSS[word] for word in words if word in _ACROSS), None)
    down = next((_DOWN[word] for word in words if word in _DOWN), None)
    found = Phrase(first, last, across, down, "bare", loose=loose, part=bool(match["part"]))
    if spoken[last : last + 1] == ("of",):
        found = _of_something(found, spoken)
    elif match["near"]:
        return None
    if match["near"]:
        return found
    return _owned(match, spoken, found)


def _of_one_word(match: re.Match[str], spoken: tuple[str, ...], found: Phrase) -> Phrase:
    """Read "the leftmost of the two", "further left", "looking left"."""
    if match["aside"]:
        return found._replace(loose=not is_viewers(spoken, found.first - 1))
    if match["tending"]:
        if "compared" in spoken[: found.first]:
            return found._replace(anchor="compared")
        return found._replace(loose=True)
    return found


def _owned(match: re.Match[str], spoken: tuple[str, ...], found: Phrase) -> Phrase | None:
    """Return the phrase with whose side it is."""
    if found.anchor != "bare":
        return found
    after = spoken[found.last : found.last + 1]
    told = spoken[found.first - 2 : found.first - 1] in (("that",), ("which",))
    if after == ("one",):
        told = told or bool(_SEEING.intersection(spoken[found.last + 1 : found.last + 2]))
    if not found.part and not told and after and after[0] not in _BOUNDARY:
        return None  # "on the right track", but "the cat that is on the right catches the eye"
    if _both_sides(spoken, found.last):
        return None
    owner = (match["owner"] or "").split()[1:]
    if PICTURE_WORDS.intersection(owner[-1:]):
        return found._replace(anchor="picture")
    if owner or match["article"] != "the":
        # "to the cat's left", "on its left side"; without a preposition, it is a part of the cat
        if not match["preposition"] or not found.across or found.down is not None:
            return None
        word = " ".join(owner) or match["article"]
        return found._replace(anchor="owner" if owner else "pronoun", word=word)
    if not match["preposition"] and not found.part:
        return None
    return found._replace(weak=found.across in (None, 0))


def _is_loose(spoken: tuple[str, ...], first: int) -> bool:
    start = max(0, first - 3)
    for at in range(start, first):
        if spoken[at] == ",":
            start = at + 1
            break
    if first and spoken[first - 1] in ("toward", "towards"):
        return not _is_still(spoken, first - 1)
    toward = {"toward", "towards"}.intersection(spoken[start:first])
    return bool(toward) or _any_of(_LOOSE, spoken, start, first)


def _is_still(spoken: tuple[str, ...], at: int) -> bool:
    """Tell whether what stands before "toward" goes nowhere: "is toward", "a dog toward"."""
    if at == 0 or spoken[at - 1] in _STILL:
        return True
    before = spoken[max(0, at - 5) : at]
    goes = any(word.endswith("ing") or word in _LOOSE | _MOVING for word in before)
    return not goes and spoken[at - 2 : at - 1] in (("a",), ("an",), ("the",))


def _any_of(words: frozenset[str], spoken: tuple[str, ...], start: int, end: int) -> bool:
    """Tell whether one of the words stands there and does not tell the viewer where to look."""
    found = (at for at in range(start, end) if spoken[at] in words)
    return any(not is_viewers(spoken, at) for at in found)


def _both_sides(spoken: tuple[str, ...], last: int) -> bool:
    """Tell whether the other side is named too: "to the left and right of the bench"."""
    after = [word for word in spoken[last : last + 4] if word not in ("the", "on", "to")]
    return after[:1] in (["and"], ["or"]) and after[1:2] in (["right"], ["left"])


def _of_something(found: Phrase, spoken: tuple[str, ...]) -> Phrase:
    last = found.last + 1
    if PRONOUNS.intersection(spoken[last : last + 1]):
        return found._replace(anchor="pronoun", word=spoken[last], last=last + 1)
    while _ARTICLES.intersection(spoken[last : last + 1]):
        last += 1
    if PICTURE_WORDS.intersection(spoken[last : last + 1]):
        return found._replace(anchor="picture", last=last + 1)
    if found.across and found.down is None:
        # "further to the left of the cat" is left of it all the same
        farther = spoken[found.first - 1 : found.first] in (("further",), ("farther",))
        return found._replace(anchor="next", last=last, loose=found.loose and not farther)
    # "at the top of the hill", "in the middle of the road": no box tells where that is
    return found._replace(anchor="next", last=last, loose=True)
