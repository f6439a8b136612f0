"""An explanation as a page and as an image: colours by value, text that stays text."""

from __future__ import annotations

import base64
import io
import math
from pathlib import Path

import pytest
from msgspec.structs import replace
from PIL import Image

from laterna.errors import LaternaError
from laterna.inference.explanation import (
    Attention,
    Explanation,
    Lens,
    Occlusion,
    ShownImage,
    TokenShown,
    View,
    Words,
)
from laterna.report.explanation import (
    AGAINST,
    FOR,
    STRONGEST,
    explained,
    overlay,
    write_explanation,
)

GREY = Image.new("RGB", (8, 8), (100, 100, 100))
CELLS = (((("cup", 0.9), ("mug", 0.5)), (("<b>", 0.8),)),) * 2
FOUND = Explanation(
    prompt="USER: <image>\nWhat? ASSISTANT:",
    prompt_tokens=9,
    answer="a <b>cup</b>",
    tokens=(
        TokenShown(text="a", logprob=0.0),
        TokenShown(text=" cup", logprob=math.log(0.5)),
    ),
    image=ShownImage(index=0, views=(View(image=GREY, rows=2, columns=2),) * 2, tokens=4),
    occlusion=Occlusion(
        window=1,
        overall=((2.0, -1.0), (0.0, 0.0)),
        tokens=(((0.0, 0.0), (0.0, 0.0)), ((2.0, -1.0), (0.0, 0.0))),
    ),
    attention=Attention(
        overall=((4.0, 0.25), (1.0, 1.0)), tokens=(((4.0, 0.25), (1.0, 1.0)),) * 2, note="looked"
    ),
    words=Words(words=CELLS),
    lens=Lens(layers=(CELLS, CELLS)),
)


def mixed(colour: tuple[int, int, int], strength: float) -> tuple[int, ...]:
    return tuple(round(100 + (level - 100) * strength) for level in colour)


def close(one: object, other: tuple[int, ...]) -> bool:
    assert isinstance(one, tuple)
    return max(abs(a - b) for a, b in zip(one, other, strict=True)) <= 2


def test_an_explanation_is_shown_among_others_by_its_first_map() -> None:
    shown = explained("What?", FOUND)
    assert (shown.question, shown.answer) == ("What?", "a <b>cup</b>")
    assert (shown.overlay.title, shown.overlay.note) == ("Occlusion", "strongest +2 nats")
    head, _, letters = shown.overlay.image.partition(",")
    assert head == "data:image/jpeg;base64"
    image = Image.open(io.BytesIO(base64.b64decode(letters)))
    assert image.size == (224, 224)
    assert close(image.getpixel((40, 40)), mixed(FOR, STRONGEST))
    with pytest.raises(LaternaError, match="there is no map"):
        explained("What?", replace(FOUND, occlusion=None, attention=None))


def test_cells_are_red_and_blue_by_their_values() -> None:
    shown = overlay(GREY, ((2.0, -1.0), (0.0, 0.0)), side=32)
    assert shown.size == (32, 32)
    assert close(shown.getpixel((3, 3)), mixed(FOR, STRONGEST))
    assert close(shown.getpixel((28, 3)), mixed(AGAINST, STRONGEST / 2))
    assert shown.getpixel((3, 28)) == (100, 100, 100)
    weaker = overlay(GREY, ((2.0, -1.0), (0.0, 0.0)), top=4.0, side=32)
    assert close(weaker.getpixel((3, 3)), mixed(FOR, STRONGEST / 2))
    nothing = overlay(GREY, ((0.0, 0.0), (0.0, 0.0)), side=8)
    assert nothing.getpixel((3, 3)) == (100, 100, 100)


def test_the_page_holds_everything_and_fetches_nothing(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    write_explanation(page, "What <i>is</i> it?", FOUND)
    text = page.read_text()
    assert "<b>cup</b>" not in text and "<i>is</i>" not in text
    assert "a &lt;b&gt;cup&lt;/b&gt;" in text
    assert "USER: &lt;image&gt;" in text
    assert "strongest +2 nats" in text and "strongest +2 doublings" in text
    assert "50.0 %" in text and "100.0 %" in text
    assert "takes 4 of the 9 tokens" in text and "whole, then its tiles" in text
    assert 'title="cup 0.90  mug 0.50  "' in text
    assert text.count("<details") == 2
    assert text.count("<img") == 2 + 2 * 2 + 2  # overall, tokens, views
    assert "http" not in text.replace("http-equiv", "") and "<script" not in text
    bare = replace(FOUND, occlusion=None, attention=None, words=None, lens=None)
    write_explanation(page, "What?", bare)
    assert "hangs on" not in page.read_text()


def test_an_image_is_the_first_map_alone(tmp_path: Path) -> None:
    path = tmp_path / "map.png"
    write_explanation(path, "What?", FOUND)
    with Image.open(path) as shown:
        assert shown.size == (448, 448)
        assert close(shown.getpixel((10, 10)), mixed(FOR, STRONGEST))
    bare = replace(FOUND, occlusion=None, attention=None)
    for wrong, found, message in [
        ("map.txt", FOUND, "ends in .html or .png"),
        ("map.png", bare, "needs the method occlusion or attention"),
    ]:
        with pytest.raises(LaternaError, match=message):
            write_explanation(tmp_path / wrong, "What?", found)
