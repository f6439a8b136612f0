from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from laterna.errors import LaternaError
from laterna.records import Box, Scene
from laterna.scenes.annotations import Annotations, read_annotations, read_scenes

Change = Callable[[dict[str, Any], dict[str, Any]], None]


def coco() -> tuple[dict[str, Any], dict[str, Any]]:
    """Two images, a dog in the first, a cat in the second; instances and captions."""
    images = [
        {"id": 7, "file_name": "seven.jpg", "width": 200, "height": 100, "license": 3},
        {"id": 8, "file_name": "eight.jpg", "width": 100, "height": 100},
    ]
    annotations = [
        {"id": 1, "image_id": 7, "category_id": 18, "bbox": [50.0, 10.0, 100.0, 50.0]},
        {"id": 2, "image_id": 8, "category_id": 17, "bbox": [0, 0, 25, 50], "iscrowd": 0},
    ]
    categories = [{"id": 18, "name": "dog"}, {"id": 17, "name": "cat"}]
    captions = [
        {"id": 11, "image_id": 7, "caption": "A dog."},
        {"id": 12, "image_id": 8, "caption": "A cat."},
        {"id": 13, "image_id": 7, "caption": "Someone's dog."},
    ]
    instances = {"images": images, "annotations": annotations, "categories": categories}
    return instances, {"images": images, "annotations": captions}


def write_coco(folder: Path, change: Change = lambda instances, captions: None) -> Path:
    instances, captions = coco()
    change(instances, captions)
    (folder / "instances.json").write_text(json.dumps(instances, indent=1))
    (folder / "captions.json").write_text(json.dumps(captions))
    return folder


def reasons(found: Annotations) -> list[str]:
    return [problem.reason for problem in found.problems]


def test_coco_pixels_become_relative_corners(tmp_path: Path) -> None:
    found = read_annotations(write_coco(tmp_path))
    assert found.problems == ()
    assert found.scenes == (
        Scene(
            id="7",
            image="seven.jpg",
            width=200,
            height=100,
            captions=("A dog.", "Someone's dog."),
            # x 50 of 200, y 10 of 100, 100 wide, 50 high
            boxes=(Box(category="dog", x1=0.25, y1=0.1, x2=0.75, y2=0.6),),
        ),
        Scene(
            id="8",
            image="eight.jpg",
            width=100,
            height=100,
            captions=("A cat.",),
            boxes=(Box(category="cat", x1=0.0, y1=0.0, x2=0.25, y2=0.5),),
        ),
    )


def test_folder_file_and_named_captions_give_the_same(tmp_path: Path) -> None:
    by_folder = read_annotations(write_coco(tmp_path))
    assert read_annotations(tmp_path / "instances.json") == by_folder
    (tmp_path / "captions.json").rename(tmp_path / "words.json")
    by_name = read_annotations(tmp_path / "instances.json", tmp_path / "words.json")
    assert by_name == by_folder


