"""Finds what a phrase of place must be said of, where a sentence names nothing else.

English has more ways to put "the dog is left of the cat" than rules can list. If every word but
the dog, the cat and the phrase is one of being, seeing or placing, there is nothing else that the
phrase could be said of. One word that may name a thing ("a lamp", "it", "another") and the
sentence is left unread.
"""

from __future__ import annotations

from laterna.synthesis.checks.places import PICTURE_WORDS, Phrase
from laterna.synthesis.checks.reading import Naming, Sentence
from laterna.synthesis.checks.subjects import BORDERS, IN_NOUN_PHRASE, clause_start, is_owner

_PLAIN = frozenset(
    """a an the this that its our your my is are was were be been being has have had having do does
    can will may we you i s we'll you'll there there's here that's who which what where when while
    whereas as and also too so then than rather just only even still meanwhile in addition to of on
    at by with from within into onto over off away out up toward towards around about for along
    see sees seen seeing find finds found notice noticed notices spot spotted observe observes
    observed viewed glimpsed drawn make makes made out discern show shows shown showing feature
    features
    include includes including contain contains containing hold holds holding sit sits sitting stand
    stands standing lie lies lying rest rests resting hang hangs seated placed positioned located
    situated set put kept left arranged parked laid take takes taking taken occupy occupies
    occupying occupied fill fills filled filling dominate dominates dominated captured captures
    photographed pictured depicted depicts framed frames visible present displayed included appear
    appears appearing seems seen come comes share shares sharing first second last main nearest
    close far near next beside alongside adjacent immediate direct bit little short distance way
    viewer viewers eye eyes gaze attention perspective viewpoint right hand side sides part edge
    corner half portion end spot place position area space background foreground ground front center
    centre middle subject subjects focus clear obvious easy noticeable prominent well composition
    arrangement layout whole entire most much large , it's""".split()
)
_ADVERB_LIKE = frozenset("family butterfly jelly belly lily".split())
_THE_VIEWER = frozenset("sees can may will finds notices spots observes".split())
"""What follows "one" where it is the viewer, not one of the things."""
_PASSED_ON = frozenset("by to with for".split())
"""After a verb ("is filled with the dog") these lead to the thing that is meant."""
_PASSING = ("ed", "en", "wn", "up", "over", "out", "off", "come")
_OF_ANOTHER = frozenset("of near beside behind in on from at into along under".split())


def only_subject(
    sentence: Sentence, phrase: Phrase, other: Naming | None, end: int
) -> tuple[Naming, ...]:
    """Return the one thing that a phrase can be said of; none where that is not certain."""
    named = [naming for naming in sentence.namings if naming is not other]
    if len(named) != 1 or named[0].plural:
        return ()
    subject = named[0]
    if is_owner(sentence.words, subject):
        return ()
    if other is not None and other.category == subject.category:
        return ()
    told = _clause_end(sentence, max(end, subject.last))
    if _opens_clause(sentence, phrase) and subject.last <= phrase.first:
        told = len(sentence.words)
    rest = [
        at
        for at in range(told)
        if not phrase.first <= at < phrase.last
        and not any(naming.first <= at < naming.last for naming in sentence.namings)
    ]
    if not all(_is_plain(sentence.words, at) for at in rest):
        return ()
    return () if _is_of_another(sentence.words, subject.first) else (subject,)


def are_plain(sentence: Sentence, start: int, end: int) -> bool:
    """Tell whether words name nothing: they are of being, seeing or placing."""
    return all(_is_plain(sentence.words, at) for at in range(start, end))


def _is_plain(spoken: tuple[str, ...], at: int) -> bool:
    word = spoken[at]
    if word == "one":
        return bool(_THE_VIEWER.intersection(spoken[at + 1 : at + 2]))
    if word == "it":  # "it is on the left that ..."
        return at == 0 and spoken[1:2] in (("is",), ("was",)) and "that" in spoken
    if word == "." and at == len(spoken) - 1:
        return True
    if word in ("another", "other", "his", "her", "their", "these", "those", "ones", "others"):
        return False
    if word in _PLAIN or word in PICTURE_WORDS or word in IN_NOUN_PHRASE:
        return True
    return word.endswith("ly") and word not in _ADVERB_LIKE


def _clause_end(sentence: Sentence, at: int) -> int:
    while at < len(sentence.words) and sentence.words[at] not in BORDERS:
        at += 1
    return at


def _opens_clause(sentence: Sentence, phrase: Phrase) -> bool:
    start = clause_start(sentence, phrase.first)
    return all(not start <= naming.first < phrase.first for naming in sentence.namings)


def _is_of_another(spoken: tuple[str, ...], first: int) -> bool:
    """Tell whether a thing stands after a preposition that does not lead to it as what is meant."""
    at = first - 1
    while at >= 0 and spoken[at] in IN_NOUN_PHRASE:
        at -= 1
    if at < 1:
        return at == 0 and spoken[0] in _OF_ANOTHER
    if spoken[at] in _PASSED_ON:
        return not spoken[at - 1].endswith(_PASSING)
    return spoken[at] in _OF_ANOTHER
