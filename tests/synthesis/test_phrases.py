from __future__ import annotations

import pytest

from laterna.synthesis.phrases import (
    NUMBERS,
    PLACES,
    RELATIONS,
    at_place,
    near_border,
    place_of,
    plural,
    third,
    with_article,
)


@pytest.mark.parametrize(
    ("noun", "several"),
    [
        ("dog", "dogs"),
        ("bus", "buses"),
        ("bench", "benches"),
        ("toothbrush", "toothbrushes"),
        ("person", "people"),
        ("knife", "knives"),
        ("teddy bear", "teddy bears"),
        ("computer mouse", "computer mice"),
        ("scissors", "scissors"),
        ("puppy", "puppies"),
        ("toy", "toys"),
    ],
)
def test_plural(noun: str, several: str) -> None:
    assert plural(noun) == several


def test_articles() -> None:
    nouns = ["dog", "apple", "umbrella", "scissors", "orange cup"]
    assert [with_article(noun) for noun in nouns] == [
        "a dog",
        "an apple",
        "an umbrella",
        "a pair of scissors",
        "an orange cup",
    ]


def test_places_are_thirds_of_the_picture() -> None:
    assert [third(value) for value in (0.0, 0.33, 0.34, 0.66, 0.67, 1.0)] == [0, 0, 1, 1, 2, 2]
    assert len(set(PLACES.values())) == 9
    assert place_of(0.1, 0.1) == "top left"
    assert place_of(0.5, 0.1) == "top"
    assert place_of(0.5, 0.5) == "centre"
    assert place_of(0.9, 0.5) == "right"
    assert place_of(0.1, 1.0) == "bottom left"


def test_places_in_a_sentence() -> None:
    assert [at_place(place) for place in ("centre", "left", "right", "top", "bottom right")] == [
        "in the centre",
        "on the left",
        "on the right",
        "at the top",
        "at the bottom right",
    ]


def test_near_a_border_between_thirds() -> None:
    assert near_border(0.34, 0.5, margin=0.04)
    assert near_border(0.5, 0.63, margin=0.04)
    assert not near_border(0.5, 0.1, margin=0.04)
    assert not near_border(0.0, 1.0, margin=0.04), "the picture's edge is no border of thirds"


def test_numbers_and_relations() -> None:
    assert NUMBERS[3] == "three"
    assert RELATIONS == {
        "to the left of": (-1, 0),
        "to the right of": (1, 0),
        "above": (0, -1),
        "below": (0, 1),
    }
