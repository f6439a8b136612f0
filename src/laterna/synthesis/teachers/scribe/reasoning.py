"""Composes reasoning: questions whose answer takes a step beyond what is seen.

The questions name nothing that is in the image, so that they cannot be answered without it.
"""

from __future__ import annotations

import numpy as np

from laterna.scenes.facts import Facts
from laterna.scenes.phrases import listed, with_article
from laterna.scenes.sampling import pick, shuffled
from laterna.scenes.vocabulary import plural
from laterna.synthesis.parsing import Exchange
from laterna.synthesis.teachers.scribe.photograph import group_of, inferred
from laterna.synthesis.teachers.scribe.story import Story
from laterna.synthesis.teachers.scribe.wordings import WORDINGS, Thought

EXCHANGES = 2
"""Exchanges of a reasoning record at most."""


def compose_reasoning(
    facts: Facts, rng: np.random.Generator, story: Story | None = None
) -> list[Exchange]:
    """Return up to `EXCHANGES` questions with answers that give their reason.

    What a story lets one infer comes first; there several of a category are called several.
    """
    inferences = inferred(story, rng)[:EXCHANGES] if story else []
    thoughts = WORDINGS.thoughts
    found: list[tuple[Thought, list[str]]] = []
    by_supercategory: dict[str, list[str]] = {}
    for category in facts.present:
        if category in thoughts["things"]:
            found.append((thoughts["things"][category], [category]))
        supercategory = group_of(category)
        if supercategory:
            by_supercategory.setdefault(supercategory, []).append(category)
    for supercategory, members in by_supercategory.items():
        found.append((thoughts["kinds"][supercategory], members))
    chosen = shuffled(found, rng)[: EXCHANGES - len(inferences)]
    return inferences + [
        _exchange(thought, members, facts if story else None, rng) for thought, members in chosen
    ]


def _exchange(
    thought: Thought, members: list[str], facts: Facts | None, rng: np.random.Generator
) -> Exchange:
    """Return the thought of these categories; with `facts`, their number is told as it is."""
    question = pick(thought.questions, rng)
    several = {member for member in members if facts and _are_several(member, facts)}
    named = [plural(member) if member in several else member for member in members]
    alone = named[0] if several else with_article(named[0])
    things = alone if len(members) == 1 else listed([f"the {name}" for name in named])
    return Exchange(question, f"{things[0].upper()}{things[1:]}, {thought.because}.")


def _are_several(category: str, facts: Facts) -> bool:
    """Tell whether there are several of a category, by its boxes or, without any, its captions."""
    boxes = sum(thing.category == category for thing in facts.things)
    return boxes > 1 or (not boxes and facts.agreed.get(category, False))
