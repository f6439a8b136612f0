"""CHAIR: the words of a caption, what they name, and what of it is not in the image."""

from __future__ import annotations

import math
from typing import Any

import pytest

from laterna.errors import LaternaError
from laterna.evaluation.metrics.chair import caption_words, mentions, singular
from laterna.evaluation.metrics.english import sentences, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A dog.", "a dog ."),
        ("A red car. Two buses!", "a red car . two buses !"),
        ("Dr. Smith and a dog.", "dr. smith and a dog ."),
        ("It's a dog's bed; isn't it?", "it 's a dog 's bed ; is n't it ?"),
        ("The dogs' 3.5 beds, 1,000", "the dogs ' 3.5 beds , 1,000"),
        ('"A dog." he said', "`` a dog . '' he said"),
        ("a cat... a (small) dog -- cannot", "a cat ... a ( small ) dog -- can not"),
        ("number 5. a bus", "number 5. a bus"),
        ("a bus .", "a bus ."),
        # marks that share a word: the last alone may end a sentence
        ('a fox.". i', "a fox. '' . i"),
        ("m. j.'", "m . j . '"),
        ("a bus.) a cat.!", "a bus . ) a cat. !"),
    ],
)
def test_words(text: str, expected: str) -> None:
    assert words(text) == expected.split()


def test_sentences_keep_their_closing_quotes_and_marks() -> None:
    assert list(sentences("'a dog.' a st. bernard. ? ok")) == [
        "'a dog.'",
        "a st. bernard. ?",
        "ok",
    ]
    assert list(sentences("")) == []


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("dogs", "dog"),
        ("people", "person"),
        ("women", "woman"),
        ("knives", "knife"),
        ("buses", "bus"),
        ("cookies", "cookies"),
        ("glass", "glas"),  # sic
        ("bus", "bu"),  # sic
        ("ties", "ty"),  # sic
        ("on", "on"),  # as `bison` ends so
        ("mothers-in-law", "mother-in-law"),
        ("dogs'", "dog's"),
        ("sheep", "sheep"),
        ("oxens", "oxs"),  # sic
    ],
)
def test_singular(word: str, expected: str) -> None:
    assert singular(word) == expected


@pytest.mark.parametrize(
    ("caption", "kinds"),
    [
        ("A mother at her desk", ["person", "dining table"]),
        ("A baby elephant by a street light", ["elephant", "traffic light"]),
        ("The seat of the toilet", ["toilet"]),
        ("A hot dog and wine glasses", ["hot dog", "wine glass"]),
        ("A glass of wine", []),
        ("Two dogs, a dog", ["dog", "dog"]),
    ],
)
def test_what_is_named(caption: str, kinds: list[str]) -> None:
    assert [mention.kind for mention in mentions(caption)] == kinds


def test_a_bow_tie_is_one_word() -> None:
    assert caption_words("Bow ties.") == ["bow", "ty", "."]
    assert caption_words("A bow tie.") == ["a", "tie", "."]
    # no mention, but a word
    assert caption_words("The seat of the toilet") == ["the", "seat", "of", "the", "toilet"]


def test_chair_by_mentions_and_by_captions(question: Any, values: Any) -> None:
    rows = [
        (question("A man sits.", objects="dog, bench"), "A man, a dog and a cat. A car."),
        (question("A bus.", objects=""), "A red bus."),
    ]
    assert values("chair", rows) == {
        "faithful": 0.5,
        "chair_s": 0.5,
        "chair_i": 0.5,  # cat and car, of four mentions (`bus` is `bu`, so nothing)
        "mentions": 4,
    }


def test_where_nothing_is_named_the_share_is_undefined(question: Any, values: Any) -> None:
    found = values("chair", [(question(objects="dog"), "A red thing.")])
    assert math.isnan(found["chair_i"])
    assert found["chair_s"] == 0.0


def test_an_object_outside_coco_is_named(question: Any, values: Any) -> None:
    with pytest.raises(LaternaError, match="question 17: 'unicorn' in its field 'objects'"):
        values("chair", [(question(objects="dog,unicorn"), "A dog.")])
