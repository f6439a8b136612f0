"""Holds places and relations that a sentence tells against the boxes.

Only what every reading of the sentence and every box rules out is wrong. A relation is one of
the picture's plane, as the annotators of boxes see it; "behind", "in the background", "under"
and "on top of" are of depth or touch, and are left unchecked.
"""

from __future__ import annotations

from typing import NamedTuple

from laterna.records import Box, Finding
from laterna.synthesis.checks.evidence import Evidence
from laterna.synthesis.checks.outcome import Outcome, total
from laterna.synthesis.checks.places import Phrase, find_places
from laterna.synthesis.checks.reading import Naming, Sentence

CLEAR = 0.05
"""Centres must lie apart by more than this share of the picture to be called apart."""
_REACH = 4
"""Words between a relation and the thing that it is to."""
_BORDERS = frozenset(". ; : ! ? , while whereas but".split())
_PREPOSITIONS = frozenset(
    """of to near behind by with beside on in at from under against around between beneath alongside
    over onto for into inside holding carrying above below""".split()
)
_IN_NOUN_PHRASE = frozenset(
    """a an the another other one two three four five several some his her its their this that these
    those small large big red green blue brown black white yellow orange""".split()
)
_PRONOUNS = frozenset("one another ones others other first second".split())
_DEPTH = frozenset("background foreground behind front underneath beneath under between".split())
_OPENERS = frozenset("and also with just directly slightly immediately right".split())
_PARTS = frozenset(", there is are sits stands lies one we you see sees finds notices".split())
_LINKS = frozenset(
    """is are was were sits stands lies rests appears located positioned situated placed
    visible seen can be found standing sitting lying resting which that""".split()
)


class _Place(NamedTuple):
    phrase: Phrase
    subjects: tuple[Naming, ...]
    """What may be meant to be there."""
    other: Naming | None
    """What the relation is to."""
    negated: bool


def check_positions(sentence: Sentence, evidence: Evidence) -> Outcome:
    """Find places and relations that the boxes rule out."""
    phrases = tuple(find_places(sentence.words))
    depth = len(_DEPTH.intersection(sentence.words))
    found = total(_check(phrase, sentence, evidence) for phrase in phrases)
    return total((found, Outcome(unchecked=depth)))


def _check(phrase: Phrase, sentence: Sentence, evidence: Evidence) -> Outcome:
    place = _read(phrase, sentence)
    if place is None or phrase.loose or sentence.hedge < phrase.first:
        return Outcome(unchecked=1)
    boxed = [naming for naming in place.subjects if naming.category in evidence.boxes]
    if not boxed or len(boxed) < len(place.subjects):
        return Outcome(unchecked=1)
    if place.other is not None and place.other.category not in evidence.boxes:
        return Outcome(unchecked=1)
    ruled_out = [_ruled_out(place, naming, evidence) for naming in boxed]
    if not all(ruled_out):
        return Outcome(checked=1)
    where = " ".join(sentence.words[phrase.first : phrase.last])
    to = f" {place.other.category}" if place.other else ""
    names = " or ".join(dict.fromkeys(naming.category for naming in boxed))
    denied = "not " if place.negated else ""
    detail = f"the boxes rule out a {names} {denied}{where}{to}"
    finding = Finding(reason="wrong position", sentence=sentence.text, detail=detail)
    return Outcome((finding,), checked=1)


def _ruled_out(place: _Place, naming: Naming, evidence: Evidence) -> bool:
    phrase = place.phrase
    boxes = evidence.boxes[naming.category]
    if place.other is None:
        return not place.negated and all(_elsewhere(box, phrase) for box in boxes)
    others = evidence.boxes[place.other.category]
    pairs = [(box, other) for box in boxes for other in others if box is not other]
    if not pairs:
        return False
    offsets = [_offset(box, other, phrase) for box, other in pairs]
    if place.negated:
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


