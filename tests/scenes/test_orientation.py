"""Boxes lie where a person sees the thing, whichever way up its image is stored."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import ExifTags, Image

from laterna.data.images.opening import image_size, load_image
from laterna.records import Box
from laterna.scenes.annotations import Annotations, read_annotations
from laterna.scenes.image_files import ImageFolders
from laterna.scenes.orientation import Shape, View, turn_box, view_of
from laterna.synthesis.enrichment import ENRICHMENTS, Enrichment, enrich

WIDTH, HEIGHT = 60, 40
MARK = Box(category="mark", x1=0.05, y1=0.1, x2=0.25, y2=0.35)
"""Where the stored image is black: near its top left, wider than high."""


def draw(path: Path, orientation: int, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    """Write a white image with a black mark, stored as a camera held some way would."""
    image = Image.new("RGB", size, "white")
    image.paste("black", pixels(MARK, size))
    exif = Image.Exif()
    if orientation:
        exif[ExifTags.Base.Orientation] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, exif=exif)


def seen(path: Path) -> tuple[int, int, int, int]:
    """Return the corners of what is black in an image as training and evaluation open it."""
    down, across = np.nonzero(np.asarray(load_image(path).convert("L")) < 128)
    return (
        int(across.min()),
        int(down.min()),
        int(across.max()) + 1,
        int(down.max()) + 1,
    )


def pixels(box: Box, size: tuple[int, int]) -> tuple[int, int, int, int]:
    width, height = size
    return (
        round(box.x1 * width),
        round(box.y1 * height),
        round(box.x2 * width),
        round(box.y2 * height),
    )


def read(
    folder: Path,
    size: tuple[object, object],
    box: tuple[int, int, int, int],
    *,
    view: View = "auto",
    images: Path | None = None,
) -> Annotations:
    """Read a COCO folder with one image of an annotated size and one box (corners in pixels)."""
    x1, y1, x2, y2 = box
    instances = {
        "images": [{"id": 1, "file_name": "1.png", "width": size[0], "height": size[1]}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1]}
        ],
        "categories": [{"id": 1, "name": "mark"}],
    }
    captions = [{"id": 1, "image_id": 1, "caption": "A mark."}]
    (folder / "instances.json").write_text(json.dumps(instances))
    (folder / "captions.json").write_text(json.dumps({"annotations": captions}))
    return read_annotations(folder, view=view, images=images)


@pytest.mark.parametrize("orientation", range(9))
def test_a_box_is_turned_along_with_its_image(tmp_path: Path, orientation: int) -> None:
    draw(tmp_path / "1.png", orientation)
    size = image_size(tmp_path / "1.png")
    turned = turn_box(MARK, orientation or 1)
    assert pixels(turned, size) == seen(tmp_path / "1.png")
    assert turned.category == "mark"


@pytest.mark.parametrize("orientation", range(9))
@pytest.mark.parametrize("scale", [1, 3])
@pytest.mark.parametrize("measured", ["stored", "turned"])
def test_the_annotated_size_tells_the_view(
    tmp_path: Path, orientation: int, scale: int, measured: Literal["stored", "turned"]
) -> None:
    """`scale`: the annotations were made on an image of three times the size."""
    path = tmp_path / "images" / "1.png"
    draw(path, orientation)
    shown = image_size(path)
    size = (WIDTH, HEIGHT) if measured == "stored" else shown
    box = pixels(MARK, size) if measured == "stored" else seen(path)
    tells = orientation in (5, 6, 7, 8)
    found = read(
        tmp_path,
        (size[0] * scale, size[1] * scale),
        tuple(scale * corner for corner in box),  # type: ignore[arg-type]
        view="auto" if tells else measured,
    )
    (scene,) = found.scenes
    assert pixels(scene.boxes[0], shown) == seen(path)
    assert (scene.width, scene.height) == (shown[0] * scale, shown[1] * scale)
    assert found.problems == ()


def test_what_the_size_cannot_tell_is_the_formats_own_view(tmp_path: Path) -> None:
    square, upside_down = Shape(50, 50, 6), Shape(60, 40, 3)
    for default in ("stored", "turned"):
        assert view_of(square, (50, 50), "auto", default) == default
        assert view_of(upside_down, (60, 40), "auto", default) == default
        assert view_of(Shape(60, 40, 6), None, "auto", default) == default
        assert view_of(Shape(60, 59, 6), (600, 600), "auto", default) == default
        assert view_of(Shape(60, 40, 6), (60, 40), default, "turned") == default
    assert view_of(Shape(60, 59, 6), (59, 60), "auto", "stored") == "turned"
    # COCO's: pycocotools has boxes on the stored pixels
    path = tmp_path / "images" / "1.png"
    draw(path, 6, (40, 40))
    found = read(tmp_path, (40, 40), pixels(MARK, (40, 40)))
    assert pixels(found.scenes[0].boxes[0], (40, 40)) == seen(path)
    turned = read(tmp_path, (40, 40), seen(path), view="turned")
    assert turned.scenes[0].boxes == found.scenes[0].boxes


def test_a_tool_that_mistakes_the_size_is_put_right_by_the_setting(tmp_path: Path) -> None:
    """Label Studio's COCO export has boxes of the turned image under the stored one's size."""
    path = tmp_path / "images" / "1.png"
    draw(path, 6)
    shown = image_size(path)
    x1, y1, x2, y2 = (corner / side for corner, side in zip(seen(path), shown * 2, strict=True))
    box = (round(x1 * WIDTH), round(y1 * HEIGHT), round(x2 * WIDTH), round(y2 * HEIGHT))
    (scene,) = read(tmp_path, (WIDTH, HEIGHT), box, view="turned").scenes
    assert (scene.width, scene.height) == shown
    assert np.allclose(pixels(scene.boxes[0], shown), seen(path), atol=1)


def test_a_missing_size_is_the_images_own(tmp_path: Path) -> None:
    path = tmp_path / "images" / "1.png"
    for orientation in (1, 6):
        draw(path, orientation)
        found = read(tmp_path, (None, None), pixels(MARK, (WIDTH, HEIGHT)))
        assert found.problems == ()
        assert pixels(found.scenes[0].boxes[0], image_size(path)) == seen(path)


def test_boxes_of_a_image_of_another_shape_are_left_out_and_named(tmp_path: Path) -> None:
    draw(tmp_path / "images" / "1.png", 1)
    found = read(tmp_path, (40, 60), (1, 1, 9, 9))
    assert (found.scenes[0].captions, found.scenes[0].boxes) == (("A mark.",), ())
    assert [(one.reason, one.scene, one.category) for one in found.problems] == [
        ("image of another shape than its annotation says", "1", "mark")
    ]


@pytest.mark.parametrize("name", ["1.png", "../1.png", "/1.png", "\x00"])
def test_images_are_looked_for_in_their_folder_alone(tmp_path: Path, name: str) -> None:
    draw(tmp_path / "1.png", 6)
    (tmp_path / "images").mkdir()
    assert ImageFolders([tmp_path / "images"]).shape(name) is None
    assert ImageFolders([tmp_path / "images", tmp_path]).shape("1.png") == (WIDTH, HEIGHT, 6)


def test_enrichment_measures_the_image_that_boxes_were_turned_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def darkest(image: Image.Image, boxes: tuple[Box, ...]) -> list[str]:
        inside = image.convert("L").crop(pixels(boxes[0], image.size))
        return [f"darkest {inside.getextrema()}"]

    monkeypatch.setitem(ENRICHMENTS, "inside", Enrichment(darkest, "darkest "))
    path = tmp_path / "images" / "1.png"
    draw(path, 6)
    (scene,) = read(tmp_path, (WIDTH, HEIGHT), pixels(MARK, (WIDTH, HEIGHT))).scenes
    assert scene.boxes[0] != MARK
    assert [line.text for line in enrich(scene, ["inside"], path.parent)] == ["darkest (0, 0)"]


def test_the_reports_of_turned_and_of_resized_images(
    shared_input: Callable[[str], Path],
) -> None:
    """Red dog at the left and blue cat at the right of the stored pixels."""
    for case, size, dog in (
        ("bug_swapped_exif", (300, 400), (180, 20, 280, 120)),
        ("bug_resized", (400, 300), (20, 20, 120, 120)),
    ):
        folder = shared_input(f"cases/annotations/{case}")
        (scene,) = read_annotations(folder).scenes
        assert (scene.width, scene.height) == size
        assert pixels(scene.boxes[0], size) == dog
        image = load_image(folder / "images" / scene.image)
        for box, level in zip(scene.boxes, (0, 2), strict=True):
            x, y = (box.x1 + box.x2) / 2 * image.width, (box.y1 + box.y2) / 2 * image.height
            colour = image.getpixel((round(x), round(y)))
            assert isinstance(colour, tuple) and colour[level] == max(colour) > 150, (case, box)
