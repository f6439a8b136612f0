from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from laterna.records import Box, Toy, Truth
from pretrain_nano import descriptions
from pretrain_nano.descriptions import (
    EMPTY,
    MIDDLE,
    SQUARES,
    Description,
    describe,
    square_name,
)


def toy(category: str, colour: str, x1: float, y1: float, x2: float, y2: float) -> Toy:
    box = Box(category=category, x1=x1, y1=y1, x2=x2, y2=y2)
    return Toy(category=category, colour=colour, texture="rough", size="small", box=box)


TRUTH = Truth(
    id="0",
    image="0.png",
    lighting="dim",
    sign="ZOO",
    sign_box=Box(category="sign", x1=0.5, y1=0.5, x2=0.875, y2=0.625),
    toys=(toy("dog", "red", 0.0, 0.0, 0.25, 0.25), toy("cup", "blue", 0.75, 0.75, 1.0, 1.0)),
)


class _Chosen:
    """A generator whose first numbers choose the form, and that leaves everything in order."""

    def __init__(self, numbers: Sequence[float], form: int = 0) -> None:
        self.numbers = list(numbers)
        self.form = form
        self.rest = np.random.default_rng(0)

    def random(self) -> float:
        return self.numbers.pop(0) if self.numbers else self.rest.random()

    def integers(self, number: int) -> int:
        return self.form

    def permutation(self, number: int) -> np.ndarray:
        return np.arange(number)


def described(*numbers: float, form: int = 0) -> Description:
    return describe(TRUTH, _Chosen(numbers, form))  # type: ignore[arg-type]


@pytest.fixture
def sure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptions, "_UNSURE", 0.0)


def test_squares_are_named_as_on_a_chessboard() -> None:
    assert square_name(0.0, 0.0) == "a 1"
    assert square_name(0.99, 0.0) == "h 1"
    assert square_name(0.3, 0.9) == "c 8"


@pytest.mark.usefixtures("sure")
def test_a_map_has_a_token_a_square_in_reading_order() -> None:
    found = described(0.1, 0.9)
    assert (found.is_map, found.complete, found.shown) == (True, False, TRUTH)
    assert len(found.words) == SQUARES * SQUARES
    assert found.words[:3] == (" dog red small a 1", " dog red small b 1", f" {EMPTY} c 1")
    assert found.words[8:10] == (" dog red small a 2", f" dog red small {MIDDLE} b 2")
    assert found.words[16] == f" {EMPTY} a 3"
    assert found.words[-1] == f" cup blue small {MIDDLE} h 8"
    assert sum("cup" in words for words in found.words) == 4


@pytest.mark.usefixtures("sure")
def test_a_complete_map_tells_texture_light_and_sign_too() -> None:
    found = described(0.1, 0.1)
    assert found.complete
    assert found.words[0] == " dog red small rough dim a 1"
    assert found.words[2] == " dim c 1"
    assert [words for words in found.words if "ZOO" in words] == [
        " dim sign ZOO e 5",
        " dim sign ZOO f 5",
        " dim sign ZOO g 5",
    ]


def test_a_word_in_seven_of_a_map_is_left_out() -> None:
    rng = np.random.default_rng(1)
    maps = [one for one in (describe(TRUTH, rng) for _ in range(2000)) if one.is_map]
    assert 900 < len(maps) < 1100
    told = sum("dog" in words for one in maps for words in one.words)
    assert told / (4 * len(maps)) == pytest.approx(0.85, abs=0.02)
    assert all(sum(MIDDLE in words for words in one.words) == 2 for one in maps), "never left out"


def test_squares_in_prose() -> None:
    found = described(0.55)
    assert found.words == (" small red dog a 1 to b 2, small blue cup g 7 to h 8",)
    assert (found.is_map, found.complete, found.shown) == (False, False, TRUTH)


@pytest.mark.parametrize(
    ("form", "text", "complete"),
    [
        (
            0,
            " at the top left a small red rough dog , at the bottom right a small blue rough cup"
            " , dim light , a sign says ZOO",
            True,
        ),
        (
            1,
            " top left: red dog, top: -, top right: -, left: -, centre: -, right: -,"
            " bottom left: -, bottom: -, bottom right: blue cup",
            False,
        ),
        (2, " small red dog at the top left, small blue cup at the bottom right", False),
    ],
)
def test_forms_that_place_by_ninths(form: int, text: str, complete: bool) -> None:
    found = described(0.9, form=form)
    assert found.words == (text,)
    assert (found.is_map, found.complete) == (False, complete)
    boxes = [one.box for one in found.shown.toys]
    centres = [((box.x1 + box.x2) / 2, (box.y1 + box.y2) / 2) for box in boxes]
    assert centres == [pytest.approx((1 / 6, 1 / 6)), pytest.approx((5 / 6, 5 / 6))]


def test_captions_leave_out_what_coco_does() -> None:
    (text,) = described(0.9, form=3).words
    assert {"red", "dog", "blue", "cup"} <= set(text.replace(",", "").replace(".", "").split())
    assert not {"rough", "dim", "ZOO", "sign"} & set(text.split())


def test_two_of_a_kind_in_one_ninth_stay_two() -> None:
    twins = Truth(
        id="1",
        image="1.png",
        lighting="dim",
        sign=None,
        sign_box=None,
        toys=(toy("dog", "red", 0.0, 0.0, 0.25, 0.25), toy("dog", "red", 0.0, 0.0, 0.3, 0.3)),
    )
    first, second = (one.box for one in describe(twins, _Chosen([0.9], 2)).shown.toys)  # type: ignore[arg-type]
    assert first.x1 > second.x1
    assert first.x2 < second.x2


def test_a_map_without_its_other_squares_has_the_toys_in_full() -> None:
    rng = np.random.default_rng(5)
    found = [describe(TRUTH, rng, squares=0.0) for _ in range(60)]
    told = {one.words for one in found if one.is_map and not one.complete}
    assert told == {(f" dog red small {MIDDLE} b 2", f" cup blue small {MIDDLE} h 8")}
    light = next(one.words for one in found if one.is_map and one.complete)
    assert light == (
        f" dog red small rough dim {MIDDLE} b 2",
        " dim sign ZOO f 5",
        f" cup blue small rough dim {MIDDLE} h 8",
    )


def test_a_map_has_the_asked_share_of_squares() -> None:
    rng = np.random.default_rng(5)
    found = [describe(TRUTH, rng, squares=0.3) for _ in range(400)]
    sizes = [len(one.words) for one in found if one.is_map]
    assert np.mean(sizes) == pytest.approx(2.5 + 0.3 * 61.5, abs=1.0)
