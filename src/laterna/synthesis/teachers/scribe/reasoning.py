"""Composes reasoning: questions whose answer takes a step beyond what is seen.

The questions name nothing that is in the image, so that they cannot be answered without it.
"""

from __future__ import annotations

import numpy as np

from laterna.scenes.facts import Facts
from laterna.scenes.phrases import listed, with_article
from laterna.scenes.sampling import pick, shuffled
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

    What a story lets one infer comes first, and there a thing is only spoken of where it is the
    only one of its category.
    """
    inferences = inferred(story, rng)[:EXCHANGES] if story else []
    present = facts.single() if story else facts.present
    thoughts = WORDINGS.thoughts
    found: list[tuple[Thought, list[str]]] = []
    by_supercategory: dict[str, list[str]] = {}
    for category in present:
        if category in thoughts["things"]:
            found.append((thoughts["things"][category], [category]))
        supercategory = group_of(category)
        if supercategory:
            by_supercategory.setdefault(supercategory, []).append(category)
    for supercategory, members in by_supercategory.items():
        found.append((thoughts["kinds"][supercategory], members))
    chosen = shuffled(found, rng)[: EXCHANGES - len(inferences)]
    return inferences + [_exchange(thought, members, rng) for thought, members in chosen]


def _exchange(thought: Thought, members: list[str], rng: np.random.Generator) -> Exchange:
    question = pick(thought.questions, rng)
    several = [f"the {member}" for member in members]
    things = with_article(members[0]) if len(members) == 1 else listed(several)
    return Exchange(question, f"{things[0].upper()}{things[1:]}, {thought.because}.")
