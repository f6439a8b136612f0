"""What larger pictures cost: tokens and cache grow as their area, attention as its square."""

from __future__ import annotations

from laterna.errors import LaternaError
from laterna.model.cost import StepCost
from laterna.planner.rehearsal import Rehearsal, count_cache
from laterna.records import Record

SIDES = (224, 336, 448, 672, 1024)
"""Sides in pixels: LLaVA's, LLaVA-1.5's, twice each, and a large one."""


class Resolution(Record):
    """Square pictures of one size, cut into patches of the encoder's size."""

    side: int
    """Pixels."""
    patches: int
    tokens: int
    """In the language model's context."""
    cache: int
    """Bytes that they take in the KV cache."""
    attention_flops: int
    """Of the language model reading them, what grows quadratically."""


def resolutions(rehearsal: Rehearsal, forward: StepCost) -> tuple[Resolution, ...]:
    """Return the table for the usual sizes and the encoder's own, those left out that the
    connector cannot take; `forward` is what a forward pass costs.

    Whether the encoder itself takes other sizes than its own is another question: many do not.
    """
    tower = rehearsal.vision
    grid = round((tower.patches - int(tower.class_token)) ** 0.5)
    pixels = rehearsal.side / grid  # a side of 1024 with patches of 14 is 73 whole patches
    found = []
    for side in sorted({*SIDES, rehearsal.side}):
        patches = int(side / pixels) ** 2 + int(tower.class_token)
        try:
            tokens = rehearsal.connector.tokens(patches)
        except LaternaError:
            continue
        if not tokens:
            continue
        found.append(
            Resolution(
                side=side,
                patches=patches,
                tokens=tokens,
                cache=count_cache(rehearsal, tokens),
                attention_flops=round(forward.pair * tokens**2),
            )
        )
    return tuple(found)
