"""Reads a reply as sentences of words, with the things they name and how each is meant."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from laterna.records import Kind
from laterna.scenes.vocabulary import (
    CATEGORIES,
    CHECK_SYNONYMS,
    COMPOUND_HEADS,
    DOUBTFUL,
    KIND_NAMES,
    OTHER_THINGS,
    Mention,
    ObjectWords,
    plural,
    words_of,
)
from laterna.synthesis.checks.polarity import Polarity, first_hedge, is_verb, polarity_of

_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')]*\s+|\n+")
_POSSESSIVE = re.compile(r"(?<=[a-z])'s\b|(?<=s)'(?=\s)", re.IGNORECASE)
_LIST_NUMBER = re.compile(r"^\s*(?:\d{1,2}[.)]|[-*•])\s+")
_QUOTED = re.compile(r"\"[^\"]*\"|“[^”]*”|(?<=\s)'[^']*'(?=[\s.,;!?]|$)")
_HYPHENATED = re.compile(r"(?<=[a-z])-(?=[a-z]{3})", re.IGNORECASE)
_LONGEST_OTHER = max(len(phrase) for phrase in OTHER_THINGS)


class Naming(NamedTuple):
    """One naming of an object, and how it is meant."""

    category: str
    first: int
    """Index of its first word in the sentence."""
    last: int
    """Index after its last word."""
    plural: bool
    polarity: Polarity
    doubtful: bool
    """The word often means something else."""
    whole: bool
    """It means all of the category ("people"), not a part of it ("women")."""

    @property
    def mention(self) -> Mention:
        """The words without how they are meant."""
        return Mention(self.category, self.first, self.last, self.plural)


class Sentence(NamedTuple):
    """One sentence of a reply."""

    text: str
    words: tuple[str, ...]
    namings: tuple[Naming, ...]


@lru_cache(maxsize=64)
def check_words(more: tuple[str, ...] = ()) -> ObjectWords:
    """Return the words for COCO's categories and `more`."""
    return ObjectWords(dict.fromkeys((*CATEGORIES, *more)), CHECK_SYNONYMS)


def sentences_of(text: str) -> list[str]:
    """Return the sentences of a text; a line break ends one, a list's number is left out."""
    parts = (_LIST_NUMBER.sub("", part).strip() for part in _SENTENCE_END.split(text))
    return [part for part in parts if any(letter.isalnum() for letter in part)]


def plain(text: str) -> str:
    """Return a text with straight apostrophes and possessives apart: "the dog s bowl"."""
    return _POSSESSIVE.sub(" s", text.replace("’", "'"))


def read_sentence(text: str, words: ObjectWords, kind: Kind) -> Sentence:
    """Return a sentence with its namings; what it quotes ("a sign reads 'dog park'") names none."""
    said = plain(_QUOTED.sub(" quote ", text))
    spoken = tuple(words_of(said))
    joined = _joined(said)
    hedge = first_hedge(spoken, kind)
    namings = []
    for mention in words.mentions(said):
        if is_verb(spoken, mention) or mention.last - 1 in joined:
            continue
        phrase = " ".join(spoken[mention.first : mention.last])
        if spoken[mention.last : mention.last + 1] == ("s",) and phrase in _OWNERS:
            continue
        several = mention._replace(plural=mention.plural or phrase.endswith("people"))
        namings.append(
            Naming(
                category=mention.category,
                first=mention.first,
                last=mention.last,
                plural=several.plural,
                polarity=polarity_of(spoken, mention, hedge, kind),
                doubtful=phrase in DOUBTFUL or _names_another(spoken, mention),
                whole=means_all(mention.category, phrase),
            )
        )
    first = namings[0] if namings else None
    if first and first.plural and not first.first and first.polarity == "uncertain":
        # "Cats hunt birds": whoever speaks of cats in general speaks of birds in general
        namings = [one._replace(polarity="uncertain") for one in namings]
    return Sentence(text, spoken, tuple(namings))


_OWNERS = frozenset("bird birds men women children kids driver fisherman lady ladies kid".split())
"""Whose things are named after them: "a bird's-eye view", "the men's room"."""


def _joined(said: str) -> set[int]:
    """Return the indices of words that a hyphen joins to the next: "dog-friendly"."""
    return {len(words_of(said[: found.start()])) - 1 for found in _HYPHENATED.finditer(said)}


def means_all(category: str, phrase: str) -> bool:
    """Tell whether a phrase means all of a category, as "people" does and "women" does not."""
    name = category.lower()
    return phrase in KIND_NAMES or phrase == name or phrase == plural(name)


def _names_another(spoken: tuple[str, ...], mention: Mention) -> bool:
    """Tell whether the mention is a part of a phrase that names something else."""
    after = spoken[mention.last : mention.last + 1]
    if after and after[0] in COMPOUND_HEADS and not mention.plural:
        return True
    for first in range(max(0, mention.first - 1), mention.last):
        for length in range(2, _LONGEST_OTHER + 1):
            if first + length > mention.first and spoken[first : first + length] in OTHER_THINGS:
                return True
    return False


def read_sentences(texts: Iterable[str], words: ObjectWords, kind: Kind) -> list[Sentence]:
    """Return the sentences of several texts, in order."""
    return [read_sentence(one, words, kind) for text in texts for one in sentences_of(text)]
