"""Composes denials: questions that take for granted what is not there, and answers that say so.

Asking with confidence for the colour or the place of an absent thing is what makes assistants
invent it (LRV-Instruction, Liu et al. 2023). What is denied is what the dataset annotates and
neither boxes nor captions hold, and the answers claim nothing else.
"""

from __future__ import annotations

import numpy as np

from laterna.scenes.facts import Facts
from laterna.scenes.kinds import is_a
from laterna.scenes.sampling import pick, shuffled
from laterna.synthesis.parsing import Exchange
from laterna.synthesis.teachers.scribe.story import Story
from laterna.synthesis.teachers.scribe.wordings import ANSWERS, QUESTIONS, WORDINGS

EXCHANGES = 3
"""Exchanges of a negative record at most."""


def compose_negative(
    facts: Facts, rng: np.random.Generator, story: Story | None = None
) -> list[Exchange]:
    """Return up to `EXCHANGES` questions about absent things, none of them asked for twice."""
    del story  # what is absent is the same with and without it
    absent = surely_absent(facts)
    chosen = shuffled(absent, rng)[:EXCHANGES]
    return [_exchange(category, rng) for category in chosen]


def surely_absent(facts: Facts) -> list[str]:
    """Return the absent categories that are not easily taken for one that is there."""
    held = {thing.category for thing in facts.things} | facts.mentioned
    sure = WORDINGS.absent
    doubtful = sure.never_sure.union(*(group for group in sure.alike if group & held))
    return [category for category in facts.absent if category not in doubtful]


def _exchange(category: str, rng: np.random.Generator) -> Exchange:
    alive = is_a(category, "animal")
    questions = (*QUESTIONS["absent"], *QUESTIONS["absent_animal" if alive else "absent_thing"])
    is_are = "are" if category in WORDINGS.absent.plural_only else "is"
    question = pick(questions, rng).format(thing=category, is_are=is_are)
    answer = pick(ANSWERS["denial"], rng).format(thing=category, is_are=is_are)
    return Exchange(question, answer)
