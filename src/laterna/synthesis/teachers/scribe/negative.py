"""Composes denials: questions that take for granted what is not there, and answers that say so.

Asking with confidence for the colour or the place of an absent thing is what makes assistants
invent it (LRV-Instruction, Liu et al. 2023). What is denied is what the dataset annotates and
neither boxes nor captions hold, and the answers claim nothing else.
"""

from __future__ import annotations

import numpy as np

from laterna.scenes.facts import Facts
from laterna.scenes.sampling import pick, shuffled
from laterna.scenes.vocabulary import SUPERCATEGORY_OF
from laterna.synthesis.parsing import Exchange

EXCHANGES = 3
"""Exchanges of a negative record at most."""
_QUESTIONS = (
    "What colour {is_are} the {thing}?",
    "Where exactly {is_are} the {thing}?",
    "How large {is_are} the {thing}?",
    "What stands right beside the {thing}?",
    "Describe the {thing} closely.",
)
_OF_THINGS = ("What {is_are} the {thing} made of?", "Who put the {thing} there?")
_OF_ANIMALS = ("What is the {thing} doing?", "Which way is the {thing} looking?")
_DENIALS = (
    "There {is_are} no {thing} in the picture.",
    "The picture shows no {thing}.",
    "I can see no {thing} here.",
    "No {thing} can be seen in the picture.",
)
_PLURAL_ONLY = frozenset(("scissors", "skis"))
_ALIKE = (
    {"car", "truck", "bus", "train"},
    {"bicycle", "motorcycle"},
    {"couch", "chair", "bench", "bed"},
    {"cup", "bowl", "wine glass", "bottle", "vase"},
    {"fork", "knife", "spoon"},
    {"backpack", "handbag", "suitcase"},
    {"tv", "laptop", "cell phone"},
    {"microwave", "oven", "toaster"},
    {"apple", "orange"},
    {"sandwich", "hot dog", "pizza", "cake", "donut"},
    {"cow", "sheep", "horse"},
    {"skis", "snowboard", "skateboard", "surfboard"},
)
"""Categories that people annotate for each other: where one is there, none is surely absent."""
_NEVER_SURE = frozenset(("person", "dining table"))
"""Often there without a box or a word: a hand, someone far off, what the plates stand on."""


def compose_negative(facts: Facts, rng: np.random.Generator) -> list[Exchange]:
    """Return up to `EXCHANGES` questions about absent things, none of them asked for twice."""
    absent = surely_absent(facts)
    chosen = shuffled(absent, rng)[:EXCHANGES]
    return [_exchange(category, rng) for category in chosen]


def surely_absent(facts: Facts) -> list[str]:
    """Return the absent categories that are not easily taken for one that is there."""
    held = {thing.category for thing in facts.things} | facts.mentioned
    doubtful = {name for group in _ALIKE if group & held for name in group} | _NEVER_SURE
    return [category for category in facts.absent if category not in doubtful]


def _exchange(category: str, rng: np.random.Generator) -> Exchange:
    alive = SUPERCATEGORY_OF.get(category) == "animal"
    questions = (*_QUESTIONS, *(_OF_ANIMALS if alive else _OF_THINGS))
    words = {"thing": category, "is_are": "are" if category in _PLURAL_ONLY else "is"}
    question = pick(questions, rng).format(**words)
    answer = pick(_DENIALS, rng).format(**words)
    return Exchange(question, answer)
