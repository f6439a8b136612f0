"""Composes refusals: everyday requests that no image can settle, declined with the reason.

All of them are harmless: what is declined is to name, to diagnose, to vouch or to read what is
not to be seen. They are about things that boxes and captions hold, and the answers claim nothing
about the image.
"""

from __future__ import annotations

import numpy as np

from laterna.scenes.facts import Facts
from laterna.scenes.sampling import pick, shuffled
from laterna.scenes.vocabulary import plural
from laterna.synthesis.parsing import Exchange
from laterna.synthesis.teachers.scribe.photograph import group_of
from laterna.synthesis.teachers.scribe.story import Story
from laterna.synthesis.teachers.scribe.wordings import ANSWERS, WORDINGS, Request

EXCHANGES = 2
"""Exchanges of a refusal record at most."""


def compose_refusal(
    facts: Facts, rng: np.random.Generator, story: Story | None = None
) -> list[Exchange]:
    """Return up to `EXCHANGES` requests with polite refusals, no reason given twice."""
    del story  # what no picture settles is the same with and without it
    found = _requests(facts)
    chosen: list[Exchange] = []
    given: set[str] = set()
    for request, thing, several in shuffled(found, rng):
        if request.because not in given and len(chosen) < EXCHANGES:
            given.add(request.because)
            chosen.append(_exchange(request, thing, rng, several=several))
    return chosen


def _requests(facts: Facts) -> list[tuple[Request, str, bool]]:
    """Return every request that what is there allows, its {thing}, and whether it is several."""
    every, kinds, things = (WORDINGS.requests[name] for name in ("any", "kinds", "things"))
    found: list[tuple[Request, str, bool]] = []
    for category in facts.present:
        if group_of(category) == "person":
            found += [(every["name"], category, False), (every["health"], category, False)]
            continue
        number = facts.counts.get(category)
        if number is None:
            continue  # one or several? Each way of asking would claim one of them.
        thing = category if number == 1 else plural(category)
        special = (things.get(category), kinds.get(group_of(category)))
        requests = (*special, every["owner"], every["price"])
        found += [(request, thing, number > 1) for request in requests if request]
    return found


def _exchange(request: Request, thing: str, rng: np.random.Generator, *, several: bool) -> Exchange:
    asked = pick(request.requests, rng)
    refusal = pick(ANSWERS["refusal"], rng)
    answer = refusal.format(act=request.act, because=request.because)
    return Exchange(asked.format(thing=thing, does_do="do" if several else "does"), answer)
