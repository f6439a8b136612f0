"""Composes reasoning: questions whose answer takes a step beyond what is seen.

The questions name nothing that is in the picture, so that they cannot be answered without it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from laterna.scenes.facts import Facts
from laterna.scenes.phrases import with_article
from laterna.scenes.sampling import pick, shuffled
from laterna.scenes.vocabulary import SUPERCATEGORY_OF
from laterna.synthesis.parsing import Exchange

EXCHANGES = 2
"""Exchanges of a reasoning record at most."""


class _Thought(NamedTuple):
    """A question about a use or a nature, and why some things meet it."""

    questions: tuple[str, ...]
    because: str
    """Ends the answer; true of one thing and of several."""


_BY_SUPERCATEGORY = {
    "person": _Thought(
        ("Who in this picture could answer a question?", "Who could one talk to here?"),
        "because only a person can talk",
    ),
    "vehicle": _Thought(
        ("What here could carry a traveller?", "How could one get away from here quickly?"),
        "because that is made for going from place to place",
    ),
    "outdoor": _Thought(
        ("What suggests that this is a public place?", "What here belongs to a street or a park?"),
        "because such things stand where anyone may pass",
    ),
    "animal": _Thought(
        ("What in this picture would need feeding in real life?", "What here would be alive?"),
        "because animals have to eat and drink",
    ),
    "accessory": _Thought(
        ("What would someone take along when leaving the house?", "What here goes with an outfit?"),
        "because such things are worn or carried",
    ),
    "sports": _Thought(
        ("What here is meant for play?", "What in this picture would be fun on a free day?"),
        "because such things are made for games and sport",
    ),
    "kitchen": _Thought(
        ("What here would be useful at a meal?", "What would have to be washed after dinner?"),
        "because such things are used for eating and drinking",
    ),
    "food": _Thought(
        ("What here would help against hunger?", "What in this picture would spoil in time?"),
        "because food is there to be eaten",
    ),
    "furniture": _Thought(
        ("What here would be bought for a new home?", "What makes a place more comfortable?"),
        "because such things are the furniture of a home",
    ),
    "electronic": _Thought(
        ("What here needs electricity?", "What would stop working in a power cut?"),
        "because such things run on electric power",
    ),
    "appliance": _Thought(
        ("What here had to be installed by someone?", "What would a technician look after?"),
        "because such things have to be connected before they work",
    ),
    "indoor": _Thought(
        ("What here would be kept on a shelf at home?", "What belongs inside a house?"),
        "because such things belong to a household",
    ),
}
_BY_CATEGORY = {
    "umbrella": _Thought(
        ("What would help if it began to rain?",), "because it keeps the rain off"
    ),
    "clock": _Thought(("How could one tell the time here?",), "because the hands show the hour"),
    "scissors": _Thought(
        ("What could cut a sheet of paper?",), "because two sharp blades cut well"
    ),
    "book": _Thought(("What could one read here?",), "because pages hold words"),
    "kite": _Thought(("What here needs wind?",), "because only wind makes such a thing fly"),
    "chair": _Thought(("What would help tired legs here?",), "because one can sit on it"),
    "airplane": _Thought(("What here could cross an ocean in a day?",), "because flying is fast"),
    "boat": _Thought(("What here belongs on the water?",), "because boats float"),
    "cup": _Thought(("What could hold a hot drink?",), "because such a thing is made for drinking"),
    "cake": _Thought(("What here fits a birthday?",), "because cake is shared at parties"),
}


def compose_reasoning(facts: Facts, rng: np.random.Generator) -> list[Exchange]:
    """Return up to `EXCHANGES` questions with answers that give their reason."""
    found: list[tuple[_Thought, list[str]]] = []
    by_supercategory: dict[str, list[str]] = {}
    for category in facts.present:
        if category in _BY_CATEGORY:
            found.append((_BY_CATEGORY[category], [category]))
        supercategory = SUPERCATEGORY_OF.get(category)
        if supercategory:
            by_supercategory.setdefault(supercategory, []).append(category)
    for supercategory, members in by_supercategory.items():
        found.append((_BY_SUPERCATEGORY[supercategory], members))
    chosen = shuffled(found, rng)[:EXCHANGES]
    return [_exchange(thought, members, rng) for thought, members in chosen]


def _exchange(thought: _Thought, members: list[str], rng: np.random.Generator) -> Exchange:
    question = pick(thought.questions, rng)
    if len(members) == 1:
        things = with_article(members[0])
        return Exchange(question, f"{things[0].upper()}{things[1:]}, {thought.because}.")
    things = ", ".join(f"the {member}" for member in members[:-1]) + f" and the {members[-1]}"
    return Exchange(question, f"{things[0].upper()}{things[1:]}, {thought.because}.")
