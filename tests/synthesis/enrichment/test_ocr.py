from __future__ import annotations

import pytest
from PIL import Image, ImageDraw, ImageFont

from laterna.records import Truth
from laterna.synthesis.enrichment.ocr import measure, read_words
from laterna.synthesis.proxy import read_proxy

pytest.importorskip("rapidocr")
pytest.importorskip("onnxruntime")


def test_words_and_where_they_stand() -> None:
    image = Image.new("RGB", (400, 200), "white")
    pen = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=32)
    pen.text((40, 20), "OPEN", fill="black", font=font)
    pen.text((200, 140), "Room 12", fill="black", font=font)
    words = read_words(image)
    assert [found.text for found in words] == ["OPEN", "Room 12"]
    box = words[0].box
    assert (box.x1, box.y1) == pytest.approx((0.1, 0.12), abs=0.04)
    assert (box.x2, box.y2) == pytest.approx((0.32, 0.26), abs=0.05)
    lines = measure(image)
    assert lines[0].startswith('printed text: "OPEN" at [0.')
    assert read_proxy("A sign.\n\n" + "\n".join(lines)) == (("A sign.",), ())


def test_nothing_is_read_where_nothing_is_written() -> None:
    assert measure(Image.new("RGB", (200, 200), (90, 120, 90))) == []


def test_the_worlds_signs_are_read_as_they_are(drawn: list[tuple[Truth, Image.Image]]) -> None:
    """42×14 pixels of a 112-pixel image, not enlarged; the docs give the whole rate."""
    signed = [(truth, image) for truth, image in drawn if truth.sign and truth.sign_box][:4]
    for truth, image in signed:
        (found,) = (words for words in read_words(image) if words.text == truth.sign)
        assert truth.sign_box is not None
        assert found.box.x1 == pytest.approx(truth.sign_box.x1, abs=0.1)
        assert found.box.y1 == pytest.approx(truth.sign_box.y1, abs=0.1)
