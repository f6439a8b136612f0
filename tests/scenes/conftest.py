"""The real inputs that stand beside the repository, where they are there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

SHARED = Path(__file__).parents[2].parent / "shared"


def shared(name: str) -> Path:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"the real input {name} is not beside the repository (../shared)")
    return path


@pytest.fixture
def shared_input() -> Callable[[str], Path]:
    """Gives an input of ../shared by its name there; skips the test by name where it is absent."""
    return shared


@pytest.fixture
def contexts_file() -> Path:
    """40 real COCO val2014 contexts, as LLaVA's teacher saw them."""
    return shared("data/coco2014_val_contexts.jsonl")


@pytest.fixture
def coco_mini() -> Path:
    """80 real COCO train2017 images with their annotations, in COCO's own form."""
    return shared("data/coco_mini")


def write_samples(folder: Path) -> dict[str, Path]:
    """Write a small source in every format; each but `captions` has boxes of a dog."""
    written: dict[str, Path] = {}

    def write(name: str, *files: tuple[str, str]) -> None:
        written[name] = folder / name / (files[0][0] if len(files) == 1 else "")
        for file, content in files:
            (folder / name / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / name / file).write_text(content)

    write(
        "coco",
        ("annotations/instances_val2017.json", json.dumps(COCO)),
        ("annotations/captions_val2017.json", json.dumps(COCO_CAPTIONS)),
    )
    write("contexts", ("contexts.jsonl", "\n".join(map(json.dumps, CONTEXTS))))
    write("scenes", ("scenes.jsonl", "\n".join(map(json.dumps, SCENES))))
    write("label-studio", ("export.json", json.dumps(LABEL_STUDIO)))
    write(
        "visual-genome",
        ("objects.json", json.dumps(GENOME)),
        ("image_data.json", json.dumps([{"image_id": 1, "width": 200, "height": 100}])),
    )
    write("cvat", ("annotations.xml", CVAT))
    write("voc", ("Annotations/7.xml", VOC), ("Annotations/8.xml", VOC))
    write(
        "yolo",
        ("data.yaml", "names:\n- dog\n- cat\n"),
        ("labels/7.txt", "0 0.5 0.35 0.5 0.5\n1 0.1 0.1 0.2 0.1 0.2 0.3\n"),
    )
    write(
        "open-images",
        ("val-annotations-bbox.csv", OPEN_IMAGES),
        ("class-descriptions-boxable.csv", "/m/0bt9lr,Dog\n/m/01yrx,Cat\n"),
    )
    write("captions", ("results.token", "7.jpg#0\tA dog.\n7.jpg#1\tSomeone's dog.\n"))
    return written


@pytest.fixture
def samples(tmp_path: Path) -> dict[str, Path]:
    """A folder of every format, by its name; a dog at 50, 10 to 150, 60 of 200 × 100 pixels."""
    return write_samples(tmp_path / "samples")


DOG = {"id": 1, "image_id": 7, "category_id": 1, "bbox": [50.0, 10.0, 100.0, 50.0], "iscrowd": 0}
IMAGE = {"id": 7, "file_name": "7.jpg", "width": 200, "height": 100}
COCO = {
    "info": {"year": 2017},
    "images": [IMAGE, {"id": 8, "file_name": "8.jpg", "width": 100, "height": 100}],
    "annotations": [DOG, {**DOG, "id": 2, "image_id": 8, "segmentation": [[0, 0, 9, 0, 9, 9]]}],
    "categories": [{"id": 1, "name": "dog", "supercategory": "animal"}],
}
COCO_CAPTIONS = {
    "images": [IMAGE],
    "annotations": [
        {"id": 1, "image_id": 7, "caption": "A dog."},
        {"id": 2, "image_id": 8, "caption": "A dog, cut off."},
    ],
}
CONTEXTS = [
    {
        "id": number,
        "image": f"{number}.jpg",
        "captions": ["A dog."],
        "instances": [{"category": "dog", "bbox": [0.25, 0.1, 0.75, 0.6]}],
    }
    for number in (7, 8)
]
SCENES = [
    {
        "id": number,
        "image": f"{number}.jpg",
        "width": 200,
        "height": 100,
        "captions": ["A dog."],
        "boxes": [{"category": "dog", "x1": 0.25, "y1": 0.1, "x2": 0.75, "y2": 0.6}],
    }
    for number in ("7", "8")
]
LABEL_STUDIO = [
    {
        "id": 7,
        "data": {"image": "/data/upload/1/7.jpg"},
        "annotations": [
            {
                "was_cancelled": False,
                "result": [
                    {
                        "type": "rectanglelabels",
                        "original_width": 200,
                        "original_height": 100,
                        "value": {
                            "x": 25,
                            "y": 10,
                            "width": 50,
                            "height": 50,
                            "rotation": 0,
                            "rectanglelabels": ["Dog"],
                        },
                    },
                    {"type": "textarea", "value": {"text": ["A dog."]}},
                ],
            }
        ],
    }
]
GENOME = [
    {
        "image_id": 1,
        "image_url": "https://cs.stanford.edu/people/rak248/VG_100K_2/1.jpg",
        "objects": [{"object_id": 5, "x": 50, "y": 10, "w": 100, "h": 50, "names": ["dog"]}],
    }
]
CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version>
<image id="0" name="7.jpg" width="200" height="100">
<box label="dog" xtl="50" ytl="10" xbr="150" ybr="60" occluded="0"/>
<polygon label="cat" points="10.5,10;20,10;20,30"/></image></annotations>
"""
VOC = """<annotation><folder>VOC2007</folder><filename>7.jpg</filename>
<size><width>200</width><height>100</height><depth>3</depth></size>
<object><name>dog</name><difficult>0</difficult><bndbox><xmin>51</xmin><ymin>11</ymin>
<xmax>150</xmax><ymax>60</ymax></bndbox></object></annotation>
"""
OPEN_IMAGES = """ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsGroupOf
7,xclick,/m/0bt9lr,1,0.25,0.75,0.1,0.6,0,0
7,xclick,/m/01yrx,1,0.1,0.2,0.1,0.2,0,1
"""
