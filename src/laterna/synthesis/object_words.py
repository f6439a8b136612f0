"""Finds the objects that a text names: categories, their synonyms and their plurals."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from laterna.synthesis.coco import SYNONYMS
from laterna.synthesis.phrases import plural

_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?|\d+|[.,;:!?]")
_LONGEST = 4
"""Words of the longest phrase that is looked up."""
_AFTER_AN_OBJECT = frozenset(
    "and or on in at with of to is are was were that which sitting from by next near beside "
    "above below the a an . , ; : ! ?".split()
)
"""What may follow the fruit "orange"; anything else makes it a colour."""
COLOURS = frozenset(
    "red orange yellow green blue purple pink brown black white grey gray gold silver".split()
)
"""Words that captions give to objects as their colour."""
_BEFORE_AN_OBJECT = frozenset(("a", "an", "the", "one", "another", "each", "this", "that"))
"""What stands before the fruit "orange"; without it, the word is a colour."""


class Mention(NamedTuple):
    """One naming of an object in a text."""

    category: str
    first: int
    """Index of its first word."""
    last: int
    """Index after its last word."""
    plural: bool


def words_of(text: str) -> list[str]:
    """Return the lower-case words, numbers and punctuation marks of a text."""
    return _WORD.findall(text.lower())


class ObjectWords:
    """The words for a set of categories: COCO's with their synonyms, any other by its name."""

    def __init__(
        self, categories: Iterable[str], synonyms: Mapping[str, tuple[str, ...]] = SYNONYMS
    ) -> None:
        """Prepare the look-up; where two categories share a word, a category's own name wins."""
        self._singular: dict[tuple[str, ...], str] = {}
        self._plural: dict[tuple[str, ...], str] = {}
        names = list(categories)
        for name in names:
            for word in synonyms.get(name, ()):
                self._add(word, name)
        for name in names:
            self._add(name, name)

    def _add(self, phrase: str, category: str) -> None:
        self._singular[tuple(phrase.lower().split())] = category
        self._plural[tuple(plural(phrase.lower()).split())] = category

    def mentions(self, text: str) -> list[Mention]:
        """Return the objects that the text names, in order, longest phrase first."""
        words = words_of(text)
        found: list[Mention] = []
        at = 0
        while at < len(words):
            mention = self._at(words, at)
            if mention:
                found.append(mention)
            at = mention.last if mention else at + 1
        return found

    def categories(self, text: str) -> set[str]:
        """Return the categories that the text names."""
        return {mention.category for mention in self.mentions(text)}

    def _at(self, words: list[str], at: int) -> Mention | None:
        for length in range(min(_LONGEST, len(words) - at), 0, -1):
            phrase = tuple(words[at : at + length])
            several = phrase in self._plural and phrase not in self._singular
            category = self._plural.get(phrase) if several else self._singular.get(phrase)
            if category is None:
                continue
            if phrase == ("orange",) and not _is_fruit(words, at):
                return None
            return Mention(category, at, at + length, several)
        return None


def _is_fruit(words: list[str], at: int) -> bool:
    before = words[at - 1] if at else ""
    if words[at + 1 : at + 2] == ["and"] and COLOURS.intersection(words[at + 2 : at + 3]):
        return False  # "an orange and white cat"
    after = words[at + 1] if at + 1 < len(words) else "."
    return before in _BEFORE_AN_OBJECT and after in _AFTER_AN_OBJECT
