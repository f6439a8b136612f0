"""A made-up street scene that the checks' tests speak about."""

from __future__ import annotations

import pytest

from laterna.records import Box, Scene


def box(category: str, x1: float, y1: float, x2: float, y2: float) -> Box:
    return Box(category=category, x1=x1, y1=y1, x2=x2, y2=y2)


@pytest.fixture
def street() -> Scene:
    """A dog on the left, a bench on the right, a clock above it, two cars, one cup/bottle."""
    return Scene(
        id="1",
        picture="1.jpg",
        width=None,
        height=None,
        captions=("A woman walks her puppy.", "A dog near a bench under a clock."),
        boxes=(
            box("dog", 0.05, 0.6, 0.25, 0.9),
            box("bench", 0.7, 0.6, 0.95, 0.9),
            box("clock", 0.75, 0.05, 0.9, 0.2),
            box("car", 0.3, 0.4, 0.4, 0.5),
            box("car", 0.6, 0.4, 0.68, 0.5),
            box("car", 0.6, 0.4, 0.68, 0.501),
            box("person", 0.25, 0.3, 0.4, 0.9),
            box("bottle", 0.5, 0.5, 0.55, 0.6),
            box("cup", 0.5, 0.5, 0.55, 0.601),
        ),
    )


@pytest.fixture
def crowd() -> Scene:
    """Two of several people are boxed."""
    return Scene(
        id="2",
        picture="2.jpg",
        width=None,
        height=None,
        captions=("Several people stand around a table of food.",),
        boxes=(box("person", 0.1, 0.2, 0.3, 0.9), box("person", 0.6, 0.2, 0.8, 0.9)),
    )
