"""Where boxes are: in an image's thirds, to each other, and which are one object twice."""

from __future__ import annotations

from collections.abc import Iterable

from laterna.records import Box

SAME_BOX = 0.9
"""Boxes that overlap more (IoU) are one object annotated twice, under one label or two."""


PLACES = {
    (0, 0): "top left",
    (1, 0): "top",
    (2, 0): "top right",
    (0, 1): "left",
    (1, 1): "centre",
    (2, 1): "right",
    (0, 2): "bottom left",
    (1, 2): "bottom",
    (2, 2): "bottom right",
}
"""(column, row) of an image cut into thirds, to the name of that part."""

RELATIONS = {
    "to the left of": (-1, 0),
    "to the right of": (1, 0),
    "above": (0, -1),
    "below": (0, 1),
}
"""Relation to the direction (x, y) in which the first thing lies, seen from the second."""

CLEAR_OFFSET = 0.1
"""Centres must differ by more than this for one thing to be left of, or above, another."""


def merge_boxes(boxes: Iterable[Box]) -> list[Box]:
    """Return the boxes without those that overlap an earlier one by more than `SAME_BOX`."""
    kept: list[Box] = []
    for box in boxes:
        if all(intersection_over_union(box, other) <= SAME_BOX for other in kept):
            kept.append(box)
    return kept


def intersection_over_union(a: Box, b: Box) -> float:
    """Return the boxes' shared area as a share of the area that either covers, 0..1."""
    width = min(a.x2, b.x2) - max(a.x1, b.x1)
    height = min(a.y2, b.y2) - max(a.y1, b.y1)
    shared = max(0.0, width) * max(0.0, height)
    union = (a.x2 - a.x1) * (a.y2 - a.y1) + (b.x2 - b.x1) * (b.y2 - b.y1) - shared
    return shared / union if union > 0 else 0.0


def third(value: float) -> int:
    """Return 0, 1 or 2: the third of 0..1 that `value` lies in."""
    return min(2, max(0, int(value * 3)))


def place_of(x: float, y: float) -> str:
    """Return the name of the part of the image that holds the point (0..1)."""
    return PLACES[third(x), third(y)]


def near_border(x: float, y: float, margin: float) -> bool:
    """Tell whether the point is within `margin` of a border between thirds: hard to call."""
    return any(abs(value - border) < margin for value in (x, y) for border in (1 / 3, 2 / 3))


def relation_holds(relation: str, box: Box, other: Box) -> bool | None:
    """Tell whether a box stands in a relation to another; None where it is hard to call."""
    (x, y), (other_x, other_y) = box.centre, other.centre
    across, down = RELATIONS[relation]
    offset = (x - other_x) * across + (y - other_y) * down
    return offset > 0 if abs(offset) > CLEAR_OFFSET else None


def lie_apart(box: Box, other: Box) -> bool:
    """Tell whether two boxes share no area.

    What lies on a chair, or is held, is not said to be above the chair, or beside who holds it.
    """
    return intersection_over_union(box, other) == 0
