"""What is a kind of what: a girl is a person, a terrier is a dog is an animal.

Boxes may be named by heads of noun phrases ("girl", "others") and not from a closed list. Here
such names find their kinds; what finds none is kept as it is, and counted by who asks.
The words are data: `kinds.toml`, with the synonyms and supercategories of `vocabulary.toml`.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from importlib import resources

import msgspec

from laterna.scenes.vocabulary import (
    CHECK_SYNONYMS,
    COLLECTIVES,
    DOUBTFUL,
    SUPERCATEGORY_OF,
    UNITS,
    plural,
    words_of,
)

_Words = dict[str, str | tuple[str, ...]]


class _File(msgspec.Struct, forbid_unknown_fields=True):
    kinds: dict[str, str]
    supercategories: dict[str, str]
    words: _Words


_READ = msgspec.toml.decode(
    resources.files(__package__).joinpath("kinds.toml").read_bytes(), type=_File
)


def _set(name: str, mark: str | None = None) -> frozenset[str]:
    text = str(_READ.words[name])
    return frozenset(word.strip() for word in text.split(mark) if word.strip())


NO_THINGS = _set("no_things")
"""Heads of phrases that name no thing: "others", "one"."""
MASS = _set("mass")
"""What is never counted: "a snow" is wrong."""
PLURAL_ONLY = _set("plural_only")
"""Spoken of in the plural though one is meant: "the shorts are blue"."""
NOT_SEEN = _set("not_seen")
"""What people are to each other, which captions guess: it is not asked for."""
_NAMED_WHERE_THERE = _set("named_where_there", "|")
_ALIKE = tuple(frozenset(line.split("|")) for line in _READ.words["alike"])
_GATHERED = frozenset(
    (*COLLECTIVES, *"bunch crowd flock group herd pack pile row set team".split())
)
"""Words that stand before "of" and the things that are meant: "a set of stairs"."""
_ENDS_A_HEAD = frozenset(
    "of in on at with from by to for near behind beside under over who that which and or".split()
)


def _parents() -> dict[str, frozenset[str]]:
    """Return every known word's broader words, one step up."""
    found: dict[str, set[str]] = {}
    for broader, words in _READ.kinds.items():
        for word in words.split():
            found.setdefault(word.replace("_", " "), set()).add(broader)
    for category, synonyms in CHECK_SYNONYMS.items():
        group = SUPERCATEGORY_OF[category]
        found.setdefault(category, set()).add(_READ.supercategories.get(group, group))
        for word in synonyms:
            if word not in CHECK_SYNONYMS and word not in _READ.kinds:
                found.setdefault(word, set()).add(category)
    return {word: frozenset(broader) - {word} for word, broader in found.items()}


_PARENTS = _parents()
_KNOWN = frozenset((*_PARENTS, *_READ.kinds))
_SINGULARS = {plural(word): word for word in sorted(_KNOWN)}


@lru_cache(maxsize=65536)
def kind_of(name: str) -> str | None:
    """Return the known kind that a category or a noun phrase is headed by, or None.

    "A set of stairs" is headed by "stairs", "two dogs of different breeds" by "dog".
    """
    spoken = [word for word in words_of(name) if word[0].isalpha()]
    while spoken[1:2] == ["of"] or (spoken[2:3] == ["of"] and spoken[0] in ("a", "an", "the")):
        at = spoken.index("of")
        if (spoken[at - 1] not in _GATHERED and spoken[at - 1] not in UNITS) or at + 1 == len(
            spoken
        ):
            break
        spoken = spoken[at + 1 :]
    end = next((at for at, word in enumerate(spoken) if at and word in _ENDS_A_HEAD), len(spoken))
    for first in range(max(0, end - 3), end):
        found = _known(" ".join(spoken[first:end]))
        if found:
            return found
    return None


def _known(phrase: str) -> str | None:
    return phrase if phrase in _KNOWN else _SINGULARS.get(phrase)


@lru_cache(maxsize=65536)
def hypernyms(kind: str) -> frozenset[str]:
    """Return everything that a kind is a kind of, however many steps up."""
    found: set[str] = set()
    ahead = set(_PARENTS.get(kind, ()))
    while ahead:
        one = ahead.pop()
        if one not in found:
            found.add(one)
            ahead |= _PARENTS.get(one, frozenset())
    return frozenset(found - {kind})


def is_a(kind: str, broader: str) -> bool:
    """Tell whether a kind is another, or a kind of it."""
    return kind == broader or broader in hypernyms(kind)


def meant(names: Iterable[str]) -> frozenset[str]:
    """Return what names of categories may stand for: themselves, their kinds, and all above."""
    found: set[str] = set()
    for name in names:
        kind = kind_of(name)
        found |= {name, *((kind, *hypernyms(kind)) if kind else ())}
    return frozenset(found)


def absent_of(categories: Iterable[str], held: Iterable[str]) -> tuple[str, ...]:
    """Return the categories that nothing that is held is, or may be.

    `held` are the words that boxes and captions give. A terrier is a dog and an animal; where an
    animal is spoken of, it may be any.
    """
    told = {kind_of(word) for word in held}
    there = meant(held)
    found = []
    for name in categories:
        own = kind_of(name) or name
        if name not in there and own not in there and told.isdisjoint(hypernyms(own)):
            found.append(name)
    return tuple(found)


def taken_for(name: str, held: frozenset[str]) -> bool:
    """Tell whether a thing is easily taken for, or named as, one that is held (`meant` of it)."""
    own = kind_of(name) or name
    person = is_a(own, "person") and "person" in held
    return person or any(own in line and line & held for line in _ALIKE)


def is_closed(categories: Iterable[str]) -> bool:
    """Tell whether categories are a closed list, and not the heads of what people said."""
    return NO_THINGS.isdisjoint(categories)


def deniable(categories: Iterable[str]) -> tuple[str, ...]:
    """Return the categories that can be told to be absent where neither box nor caption has them.

    All of a closed list. Of the heads of phrases that people happened to say (told by such as
    "others" and "one"), those known kinds that people name wherever they are.
    """
    names = tuple(categories)
    if is_closed(names):
        return names
    return tuple(
        name
        for name in names
        if name == kind_of(name)
        and name not in MASS | PLURAL_ONLY | DOUBTFUL
        and not _NAMED_WHERE_THERE.isdisjoint({name, *hypernyms(name)})
    )


def unmapped(categories: Iterable[str]) -> tuple[str, ...]:
    """Return the categories that no kind is known of, in alphabetical order."""
    return tuple(sorted(name for name in set(categories) if kind_of(name) is None))
