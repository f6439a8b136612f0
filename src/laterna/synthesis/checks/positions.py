"""Holds places and relations that a sentence tells against the boxes.

Only what every reading of the sentence and every box rules out is wrong. A relation is one of
the picture's plane, as the annotators of boxes see it; "behind", "in the background", "under"
and "on top of" are of depth or touch, and are left unchecked.
"""

from __future__ import annotations

from collections.abc import Sequence

from laterna.records import Box, Finding
from laterna.synthesis.checks.evidence import Evidence
from laterna.synthesis.checks.outcome import Outcome, total
from laterna.synthesis.checks.places import Phrase, find_places
from laterna.synthesis.checks.reading import Sentence
from laterna.synthesis.checks.relations import Reading, read_order, read_places

CLEAR = 0.05
"""Centres must lie apart by more than this share of the picture to be called apart."""
_DEPTH = frozenset("background foreground behind front underneath beneath under between".split())


def check_positions(sentence: Sentence, evidence: Evidence) -> Outcome:
    """Find places and relations that the boxes rule out."""
    phrases = tuple(find_places(sentence.words))
    outcomes = [Outcome(unchecked=len(_DEPTH.intersection(sentence.words)))]
    for phrase, readings in zip(phrases, read_places(sentence, phrases), strict=True):
        claims: list[tuple[Reading, ...]] = [readings]
        if phrase.anchor == "order":
            claims = [(pair,) for pair in read_order(phrase, sentence)] or [()]
        outcomes += [_check(phrase, claim, sentence, evidence) for claim in claims]
    return total(outcomes)


def _check(
    phrase: Phrase, readings: Sequence[Reading], sentence: Sentence, evidence: Evidence
) -> Outcome:
    """Check one claim, whose readings are alternatives."""
    if not readings or phrase.loose or sentence.hedge < phrase.first:
        return Outcome(unchecked=1)
    named = [naming for reading in readings for naming in reading if naming is not None]
    if any(naming.category not in evidence.boxes for naming in named):
        return Outcome(unchecked=1)
    negated = "not" in sentence.words[max(0, phrase.first - 2) : phrase.first]
    if not all(_ruled_out(phrase, negated, reading, evidence) for reading in readings):
        return Outcome(checked=1)
    where = " ".join(sentence.words[phrase.first : phrase.last])
    names = " or ".join(dict.fromkeys(reading.subject.category for reading in readings))
    other = readings[0].other
    to = f" {other.category}" if other and phrase.anchor != "owner" else ""
    denied = "not " if negated else ""
    detail = f"the boxes rule out a {names} {denied}{where}{to}"
    finding = Finding(reason="wrong position", sentence=sentence.text, detail=detail)
    return Outcome((finding,), checked=1)


def _ruled_out(phrase: Phrase, negated: bool, reading: Reading, evidence: Evidence) -> bool:
    boxes = evidence.boxes[reading.subject.category]
    if reading.other is None:
        return not negated and all(_elsewhere(box, phrase) for box in boxes)
    others = evidence.boxes[reading.other.category]
    pairs = [(box, other) for box in boxes for other in others if box is not other]
    if not pairs:
        return False
    offsets = [_offset(box, other, phrase) for box, other in pairs]
    if negated:
        return all(offset > 2 * CLEAR for offset in offsets)
    return all(offset < -CLEAR for offset in offsets)


def _offset(box: Box, other: Box, phrase: Phrase) -> float:
    """How far the centre of `box` lies from that of `other` in the direction that is told."""
    if phrase.across:
        return phrase.across * (box.x1 + box.x2 - other.x1 - other.x2) / 2
    return (phrase.down or 0) * (box.y1 + box.y2 - other.y1 - other.y2) / 2


def _elsewhere(box: Box, phrase: Phrase) -> bool:
    """Tell whether a box is surely not in the place of the picture."""
    across = phrase.across is not None and _off(box.x1, box.x2, phrase.across)
    down = phrase.down is not None and _off(box.y1, box.y2, phrase.down)
    return across or down


def _off(start: float, end: float, side: int) -> bool:
    centre = (start + end) / 2
    if side < 0:
        return centre > 0.5 + CLEAR and start > 1 / 3
    if side > 0:
        return centre < 0.5 - CLEAR and end < 2 / 3
    return end < 1 / 3 or start > 2 / 3