def _set(index: int, key: str, value: object) -> Change:
    def change(instances: dict[str, Any], captions: dict[str, Any]) -> None:
        instances["annotations"][index][key] = value

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_set(0, "image_id", 99), "annotation without an image entry"),
        (_set(0, "category_id", 99), "unknown category"),
        (_set(0, "iscrowd", 1), "crowd region"),
        (_set(0, "bbox", [250, 10, 60, 50]), "box outside the image"),
        (_set(0, "bbox", [-70, 10, 60, 50]), "box outside the image"),
        (_set(0, "bbox", None), "annotation without a box"),
        (_set(0, "bbox", []), "annotation without a box"),
        (_set(0, "bbox", [1, 2, 3]), "box that is no four numbers"),
        (_set(0, "bbox", ["a", "b", "c", "d"]), "box that is no four numbers"),
        (_set(0, "bbox", [1, 2, float("nan"), 4]), "box that is no four numbers"),
        (_set(0, "bbox", {"x": 1}), "box that is no four numbers"),
        (_set(0, "bbox", "50, 10, 100, 50"), "box that is no four numbers"),
        (_set(0, "iscrowd", "1"), "crowd region"),
        (_set(0, "iscrowd", "true"), "crowd region"),
        (_set(0, "iscrowd", "many"), "crowd flag that is no number"),
        (_set(0, "iscrowd", [1]), "crowd flag that is no number"),
        (_set(0, "bbox", [50, 10, 0, 50]), "box of zero area"),
        (_set(0, "bbox", [50, 10, -20, 50]), "box of zero area"),
    ],
)
def test_an_unusable_box_is_left_out_by_reason(tmp_path: Path, change: Change, reason: str) -> None:
    found = read_annotations(write_coco(tmp_path, change))
    assert reasons(found) == [reason]
    assert found.problems[0].where == f"{tmp_path / 'instances.json'}: annotation 1"
    assert found.scenes[0].boxes == ()
    assert [box.category for box in found.scenes[1].boxes] == ["cat"]


def test_a_rounding_error_outside_is_clipped_and_no_more(tmp_path: Path) -> None:
    found = read_annotations(write_coco(tmp_path, _set(0, "bbox", [-0.5, 0, 201, 100.4])))
    assert found.problems == ()
    assert found.scenes[0].boxes == (Box(category="dog", x1=0, y1=0, x2=1, y2=1),)


def test_a_image_without_a_size_has_no_boxes(tmp_path: Path) -> None:
    def change(instances: dict[str, Any], captions: dict[str, Any]) -> None:
        instances["images"][0]["width"] = 0

    assert reasons(read_annotations(write_coco(tmp_path, change))) == ["image without a size"]


def test_a_image_without_captions_and_a_stray_caption_are_left_out(tmp_path: Path) -> None:
    def change(instances: dict[str, Any], captions: dict[str, Any]) -> None:
        captions["annotations"][1]["image_id"] = 99

    found = read_annotations(write_coco(tmp_path, change))
    assert [(p.reason, p.where.partition(": ")[2]) for p in found.problems] == [
        ("caption of an unknown image", "caption 12"),
        ("image without captions", "image 8 (eight.jpg)"),
    ]
    assert [scene.id for scene in found.scenes] == ["7"]


def test_a_caption_without_words_is_left_out(tmp_path: Path) -> None:
    def change(instances: dict[str, Any], captions: dict[str, Any]) -> None:
        captions["annotations"][0]["caption"] = " \n"

    found = read_annotations(write_coco(tmp_path, change))
    assert reasons(found) == ["caption without words"]
    assert found.scenes[0].captions == ("Someone's dog.",)


def test_of_two_images_with_one_id_the_first_counts(tmp_path: Path) -> None:
    def change(instances: dict[str, Any], captions: dict[str, Any]) -> None:
        twin = {"id": 7, "file_name": "twin.jpg", "width": 10, "height": 10}
        instances["images"].append(twin)

    found = read_annotations(write_coco(tmp_path, change))
    assert reasons(found) == ["image id given twice"]
    assert [scene.image for scene in found.scenes] == ["seven.jpg", "eight.jpg"]


def context(**changes: object) -> str:
    row: dict[str, object] = {
        "id": 5,
        "image": "five.jpg",
        "captions": ["A dog."],
        "instances": [{"category": "dog", "bbox": [0.1, 0.2, 0.3, 0.4]}],
    }
    return json.dumps(row | changes)


