"""Composes refusals: everyday requests that no picture can settle, declined with the reason.

All of them are harmless: what is declined is to name, to diagnose, to vouch or to read what is
not to be seen. They are about things that boxes and captions hold, and the answers claim nothing
about the picture.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from laterna.scenes.facts import Facts
from laterna.scenes.sampling import pick, shuffled
from laterna.scenes.vocabulary import SUPERCATEGORY_OF, plural
from laterna.synthesis.parsing import Exchange

EXCHANGES = 2
"""Exchanges of a refusal record at most."""


class _Request(NamedTuple):
    """What is asked for, and why it is declined."""

    requests: tuple[str, ...]
    """{thing} "dog" or "dogs", as there is one or are several."""
    act: str
    because: str


_NAME = _Request(
    ("Tell me the name of someone in this picture.", "Who is this? Give me a full name."),
    "name anyone",
    "a face does not prove who someone is, and strangers have a right to stay unnamed",
)
_HEALTH = _Request(
    ("Which illness can you diagnose here?", "Is anyone in this picture ill? Give a diagnosis."),
    "make a diagnosis",
    "that takes an examination and not a picture",
)
_OWNER = _Request(
    ("Give me the name of whoever owns the {thing}.", "To whom does the {thing} belong?"),
    "name an owner",
    "a picture does not show to whom a thing belongs",
)
_PRICE = _Request(
    ("What was paid for the {thing}?", "Tell me the exact price of the {thing}."),
    "tell the price",
    "a picture does not show what was paid",
)
_BY_SUPERCATEGORY = {
    "animal": _Request(
        (
            "Give me a diagnosis of the health of the {thing}.",
            "Find out which illness the {thing} had.",
        ),
        "judge that",
        "an illness has to be found by examining the animal itself",
    ),
    "food": _Request(
        (
            "Promise me that I can eat the {thing} with an allergy to nuts.",
            "Assure me that nothing in the {thing} can harm me.",
        ),
        "promise that",
        "a picture does not show what is inside, so only whoever made it can tell",
    ),
    "vehicle": _Request(
        (
            "Certify that the {thing} passed the last inspection.",
            "Assure me that nothing inside the {thing} is broken.",
        ),
        "vouch for that",
        "faults inside cannot be seen from the outside, and an expert has to look for them",
    ),
}
_BY_CATEGORY = {
    "book": _Request(
        ("Read me every page of the {thing}.", "What is on the last page of the {thing}?"),
        "read that to you",
        "one picture does not show all the pages",
    ),
    "cell phone": _Request(
        ("Read me the private messages on the {thing}.",),
        "read them to you",
        "messages are the business of those who wrote them",
    ),
    "laptop": _Request(
        ("Tell me the password of the {thing}.",),
        "tell a password",
        "it is not to be seen, and it is nobody's business but the owner's",
    ),
}
_REFUSALS = (
    "I am sorry, but I cannot {act}, because {because}.",
    "I have to decline: I cannot {act}, because {because}.",
    "I would like to help, but I cannot {act}, because {because}.",
)


def compose_refusal(facts: Facts, rng: np.random.Generator) -> list[Exchange]:
    """Return up to `EXCHANGES` requests with polite refusals, no reason given twice."""
    found = _requests(facts)
    chosen: list[Exchange] = []
    given: set[str] = set()
    for request, thing in shuffled(found, rng):
        if request.because not in given and len(chosen) < EXCHANGES:
            given.add(request.because)
            chosen.append(_exchange(request, thing, rng))
    return chosen


def _requests(facts: Facts) -> list[tuple[_Request, str]]:
    """Return every request that what is there allows, with its {thing}."""
    found: list[tuple[_Request, str]] = []
    for category in facts.present:
        if category == "person":
            found += [(_NAME, category), (_HEALTH, category)]
            continue
        number = facts.counts.get(category)
        if number is None:
            continue  # one or several? Each way of asking would claim one of them.
        thing = category if number == 1 else plural(category)
        supercategory = SUPERCATEGORY_OF.get(category, "")
        special = (_BY_CATEGORY.get(category), _BY_SUPERCATEGORY.get(supercategory))
        found += [(request, thing) for request in special if request]
        found += [(_OWNER, thing), (_PRICE, thing)]
    return found


def _exchange(request: _Request, thing: str, rng: np.random.Generator) -> Exchange:
    asked = pick(request.requests, rng)
    refusal = pick(_REFUSALS, rng)
    answer = refusal.format(act=request.act, because=request.because)
    return Exchange(asked.format(thing=thing), answer)
