"""Holds places and relations that a sentence tells in plain words against the boxes.

A few plain forms are read, whose precision is measured (docs/synthesis.md): "the cup is to the
left of the bowl" and "the cup is on the left", each also the other way round ("to the left of
the bowl is a cup"); "near the left side of the bowl"; "two cups, one to the left of the bowl".
Any other wording is counted as unchecked. Sides are the image's own, as
annotators of boxes see it; "behind", "under" and "on top of" are of depth or touch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from laterna.records import Box, Finding
from laterna.scenes.vocabulary import SUPERCATEGORY_OF, WordSets, read_patterns
from laterna.synthesis.checks.evidence import Evidence
from laterna.synthesis.checks.sentences import Naming, Sentence
from laterna.synthesis.checks.verdicts import Outcome, total

_W = WordSets(__package__, "positions")

CLEAR = 0.05
"""Centres must lie apart by more than this share of the image to be called apart."""
_SAYS = read_patterns(__package__, "positions")
_FORMS = tuple(
    _SAYS[name]
    for name in (
        "related",
        "related_first",
        "joined",
        "by_side",
        "one_of",
        "placed",
        "placed_first",
    )
)
_OWN_SIDES = frozenset(("person", "animal"))
"""What has a left of its own, which is seldom the image's."""
_DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "above": (0, -1), "below": (0, 1)}
_SPAN = {"left": -1, "top": -1, "upper": -1, "right": 1, "bottom": 1, "lower": 1}
_MIDDLE = frozenset(("center", "centre", "middle"))
_ACROSS = frozenset(("left", "right"))


class _Claim(NamedTuple):
    subject: Naming
    other: Naming | None
    words: str
    """"left", "above", "upper right", …"""
    negated: bool
    bare: bool
    """The words do not say of what "the left" is."""
    member: bool = False
    """It is said of one of several."""


def check_positions(sentence: Sentence, evidence: Evidence) -> Outcome:
    """Find places and relations that the boxes rule out."""
    claims = list(_claims(sentence))
    told = sum(word in _W.place_words for word in sentence.words)
    read = sum(len(claim.words.split()) for claim in claims)
    contrast = {word for claim in claims if claim.bare for word in claim.words.split()}
    loose = contrast >= _ACROSS or bool(told > read and _ACROSS & set(sentence.words) > contrast)
    outcomes = [_check(claim, sentence, evidence, loose and claim.bare) for claim in claims]
    return total((*outcomes, Outcome(unchecked=int(told > read))))


def _claims(sentence: Sentence) -> Iterator[_Claim]:
    """Yield what the plain forms say, of single things that the sentence affirms."""
    text = _with_marks(sentence)
    for form in _FORMS:
        for found in form.finditer(text):
            groups = found.groupdict()
            members = groups.get("members")
            subject = _naming(groups.get("a") or groups.get("a2") or members, sentence)
            other = _naming(groups.get("b"), sentence)
            own = other and SUPERCATEGORY_OF.get(other.category) in _OWN_SIDES
            if groups.get("half") and own:
                continue
            kinds = ("side", "near", "down", "half")
            words = next((groups[kind] for kind in kinds if groups.get(kind)), None)
            bare = words is None and not groups.get("of")
            words = words or str(groups["place"])
            if subject is not None:
                negated = bool(groups.get("no"))
                yield _Claim(subject, other, words, negated, bare, member=bool(members))


def _with_marks(sentence: Sentence) -> str:
    """Return the sentence's words with `<n>` for its n-th naming."""
    starts = {naming.first: number for number, naming in enumerate(sentence.namings)}
    inside = {at for one in sentence.namings for at in range(one.first + 1, one.last)}
    marked = (
        f"<{starts[at]}>" if at in starts else word
        for at, word in enumerate(sentence.words)
        if at not in inside
    )
    return " ".join(marked)


def _naming(phrase: str | None, sentence: Sentence) -> Naming | None:
    found = re.search(r"<(\d+)>", phrase or "")
    return sentence.namings[int(found[1])] if found else None


def _check(claim: _Claim, sentence: Sentence, evidence: Evidence, loose: bool) -> Outcome:
    named = [one for one in (claim.subject, claim.other) if one is not None]
    sure = all(
        (one.polarity == "affirmed" or claim.negated)
        and one.category in evidence.boxes
        and (not one.plural or (claim.member and one is claim.subject))
        and not (one.doubtful and one.category != "person")
        for one in named
    )
    if not sure or loose or len({one.category for one in named}) < len(named):
        return Outcome(unchecked=1)
    other = claim.other.category if claim.other else None
    if not ruled_out(evidence, claim.subject.category, other, claim.words, negated=claim.negated):
        return Outcome(checked=1)
    to = f" of {claim.other.category}" if claim.other else ""
    told = f"{claim.subject.category} {'not ' if claim.negated else ''}{claim.words}{to}"
    detail = f"the boxes rule out a {told}"
    return Outcome((Finding(reason="wrong position", sentence=sentence.text, detail=detail),), 1)


def is_place(words: str, related: bool) -> bool:
    """Tell whether words name a direction (of a thing to another) or a part of the image."""
    known = _DIRECTIONS.keys() if related else _SPAN.keys() | _MIDDLE
    return bool(words) and all(word in known for word in words.split()[: 1 if related else None])


def ruled_out(
    evidence: Evidence, subject: str, other: str | None, words: str, *, negated: bool = False
) -> bool:
    """Tell whether the boxes rule out that a category is in a place, or so to another category.

    Only what all of its boxes rule out is. Both must have boxes, and the words be a place.
    """
    boxes = evidence.boxes[subject]
    if other is None:
        return all(_elsewhere(box, words.split()) for box in boxes)
    across, down = _DIRECTIONS[words]
    offsets = [
        across * (box.centre[0] - against.centre[0]) + down * (box.centre[1] - against.centre[1])
        for box in boxes
        for against in evidence.boxes[other]
    ]
    if negated:
        return all(offset > 2 * CLEAR for offset in offsets)
    return all(offset < -CLEAR for offset in offsets)


def _elsewhere(box: Box, words: Iterable[str]) -> bool:
    """Tell whether a box is surely not in the place of the image."""
    for word in words:
        side = _SPAN.get(word, 0)
        if side == 0:  # the middle: of the width or of the height
            return _off(box.x1, box.x2, 0) or _off(box.y1, box.y2, 0)
        span = (box.x1, box.x2) if word in _ACROSS else (box.y1, box.y2)
        if _off(*span, side):
            return True
    return False


def _off(start: float, end: float, side: int) -> bool:
    centre = (start + end) / 2
    if side < 0:
        return centre > 0.5 + CLEAR and start > 1 / 3
    if side > 0:
        return centre < 0.5 - CLEAR and end < 2 / 3
    return end < 1 / 3 or start > 2 / 3
