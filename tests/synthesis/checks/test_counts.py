"""Numbers: how they are read, and when a caption's vague word leaves them open."""

from __future__ import annotations

import pytest

from laterna.records import Box, Reply, Scene
from laterna.scenes.vocabulary import ObjectWords, words_of
from laterna.synthesis.checks import check
from laterna.synthesis.checks.sentences import count_of

WORDS = ObjectWords(("dog", "sheep", "bus", "person", "bed", "scissors", "clock"))


def count(text: str) -> int | None:
    found = count_of(tuple(words_of(text)), WORDS.mentions(text)[0])
    return found.value if found else None


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("three dogs", 3),
        ("three small, brown dogs", 3),
        ("two black and white dogs", 2),
        ("twenty-one dogs", 21),
        ("thirty dogs", 30),
        ("14 dogs", 14),
        ("a pair of dogs", 2),
        ("two pairs", None),
        ("a trio of young dogs", 3),
        ("a dozen dogs", 12),
        ("two dozen dogs", 24),
        ("half a dozen dogs", 6),
        ("a dozen of dogs", 12),
        ("a single dog", 1),
        ("a lone dog", 1),
        ("a single bed", None),
        ("another dog", 2),
        ("both dogs", 2),
        ("two persons", 2),
        ("three people", 3),
        ("four sheep", 4),
        ("dog number three", None),
        ("number three dogs", None),
        ("the number 22 bus", None),
        ("the 22 bus", None),
        ("a two bus", None),
        ("at 10:30 dogs", None),
        ("one of the dogs", None),
        ("the other one, a dog", None),
        ("a pair of scissors", None),
        ("two and a dog", None),
        ("dogs", None),
    ],
)
def test_numbers_are_read(text: str, number: int | None) -> None:
    if "pairs" in text:
        assert WORDS.mentions(text) == []
    else:
        assert count(text) == number


def _box(name: str, at: int, row: int) -> Box:
    x, y = 0.1 * at, 0.1 * row
    return Box(category=name.replace("_", " "), x1=x, y1=y, x2=x + 0.05, y2=y + 0.08)


def scene(caption: str, **boxes: int) -> Scene:
    """A scene with so many boxes of each kind, side by side."""
    made = [_box(name, at, row) for row, name in enumerate(boxes) for at in range(boxes[name])]
    return Scene(
        id="1", image="1.jpg", width=None, height=None, captions=(caption,), boxes=tuple(made)
    )


def reasons(caption: str, sentence: str, **boxes: int) -> list[str]:
    reply = Reply(text=sentence, finish_reason="stop")
    return [found.reason for found in check(scene(caption, **boxes), reply, "detail").findings]


@pytest.mark.parametrize(
    "caption",
    [
        "Several people stand near two dogs.",
        "A group of people with two dogs.",
        "Two dogs next to a row of cars.",
        "A table full of food, and two dogs under it.",
        "A crowd watches two dogs.",
        "Many boats and a beach with two dogs.",
        "Two dogs and some other animals, such as a few sheep.",
        "A variety of fruits lies in front of two dogs.",
        "Two dogs walk on a street lined with cars.",
        "A busy street with two dogs.",
        "A bunch of bananas next to two dogs.",
        "A pair of scissors and two dogs.",
        "A large number of birds above two dogs.",
        "Two dogs lie on a bed covered with several pillows.",
        "All people look at two dogs.",
        "A few kites, and two dogs below.",
        "Lots of umbrellas; two dogs.",
        "Two dogs in front of cars that are parked in a row.",
        "Two dogs next to a bunch of trees.",
        "A bed topped with a blanket, two dogs and a book.",
    ],
)
def test_a_vague_word_of_other_things_leaves_the_count(caption: str) -> None:
    others = {"person": 3, "car": 3, "boat": 2}
    assert reasons(caption, "There are four dogs in the picture.", dog=2, **others) == [
        "wrong count"
    ]
    assert reasons(caption, "There are two dogs in the picture.", dog=2, **others) == []


@pytest.mark.parametrize(
    "caption",
    [
        "Several dogs run.",
        "A group of dogs.",
        "A number of large dogs.",
        "A field full of cats, dogs and birds.",
        "Some brown dogs stand near a man.",
        "Dogs sit in a row.",
        "A man with dogs and others.",
        "A man is surrounded by dogs.",
        "A yard filled with dogs.",
        "Many animals play.",
        "A pack of dogs: lots of dogs.",
        "Several cats and dogs play.",
        "A variety of dogs.",
    ],
)
def test_a_vague_word_of_the_things_themselves_leaves_them_open(caption: str) -> None:
    assert reasons(caption, "There are four dogs in the picture.", dog=2) == []


def test_a_traffic_light_is_no_traffic() -> None:
    told = "There are four cars in the picture."
    assert reasons("A traffic light and a traffic sign.", told, car=2) == ["wrong count"]
    assert reasons("There is much traffic.", told, car=2) == []


def test_a_word_for_two_categories_counts_both() -> None:
    assert reasons("A table.", "There are three cups.", cup=2, wine_glass=1) == []
    assert reasons("A table.", "There are four cups.", cup=2, wine_glass=1) == ["wrong count"]


def test_only_what_was_decided_counts_as_checked() -> None:
    def counted(sentence: str) -> tuple[int, int]:
        found = check(
            scene("Two dogs.", dog=2), Reply(text=sentence, finish_reason="stop"), "detail"
        )
        return found.checked, found.unchecked

    assert counted("There are two dogs.") == (1, 0)
    assert counted("The dogs are visible in the picture.") == (1, 0)
    assert counted("The dogs chase each other.") == (0, 1), "only the noun was held"
    assert counted("It is a fine day.") == (0, 1)
