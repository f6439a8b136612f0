"""Tells of whom a sentence says a place or relation, and to whom: every reading it allows.

Left and right are the picture's, as a teacher that reads boxes must mean them: it cannot know
which way the dog of "on the dog's left" looks.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from laterna.synthesis.checks.places import Phrase
from laterna.synthesis.checks.reading import Naming, Sentence

_REACH = 4
"""Words between a relation and the thing that it is to."""
_BORDERS = frozenset(". ; : ! ? , while whereas but".split())
_PREPOSITIONS = frozenset(
    """of to near behind by with beside on in at from under against around between beneath alongside
    over onto for into inside holding carrying above below than""".split()
)
_IN_NOUN_PHRASE = frozenset(
    """a an the another other one two three four five several some his her its their this that these
    those small large big red green blue brown black white yellow orange""".split()
)
_STAND_INS = frozenset("one another ones others other first second".split())
_OPENERS = frozenset(
    """and also with just directly slightly immediately right over the then situated located
    positioned placed standing sitting seated lying resting parked seen found""".split()
)
_PARTS = frozenset(
    """, there is are sits stands lies one we you see sees finds notices shows show features feature
    contains contain holds includes include has displays depicts reveals presents""".split()
)
_LINKS = frozenset(
    """is are was were sits stands lies rests appears located positioned situated placed
    visible seen can be found standing sitting lying resting which that""".split()
)
_BESIDE = frozenset("next beside besides near by alongside adjacent close".split())
_HAVING = frozenset("with has have having and".split())
_FLANKED = frozenset("flanked bordered accompanied framed joined".split())
_FLANKS = frozenset("flanks flank borders border adjoins accompanies frames".split())
_ARRANGED = frozenset("arranged lined lines up ordered in order row , shown".split())
_IN_A_LIST = frozenset(", and then followed by finally next a an the".split())
_PERSONAL = frozenset("his her him whom".split())


class Reading(NamedTuple):
    """One way to read a phrase of place."""

    subject: Naming
    """What is said to be there."""
    other: Naming | None
    """What the relation is to; None for a place in the picture."""


def read_places(sentence: Sentence, phrases: tuple[Phrase, ...]) -> list[tuple[Reading, ...]]:
    """Return the readings of each phrase; none where the sentence does not tell for certain."""
    read = [_read(phrase, sentence) for phrase in phrases]
    return [
        (*found, *_contrasted(at, phrases, read)) if found else () for at, found in enumerate(read)
    ]


def read_order(phrase: Phrase, sentence: Sentence) -> list[Reading]:
    """Return the pairs of neighbours of "from left to right, a cup, a fork and a knife"."""
    run = [naming for naming in sentence.namings if naming.first >= phrase.last]
    if not run:
        run = [naming for naming in sentence.namings if naming.last <= phrase.first]
        if run and not set(sentence.words[run[-1].last : phrase.first]) <= _LINKS | _ARRANGED:
            return []
    if any(naming.attitude != "claimed" or naming.plural for naming in run):
        return []
    together = all(
        set(sentence.words[one.last : two.first]) <= _IN_A_LIST | _IN_NOUN_PHRASE
        for one, two in pairwise(run)
    )
    return [Reading(one, two) for one, two in pairwise(run)] if together else []


def _read(phrase: Phrase, sentence: Sentence) -> tuple[Reading, ...]:
    if phrase.anchor == "order":
        return ()
    if phrase.anchor in ("bare", "pronoun") and (flanked := _flanking(phrase, sentence)):
        found: tuple[Reading, ...] = (flanked,)
    elif phrase.anchor == "pronoun":
        found = _by_pronoun(phrase, sentence)
    else:
        found = _by_clause(phrase, sentence)
    if any(naming.attitude != "claimed" for naming, _ in found):
        return ()
    if any(other is not None and other.attitude == "open" for _, other in found):
        return ()
    if phrase.weak and found and not _linked(sentence, found[0].subject, phrase):
        return ()
    return found


def _by_clause(phrase: Phrase, sentence: Sentence) -> tuple[Reading, ...]:
    """Read a place in the picture, or a relation to a thing that the phrase itself names."""
    other = None
    end = phrase.last
    if phrase.anchor == "next":
        other = _next(sentence, phrase.last, _REACH)
        if other is None or _between_is_border(sentence, phrase.last, other.first):
            return ()
        end = other.last
    if phrase.anchor == "owner":
        other = _owner(phrase, sentence)
        if other is None:
            return ()
    start = _clause_start(sentence, phrase.first)
    subjects = _before(sentence, start, phrase.first)
    if not subjects:
        subjects = _inverted(sentence, start, phrase, end)
    if not subjects and start > 1 and sentence.words[start - 1] == ",":
        subjects = _before_comma(sentence, start, phrase.first)
    found = tuple(Reading(naming, other) for naming in subjects)
    if phrase.anchor == "bare" and found:
        found += _beside(phrase, sentence, found)
    return found


def _owner(phrase: Phrase, sentence: Sentence) -> Naming | None:
    """Return the thing whose side it is: "the cat's left"."""
    at = sentence.words.index("s", phrase.first)
    return next((naming for naming in sentence.namings if naming.last == at), None)


def _by_pronoun(phrase: Phrase, sentence: Sentence) -> tuple[Reading, ...]:
    """Read "a cup with a fork to its left", "next to the cup, to the left of it, is a fork"."""
    before = [naming for naming in sentence.namings if naming.last <= phrase.first]
    start = _clause_start(sentence, phrase.first)
    subjects = _inverted(sentence, start, phrase, phrase.last)
    if subjects:
        return tuple(Reading(subjects[0], one) for one in before if _may_mean(phrase, one))
    if len(before) < 2 or not set(sentence.words[before[-1].last : phrase.first]) <= _LINKS | {","}:
        return ()
    *earlier, nearest = before
    between = sentence.words[earlier[-1].last : nearest.first]
    joins = [word for word in between if word in _BESIDE | _HAVING]
    if joins and joins[-1] in _HAVING:
        return tuple(Reading(nearest, one) for one in earlier if _may_mean(phrase, one))
    if joins and _may_mean(phrase, nearest):
        return tuple(Reading(one, nearest) for one in earlier)
    return ()


def _may_mean(phrase: Phrase, naming: Naming) -> bool:
    """Tell whether the phrase's pronoun may stand for a thing."""
    if naming.plural or phrase.word in ("their", "them"):
        return False
    return (naming.category == "person") == (phrase.word in _PERSONAL)


