"""The words for things in images, and the one matcher that finds them in a text.

The words are data: `vocabulary.toml`. Two readings of a word are kept apart. As evidence, in a
caption, a word holds everything that it may mean (`BROADER`). As a claim, in a reply, it stands
only for what it surely names: one of `DOUBTFUL` or a part of `OTHER_THINGS` decides nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import NamedTuple

import msgspec


class WordSets:
    """Sets of words by name, as a table of a package's `words.toml` lists them."""

    def __init__(self, package: str, table: str) -> None:
        """Read the table."""
        content = resources.files(package).joinpath("words.toml").read_bytes()
        found = msgspec.toml.decode(content, type=dict[str, dict[str, str]])[table]
        self.__dict__.update((name, frozenset(words.split())) for name, words in found.items())

    def __getattr__(self, name: str) -> frozenset[str]:
        """Complain of words that the table lacks."""
        raise AttributeError(f"no words {name!r} in the table")


def read_patterns(package: str, table: str, **known: str) -> dict[str, re.Pattern[str]]:
    """Return the regular expressions that a table of a package's `patterns.toml` holds, by name.

    A list is of alternatives; `<name>` stands for an earlier one of the table, or for a `known`
    one; a line break, with what indents the next line, says nothing.
    """
    content = resources.files(package).joinpath("patterns.toml").read_bytes()
    found = msgspec.toml.decode(content, type=dict[str, dict[str, str | list[str]]])[table]
    for name, one in found.items():
        text = "|".join(part.lstrip() for part in ([one] if isinstance(one, str) else one))
        text = re.sub(r"\n\s*", "", text)
        known[name] = re.sub(r"<(\w+)>", lambda other: known.get(other[1], other[0]), text)
    return {name: re.compile(known[name]) for name in found}


class _Vocabulary(msgspec.Struct, forbid_unknown_fields=True):
    colours: str
    doubtful: str
    other_things: str
    compound_heads: str
    depictions: str
    kind_names: str
    units: str
    tens: dict[str, int]
    collectives: dict[str, int]
    plurals: dict[str, tuple[str, ...]]
    categories: dict[str, tuple[str, ...]]
    synonyms: dict[str, tuple[str, ...]]
    more_synonyms: dict[str, tuple[str, ...]]
    broader: dict[str, tuple[str, ...]]


_READ = msgspec.toml.decode(
    resources.files(__package__).joinpath("vocabulary.toml").read_bytes(), type=_Vocabulary
)

SUPERCATEGORIES = _READ.categories
"""COCO's supercategories, each with its categories."""
CATEGORIES: tuple[str, ...] = tuple(name for names in SUPERCATEGORIES.values() for name in names)
SUPERCATEGORY_OF = {
    name: supercategory for supercategory, names in SUPERCATEGORIES.items() for name in names
}
SYNONYMS = {name: _READ.synonyms.get(name, ()) for name in CATEGORIES}
"""Everyday singular words for each category, besides its own name."""
CHECK_SYNONYMS = {name: SYNONYMS[name] + _READ.more_synonyms.get(name, ()) for name in CATEGORIES}
"""The same and rarer ones: what the checks understand."""
COLOURS = frozenset(_READ.colours.split())
"""Words that captions give to objects as their colour."""
DOUBTFUL = frozenset(_READ.doubtful.split())
"""Words of one category that often mean something else: not enough to reject a reply."""
OTHER_THINGS = frozenset(tuple(phrase.split("_")) for phrase in _READ.other_things.split())
"""Phrases that hold a word for a category and name another thing, or its owner or part."""
COMPOUND_HEADS = frozenset(_READ.compound_heads.split())
"""Words that make another thing of what they stand behind: "dog park"."""
DEPICTIONS = frozenset(_READ.depictions.split())
"""Words that make of what they stand before a likeness, which boxes may or may not hold."""
KIND_NAMES = frozenset(_READ.kind_names.split())
"""Words besides a category's own name that mean all of the category, not a part of it."""
BROADER: dict[str, tuple[str, ...]] = {
    word: tuple(name for one in means for name in SUPERCATEGORIES.get(one, (one,)))
    for word, means in _READ.broader.items()
}
"""Words of captions to the categories they may speak of: there a reply is not called wrong."""

UNITS = tuple(_READ.units.split())
"""The words for zero to twenty, index to word."""
TENS = _READ.tens
COLLECTIVES = _READ.collectives
"""Words for a number that stand before "of"."""

_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?|\d+|[.,;:!?]")
_LONGEST = 4
"""Words of the longest phrase that is looked up."""
_AFTER_AN_OBJECT = frozenset(
    "and or on in at with of to is are was were that which sitting from by next near beside "
    "above below the a an . , ; : ! ?".split()
)
"""What may follow the fruit "orange"; anything else makes it a colour."""
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
        for other in _READ.plurals.get(phrase, ())[1:]:
            self._plural[(other,)] = category

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


def plural(noun: str) -> str:
    """Return the plural of a noun; of several words, the last one's."""
    head, _, last = noun.rpartition(" ")
    if last in _READ.plurals:
        last = _READ.plurals[last][0]
    elif last.endswith("man") and last not in ("human", "german", "roman", "ottoman"):
        last = last[:-2] + "en"
    elif last.endswith(("s", "x", "ch", "sh")):
        last += "es"
    elif last.endswith("y") and last[-2:-1] not in tuple("aeiou"):
        last = last[:-1] + "ies"
    else:
        last += "s"
    return f"{head} {last}" if head else last


def _is_fruit(words: list[str], at: int) -> bool:
    before = words[at - 1] if at else ""
    if words[at + 1 : at + 2] == ["and"] and COLOURS.intersection(words[at + 2 : at + 3]):
        return False  # "an orange and white cat"
    after = words[at + 1] if at + 1 < len(words) else "."
    return before in _BEFORE_AN_OBJECT and after in _AFTER_AN_OBJECT
