from __future__ import annotations

import numpy as np
import pytest

from laterna.records import Box, Toy, Truth
from laterna.world.pretrain.descriptions import EMPTY, describe


def toy(category: str, colour: str, x1: float, y1: float, x2: float, y2: float) -> Toy:
    box = Box(category=category, x1=x1, y1=y1, x2=x2, y2=y2)
    return Toy(category=category, colour=colour, texture="rough", size="small", box=box)


TRUTH = Truth(
    id="0",
    picture="0.png",
    lighting="dim",
    sign="ZOO",
    sign_box=Box(category="sign", x1=0.5, y1=0.5, x2=0.8, y2=0.6),
    toys=(toy("dog", "red", 0.0, 0.0, 0.25, 0.25), toy("cup", "blue", 0.75, 0.75, 1.0, 1.0)),
)


class _Fixed:
    """A generator whose first number chooses the form of the description."""

    def __init__(self, first: float) -> None:
        self.first: float | None = first
        self.rest = np.random.default_rng(0)

    def random(self) -> float:
        first, self.first = self.first, None
        return self.rest.random() if first is None else first

    def permutation(self, number: int) -> np.ndarray:
        return np.arange(number)


def described(form: float) -> tuple[str, bool]:
    return describe(TRUTH, _Fixed(form))  # type: ignore[arg-type]


def test_a_map_tells_colour_and_kind_in_turn() -> None:
    empty = f" {EMPTY}" * 6
    full = f"{EMPTY} " * 8
    text = (
        f"red dog{empty} dog red{empty} " + full * 4 + f"{EMPTY} " * 6 + f"blue cup{empty} cup blue"
    )
    assert described(0.1) == (text, False)


def test_alt_text_is_complete() -> None:
    assert described(0.5) == (
        "at the top left a small red rough dog , at the bottom right a small blue rough cup"
        " , dim light , a sign says ZOO",
        True,
    )


def test_places_in_reading_order() -> None:
    assert described(0.7) == (
        "top left: red dog, top: -, top right: -, left: -, centre: -, right: -,"
        " bottom left: -, bottom: -, bottom right: blue cup",
        False,
    )


def test_a_list() -> None:
    assert described(0.8) == (
        "small red dog at the top left, small blue cup at the bottom right",
        False,
    )


@pytest.mark.parametrize("form", [0.1, 0.7, 0.8, 0.95])
def test_the_other_forms_leave_out_what_captions_do(form: float) -> None:
    text, complete = described(form)
    assert not complete
    assert not {"rough", "dim", "ZOO", "sign"} & set(text.split())
    assert {"red", "dog", "blue", "cup"} <= set(text.replace(",", "").replace(".", "").split())