def _flanking(phrase: Phrase, sentence: Sentence) -> Reading | None:
    """Read "the cat is flanked on the left by a dog" and "a dog flanks the cat on the left"."""
    start = _clause_start(sentence, phrase.first)
    for at in range(phrase.first - 1, start, -1):
        word = sentence.words[at]
        if word not in _FLANKED | _FLANKS:
            continue
        before = [naming for naming in sentence.namings if start <= naming.first < at]
        after = [naming for naming in sentence.namings if naming.first > at]
        if not before or not after:
            return None
        if word in _FLANKS:
            return Reading(before[-1], after[0])
        by = "by" in sentence.words[at : after[0].first]
        return Reading(after[0], before[-1]) if by else None
    return None


def _beside(phrase: Phrase, sentence: Sentence, found: tuple[Reading, ...]) -> tuple[Reading, ...]:
    """Add that "the fork is next to the cup, on the left" may mean left of the cup."""
    more = []
    for naming in sentence.namings:
        if naming.last > phrase.first:
            continue
        before = sentence.words[max(0, naming.first - 4) : naming.first]
        if _BESIDE.intersection(before):
            more += [Reading(one, naming) for one, _ in found if one is not naming]
    return tuple(more)


def _contrasted(
    at: int, phrases: tuple[Phrase, ...], read: list[tuple[Reading, ...]]
) -> tuple[Reading, ...]:
    """Add that "the cat is on the left, the dog on the right" may only tell them apart.

    "On the left side" is said of the picture.
    """
    phrase = phrases[at]
    if not phrase.is_one_word:
        return ()
    across = [
        reading.subject
        for other, readings in zip(phrases, read, strict=True)
        if other.is_one_word and other.across == -(phrase.across or 0)
        for reading in readings
    ]
    return tuple(Reading(one.subject, two) for one in read[at] for two in across)


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
    if not _STAND_INS.intersection(sentence.words[start:end]):
        return ()
    earlier = [naming for naming in sentence.namings if naming.first < start]
    return (earlier[-1],) if earlier and earlier[-1].plural else ()


def _inverted(sentence: Sentence, start: int, phrase: Phrase, end: int) -> tuple[Naming, ...]:
    """Return the subject that follows: "To the left of the cat, there is a dog"."""
    if not _is_front(sentence, start, phrase.first):
        return ()
    subject = _next(sentence, end, 8)
    if subject is None or "." in sentence.words[end : subject.first]:
        return ()
    if _after_preposition(sentence.words, end, subject.first):
        return ()
    # a comma, a verb or an article must part them, not another thing of the same place
    between = sentence.words[end : subject.first]
    parted = bool(_PARTS.intersection(between)) or between[:1] in (("a",), ("an",))
    return (subject,) if parted else ()


def _is_front(sentence: Sentence, start: int, first: int) -> bool:
    """Tell whether a phrase opens its clause, or follows "beside the cat" there."""
    words = sentence.words[start:first]
    if _BESIDE.intersection(words[:2]):
        inside = [n for n in sentence.namings if start <= n.first and n.last <= first]
        return len(inside) == 1 and inside[0].last == first
    return set(words) <= _OPENERS


def _after_preposition(spoken: tuple[str, ...], start: int, first: int) -> bool:
    for at in range(first - 1, start - 1, -1):
        if spoken[at] == "by" and at > start and spoken[at - 1].endswith(("ed", "up", "en")):
            return False  # "is occupied by a dog"
        if spoken[at] == "with" and at == start > 0:
            return False  # ", with a dog on the left"
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
