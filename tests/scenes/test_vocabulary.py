from __future__ import annotations

import pytest

from laterna.scenes.vocabulary import (
    CATEGORIES,
    SUPERCATEGORY_OF,
    SYNONYMS,
    Mention,
    ObjectWords,
    words_of,
)

WORDS = ObjectWords(CATEGORIES)


def test_cocos_categories() -> None:
    assert len(CATEGORIES) == 80 == len(set(CATEGORIES))
    assert set(SUPERCATEGORY_OF) == set(CATEGORIES) == set(SYNONYMS)
    assert SUPERCATEGORY_OF["teddy bear"] == "indoor"
    assert SUPERCATEGORY_OF["hot dog"] == "food"


def test_words_of_a_text() -> None:
    assert words_of("A dog's 2 bowls, red!") == ["a", "dog's", "2", "bowls", ",", "red", "!"]


def test_mentions_say_where_they_stand_and_whether_plural() -> None:
    assert WORDS.mentions("Two dogs chase a tennis racket.") == [
        Mention("dog", 1, 2, True),
        Mention("tennis racket", 4, 6, False),
    ]


@pytest.mark.parametrize(
    ("text", "categories"),
    [
        ("a man and two women", {"person"}),
        ("children on bikes", {"person", "bicycle"}),
        ("a hot dog", {"hot dog"}),
        ("a teddy bear", {"teddy bear"}),
        ("knives, mice and benches", {"knife", "mouse", "bench"}),
        ("a skier on skis", {"person", "skis"}),
        ("a pair of scissors", {"scissors"}),
        ("a fire truck at a stop sign", {"truck", "stop sign"}),
        ("a training ground, a carpet", set()),
        ("", set()),
    ],
)
def test_synonyms_plurals_and_longest_phrases(text: str, categories: set[str]) -> None:
    assert WORDS.categories(text) == categories


@pytest.mark.parametrize(
    ("text", "fruit"),
    [
        ("an orange on a plate", True),
        ("a banana and an orange.", True),
        ("two oranges", True),
        ("an orange cat", False),
        ("an orange and white cat", False),
        ("an orange and a cat", True),
        ("the cup is orange", False),
        ("orange", False),
    ],
)
def test_orange_is_a_fruit_or_a_colour(text: str, fruit: bool) -> None:
    assert ("orange" in WORDS.categories(text)) is fruit


def test_categories_beyond_coco_are_known_by_name() -> None:
    words = ObjectWords(["lamp post", "dog"])
    assert words.categories("Lamp posts, a puppy and a cat") == {"lamp post", "dog"}
