"""What a whole dataset says: its categories, which of them stand together, and its words."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from laterna.records import Scene
from laterna.scenes.vocabulary import words_of

_OFTEN, _VERY_OFTEN, _SELDOM, _SHORT, _LONG, _LONGER = 20, 500, 2, 4, 5, 7
"""A word of so many letters, used so seldom, one letter away from one used so often, is a slip;
so many letters it needs where one letter stands for another ("beach", "reach"). A shorter one is
where it has the letters of one that is used very often ("thsi"), and the shortest always: all words
of so few letters are frequent, or parts of others ("int he")."""
_ENDINGS = ("", "s", "es", "ed", "d", "er", "r", "y", "ly", "ing", "n", "en")


class Survey(NamedTuple):
    """What is true of a dataset as a whole; without a look at it only the categories are known."""

    categories: tuple[str, ...]
    """Those that it annotates, in alphabetical order."""
    images: Mapping[str, int] = {}
    """Category to the number of images that have it."""
    together: Mapping[str, Mapping[str, int]] = {}
    """Category to the categories beside it, with the number of images that have both."""
    slips: frozenset[str] = frozenset()
    """Words of captions that are likely misspelt."""


def survey(scenes: Iterable[Scene]) -> Survey:
    """Return what scenes say as a whole; their boxes and captions are gone through once."""
    images: Counter[str] = Counter()
    together: dict[str, Counter[str]] = defaultdict(Counter)
    words: Counter[str] = Counter()
    for scene in scenes:
        held = sorted({box.category for box in scene.boxes})
        images.update(held)
        for category in held:
            together[category].update(other for other in held if other != category)
        for caption in scene.captions:
            words.update(words_of(caption))
    return Survey(tuple(sorted(images)), images, together, misspelt(words))


def misspelt(words: Mapping[str, int]) -> frozenset[str]:
    """Return the rare words that are one letter away from a frequent one, and no form of it."""
    frequent = [word for word, number in words.items() if number >= _OFTEN and len(word) >= _LONG]
    near: dict[str, set[str]] = defaultdict(set)
    for word in frequent:
        for form in _without_a_letter(word):
            near[form].add(word)
    common = {tuple(sorted(word)) for word, number in words.items() if number >= _VERY_OFTEN}
    found = set()
    for word, number in words.items():
        if number > _SELDOM or not word.isalpha():
            continue
        if len(word) < _LONG:
            if len(word) < _SHORT or tuple(sorted(word)) in common:
                found.add(word)
            continue
        others = {other for form in _without_a_letter(word) for other in near.get(form, ())}
        if any(not _is_form_of(word, other) and not _another(word, other) for other in others):
            found.add(word)
    return frozenset(found)


def _without_a_letter(word: str) -> set[str]:
    return {word, *(word[:at] + word[at + 1 :] for at in range(len(word)))}


def _is_form_of(word: str, other: str) -> bool:
    """Tell whether two words share a stem: "walker" is no misspelt "walked"."""
    stems = [
        {one[: len(one) - len(ending)] for ending in _ENDINGS if one.endswith(ending)}
        for one in (word, other)
    ]
    return any(len(stem) >= 3 for stem in stems[0] & stems[1])


def _another(word: str, other: str) -> bool:
    """Tell whether a short word differs in one letter: then it is often another word."""
    same = len(word) == len(other) and sorted(word) != sorted(other)
    return same and len(word) < _LONGER
