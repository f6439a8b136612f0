"""Scenes in words, as the nano language model reads them before it ever sees a picture.

A description stands where a picture will stand later. The forms differ on purpose, from prose to
a plain map of the table, cell by cell, so that the model learns to look things up rather than to
know one form by heart.
"""

from __future__ import annotations

import numpy as np

from laterna.records import Toy, Truth
from laterna.synthesis.phrases import PLACES, at_place, place_of
from laterna.world.captions import write_alt_text, write_captions

MAP_SIDE = 8
"""Cells of a map in each direction."""
EMPTY = "-"


def describe(truth: Truth, rng: np.random.Generator) -> tuple[str, bool]:
    """Return a description in a random form, and whether it mentions every attribute."""
    form = rng.random()
    if form < 0.4:
        return _map(truth), False
    if form < 0.6:
        return write_alt_text(truth, rng), True
    if form < 0.75:
        return _places(truth), False
    if form < 0.9:
        return _list(truth, rng), False
    return " ".join(write_captions(truth, rng)), False


def _map(truth: Truth) -> str:
    """Return the table row by row: each cell says what covers its middle, or `-`."""
    cells = []
    for row in range(MAP_SIDE):
        for column in range(MAP_SIDE):
            x, y = (column + 0.5) / MAP_SIDE, (row + 0.5) / MAP_SIDE
            covering = [toy for toy in truth.toys if _covers(toy, x, y)]
            # Neighbouring cells tell a toy's colour and its kind in turn.
            words = [(toy.colour, toy.category)[(row + column) % 2] for toy in covering[:1]]
            cells += words or [EMPTY]
    return " ".join(cells)


def _places(truth: Truth) -> str:
    """Return the nine parts of the picture in reading order, and what each holds."""
    parts = []
    for row in range(3):
        for column in range(3):
            place = PLACES[column, row]
            held = [f"{toy.colour} {toy.category}" for toy in truth.toys if _place(toy) == place]
            parts.append(f"{place}: {' and '.join(held) or EMPTY}")
    return ", ".join(parts)


def _list(truth: Truth, rng: np.random.Generator) -> str:
    toys = [truth.toys[number] for number in rng.permutation(len(truth.toys))]
    return ", ".join(
        f"{toy.size} {toy.colour} {toy.category} {at_place(_place(toy))}" for toy in toys
    )


def _covers(toy: Toy, x: float, y: float) -> bool:
    return toy.box.x1 <= x < toy.box.x2 and toy.box.y1 <= y < toy.box.y2


def _place(toy: Toy) -> str:
    return place_of((toy.box.x1 + toy.box.x2) / 2, (toy.box.y1 + toy.box.y2) / 2)
