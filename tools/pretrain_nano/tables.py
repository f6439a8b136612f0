"""Tables about a scene: key by key, what the description says of it.

Nearly every word of a table must be looked up, by kind, by colour or by place, while questions
take fifteen words to ask for one: a model learns to look things up from tables several times
sooner. No toy is in two entries of a table, or the second would be copied from the first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from itertools import permutations
from typing import NamedTuple

import numpy as np

from laterna.records import Toy, Truth
from laterna.scenes.geometry import PLACES, place_of, relation_holds
from laterna.scenes.phrases import NUMBERS
from laterna.scenes.sampling import pick, shuffled
from laterna.scenes.vocabulary import plural
from laterna.world.toys import CATEGORIES, COLOURS

NOTHING = "none"
_THINGS = "things"
_SIDES = (
    ("left", "to the left of"),
    ("right", "to the right of"),
    ("above", "above"),
    ("below", "below"),
)
"""What a table calls each relation."""


class Entry(NamedTuple):
    """A line of a table: what is looked up, and what is found."""

    key: str
    value: str
    toys: frozenset[int]
    """The toys that it tells of, by their numbers."""


def write_table(truth: Truth, rng: np.random.Generator) -> list[Entry]:
    """Return entries in random order, such as "dog: red, top left", "blue: cup", "top: none"."""
    # Kinds are many more than colours and places, so they are looked up more often.
    entries = [*_by_category(truth), *_by_category(truth), *_by_colour(truth), *_by_place(truth)]
    told: list[Entry] = []
    spoken_of: frozenset[int] = frozenset()
    for entry in shuffled(entries, rng):
        if not entry.toys & spoken_of:
            spoken_of |= entry.toys
            told.append(entry)
    told.append(_absent(truth, rng))
    return shuffled(told, rng)


def write_relations(truth: Truth, rng: np.random.Generator) -> list[Entry]:
    """Return how things of one of a kind stand to each other, such as "dog, cup: left, above".

    Where two are level, or nearly so, neither word is said; the same line that scribe draws.
    """
    single = [
        numbers[0]
        for numbers in _grouped(truth, lambda toy: toy.category).values()
        if len(numbers) == 1
    ]
    entries = []
    for first, second in permutations(single, 2):
        one, other = truth.toys[first].box, truth.toys[second].box
        stands = [(word, relation_holds(relation, one, other)) for word, relation in _SIDES]
        value = ", ".join(word for word, holds in stands if holds) or NOTHING
        key = f"{one.category}, {other.category}"
        entries.append(Entry(key, value, frozenset((first, second))))
    return shuffled(entries, rng)


def write_counts(truth: Truth, rng: np.random.Generator) -> list[Entry]:
    """Return how many there are of what, such as "dogs: two", "red things: one", "things: four"."""
    groups = {
        plural(category): numbers
        for category, numbers in _grouped(truth, lambda toy: toy.category).items()
    }
    for colour, numbers in _grouped(truth, lambda toy: toy.colour).items():
        groups[f"{colour} {_THINGS}"] = numbers
    groups[_THINGS] = list(range(len(truth.toys)))
    entries = [Entry(key, NUMBERS[len(held)], frozenset(held)) for key, held in groups.items()]
    return shuffled(entries, rng)


def _by_category(truth: Truth) -> list[Entry]:
    entries = []
    for category, numbers in _grouped(truth, lambda toy: toy.category).items():
        toy = truth.toys[numbers[0]]
        single = f"{toy.colour}, {_place(toy)}"
        value = single if len(numbers) == 1 else NUMBERS[len(numbers)]
        entries.append(Entry(category, value, frozenset(numbers)))
    return entries


def _by_colour(truth: Truth) -> list[Entry]:
    return [
        Entry(colour, _listed(truth, numbers, lambda toy: toy.category), frozenset(numbers))
        for colour, numbers in _grouped(truth, lambda toy: toy.colour).items()
    ]


def _by_place(truth: Truth) -> list[Entry]:
    def name(toy: Toy) -> str:
        return f"{toy.colour} {toy.category}"

    return [
        Entry(place, _listed(truth, numbers, name), frozenset(numbers))
        for place, numbers in _grouped(truth, _place).items()
    ]


def _grouped(truth: Truth, key: Callable[[Toy], str]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = defaultdict(list)
    for number, toy in enumerate(truth.toys):
        groups[key(toy)].append(number)
    return groups


def _listed(truth: Truth, numbers: list[int], name: Callable[[Toy], str]) -> str:
    # Of several things the order is the alphabet's, or it could not be known.
    return ", ".join(sorted(name(truth.toys[number]) for number in numbers))


def _absent(truth: Truth, rng: np.random.Generator) -> Entry:
    """Return an entry about a kind, a colour or a place that has nothing."""
    names = (tuple(CATEGORIES), tuple(COLOURS), tuple(PLACES.values()))[int(rng.integers(3))]
    there = {key for toy in truth.toys for key in (toy.category, toy.colour, _place(toy))}
    absent = [name for name in names if name not in there]
    return Entry(pick(absent, rng), NOTHING, frozenset())


def _place(toy: Toy) -> str:
    return place_of(*toy.box.centre)
