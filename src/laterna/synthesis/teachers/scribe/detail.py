"""Composes descriptions: what is there, how many, of which colour, and where."""

from __future__ import annotations

import numpy as np

from laterna.scenes.facts import Facts, place_if_certain
from laterna.scenes.geometry import relation_holds
from laterna.scenes.phrases import NUMBERS, at_place, listed, with_article
from laterna.scenes.sampling import pick
from laterna.scenes.vocabulary import plural

_OPENINGS = (
    "The picture shows {things}.",
    "In the picture one finds {things}.",
    "One can see {things} here.",
)
_PLACED = (
    "The {thing} is {place}.",
    "{Place} there is the {thing}.",
    "The {thing} stands {place}.",
)


def compose_detail(facts: Facts, rng: np.random.Generator) -> str:
    """Return a description of several sentences; empty where nothing is certain."""
    if not facts.present:
        return ""
    opening = pick(_OPENINGS, rng)
    sentences = [opening.format(things=listed(_groups(facts)))]
    sentences += _placed(facts, rng)
    sentences += _related(facts, rng)
    return " ".join(sentences)


def _groups(facts: Facts) -> list[str]:
    return [_group(category, facts) for category in facts.present]


def _group(category: str, facts: Facts) -> str:
    number = facts.counts.get(category)
    if number == 1:
        return with_article(_coloured(category, facts))
    if number:
        return f"{NUMBERS[number]} {plural(category)}"
    several = sum(thing.category == category for thing in facts.things) > 1
    return plural(category) if several else with_article(category)


def _coloured(category: str, facts: Facts) -> str:
    colour = facts.colour_of(category)
    return f"{colour} {category}" if colour else category


def _placed(facts: Facts, rng: np.random.Generator) -> list[str]:
    sentences = []
    for category, thing in facts.single().items():
        place = place_if_certain(thing)
        if place:
            phrase = pick(_PLACED, rng)
            words = at_place(place)
            sentences.append(
                phrase.format(
                    thing=_coloured(category, facts),
                    place=words,
                    Place=words[0].upper() + words[1:],
                )
            )
    return sentences


def _related(facts: Facts, rng: np.random.Generator) -> list[str]:
    """Return one sentence on how two single things stand to each other, if that is clear."""
    single = list(facts.single().items())
    if len(single) < 2:
        return []
    first, second = rng.permutation(len(single))[:2]
    (name, thing), (other_name, other) = single[first], single[second]
    for relation in ("to the left of", "to the right of", "above", "below"):
        if relation_holds(relation, thing.box, other.box):
            return [f"The {name} is {relation} the {other_name}."]
    return []
