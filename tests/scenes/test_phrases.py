from __future__ import annotations

import pytest

from laterna.scenes.phrases import NUMBERS, at_place, with_article
from laterna.scenes.vocabulary import plural


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


def test_places_in_a_sentence() -> None:
    assert [at_place(place) for place in ("centre", "left", "right", "top", "bottom right")] == [
        "in the centre",
        "on the left",
        "on the right",
        "at the top",
        "at the bottom right",
    ]


def test_numbers() -> None:
    assert NUMBERS[3] == "three"
