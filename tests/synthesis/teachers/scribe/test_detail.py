from __future__ import annotations

import numpy as np

from laterna.records import Box
from laterna.scenes.facts import gather_facts
from laterna.scenes.vocabulary import CATEGORIES, ObjectWords
from laterna.synthesis.teachers.scribe.detail import compose_detail

WORDS = ObjectWords(CATEGORIES)
CUP = Box(category="cup", x1=0.1, y1=0.1, x2=0.2, y2=0.2)
DOGS = (
    Box(category="dog", x1=0.8, y1=0.8, x2=0.9, y2=0.9),
    Box(category="dog", x1=0.1, y1=0.8, x2=0.2, y2=0.9),
)


def details(*captions: str, boxes: tuple[Box, ...] = ()) -> set[str]:
    found = gather_facts(captions, boxes, WORDS, ("cup", "dog"))
    return {compose_detail(found, np.random.default_rng(seed)) for seed in range(60)}


def test_things_are_listed_counted_coloured_and_placed() -> None:
    openings = {
        "The picture shows two dogs and a blue cup.",
        "In the picture one finds two dogs and a blue cup.",
        "One can see two dogs and a blue cup here.",
    }
    places = {
        "The blue cup is at the top left.",
        "At the top left there is the blue cup.",
        "The blue cup stands at the top left.",
    }
    expected = {f"{opening} {place}" for opening in openings for place in places}
    assert details("A blue cup and dogs.", boxes=(*DOGS, CUP)) == expected


def test_how_two_single_things_stand_to_each_other() -> None:
    found = details("A dog and a cup.", boxes=(CUP, DOGS[0]))
    assert {text.rpartition(". ")[2] for text in found} == {
        "The cup is to the left of the dog.",
        "The dog is to the right of the cup.",
    }


def test_no_number_is_told_that_a_vague_word_puts_in_doubt() -> None:
    assert details("Several dogs and a cup.", boxes=(*DOGS, CUP)) == {
        "The picture shows dogs and a cup.",
        "In the picture one finds dogs and a cup.",
        "One can see dogs and a cup here.",
    }


def test_captions_alone_and_nothing_at_all() -> None:
    assert "The picture shows a cup and a dog." in details("A puppy beside a mug.")
    assert details("A sunny day.") == {""}
