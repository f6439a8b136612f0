from __future__ import annotations

import pytest
from PIL import Image

from laterna.records import Truth
from laterna.synthesis.enrichment.colours import NAMES, colour_shares, measure
from laterna.world.toys import COLOURS


@pytest.mark.parametrize("name", COLOURS)
def test_the_worlds_colours_have_their_names(name: str) -> None:
    assert measure(Image.new("RGB", (4, 4), COLOURS[name])) == [f"dominant colours: {name}"]


@pytest.mark.parametrize(
    ("rgb", "name"),
    [
        ((0, 0, 25), "black"),
        ((60, 60, 60), "black"),
        ((128, 128, 128), "grey"),
        ((255, 250, 245), "white"),
        ((101, 67, 33), "brown"),
        ((230, 210, 180), "beige"),
        ((255, 192, 203), "pink"),
        ((255, 20, 147), "pink"),
        ((128, 128, 0), "green"),
        ((135, 206, 235), "blue"),
        ((200, 0, 0), "red"),
    ],
)
def test_names_of_colours(rgb: tuple[int, int, int], name: str) -> None:
    assert measure(Image.new("RGB", (4, 4), rgb)) == [f"dominant colours: {name}"]


def test_largest_first_and_no_more_than_three_of_fifteen_per_cent() -> None:
    image = Image.new("RGB", (100, 1), COLOURS["red"])
    for name, first, last in (("blue", 0, 40), ("green", 40, 61), ("white", 61, 80)):
        image.paste(COLOURS[name], (first, 0, last, 1))
    image.paste(COLOURS["black"], (90, 0, 100, 1))
    assert measure(image) == ["dominant colours: blue, green, white"]
    shares = colour_shares(image)
    assert list(shares) == list(NAMES)
    assert shares["blue"] == 0.4
    assert shares["red"] == shares["black"] == 0.1
    assert sum(shares.values()) == pytest.approx(1.0)


def test_the_largest_is_named_however_small() -> None:
    names = ("red", "orange", "yellow", "green", "blue", "purple", "black", "white")
    image = Image.new("RGB", (80, 1))
    for number, name in enumerate(names):
        image.paste(COLOURS[name], (number * 10, 0, number * 10 + 10, 1))
    assert measure(image) == ["dominant colours: black"]


def test_the_worlds_tables(drawn: list[tuple[Truth, Image.Image]]) -> None:
    """The table covers most of an image; its tops are tan, beige, brown and grey."""
    for _, image in drawn:
        first = measure(image)[0].removeprefix("dominant colours: ").split(", ")[0]
        assert first in ("beige", "brown", "grey")
