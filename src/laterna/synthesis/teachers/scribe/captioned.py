"""Composes the conversation that captions alone settle: what kind of thing is there.

Nothing is counted, placed or denied: captions leave out most of what a picture holds. Nothing is
asked by yes or no either: where no answer can be no, yes would be learned for every question.
Captions also err, so only what most of them name is spoken of.
"""

from __future__ import annotations

import numpy as np

from laterna.scenes.facts import Facts
from laterna.scenes.phrases import SHORT_ANSWER, listed, with_article
from laterna.scenes.sampling import pick, shuffled
from laterna.scenes.vocabulary import SUPERCATEGORY_OF, plural
from laterna.synthesis.parsing import Exchange

EXCHANGES = 3
"""Exchanges of such a conversation at most."""
SHORT_SHARE = 0.5
"""Share of the questions that ask for the bare answer."""
_NOUNS = {
    "animal": "animal",
    "vehicle": "vehicle",
    "food": "food",
    "furniture": "furniture",
    "sports": "sports equipment",
    "electronic": "electronic device",
    "appliance": "appliance",
}
"""Supercategories whose things can be asked for by one everyday noun."""
_KIND_QUESTIONS = (
    "What kind of {noun} is in the picture?",
    "What kind of {noun} can be seen?",
    "Which kind of {noun} does the picture show?",
)
_GENERAL_QUESTIONS = (
    "What can be seen in the picture?",
    "What does the picture show?",
    "What is there to see?",
)


def compose_captioned(facts: Facts, rng: np.random.Generator) -> list[Exchange]:
    """Return up to `EXCHANGES` questions about kinds, or one about all where none can be asked."""
    groups: dict[str, list[str]] = {}
    for category in facts.present:
        groups.setdefault(SUPERCATEGORY_OF.get(category, ""), []).append(category)
    alone = [
        (_NOUNS[group], members[0])
        for group, members in groups.items()
        # Of two kinds, either would be the answer.
        if group in _NOUNS and len(members) == 1 and members[0] in facts.agreed
    ]
    chosen = shuffled(alone, rng)[:EXCHANGES]
    if chosen:
        return [_kind(noun, category, facts, rng) for noun, category in chosen]
    named = [_named(category, facts) for category in facts.present if category in facts.agreed]
    question = pick(_GENERAL_QUESTIONS, rng)
    return [Exchange(question, f"One can see {listed(named)}.")] if named else []


def _kind(noun: str, category: str, facts: Facts, rng: np.random.Generator) -> Exchange:
    question = pick(_KIND_QUESTIONS, rng).format(noun=noun)
    if rng.random() < SHORT_SHARE:
        return Exchange(question + SHORT_ANSWER, category)
    return Exchange(question, f"The picture shows {_named(category, facts)}.")


def _named(category: str, facts: Facts) -> str:
    return plural(category) if facts.agreed[category] else with_article(category)
