from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image

from laterna.errors import LaternaError
from laterna.records import Box, Scene
from laterna.synthesis.enrichment import ENRICHMENTS, Line, PictureError, enrich, is_enrichment


def scene(name: str = "a.png", width: int | None = 40, height: int | None = 20) -> Scene:
    box = Box(category="cup", x1=0.0, y1=0.0, x2=1.0, y2=1.0)
    return Scene(
        id="7", picture=name, width=width, height=height, captions=("A cup.",), boxes=(box,)
    )


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    Image.new("RGB", (40, 20), (200, 30, 30)).save(tmp_path / "a.png")
    return tmp_path


def test_the_channels_are_those_that_a_proxy_may_have() -> None:
    assert list(ENRICHMENTS) == ["ocr", "lighting", "colours", "texture"]


def test_lines_come_in_one_order_however_they_are_asked_for(pictures: Path) -> None:
    expected = (
        Line("lighting", "lighting: dim"),
        Line("colours", "dominant colours: red"),
        Line("texture", "texture of cup [0.0, 0.0, 1.0, 1.0]: smooth"),
    )
    assert enrich(scene(), ("texture", "colours", "lighting"), pictures) == expected
    assert all(is_enrichment(line.text) for line in expected)
    assert not is_enrichment("cup: [0.0, 0.0, 1.0, 1.0]")
    assert enrich(scene(), (), None) == ()


def test_what_a_person_can_mend(pictures: Path) -> None:
    with pytest.raises(LaternaError, match=r"unknown enrichment light; known are: ocr, lighting,"):
        enrich(scene(), ("light",), pictures)
    with pytest.raises(LaternaError, match="lighting are measured from the pictures: name"):
        enrich(scene(), ("lighting",), None)


def test_a_picture_that_cannot_be_measured_is_an_error_of_its_own(pictures: Path) -> None:
    (pictures / "cut.png").write_bytes((pictures / "a.png").read_bytes()[:60])
    (pictures / "text.png").write_text("no picture")
    for name in ("missing.png", "cut.png", "text.png"):
        with pytest.raises(PictureError, match=rf"{name}: picture 7 cannot be read"):
            enrich(scene(name), ("lighting",), pictures)


def test_boxes_of_another_picture_are_not_measured(pictures: Path) -> None:
    with pytest.raises(PictureError, match=r"is 40×20, its annotation says 20×40"):
        enrich(scene(width=20, height=40), ("texture",), pictures)
    smaller_copy = scene(width=400, height=201)
    assert len(enrich(smaller_copy, ("texture",), pictures)) == 1
    assert len(enrich(scene(width=None, height=None), ("texture",), pictures)) == 1


@pytest.mark.parametrize(
    ("name", "module", "asked"),
    [("texture", "skimage.filters", "skimage"), ("ocr", "onnxruntime", "onnxruntime")],
)
def test_a_missing_library_names_the_extra(
    pictures: Path, monkeypatch: pytest.MonkeyPatch, name: str, module: str, asked: str
) -> None:
    from laterna.synthesis.enrichment import ocr

    ocr._engine.cache_clear()
    monkeypatch.setitem(sys.modules, module, None)
    alone = Scene(id="8", picture="a.png", width=40, height=20, captions=(), boxes=scene().boxes)
    with pytest.raises(LaternaError, match=rf"'{name}' needs {asked} .*laterna\[enrich\]"):
        enrich(alone, (name,), pictures)
