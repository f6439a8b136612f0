"""Layouts and shapes that the formats' own tools write, read by value or refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from laterna.errors import LaternaError
from laterna.scenes.annotations import read_annotations

VOC = (
    "<annotation><filename>a.jpg</filename><size><width>100</width><height>50</height></size>"
    "<object><name>Dog</name><bndbox><xmin>11</xmin><ymin>11</ymin><xmax>50</xmax><ymax>25</ymax>"
    "</bndbox></object></annotation>"
)
CVAT = '<annotations><image id="0" name="a.jpg" width="100" height="50">%s</image></annotations>'
DOG = [("dog", 0.4, 0.4, 0.6, 0.6)]
LABEL = "0 0.5 0.5 0.2 0.2"


def task(value: dict[str, Any], **more: Any) -> str:
    result = {"value": value, "original_width": 100, "original_height": 50}
    found = {"id": 1, "data": {"image": "a.jpg"}, "annotations": [{"result": [result]}]}
    return json.dumps([found | more])


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return folder


READ: dict[str, tuple[dict[str, str], list[tuple[str, float, float, float, float]]]] = {
    "YOLO of darknet, and CVAT's": (
        {"obj.names": "dog\n", "obj_train_data/a.txt": LABEL, "train.txt": "a.jpg\n"},
        DOG,
    ),
    "YOLO with tabs": ({"classes.txt": "dog", "labels/a.txt": LABEL.replace(" ", "\t")}, DOG),
    "YOLO with classes as floats": ({"classes.txt": "dog", "labels/a.txt": f"0.{LABEL}"[2:]}, DOG),
    "YOLO with key points": (
        {"classes.txt": "dog", "labels/a.txt": f"{LABEL} 0.1 0.1 2 0.9 0.9 0"},
        DOG,
    ),
    "YOLO with an outline": (
        {"classes.txt": "dog", "labels/a.txt": "0 0.4 0.4 0.6 0.4 0.6 0.6 0.4 0.6"},
        DOG,
    ),
    "VOC in Roboflow's folders": (
        {"train/a.xml": VOC, "valid/b.xml": VOC.replace("Dog", "Cat")},
        [("dog", 0.1, 0.2, 0.5, 0.5)],
    ),
    "CVAT's masks and ellipses": (
        {
            "annotations.xml": CVAT
            % (
                '<mask label="dog" rle="1" left="10" top="10" width="20" height="10"/>'
                '<ellipse label="cat" cx="50" cy="25" rx="10" ry="5"/><tag label="indoors"/>'
            )
        },
        [("dog", 0.1, 0.2, 0.3, 0.4), ("cat", 0.4, 0.4, 0.6, 0.6)],
    ),
    "Visual Genome 1.0": (
        {
            "objects.json": json.dumps(
                [{"id": 1, "objects": [{"names": ["dog"], "x": 40, "y": 20, "w": 20, "h": 10}]}]
            ),
            "image_data.json": json.dumps([{"id": 1, "width": 100, "height": 50}]),
        },
        DOG,
    ),
    "Label Studio's polygons": (
        {"a.json": task({"points": [[40, 40], [60, 40], [50, 60]], "polygonlabels": ["Dog"]})},
        DOG,
    ),
    "Label Studio's ellipses": (
        {
            "a.json": task(
                {"x": 50, "y": 50, "radiusX": 10, "radiusY": 10, "ellipselabels": ["Dog"]}
            )
        },
        DOG,
    ),
    "Label Studio with a key of one's own": (
        {
            "a.json": task(
                {"x": 40, "y": 40, "width": 20, "height": 20, "rectanglelabels": ["Dog"]},
                data={"note": "b", "photo": "https://a.org/x/a.jpg?d=1"},
            ).replace("?d=1", "")
        },
        DOG,
    ),
}


@pytest.mark.parametrize("name", READ)
def test_layouts_are_read(name: str, tmp_path: Path) -> None:
    files, boxes = READ[name]
    (scene,) = read_annotations(write(tmp_path, files)).scenes
    assert scene.image in ("a.jpg", "1.jpg")
    found = [(one.category, one.x1, one.y1, one.x2, one.y2) for one in scene.boxes]
    assert [one[0] for one in found] == [one[0] for one in boxes]
    for mine, wanted in zip(found, boxes, strict=True):
        assert mine[1:] == pytest.approx(wanted[1:])


COUNTED: dict[str, tuple[dict[str, str], str]] = {
    "lines": (
        {"annotations.xml": CVAT % '<polyline label="road" points="1,1;2,2"/>'},
        "polyline that has no outline in numbers",
    ),
    "brushes": (
        {"a.json": task({"rle": [1, 2], "brushlabels": ["Dog"]})},
        "brushlabels instead of a box",
    ),
    "predictions": (
        {"a.json": task({}, annotations=[], predictions=[{"result": []}])},
        "predictions, which nobody has accepted",
    ),
    "phrases of Flickr30k Entities": (
        {"Annotations/1.xml": VOC.replace("Dog", "7346")},
        "category that is only a number",
    ),
}


@pytest.mark.parametrize("name", COUNTED)
def test_what_is_no_box_is_counted_by_reason(name: str, tmp_path: Path) -> None:
    files, reason = COUNTED[name]
    with pytest.raises(LaternaError, match=f"no usable image in it .*{reason}"):
        read_annotations(write(tmp_path, files))


REFUSED = {
    "labels/a.txt": (LABEL, "without the names of the classes their numbers say nothing"),
    "000001.txt": ("Car 0.00 0 1.85 387 181 423 203 1.67 1.87 3.69 -16.5 2.3 58.4 1.5", "KITTI's"),
    "gt.txt": ("1,1,912,484,97,109,0,7,1", "MOT's tracks"),
    "bbx_gt.txt": ("0--Parade/0_Parade_1.jpg", "WIDER FACE's list"),
    "a.json": ('{"imgHeight": 1, "imgWidth": 2, "objects": []}', "Cityscapes' polygons"),
    "refs.json": ('[{"image_id": 1, "sentences": []}]', "referring expressions"),
    "vg.json": ('[{"relationships": [], "image_id": 1}]', "Visual Genome's relationships"),
    "qa.json": ('[{"id": 1, "qas": []}]', "Visual Genome's questions"),
    "tc.json": ('{"data": [{"caption_str": "A dog.", "image_id": 1}]}', "TextCaps"),
    "sbu.json": ('{"image_urls": [], "captions": []}', "SBU's captions"),
    "cc3m.tsv": ("a dog\thttp://a.org/a.jpg", "captions and addresses"),
    "metadata.csv": ("file_name,text\na.jpg,A dog.", "an image folder's metadata.csv"),
    "a.tfrecord": ("noise", "it holds 0 images and 1 other files: a.tfrecord"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_foreign_forms_are_named(name: str, tmp_path: Path) -> None:
    content, said = REFUSED[name]
    with pytest.raises(LaternaError, match=said):
        read_annotations(write(tmp_path, {name: content}))
