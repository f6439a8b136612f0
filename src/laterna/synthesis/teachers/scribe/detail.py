"""Composes descriptions: what is there, how many, of which colour, and where."""

from __future__ import annotations

import numpy as np

from laterna.scenes.facts import Facts, place_if_certain
from laterna.scenes.geometry import RELATIONS, lie_apart, relation_holds
from laterna.scenes.phrases import NUMBERS, at_place, listed, with_article
from laterna.scenes.sampling import pick
from laterna.scenes.vocabulary import plural
from laterna.synthesis.teachers.scribe.story import Story, retell
from laterna.synthesis.teachers.scribe.wordings import ANSWERS


def compose_detail(facts: Facts, rng: np.random.Generator, story: Story | None = None) -> str:
    """Return a description of several sentences; empty where nothing is certain.

    Where captions tell a story, it is theirs; elsewhere a list of what is there, and where.
    """
    if story:
        return retell(story, facts, rng)
    if not facts.present:
        return ""
    groups = listed([_group(category, facts) for category in facts.present])
    opening = pick(ANSWERS["opening"], rng).format(things=groups)
    return " ".join((opening, *_placed(facts, rng), *_related(facts, rng)))


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
            words, named = at_place(place), _coloured(category, facts)
            phrase = pick(ANSWERS["placed"], rng)
            upper = words[0].upper() + words[1:]
            sentences.append(phrase.format(thing=named, place=words, Place=upper))
    return sentences


def _related(facts: Facts, rng: np.random.Generator) -> list[str]:
    """Return one sentence on how two single things stand to each other, if that is clear."""
    single = list(facts.single().items())
    if len(single) < 2:
        return []
    first, second = rng.permutation(len(single))[:2]
    (name, thing), (other_name, other) = single[first], single[second]
    for relation in RELATIONS:
        if relation_holds(relation, thing.box, other.box) and lie_apart(thing.box, other.box):
            return [f"The {name} is {relation} the {other_name}."]
    return []
