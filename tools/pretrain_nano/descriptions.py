"""Scenes in words, as the nano language model reads them before it ever sees an image.

A description stands where an image will stand later. The forms differ on purpose, from prose to
a plain map of the table, so that the model learns to look things up rather than to know one form
by heart.

In a map every square of the table is one token, as every patch of an image will be: the sum of
the embeddings of the words that are true of the square. Some words are left out at random, since
no encoder will be sure of everything that it sees; never the one that marks the square in a toy's
middle, or two toys that touch could not be told from a large one. A map may leave out squares too:
what must be found among ten tokens is learned many times sooner than among sixty-four.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from msgspec import structs

from laterna.records import Box, Record, Toy, Truth
from laterna.scenes.geometry import PLACES, place_of
from laterna.scenes.phrases import at_place
from laterna.scenes.sampling import pick, shuffled
from laterna.world.captions import write_alt_text, write_captions

SQUARES = 8
"""Squares of a map in each direction: as many as the nano encoder has patches."""
EMPTY = "-"
MIDDLE = "thing"
"""Said of the square in a toy's middle, where it is counted."""
_COLUMNS = "abcdefgh"
_UNSURE = 0.15
"""Chance that a word of a square is left out."""


class Description(Record, frozen=True):
    """A scene in words: one entry a token of a map, or one text."""

    words: tuple[str, ...]
    """The squares' words in reading order, or the whole text as the only entry."""
    is_map: bool
    shown: Truth
    """What the description tells: toys that it places by the ninth stand in the ninth's middle."""
    complete: bool
    """Whether it tells texture, lighting and sign, which captions leave out."""


def describe(truth: Truth, rng: np.random.Generator, squares: float = 1.0) -> Description:
    """Return a description in a random form; a map has a share `squares` of the squares.

    It always has the middle one of every toy, and the words of a thin map are all there.
    """
    form = rng.random()
    if form < 0.5:
        complete = bool(rng.random() < 0.5)
        words = _map(truth, complete, squares, rng)
        return Description(words=words, is_map=True, shown=truth, complete=complete)
    if form < 0.6:
        return _text(" " + _squares(truth, rng), truth)
    write = pick(_FORMS, rng)
    return _text(
        " " + write(truth, rng), _placed_by_ninths(truth), complete=write is write_alt_text
    )


def _text(text: str, shown: Truth, *, complete: bool = False) -> Description:
    return Description(words=(text,), is_map=False, shown=shown, complete=complete)


def square_name(x: float, y: float) -> str:
    """Return the name of the square that holds the point (0..1), as a chessboard has it: "b 3"."""
    return f"{_COLUMNS[int(x * SQUARES)]} {int(y * SQUARES) + 1}"


def _map(truth: Truth, complete: bool, squares: float, rng: np.random.Generator) -> tuple[str, ...]:
    needed = {square_name(*toy.box.centre) for toy in truth.toys}
    if complete and truth.sign_box:
        needed.add(square_name(*truth.sign_box.centre))
    middles = [(number + 0.5) / SQUARES for number in range(SQUARES)]
    return tuple(
        _square(x, y, truth, complete, _UNSURE * squares, rng)
        for y in middles
        for x in middles
        if rng.random() < squares or square_name(x, y) in needed
    )


def _square(
    x: float, y: float, truth: Truth, complete: bool, unsure: float, rng: np.random.Generator
) -> str:
    words: list[str] = []
    for toy in (toy for toy in truth.toys if _covers(toy.box, x, y)):
        words += [toy.category, toy.colour, toy.size] + ([toy.texture] if complete else [])
    if complete:
        words.append(truth.lighting)
        if truth.sign and truth.sign_box and _covers(truth.sign_box, x, y):
            words += ["sign", truth.sign]
    sure = [word for word in words if rng.random() >= unsure]
    name = square_name(x, y)
    sure += [MIDDLE for toy in truth.toys if square_name(*toy.box.centre) == name]
    return " " + " ".join([*(sure or [EMPTY]), name])


def _squares(truth: Truth, rng: np.random.Generator) -> str:
    """Return the toys one by one, each with its first and its last square."""
    parts = []
    for toy in shuffled(truth.toys, rng):
        first = square_name(toy.box.x1 + 0.01, toy.box.y1 + 0.01)
        last = square_name(toy.box.x2 - 0.01, toy.box.y2 - 0.01)
        parts.append(f"{toy.size} {toy.colour} {toy.category} {first} to {last}")
    return ", ".join(parts)


def _places(truth: Truth, _: np.random.Generator) -> str:
    """Return the nine parts of the image in reading order, and what each holds."""
    parts = []
    for row in range(3):
        for column in range(3):
            place = PLACES[column, row]
            held = [f"{toy.colour} {toy.category}" for toy in truth.toys if _place(toy) == place]
            parts.append(f"{place}: {' and '.join(held) or EMPTY}")
    return ", ".join(parts)


def _list(truth: Truth, rng: np.random.Generator) -> str:
    return ", ".join(
        f"{toy.size} {toy.colour} {toy.category} {at_place(_place(toy))}"
        for toy in shuffled(truth.toys, rng)
    )


def _captions(truth: Truth, rng: np.random.Generator) -> str:
    return " ".join(write_captions(truth, rng))


_FORMS: tuple[Callable[[Truth, np.random.Generator], str], ...] = (
    write_alt_text,
    _places,
    _list,
    _captions,
)
"""The forms that place things by the ninth of the image they are in."""


def _placed_by_ninths(truth: Truth) -> Truth:
    toys = tuple(
        structs.replace(toy, box=_in_the_middle(toy.box, number))
        for number, toy in enumerate(truth.toys)
    )
    return structs.replace(truth, toys=toys)


def _in_the_middle(box: Box, number: int) -> Box:
    """Return a box in the middle of the ninth of the image that the box's centre is in.

    Each `number` has another size, for boxes that coincide would be taken for one thing.
    """
    x, y = (
        (int((low + high) / 2 * 3) + 0.5) / 3 for low, high in ((box.x1, box.x2), (box.y1, box.y2))
    )
    half = 0.03 + 0.02 * number
    return structs.replace(box, x1=x - half, x2=x + half, y1=y - half, y2=y + half)


def _covers(box: Box, x: float, y: float) -> bool:
    return box.x1 <= x < box.x2 and box.y1 <= y < box.y2


def _place(toy: Toy) -> str:
    return place_of(*toy.box.centre)
