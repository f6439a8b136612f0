"""Holds the objects that a sentence names against boxes and captions."""

from __future__ import annotations

from laterna.records import Finding
from laterna.scenes.phrases import with_article
from laterna.scenes.vocabulary import BROADER, plural
from laterna.synthesis.checks.evidence import Evidence
from laterna.synthesis.checks.outcome import Outcome, total
from laterna.synthesis.checks.sentences import Naming, Sentence

_PICTURE = frozenset("picture image photo photograph scene".split())
_BEING = _PICTURE | frozenset(
    """there is are a an the one and also , . ! shows features includes contains depicts displays
    has i we you can could see be seen visible present in this here as well some it yes""".split()
)
"""Words that say no more than that what is named is there."""
_BARE_DENIAL_END = frozenset((".", "!", "visible", "present", "here", "shown", "pictured"))


def check_objects(sentence: Sentence, evidence: Evidence) -> Outcome:
    """Find claimed objects that are not there, and denied ones that are."""
    return total(_check(naming, sentence, evidence) for naming in sentence.namings)


def _check(naming: Naming, sentence: Sentence, evidence: Evidence) -> Outcome:
    category = naming.category
    held = category in evidence.held
    if naming.polarity == "uncertain":
        return Outcome()
    if naming.polarity == "negated":
        if not held:
            unsure = category in evidence.possible
            return Outcome(unchecked=1) if unsure else Outcome(checked=1)
        if naming.whole and not naming.doubtful and denies_all(sentence, naming):
            detail = f"there {_is_or_are(category)} in the picture"
            return Outcome((_finding("denied object", sentence, detail),), checked=1)
        return Outcome(unchecked=1)
    if held or _could_mean_another(naming, sentence, evidence):
        # That a thing is there is decided; what else the sentence says of it is not.
        return Outcome(checked=int(_says_no_more(sentence)))
    if naming.doubtful or category in evidence.possible:
        return Outcome(unchecked=1)
    phrase = " ".join(sentence.words[naming.first : naming.last])
    detail = f"{phrase!r}: no {category} is known to be in the picture"
    return Outcome((_finding("absent object", sentence, detail),), checked=1)


def _says_no_more(sentence: Sentence) -> bool:
    """Tell whether a sentence only says that things are there."""
    named = {at for naming in sentence.namings for at in range(naming.first, naming.last)}
    return all(word in _BEING for at, word in enumerate(sentence.words) if at not in named)


def denies_all(sentence: Sentence, naming: Naming) -> bool:
    """Tell whether the sentence says no more than that there is no such thing at all.

    "There is no dog on the couch" is about the couch: it may be true of a picture with a dog.
    """
    spoken = sentence.words
    before, after = spoken[: naming.first], spoken[naming.last :]
    if before[:2] in (("no", ","), ("yes", ",")):
        before = before[2:]
    opened = before[:1] in (("there",), ("no",), ())
    if not opened or any(word in ("other", "more", "longer", "real") for word in before):
        return False
    adjectives = before[before.index("no") + 1 :] if "no" in before[2:] else before[-1:]
    if not set(adjectives) <= {"no", "not", "a", "an", "any", "isn't", "aren't"}:
        return False
    if not after or after[0] in _BARE_DENIAL_END:
        return True
    return after[0] in ("in", "at") and bool(_PICTURE.intersection(after[1:4]))


def _could_mean_another(naming: Naming, sentence: Sentence, evidence: Evidence) -> bool:
    """ "Bike" of a motorcycle, "glass" of a cup."""
    meanings = BROADER.get(" ".join(sentence.words[naming.first : naming.last]), ())
    return any(meaning in evidence.held for meaning in meanings)


def _is_or_are(category: str) -> str:
    name = with_article(category)
    return f"are {plural(category)}" if name.startswith("some ") else f"is {name}"


def _finding(reason: str, sentence: Sentence, detail: str) -> Finding:
    return Finding(reason=reason, sentence=sentence.text, detail=detail)
