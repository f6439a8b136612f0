"""What a text mentions, so that questions, answers and proxies can be compared."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cache, lru_cache
from typing import NamedTuple

from laterna.scenes.phrases import NUMBERS
from laterna.scenes.vocabulary import CATEGORIES, COLOURS, ObjectWords, WordSets, words_of

WORDS = WordSets(__package__, "questions")
NUMBER_WORDS = frozenset(NUMBERS) | {"single", "pair", "couple", "trio", "dozen", "both"}
_NAMES_NOTHING = WORDS.function_words
_BE = frozenset("is are was were made that".split())


class Mention(NamedTuple):
    """One naming of a thing in a text."""

    key: str
    """Its category; for a thing without one, its singular word."""
    first: int
    """Index of its first word."""
    last: int
    """Index after its last word."""
    known: bool = False
    """Whether `key` is a category."""


class ReadText(NamedTuple):
    """A text taken apart."""

    words: tuple[str, ...]
    """Lower-case words, numbers and punctuation marks."""
    mentions: tuple[Mention, ...]
    """What it names, in order."""
    keys: frozenset[str]
    """The keys of its mentions."""


@lru_cache(maxsize=1024)  # the records of one image share its captions
def read_text(text: str) -> ReadText:
    """Find what a text names: categories by any of their words, other things by themselves.

    A word that is not known to name nothing counts as a thing, so verbs and adjectives do too.
    """
    words = words_of(text)
    known = {mention.first: mention for mention in _object_words().mentions(text)}
    found: list[Mention] = []
    at = 0
    while at < len(words):
        category = known.get(at)
        if category is not None:
            found.append(Mention(category.category, at, category.last, known=True))
        elif words[at][0].isalpha() and words[at] not in _NAMES_NOTHING:
            found.append(Mention(singular(words[at]), at, at + 1))
        at = category.last if category else at + 1
    return ReadText(tuple(words), tuple(found), frozenset(one.key for one in found))


def subjects_of(question: str) -> list[str]:
    """Return the keys of the things that a question is about, in its order."""
    keys = (
        one.key
        for one in read_text(question).mentions
        # The fruit is asked about, the colour is asked for.
        if one.key not in WORDS.asking and (one.known or one.key not in COLOURS)
    )
    return list(dict.fromkeys(keys))


def singular(word: str) -> str:
    """Return an English noun's singular by its ending; a word that is one already stays."""
    word = word.removesuffix("'s")
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("sses", "xes", "ches", "shes")):
        return word[:-2]
    if word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > 3:
        return word[:-1]
    return word


def described(text: str, subjects: Collection[str], describing: Collection[str]) -> bool:
    """Say whether a text gives one of the subjects one of the describing words.

    The word stands before the thing with only other describing words between ("a black and
    white cat"), or behind it in the same sentence, after a form of `be`, where it describes no
    other thing ("the cat is big and black"). Without subjects, any of the words will do.
    """
    words, mentions, _ = read_text(text)
    if not subjects:
        return any(word in describing for word in words)
    return any(
        _before(words[max(0, one.first - 4) : one.first], describing)
        or _behind(words[one.last :], describing)
        for one in mentions
        if one.key in subjects
    )


def _before(words: Sequence[str], describing: Collection[str]) -> bool:
    """Walk back from a mention over what may describe it."""
    for word in reversed(words):
        if word in describing:
            return True
        if word in _NAMES_NOTHING - {"and"} or word in ".;:!?":
            return False
    return False


def _behind(words: Sequence[str], describing: Collection[str]) -> bool:
    """Look in the rest of a sentence for a describing word that belongs to no other thing."""
    if not words or words[0] not in _BE:
        return False
    for at, word in enumerate(words):
        if word in ".;:!?":
            return False
        if word in describing and _stands_alone(words[at + 1 :], describing):
            return True
    return False


def _stands_alone(after: Sequence[str], describing: Collection[str]) -> bool:
    """Say whether no thing follows: "is red and white" does, "has a red and white shirt" not."""
    while after[:1] == ("and",) and after[1:2] and after[1] in describing:
        after = after[2:]
    return not after or after[0] in _NAMES_NOTHING or after[0] in ".,;:!?"


@cache
def _object_words() -> ObjectWords:
    return ObjectWords(CATEGORIES)
