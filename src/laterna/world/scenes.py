"""Draws lots for scenes: which toys stand where, under which light, beside which sign.

A scene is a pure function of (stream, seed, index). The streams keep apart what must never meet:
the scenes that pretrain the bases and the scenes that a demo draws. Every possible scene belongs
to one stream alone, whatever the seeds: a quarter of all is kept for the demos.
"""

from __future__ import annotations

import zlib
from typing import Literal

import msgspec
import numpy as np

from laterna.records import Box, Toy, Truth
from laterna.scenes.sampling import pick
from laterna.world.toys import (
    CATEGORIES,
    COLOURS,
    IMAGE_SIDE,
    LIGHTINGS,
    SIGN_WORDS,
    SIZES,
    TEXTURES,
)

Stream = Literal["pretrain", "world"]
STREAMS: dict[Stream, int] = {"pretrain": 1, "world": 2}
MAX_TOYS = 5
SIGN_SHARE = 0.3
"""Share of the images with a sign."""
SQUARE = 14
"""Side, in pixels, of the squares on which toys and signs stand. It is the nano encoder's patch:
a toy that lies across patches in any way takes a small encoder far longer to know."""
SIGN_SIZE = (42, 14)
"""Width and height of a sign in pixels."""
REPEAT_SHARE = 0.4
"""Chance that a further toy repeats a category that is already there, so that counting matters."""
_ATTEMPTS = 40
"""Places tried for a toy before the scene does without it."""

_CATEGORY_NAMES = tuple(CATEGORIES)
_COLOUR_NAMES = tuple(COLOURS)

Pixels = tuple[int, int, int, int]
"""x1, y1, x2, y2 in pixels."""


def draw_truth(stream: Stream, seed: int, index: int, max_toys: int = MAX_TOYS) -> Truth:
    """Return scene number `index` of a stream: the same arguments give the same scene."""
    rng = np.random.default_rng([STREAMS[stream], seed, index])
    while True:
        truth = _draw(rng, f"{index:06d}", max_toys)
        if stream_of(truth) == stream:
            return truth


def stream_of(truth: Truth) -> Stream:
    """Return the stream that a scene belongs to, by what is to be seen in it alone."""
    toys = sorted(truth.toys, key=lambda toy: (toy.box.x1, toy.box.y1))
    seen = msgspec.json.encode((truth.lighting, truth.sign, truth.sign_box, toys))
    return "world" if zlib.crc32(seen) % 4 == 0 else "pretrain"


def _draw(rng: np.random.Generator, name: str, max_toys: int) -> Truth:
    taken: list[Pixels] = []
    sign = sign_box = None
    if rng.random() < SIGN_SHARE:
        sign = pick(SIGN_WORDS, rng)
        place = _free_place(rng, SIGN_SIZE, taken)
        sign_box = _box("sign", place) if place else None
    toys: list[Toy] = []
    for _ in range(int(rng.integers(1, max_toys + 1))):
        toy = _draw_toy(rng, toys, taken)
        if toy is not None:
            toys.append(toy)
    return Truth(
        id=name,
        image=f"{name}.png",
        lighting=pick(LIGHTINGS, rng),
        sign=sign,
        sign_box=sign_box,
        toys=tuple(toys),
    )


def pixels_of(box: Box) -> Pixels:
    """Return a box's corners in pixels of the world's square image."""
    x1, y1, x2, y2 = (round(value * IMAGE_SIDE) for value in (box.x1, box.y1, box.x2, box.y2))
    return x1, y1, x2, y2


def _draw_toy(rng: np.random.Generator, toys: list[Toy], taken: list[Pixels]) -> Toy | None:
    if toys and rng.random() < REPEAT_SHARE:
        category = pick(toys, rng).category
    else:
        category = pick(_CATEGORY_NAMES, rng)
    size = pick(tuple(SIZES), rng)
    side = SIZES[size]
    place = _free_place(rng, (side, side), taken)
    if place is None:
        return None
    return Toy(
        category=category,
        colour=pick(_COLOUR_NAMES, rng),
        texture=pick(TEXTURES, rng),
        size=size,
        box=_box(category, place),
    )


def _free_place(
    rng: np.random.Generator, size: tuple[int, int], taken: list[Pixels]
) -> Pixels | None:
    """Take a place that is free, or give up."""
    width, height = size
    for _ in range(_ATTEMPTS):
        x = SQUARE * int(rng.integers(0, (IMAGE_SIDE - width) // SQUARE + 1))
        y = SQUARE * int(rng.integers(0, (IMAGE_SIDE - height) // SQUARE + 1))
        place = (x, y, x + width, y + height)
        if not any(_overlap(place, other) for other in taken):
            taken.append(place)
            return place
    return None


def _overlap(a: Pixels, b: Pixels) -> int:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(0, width) * max(0, height)


def _box(category: str, place: Pixels) -> Box:
    x1, y1, x2, y2 = (value / IMAGE_SIDE for value in place)
    return Box(category=category, x1=x1, y1=y1, x2=x2, y2=y2)