def _read(phrase: Phrase, sentence: Sentence) -> _Place | None:
    """Return who is said to be there; None where the sentence does not tell for certain."""
    other = None
    if not phrase.of_picture:
        other = _next(sentence, phrase.last, _REACH)
        if other is None or _between_is_border(sentence, phrase.last, other.first):
            return None
    start = _clause_start(sentence, phrase.first)
    subjects = _before(sentence, start, phrase.first)
    if not subjects:
        end = other.last if other else phrase.last
        subjects = _inverted(sentence, start, phrase, end)
    if not subjects and start > 1 and sentence.words[start - 1] == ",":
        subjects = _before_comma(sentence, start, phrase.first)
    if not subjects or any(naming.attitude != "claimed" for naming in subjects):
        return None
    if phrase.weak and not _linked(sentence, subjects[0], phrase):
        return None
    if other is not None and other.attitude == "open":
        return None
    negated = "not" in sentence.words[max(0, phrase.first - 2) : phrase.first]
    return _Place(phrase, subjects, other, negated)


def _clause_start(sentence: Sentence, before: int) -> int:
    for at in range(before - 1, -1, -1):
        if sentence.words[at] in _BORDERS:
            return at + 1
    return 0


def _next(sentence: Sentence, at: int, reach: int) -> Naming | None:
    for naming in sentence.namings:
        if at <= naming.first < at + reach:
            return naming
    return None


def _between_is_border(sentence: Sentence, start: int, end: int) -> bool:
    return any(word in _BORDERS or word == "and" for word in sentence.words[start:end])


def _before(sentence: Sentence, start: int, end: int) -> tuple[Naming, ...]:
    """Return the nearest thing named before the phrase, and those it may be a part of.

    "A man with a dog on the left" may speak of either. A thing after a preposition alone is no
    subject: in "a lamp next to the chair on the left", the lamp may be meant.
    """
    found: list[Naming] = []
    for naming in reversed(sentence.namings):
        if not start <= naming.first < end:
            continue
        found.append(naming)
        if not _after_preposition(sentence.words, start, naming.first):
            return tuple(found)
    if found:
        return ()
    return _antecedent(sentence, start, end)


def _before_comma(sentence: Sentence, start: int, first: int) -> tuple[Naming, ...]:
    """Return the subject of a clause that a comma cuts off from it.

    "A chair is in the corner, on the left"; "the dog, which is asleep, is on the left".
    """
    between = sentence.words[start:first]
    if not set(between) <= _LINKS:
        return ()
    earlier = _clause_start(sentence, start - 1)
    if between and earlier > 1 and sentence.words[earlier] in ("which", "who", "that"):
        return _before(sentence, _clause_start(sentence, earlier - 1), earlier - 1)
    return _before(sentence, earlier, start)


def _antecedent(sentence: Sentence, start: int, end: int) -> tuple[Naming, ...]:
    """Return what "one" and "another" stand for: "two cups, one on the left"."""
    if not _PRONOUNS.intersection(sentence.words[start:end]):
        return ()
    earlier = [naming for naming in sentence.namings if naming.first < start]
    return (earlier[-1],) if earlier and earlier[-1].plural else ()


def _inverted(sentence: Sentence, start: int, phrase: Phrase, end: int) -> tuple[Naming, ...]:
    """Return the subject that follows: "To the left of the cat, there is a dog"."""
    if any(word not in _OPENERS for word in sentence.words[start : phrase.first]):
        return ()
    subject = _next(sentence, end, 8)
    if subject is None or "." in sentence.words[end : subject.first]:
        return ()
    if _after_preposition(sentence.words, end, subject.first):
        return ()
    # a comma, a verb or nothing must part them, not another thing of the same place
    if not _PARTS.intersection(sentence.words[end : subject.first]):
        return ()
    return (subject,)


def _after_preposition(spoken: tuple[str, ...], start: int, first: int) -> bool:
    for at in range(first - 1, start - 1, -1):
        if spoken[at] in _PREPOSITIONS:
            return True
        if spoken[at] not in _IN_NOUN_PHRASE:
            return False
    return False


def _linked(sentence: Sentence, subject: Naming, phrase: Phrase) -> bool:
    """Tell whether only a verb stands between the thing and where it is."""
    if subject.first > phrase.first:
        return True
    return set(sentence.words[subject.last : phrase.first]) <= _LINKS
