"""Tells of whom a sentence says a place or relation, and to whom: every reading it allows.

Left and right are the picture's, as a teacher that reads boxes must mean them: it cannot know
which way the dog of "on the dog's left" looks.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import NamedTuple

from laterna.synthesis.checks.alone import are_plain, only_subject
from laterna.synthesis.checks.places import Phrase
from laterna.synthesis.checks.reading import Naming, Sentence
from laterna.synthesis.checks.subjects import (
    BESIDE,
    BORDERS,
    IN_NOUN_PHRASE,
    LINKS,
    SLIGHTLY,
    clause_start,
    find_subjects,
    inverted,
    next_naming,
)

_REACH = 4
"""Words between a relation and the thing that it is to."""
_HAVING = frozenset("with has have having and".split())
_DEPTH = frozenset("behind front under underneath beneath above below against".split())
_VIEWERS = frozenset("we you one there".split())
"""Words that open a clause about the next thing: "looking at the cup, we find a fork"."""
_FLANKED = frozenset("flanked bordered accompanied framed joined".split())
_FLANKS = frozenset("flanks flank borders border adjoins accompanies frames".split())
_FLANKING = frozenset("flanking bordering".split())
_ARRANGED = frozenset("arranged lined lines up ordered in order row , shown".split())
_IN_A_LIST = frozenset(", and then followed by finally next a an the".split())
_OF_TWO = re.compile(
    r"\bof the (?:two|pair)(?= [.,;:]|$)|\bside by side\b|\bin a row\b|\bto (?:each|one an)other\b"
)
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
        if run and not set(sentence.words[run[-1].last : phrase.first]) <= LINKS | _ARRANGED:
            return []
    if any(naming.attitude != "claimed" or naming.plural for naming in run):
        return []
    together = all(
        set(sentence.words[one.last : two.first]) <= _IN_A_LIST | IN_NOUN_PHRASE
        for one, two in pairwise(run)
    )
    return [Reading(one, two) for one, two in pairwise(run)] if together else []


def _read(phrase: Phrase, sentence: Sentence) -> tuple[Reading, ...]:
    if phrase.anchor == "order":
        return ()
    flanked = _flanking(phrase, sentence) if phrase.anchor in ("bare", "pronoun") else None
    if flanked is not None:
        found = flanked
    elif phrase.anchor == "pronoun":
        found = _by_pronoun(phrase, sentence)
    else:
        found = _by_clause(phrase, sentence)
    found = _of_two(phrase, sentence, found)
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
        other = next_naming(sentence, phrase.last, _REACH)
        if other is None or _between_is_border(sentence, phrase.last, other.first):
            return ()
        end = other.last
    if phrase.anchor == "owner":
        other = _owner(phrase, sentence)
        if other is None:
            return ()
    if phrase.anchor == "compared":
        other = next_naming(sentence, sentence.words.index("compared"), _REACH)
        if other is None:
            return ()
    subjects = find_subjects(sentence, phrase, end) or only_subject(sentence, phrase, other, end)
    found = tuple(Reading(naming, other) for naming in subjects)
    if phrase.anchor == "bare" and found:
        beside = _beside(phrase, sentence, found)
        little = SLIGHTLY.intersection(sentence.words[phrase.first - 1 : phrase.first])
        # a little to the left is left of something, not in the left of the picture
        found = beside if beside and little else (*found, *beside)
    return found


def _of_two(phrase: Phrase, sentence: Sentence, found: tuple[Reading, ...]) -> tuple[Reading, ...]:
    """Read "of the two, the cat is the one on the left" as left of the other that is named."""
    said = " ".join(sentence.words)
    if not found or not phrase.is_one_word or not _OF_TWO.search(said):
        return found
    categories = dict.fromkeys(naming.category for naming in sentence.namings)
    if len(categories) != 2 or any(naming.plural for naming in sentence.namings):
        return ()
    subject = found[0].subject
    other = next(one for one in sentence.namings if one.category != subject.category)
    return (Reading(subject, other),)


def _owner(phrase: Phrase, sentence: Sentence) -> Naming | None:
    """Return the thing whose side it is: "the cat's left"."""
    at = sentence.words.index("s", phrase.first)
    return next((naming for naming in sentence.namings if naming.last == at), None)


def _by_pronoun(phrase: Phrase, sentence: Sentence) -> tuple[Reading, ...]:
    """Read "a cup with a fork to its left", "next to the cup, to the left of it, is a fork"."""
    before = [naming for naming in sentence.namings if naming.last <= phrase.first]
    if sentence.words[0] == "with" and len(before) == 1:
        following = next_naming(sentence, phrase.last, 4)  # "with the cup on its left, the fork"
        told = following is not None and _may_mean(phrase, following)
        parted = sentence.words[phrase.last : phrase.last + 1] == (",",)
        return (Reading(before[0], following),) if following and told and parted else ()
    start = clause_start(sentence, phrase.first)
    subjects = inverted(sentence, start, phrase, phrase.last)
    if subjects:
        return tuple(Reading(subjects[0], one) for one in before if _may_mean(phrase, one))
    if len(before) < 2:
        return ()
    if not are_plain(sentence, before[-1].last, phrase.first):
        return ()
    *earlier, nearest = before
    between = sentence.words[earlier[-1].last : nearest.first]
    joins = [word for word in between if word in BESIDE | _DEPTH | _HAVING | _VIEWERS]
    if sentence.words[nearest.last : nearest.last + 2] in ((",", "which"), (",", "that")):
        joins.append("which")
    if between[-4:-1] == ("not", "far", "from"):
        joins.append("near")
    if joins and joins[-1] in _HAVING | _VIEWERS | {"which"}:
        return tuple(Reading(nearest, one) for one in earlier if _may_mean(phrase, one))
    if joins and _may_mean(phrase, nearest):
        return tuple(Reading(one, nearest) for one in earlier)
    return ()


def _may_mean(phrase: Phrase, naming: Naming) -> bool:
    """Tell whether the phrase's pronoun may stand for a thing."""
    if naming.plural or phrase.word in ("their", "them"):
        return False
    return (naming.category == "person") == (phrase.word in _PERSONAL)


