"""The things that texts speak of."""

from __future__ import annotations

import pytest

from laterna.analysis.mentions import described, read_text, singular, subjects_of


def test_categories_are_found_by_any_of_their_words_and_others_by_themselves() -> None:
    found = read_text("Two women ride past a big houses' fence.")
    assert [thing.key for thing in found.mentions if thing.known] == ["person"]
    assert {"person", "big", "fence"} <= found.keys
    assert "a" not in found.keys
    assert found.words[:2] == ("two", "women")


@pytest.mark.parametrize(
    ("question", "subjects"),
    [
        ("What colour is the house in the image?", ["house"]),
        ("How many doughnuts are in the box?", ["donut", "box"]),
        ("What is the red object?", []),
        ("How many oranges can you see?", ["orange"]),
        ("Where is the orange cat?", ["cat"]),
    ],
)
def test_a_question_is_about_its_things_and_not_about_what_it_asks(
    question: str, subjects: list[str]
) -> None:
    assert subjects_of(question) == subjects


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("houses", "house"),
        ("boxes", "box"),
        ("berries", "berry"),
        ("glass", "glass"),
        ("bus", "bus"),
        ("cat's", "cat"),
    ],
)
def test_singular(word: str, expected: str) -> None:
    assert singular(word) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A black and white cat.", True),
        ("The cat that is lying here is black.", True),
        ("Two cats are here and one is black while the other is not.", True),
        ("The cat is chasing a black dog.", False),
        ("The cat is chasing a black and white dog.", False),
        ("The cat is black and asleep.", True),
        ("The cat is big and black.", True),
        ("A black dog with a cat.", False),
        ("A black dog. The cat is here.", False),
        ("A black umbrella.", False),
    ],
)
def test_a_describing_word_must_stand_with_its_thing(text: str, expected: bool) -> None:
    assert described(text, {"cat"}, {"black", "white"}) is expected


def test_without_a_thing_any_describing_word_will_do() -> None:
    assert described("A black umbrella.", (), {"black"})
    assert not described("An umbrella.", (), {"black"})
