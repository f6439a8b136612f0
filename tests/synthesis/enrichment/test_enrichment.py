from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image

from laterna.errors import LaternaError
from laterna.records import Box, Scene
from laterna.synthesis.enrichment import ENRICHMENTS, ImageError, Line, enrich, is_enrichment


def scene(name: str = "a.png", width: int | None = 40, height: int | None = 20) -> Scene:
    box = Box(category="cup", x1=0.0, y1=0.0, x2=1.0, y2=1.0)
    return Scene(id="7", image=name, width=width, height=height, captions=("A cup.",), boxes=(box,))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    Image.new("RGB", (40, 20), (200, 30, 30)).save(tmp_path / "a.png")
    return tmp_path


def test_the_channels_are_those_that_a_proxy_may_have() -> None:
    assert list(ENRICHMENTS) == ["ocr", "lighting", "colours", "texture"]


def test_lines_come_in_one_order_however_they_are_asked_for(images: Path) -> None:
    expected = (
        Line("lighting", "lighting: dim"),
        Line("colours", "dominant colours: red"),
        Line("texture", "texture of cup [0.0, 0.0, 1.0, 1.0]: smooth"),
    )
    assert enrich(scene(), ("texture", "colours", "lighting"), images) == expected
    assert all(is_enrichment(line.text) for line in expected)
    assert not is_enrichment("cup: [0.0, 0.0, 1.0, 1.0]")
    assert enrich(scene(), (), None) == ()


def test_what_a_person_can_mend(images: Path) -> None:
    with pytest.raises(LaternaError, match=r"unknown enrichment light; known are: ocr, lighting,"):
        enrich(scene(), ("light",), images)
    with pytest.raises(LaternaError, match="lighting are measured from the images: name"):
        enrich(scene(), ("lighting",), None)


def test_a_image_that_cannot_be_measured_is_an_error_of_its_own(images: Path) -> None:
    (images / "cut.png").write_bytes((images / "a.png").read_bytes()[:60])
    (images / "text.png").write_text("no image")
    for name in ("missing.png", "cut.png", "text.png"):
        with pytest.raises(ImageError, match=rf"{name}: image 7 cannot be read"):
            enrich(scene(name), ("lighting",), images)


def test_boxes_of_another_image_are_not_measured(images: Path) -> None:
    with pytest.raises(ImageError, match=r"is 40×20, its annotation says 20×40"):
        enrich(scene(width=20, height=40), ("texture",), images)
    smaller_copy = scene(width=400, height=201)
    assert len(enrich(smaller_copy, ("texture",), images)) == 1
    assert len(enrich(scene(width=None, height=None), ("texture",), images)) == 1


@pytest.mark.parametrize(
    ("name", "module", "asked"),
    [("texture", "skimage.filters", "skimage"), ("ocr", "onnxruntime", "onnxruntime")],
)
def test_a_missing_library_names_the_extra(
    images: Path, monkeypatch: pytest.MonkeyPatch, name: str, module: str, asked: str
) -> None:
    from laterna.synthesis.enrichment import ocr

    ocr._engine.cache_clear()
    monkeypatch.setitem(sys.modules, module, None)
    alone = Scene(id="8", image="a.png", width=40, height=20, captions=(), boxes=scene().boxes)
    with pytest.raises(LaternaError, match=rf"'{name}' needs {asked} .*laterna\[enrich\]"):
        enrich(alone, (name,), images)