def _flanking(phrase: Phrase, sentence: Sentence) -> tuple[Reading, ...] | None:
    """Read "the cat is flanked on the left by a dog" and "a dog flanks the cat on the left".

    None where the clause has no such verb, or may mean something else by it.
    """
    start = clause_start(sentence, phrase.first)
    for at in range(phrase.first - 1, start - 1, -1):
        word = sentence.words[at]
        if word in _FLANKING:
            return _by_participle(at, start, phrase, sentence)
        if word not in _FLANKED | _FLANKS:
            continue
        before = [naming for naming in sentence.namings if start <= naming.first < at]
        after = [naming for naming in sentence.namings if naming.first > at]
        if not before or not after:
            return None
        if word in _FLANKS:
            return (Reading(before[-1], after[0]),)
        by = "by" in sentence.words[at : after[0].first]
        return (Reading(after[0], before[-1]),) if by else None
    return None


def _by_participle(at: int, start: int, phrase: Phrase, sentence: Sentence) -> tuple[Reading, ...]:
    """Read "a dog flanking the cat on the left", "Flanking the cat on the left is a dog"."""
    flanked = next_naming(sentence, at, 6)
    if flanked is None or flanked.last > phrase.first:
        return ()
    before = [naming for naming in sentence.namings if start <= naming.first < at]
    subject = before[-1] if before else None
    if at == 0:
        subject = next_naming(sentence, phrase.last, 6)
    return (Reading(subject, flanked),) if subject else ()


def _beside(phrase: Phrase, sentence: Sentence, found: tuple[Reading, ...]) -> tuple[Reading, ...]:
    """Add that "the fork is next to the cup, on the left" may mean left of the cup.

    "Off to the left" may mean left of whatever else was named.
    """
    more = []
    off = sentence.words[phrase.first - 1 : phrase.first] == ("off",)
    for naming in sentence.namings:
        if naming.last > phrase.first:
            continue
        before = sentence.words[max(0, naming.first - 4) : naming.first]
        if off or BESIDE.intersection(before):
            more += [Reading(one, naming) for one, _ in found if one is not naming]
    return tuple(more)


def _contrasted(
    at: int, phrases: tuple[Phrase, ...], read: list[tuple[Reading, ...]]
) -> tuple[Reading, ...]:
    """Add that "the cat is on the left, the dog on the right" may only tell them apart.

    "On the left side" and "on the right side" are said of the picture.
    """
    phrase = phrases[at]
    if phrase.anchor != "bare" or not phrase.across or phrase.down is not None:
        return ()
    across = [
        reading.subject
        for other, readings in zip(phrases, read, strict=True)
        if (other.is_one_word or (phrase.is_one_word and other.anchor == "bare"))
        and other.down is None
        and other.across == -phrase.across
        for reading in readings
    ]
    return tuple(
        Reading(one.subject, two)
        for one in read[at]
        for two in across
        if two.category != one.subject.category
    )


def _between_is_border(sentence: Sentence, start: int, end: int) -> bool:
    return any(word in BORDERS or word == "and" for word in sentence.words[start:end])


def _linked(sentence: Sentence, subject: Naming, phrase: Phrase) -> bool:
    """Tell whether only a verb stands between the thing and where it is."""
    if subject.first > phrase.first:
        return True
    return set(sentence.words[subject.last : phrase.first]) <= LINKS