def test_context_lines(tmp_path: Path) -> None:
    file = tmp_path / "contexts.anything"
    file.write_text(
        "\n".join(
            [
                context(),
                "",
                context(id="b", instances=[{"category": "dog", "bbox": [0.5, 0.5, 1.2, 1]}]),
                context(id="c", captions=[]),
                context(id="d", captions=["A dog.", ""]),
            ]
        )
    )
    found = read_annotations(file)
    assert found.scenes[0] == Scene(
        id="5",
        image="five.jpg",
        width=None,
        height=None,
        captions=("A dog.",),
        boxes=(Box(category="dog", x1=0.1, y1=0.2, x2=0.3, y2=0.4),),
    )
    assert [scene.id for scene in found.scenes] == ["5", "b", "d"]
    assert [(p.reason, p.where) for p in found.problems] == [
        ("box cut at the image's edge", f"{file}: record b, box 1"),
        ("image without captions", f"{file}: record c"),
        ("caption without words", f"{file}: record d"),
    ]
    assert list(read_scenes(str(file))) == list(found.scenes)


def test_a_broken_later_line_is_named_by_number(tmp_path: Path) -> None:
    file = tmp_path / "contexts.jsonl"
    file.write_text(context() + "\n" + context()[:40])
    found = read_annotations(file)
    assert [scene.id for scene in found.scenes] == ["5"]
    assert [(p.reason, p.where) for p in found.problems] == [
        ("line that is no JSON", f"{file} line 2")
    ]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "the file is empty"),
        (b" \n\n", "the file is empty"),
        (b"\x89PNG\r\n\x1a\n not JSON", "its text is neither UTF-8 nor UTF-16"),
        (b'{"images": [], "annota', "broken or cut JSON"),
        (b"[1, 2]", "in no known form"),
        (context()[:60].encode(), "broken or cut JSON"),
        (
            b'{"images": [], "annotations": [], "categories": []}',
            r"no usable image in it \(caption of an unknown image\)",
        ),
        (context(captions=[]).encode(), r"in no known form \(an object with captions, id, image"),
    ],
    ids=["empty", "blank", "image", "truncated", "list", "cut context", "no images", "no words"],
)
def test_an_unusable_file_is_named(tmp_path: Path, content: bytes, complaint: str) -> None:
    write_coco(tmp_path)
    (tmp_path / "instances.json").write_bytes(content)
    with pytest.raises(LaternaError, match=rf"instances\.json: {complaint}"):
        read_annotations(tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(LaternaError, match=r"nowhere\.json: no such annotations file"):
        read_annotations(tmp_path / "nowhere.json")
    with pytest.raises(LaternaError, match="cannot be read: File name too long"):
        read_annotations(tmp_path / ("a" * 5000))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(LaternaError, match="pipe: no such annotations file"):
        read_annotations(tmp_path / "pipe")
    write_coco(tmp_path)
    with pytest.raises(LaternaError, match=r"words\.json: no such annotations file"):
        read_annotations(tmp_path, tmp_path / "words.json")


def test_a_folder_without_captions_is_read_without_and_one_without_boxes_too(
    tmp_path: Path,
) -> None:
    boxes, words = write_coco(tmp_path) / "instances.json", tmp_path / "captions.json"
    words.rename(tmp_path / "words.json")
    found = read_annotations(tmp_path)
    assert [(scene.captions, len(scene.boxes)) for scene in found.scenes] == [((), 1), ((), 1)]
    assert reasons(found) == ["no captions found: read without"]
    boxes.unlink()
    (tmp_path / "words.json").rename(words)
    found = read_annotations(tmp_path)
    assert [(len(scene.captions), scene.boxes) for scene in found.scenes] == [(2, ()), (1, ())]
    assert reasons(found) == []


def test_truncated_captions_are_named(tmp_path: Path) -> None:
    file = write_coco(tmp_path) / "captions.json"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(LaternaError, match=r"captions\.json: broken or cut JSON"):
        read_annotations(tmp_path)


def test_real_coco_folder(coco_mini: Path) -> None:
    found = read_annotations(coco_mini)
    assert len(found.scenes) == 80
    assert sum(len(scene.captions) for scene in found.scenes) == 400
    assert set(reasons(found)) == {"crowd region"}
    assert sum(len(scene.boxes) for scene in found.scenes) + len(found.problems) == 739
