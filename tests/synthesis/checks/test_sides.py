"""Left and right in longer sentences: what is found, and what must be left unread."""

from __future__ import annotations

import pytest

from laterna.records import Box, Reply, Scene
from laterna.synthesis.checks import check


def box(category: str, x: float) -> Box:
    return Box(category=category, x1=x - 0.07, y1=0.4, x2=x + 0.07, y2=0.6)


@pytest.fixture
def row() -> Scene:
    """From left to right a cat, a cup, a person and a dog."""
    return Scene(
        id="1",
        picture="1.jpg",
        width=640,
        height=480,
        captions=("A cat, a cup, a person and a dog.",),
        boxes=(box("cat", 0.15), box("cup", 0.3), box("person", 0.5), box("dog", 0.85)),
    )


def positions(scene: Scene, sentence: str) -> list[str]:
    verdict = check(scene, Reply(text=sentence, finish_reason="stop"), "detail")
    return [one.reason for one in verdict.findings if one.reason == "wrong position"]


@pytest.mark.parametrize(
    "template",
    [
        # the viewer who looks
        "Looking {left}, one sees a cat.",
        "Looking at the scene, you would find the cat just to the {left} of the dog.",
        "You can spot the cat by looking to the {left} of the dog.",
        "If you look at the {left} half of the picture, you'll notice a cat.",
        "Moving from {left} to {right}, we first see the cat and then the dog.",
        "Looking at the dog, we find a cat on its {left}.",
        # where the subject follows
        "Far off on the {left} we see the cat.",
        "Toward the {left} edge of the image, there is a cat.",
        "It is on the {left}-hand edge of the frame that the cat is seen.",
        "The gaze is drawn to the {left} of the image, where a cat is located.",
        "Over on the {left} of the dog, only partially in view, is the cat.",
        "In the middle ground to the dog's {left}, there is a cat.",
        "At the very back of the yard on the {left}, a cat is waiting.",
        "On the far {left}, the back of a cat is visible.",
        "With the cat on its {left}, the dog looks well placed.",
        # of two
        "The cat is next to the dog, and of the two, the cat is the one on the {left}.",
        "Both a cat and a dog are there, with the cat being the {left}most of the pair.",
        "The cat and the dog are side by side, with the cat on the {left}.",
        "Compared with the dog, the cat is further {left}.",
        # others
        "Flanking the dog on the {left} is a cat.",
        "The cat is not far from the dog, only slightly to the {left} of it.",
        "The cat sits behind the dog, slightly to its {left}.",
        "The dog is in front of the cat, which is positioned to the {left} of it.",
        "The cat stands in the {left} foreground.",
        "The cat on the {left} has a black stripe.",
        "The thing on the {left} is a cat.",
        "As for the cat, it is to the {left} of the dog.",
        "A small cat, also pictured, is on the {left} side of the frame.",
        "The cat can be found further to the {left} of the dog.",
        "The cat is positioned close to the dog, slightly to the {left}.",
        "The item that can be seen on the {left} of the dog is the cat.",
        "The cat and the dog stand in a row, with the cat on the {left}.",
        "The picture begins with a cat occupying the {left} foreground.",
        "On the {left} of the image, next to a wall, there is a cat.",
        # nothing else is named
        "The space to the {left} of the dog is taken up by a cat.",
        "The {left} half of the image is filled with a cat.",
        "Prominently placed on the {left} of the image is the cat.",
    ],
)
def test_a_side_is_read(row: Scene, template: str) -> None:
    assert positions(row, template.format(left="left", right="right")) == []
    swapped = template.format(left="right", right="left")
    assert positions(row, swapped) == ["wrong position"]


@pytest.mark.parametrize(
    "sentence",
    [
        # somebody of the picture looks or goes there
        "Looking to the left, the man waits for the dog.",
        "The man looks to the left of the dog.",
        "The dog is walking toward the left edge of the picture.",
        "Moving from right to left, the cat passes the dog.",
        "The dog turns left, where the cat is.",
        "The dog enters the picture from the left.",
        "As the dog moves to the left of the picture, the cat waits.",
        # something else may be meant
        "A lamp stands to the left of the dog.",
        "A shelf on the left of the man is seen next to the dog.",
        "There is a tree on the left, and a dog sleeps under it.",
        "On the left, a path leads to the dog.",
        "The dog is seen, and to the left of the cat stands a lamp.",
        "It is to the left of the cup, next to the dog.",
        "Another one sits to the left of the cup, near the dog.",
        "Both sit to the left of the dog.",
        "The dog's leash trails off to the left.",
        "The dog's gaze is drawn to the left side of the picture.",
        "The left half of the dog is in the light.",
        "The space on the left is well lit, and the dog is clear.",
        "The right edge of the cup is visible.",
        "A window on the left is visible, with the dog in front of it.",
        "The dog has a toy on its left.",
        "The lamp next to the dog standing on the left is tall.",
        # true
        "The man is on the right, whereas the cup is on the left side.",
        "Flanking the dog on the left is a cup.",
        "The dog is far from the cup, to the right of it.",
        "Side by side, the man is on the right and the cup on the left.",
        "The man and the cup are next to each other, with the man on the right.",
        "The dog can be found on the right, whereas the cup takes up the left.",
    ],
)
def test_a_side_is_left_unread_or_holds(row: Scene, sentence: str) -> None:
    assert positions(row, sentence) == []
