from __future__ import annotations

import pytest

from laterna.records import Box
from laterna.scenes.geometry import (
    PLACES,
    RELATIONS,
    intersection_over_union,
    near_border,
    place_of,
    relation_holds,
    third,
)


def box(x1: float, y1: float, x2: float, y2: float) -> Box:
    return Box(category="dog", x1=x1, y1=y1, x2=x2, y2=y2)


def at(x: float, y: float) -> Box:
    return box(x - 0.05, y - 0.05, x + 0.05, y + 0.05)


def test_places_are_thirds_of_the_image() -> None:
    assert [third(value) for value in (0.0, 0.33, 0.34, 0.66, 0.67, 1.0)] == [0, 0, 1, 1, 2, 2]
    assert len(set(PLACES.values())) == 9
    assert place_of(0.1, 0.1) == "top left"
    assert place_of(0.5, 0.1) == "top"
    assert place_of(0.5, 0.5) == "centre"
    assert place_of(0.9, 0.5) == "right"
    assert place_of(0.1, 1.0) == "bottom left"


def test_near_a_border_between_thirds() -> None:
    assert near_border(0.34, 0.5, margin=0.04)
    assert near_border(0.5, 0.63, margin=0.04)
    assert not near_border(0.5, 0.1, margin=0.04)
    assert not near_border(0.0, 1.0, margin=0.04), "the image's edge is no border of thirds"


def test_overlap_of_boxes() -> None:
    whole, half = box(0, 0, 1, 1), box(0, 0, 0.5, 1)
    assert intersection_over_union(whole, half) == 0.5
    assert intersection_over_union(whole, whole) == 1.0
    assert intersection_over_union(box(0.1, 0.1, 0.2, 0.2), box(0.7, 0.7, 0.9, 0.9)) == 0.0
    assert intersection_over_union(box(0, 0, 0, 0), box(0, 0, 0, 0)) == 0.0


@pytest.mark.parametrize(
    ("relation", "holds"),
    [("to the left of", True), ("to the right of", False), ("above", None), ("below", None)],
)
def test_relations_hold_where_the_offset_is_clear(relation: str, holds: bool | None) -> None:
    assert relation_holds(relation, at(0.2, 0.5), at(0.8, 0.55)) is holds


def test_relations_down_the_image() -> None:
    assert relation_holds("above", at(0.5, 0.1), at(0.5, 0.9)) is True
    assert relation_holds("below", at(0.5, 0.1), at(0.5, 0.9)) is False


def test_relations_are_directions() -> None:
    assert RELATIONS == {
        "to the left of": (-1, 0),
        "to the right of": (1, 0),
        "above": (0, -1),
        "below": (0, 1),
    }
