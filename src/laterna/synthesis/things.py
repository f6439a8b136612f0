"""The things that a text speaks of, so that questions and proxies can be laid side by side."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cache, lru_cache
from typing import NamedTuple

from laterna.scenes.phrases import NUMBERS
from laterna.scenes.vocabulary import CATEGORIES, COLOURS, ObjectWords, words_of

FUNCTION_WORDS = frozenset(
    "a an the this that these those it its he him his she her hers they them their we us our you "
    "your i me my who whom whose which what where when why how there here is are was were be been "
    "being am do does did done has have had having can could may might must shall should will "
    "would not no nor yes and or but if so as than then too very just only also both either of in "
    "on at to from by for with without into onto over about up down out off near next beside "
    "behind between under below above through around against along across inside outside front "
    "other another one ones some any all each every many much more most several few lot own same "
    "such like while because since although s t".split()
)
"""Words that name nothing."""
_ASKING = frozenset(
    "image picture photo photograph scene snapshot view shown show see seen visible present "
    "appear appears seem seems look looks looking kind type sort breed species main object "
    "objects item items thing things colour colours color colors shade number amount count total "
    "place position located location situated side part left right top bottom middle centre "
    "center corner background foreground doing happening activity material made texture pattern "
    "surface text word words written say says read reads sign light lighting bright dark weather "
    "time day night mood emotion feeling expression answer".split()
)
"""Words of a question that say what is asked, and not of what."""


class Thing(NamedTuple):
    """One naming of a thing in a text."""

    key: str
    """The category that it means; of a thing without one, its singular word."""
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
    things: tuple[Thing, ...]
    """What it names, in order."""
    keys: frozenset[str]
    """The keys of its things."""


@lru_cache(maxsize=1024)  # the records of one picture share its captions
def read_text(text: str) -> ReadText:
    """Find what a text names: categories by any of their words, other things by themselves.

    A word that is not known to name nothing counts as a thing, so verbs and adjectives do too.
    """
    words = words_of(text)
    mentions = {mention.first: mention for mention in _object_words().mentions(text)}
    found: list[Thing] = []
    at = 0
    while at < len(words):
        mention = mentions.get(at)
        if mention is not None:
            found.append(Thing(mention.category, at, mention.last, known=True))
        elif words[at][0].isalpha() and words[at] not in FUNCTION_WORDS:
            found.append(Thing(singular(words[at]), at, at + 1))
        at = mention.last if mention else at + 1
    return ReadText(tuple(words), tuple(found), frozenset(thing.key for thing in found))


def subjects_of(question: str) -> list[str]:
    """Return the keys of the things that a question is about, in its order."""
    keys = (
        thing.key
        for thing in read_text(question).things
        # The fruit is asked about, the colour is asked for.
        if thing.key not in _ASKING and (thing.known or thing.key not in COLOURS)
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
    words, things, _ = read_text(text)
    if not subjects:
        return any(word in describing for word in words)
    return any(
        _before(words, thing, describing) or _behind(words, thing, describing)
        for thing in things
        if thing.key in subjects
    )


def _before(words: Sequence[str], thing: Thing, describing: Collection[str]) -> bool:
    """Walk back from the thing over what may describe it."""
    for word in reversed(words[max(0, thing.first - 4) : thing.first]):
        if word in describing:
            return True
        if word in FUNCTION_WORDS - {"and"} or word in ".;:!?":
            return False
    return False


def _behind(words: Sequence[str], thing: Thing, describing: Collection[str]) -> bool:
    """Look for a describing word in the rest of the sentence that belongs to no other thing."""
    behind = words[thing.last :]
    if not behind or behind[0] not in ("is", "are", "was", "were", "made", "that"):
        return False
    for at, word in enumerate(behind):
        if word in ".;:!?":
            return False
        if word in describing and _stands_alone(behind, at, describing):
            return True
    return False


def _stands_alone(words: Sequence[str], at: int, describing: Collection[str]) -> bool:
    """Say whether no thing follows: "is red and white" does, "has a red and white shirt" not."""
    after = at + 1
    while words[after : after + 1] == ("and",) and words[after + 1 : after + 2]:
        if words[after + 1] not in describing:
            break
        after += 2
    return after >= len(words) or words[after] in FUNCTION_WORDS or words[after] in ".,;:!?"


NUMBER_WORDS = frozenset(NUMBERS) | {"single", "pair", "couple", "trio", "dozen", "both"}


@cache
def _object_words() -> ObjectWords:
    return ObjectWords(CATEGORIES)
