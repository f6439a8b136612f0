from __future__ import annotations

import pytest

from laterna.records import Box
from laterna.scenes.facts import Facts, Thing, gather_facts, place_if_certain, places_near
from laterna.scenes.geometry import merge_boxes
from laterna.scenes.vocabulary import CATEGORIES, ObjectWords

WORDS = ObjectWords(CATEGORIES)


def box(category: str, x1: float, y1: float, x2: float, y2: float) -> Box:
    return Box(category=category, x1=x1, y1=y1, x2=x2, y2=y2)


DOG = box("dog", 0.1, 0.1, 0.2, 0.2)
OTHER_DOG = box("dog", 0.7, 0.7, 0.9, 0.9)
CUP = box("cup", 0.45, 0.45, 0.55, 0.55)


def facts(*captions: str, boxes: tuple[Box, ...] = ()) -> Facts:
    return gather_facts(captions, boxes, WORDS, ("cat", "cup", "dog", "orange"))


def test_near_duplicates_are_one_thing_whatever_their_labels() -> None:
    bottle = box("bottle", 0.1, 0.1, 0.3, 0.5)
    again = box("cup", 0.1, 0.1, 0.3, 0.495)  # IoU 0.9875
    apart = box("bottle", 0.1, 0.1, 0.3, 0.45)  # IoU 0.875
    assert merge_boxes([bottle, again, apart]) == [bottle, apart]
    found = facts("A table.", boxes=(bottle, again, apart))
    assert found.counts == {"bottle": 2}
    assert found.present == ("bottle",)
    assert found.absent == ("cat", "dog", "orange"), "the merged cup is not said to be absent"


def test_boxes_are_counted() -> None:
    found = facts("Dogs and a cup.", boxes=(DOG, CUP, OTHER_DOG))
    assert found.counts == {"dog": 2, "cup": 1}
    assert found.single() == {"cup": Thing("cup", 0.5, 0.5, CUP)}
    assert found.present == ("dog", "cup")


@pytest.mark.parametrize("word", ["several", "many", "group", "some", "row", "couple", "pair"])
def test_vague_words_silence_all_counts(word: str) -> None:
    found = facts("A cup.", f"A {word} of dogs.", boxes=(DOG, CUP))
    assert found.counts == {}
    assert found.single() == {}


def test_a_pair_of_scissors_is_one_thing_and_not_vague() -> None:
    scissors = box("scissors", 0.7, 0.1, 0.8, 0.2)
    found = facts("A cup and a blue pair of scissors.", boxes=(CUP, scissors))
    assert found.counts == {"cup": 1, "scissors": 1}
    assert found.colour_of("scissors") == "blue"
    assert facts("A pair of scissors and a pair of dogs.", boxes=(CUP, scissors)).counts == {}


@pytest.mark.parametrize(
    ("caption", "counts"),
    [
        ("Two dogs.", {"dog": 2, "cup": 1}),
        ("Two big black dogs.", {"dog": 2, "cup": 1}),
        ("Three dogs and a cup.", {"cup": 1}),
        ("Three small red puppies.", {"cup": 1}),
        ("One dog.", {"cup": 1}),
        ("A dog.", {"dog": 2, "cup": 1}),
        ("Cups beside dogs.", {"dog": 2}),
        ("Two dogs. Four cats.", {"dog": 2, "cup": 1}),
    ],
)
def test_a_told_number_disputes_the_count(caption: str, counts: dict[str, int]) -> None:
    assert facts(caption, boxes=(DOG, OTHER_DOG, CUP)).counts == counts


def test_more_than_ten_are_not_counted() -> None:
    row = tuple(box("dog", n / 20, 0, (n + 1) / 20, 0.1) for n in range(11))
    assert facts("Dogs.", boxes=row[:10]).counts == {"dog": 10}
    assert facts("Dogs.", boxes=row).counts == {}


@pytest.mark.parametrize(
    ("caption", "colours"),
    [
        ("A red dog.", {"red"}),
        ("A RED dog and a dog.", {"red"}),
        ("A black and white dog.", {"black", "white"}),
        ("A black, white dog.", {"white"}),
        ("A red big dog.", set()),
        ("The dog is red.", set()),
        ("A red ball for a dog.", set()),
        ("A man in red and dogs.", set()),
        ("An orange and white dog.", {"orange", "white"}),
        ("A dog on a blue cup.", set()),
    ],
)
def test_colours_stand_directly_before_their_noun(caption: str, colours: set[str]) -> None:
    assert set(facts(caption, boxes=(DOG,)).colours.get("dog", ())) == colours


def test_the_colour_of_the_only_one() -> None:
    assert facts("A red dog.", "A red puppy.", boxes=(DOG,)).colour_of("dog") == "red"
    assert facts("A red dog.", "A brown dog.", boxes=(DOG,)).colour_of("dog") is None
    assert facts("A red dog.", boxes=(DOG, OTHER_DOG)).colour_of("dog") is None
    assert facts("A red dog.").colour_of("dog") is None


def test_present_and_absent() -> None:
    assert facts("A dog.", boxes=(CUP,)).present == ("cup",)
    assert facts("A dog.", boxes=(CUP,)).absent == ("cat", "orange")
    assert facts("A mug and a puppy.").present == ("cup", "dog")
    assert facts("A kitten.", boxes=(DOG,)).absent == ("cup", "orange")


def test_without_boxes_nothing_is_absent() -> None:
    """Captions leave out most of what is there."""
    assert facts("A kitten.").absent == ()
    assert facts("A sunny day.").absent == ()


def test_an_orange_is_not_absent_where_the_word_is_doubtful() -> None:
    found = facts("Fresh orange slices.", boxes=(DOG,))
    assert found.absent == ("cat", "cup")
    assert found.mentioned == frozenset()


@pytest.mark.parametrize(
    ("corners", "place"),
    [
        ((0.1, 0.1, 0.2, 0.2), "top left"),
        ((0.4, 0.4, 0.6, 0.6), "centre"),
        ((0.8, 0.45, 0.9, 0.55), "right"),
        ((0.3, 0.1, 0.4, 0.2), None),  # x 0.35 is 0.017 from a border
        ((0.1, 0.6, 0.2, 0.7), None),  # y 0.65 likewise
        ((0.2, 0.4, 0.8, 0.6), None),  # wider than half the image
        ((0.4, 0.2, 0.6, 0.8), None),  # taller
    ],
)
def test_places_near_a_border_or_wide_are_silent(
    corners: tuple[float, float, float, float], place: str | None
) -> None:
    found = facts("A dog.", boxes=(box("dog", *corners),))
    assert place_if_certain(found.things[0]) == place


@pytest.mark.parametrize(
    ("centre", "places"),
    [
        ((0.5, 0.5), {"centre"}),
        ((0.3, 0.1), {"top left", "top"}),  # 0.26 and 0.34
        ((0.36, 0.1), {"top left", "top"}),  # 0.32 and 0.40
        ((0.38, 0.1), {"top"}),  # 0.34 and 0.42
        ((0.1, 0.64), {"left", "bottom left"}),  # 0.60 and 0.68
        ((0.65, 0.35), {"top", "top right", "centre", "right"}),
        ((0.01, 0.99), {"bottom left"}),  # beyond the border there is nothing
    ],
)
def test_places_that_a_thing_could_be_said_to_be_in(
    centre: tuple[float, float], places: set[str]
) -> None:
    x, y = centre
    thing = Thing("dog", x, y, box("dog", x - 0.01, y - 0.01, x + 0.01, y + 0.01))
    assert places_near(thing) == places
