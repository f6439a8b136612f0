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
        image="1.jpg",
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
        image="2.jpg",
        width=None,
        height=None,
        captions=("Several people stand around a table of food.",),
        boxes=(box("person", 0.1, 0.2, 0.3, 0.9), box("person", 0.6, 0.2, 0.8, 0.9)),
    )


@pytest.fixture
def kitchen() -> Scene:
    """A refrigerator on the left, an oven on the right, a table with four chairs between."""
    return Scene(
        id="3",
        image="3.jpg",
        width=None,
        height=None,
        captions=(
            "A kitchen with a white refrigerator and a black oven.",
            "A brown cat sits by a table with four chairs.",
            "A table with a vase full of flowers.",
            "Several pots hang over the stove.",
        ),
        boxes=(
            box("refrigerator", 0.0, 0.1, 0.2, 0.9),
            box("oven", 0.75, 0.45, 1.0, 0.95),
            box("microwave", 0.78, 0.15, 0.98, 0.3),
            box("dining table", 0.33, 0.6, 0.67, 0.95),
            box("chair", 0.28, 0.55, 0.38, 0.9),
            box("chair", 0.4, 0.8, 0.48, 1.0),
            box("chair", 0.52, 0.8, 0.6, 1.0),
            box("chair", 0.62, 0.55, 0.72, 0.9),
            box("vase", 0.47, 0.42, 0.53, 0.62),
            box("clock", 0.45, 0.02, 0.55, 0.12),
            box("cat", 0.22, 0.85, 0.3, 0.97),
        ),
    )


@pytest.fixture
def beach() -> Scene:
    """A surfboard on the left, a kite at the top right, an umbrella and two dogs below it."""
    return Scene(
        id="4",
        image="4.jpg",
        width=None,
        height=None,
        captions=(
            "A man walks along a beach with a surfboard.",
            "Several people are near the water.",
            "A red kite flies over two dogs and a blue umbrella.",
        ),
        boxes=(
            box("person", 0.12, 0.4, 0.22, 0.8),
            box("person", 0.5, 0.45, 0.56, 0.7),
            box("person", 0.9, 0.4, 0.97, 0.75),
            box("surfboard", 0.1, 0.5, 0.3, 0.6),
            box("kite", 0.7, 0.1, 0.85, 0.2),
            box("umbrella", 0.6, 0.5, 0.8, 0.7),
            box("boat", 0.42, 0.34, 0.5, 0.4),
            box("dog", 0.8, 0.8, 0.88, 0.95),
            box("dog", 0.9, 0.82, 0.98, 0.97),
        ),
    )


@pytest.fixture
def scenes(street: Scene, kitchen: Scene, beach: Scene) -> dict[str, Scene]:
    """The scenes that the lists of sentences beside this file speak of."""
    return {"street": street, "kitchen": kitchen, "beach": beach}
