"""Which way up: an image file may say by EXIF that it is to be turned before it is shown.

Everything that opens images here turns them (training, enrichment, evaluation). Boxes are
measured on the turned image by some tools and on the stored one by others, and a file of
annotations does not say by which. Its width and height mostly do: this module reads them so, and
turns the boxes of a stored image along with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import msgspec

from laterna.records import Box

View = Literal["auto", "stored", "turned"]
"""The image that boxes were measured on; `auto`: seen from the annotated size, where it can be.

It cannot for square images, for those turned by 180° or mirrored, and where no size is given:
then each reader says what its format's own tools do (`Reader.view`).
"""

ASPECT_SLACK = 0.02
"""How far width / height may differ from what the annotation says, as a share of it."""
ON_ITS_SIDE = frozenset({5, 6, 7, 8})
"""EXIF orientations that swap width and height."""


class Shape(NamedTuple):
    """Width and height of an image as it is stored, and its EXIF orientation (1: upright)."""

    width: int
    height: int
    orientation: int

    @property
    def turned(self) -> tuple[int, int]:
        """Width and height as a person sees it."""
        if self.orientation in ON_ITS_SIDE:
            return self.height, self.width
        return self.width, self.height


def view_of(shape: Shape, size: tuple[int, int] | None, asked: View, default: View) -> View | None:
    """Return on which view boxes were measured, by the annotated `size` of the image.

    `asked` other than `auto` goes before the size, `default` stands in for what it cannot tell.
    None: the image has another shape than its annotation says, either way round.
    """
    if asked != "auto" and (size is None or shape.orientation != 1):
        return asked
    if size is None:
        return default
    stored, turned = (shape.width, shape.height), shape.turned
    fits = [alike(size, one) for one in (stored, turned)]
    if stored != turned and size in (stored, turned):
        fits = [size == stored, size == turned]
    if not any(fits):
        return None
    return default if all(fits) else ("stored" if fits[0] else "turned")


def alike(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Tell whether two sizes have the same proportions."""
    ratio = (size[0] * other[1]) / (size[1] * other[0])
    return abs(ratio - 1) <= ASPECT_SLACK


TURNS: dict[int, Callable[[float, float], tuple[float, float]]] = {
    1: lambda x, y: (x, y),
    2: lambda x, y: (1 - x, y),
    3: lambda x, y: (1 - x, 1 - y),
    4: lambda x, y: (x, 1 - y),
    5: lambda x, y: (y, x),
    6: lambda x, y: (1 - y, x),
    7: lambda x, y: (1 - y, 1 - x),
    8: lambda x, y: (y, 1 - x),
}
"""EXIF orientation to where a point (x, y) of the stored image is seen, all in 0..1."""


def turn_box(box: Box, orientation: int) -> Box:
    """Return a box of the stored image as it lies on the image that is shown."""
    turn = TURNS[orientation]
    (ax, ay), (bx, by) = turn(box.x1, box.y1), turn(box.x2, box.y2)
    return msgspec.structs.replace(
        box, x1=min(ax, bx), y1=min(ay, by), x2=max(ax, bx), y2=max(ay, by)
    )
