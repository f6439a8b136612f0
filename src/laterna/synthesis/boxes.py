"""Boxes held against each other: how much they overlap, and which are one object twice."""

from __future__ import annotations

from collections.abc import Iterable

from laterna.records import Box

SAME_BOX = 0.9
"""Boxes that overlap more (IoU) are one object annotated twice, under one label or two."""


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
