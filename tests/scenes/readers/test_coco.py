from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from laterna.errors import LaternaError
from laterna.records import Box, Scene
from laterna.scenes.annotations import (
    Annotations,
    Problem,
    read_annotations,
    stream_scenes,
)
from laterna.scenes.readers import files

CATEGORIES = [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]
IMAGES = [
    {"id": 7, "file_name": "seven.jpg", "width": 200, "height": 100},
    {"id": 8, "file_name": "eight.jpg", "width": 100, "height": 100},
]
CAPTIONS = [
    {"id": 1, "image_id": 7, "caption": "A dog."},
    {"id": 2, "image_id": 8, "caption": "A cat."},
]
DOG = Box(category="dog", x1=0.25, y1=0.1, x2=0.75, y2=0.6)


def instance(number: object, image: object = 7, **changes: object) -> dict[str, object]:
    row = {"id": number, "image_id": image, "category_id": 1, "bbox": [50, 10, 100, 50]}
    return {**row, "segmentation": [[50.0, 10.0, 150.5, 60.0]], **changes}


def write(
    folder: Path,
    *annotations: object,
    images: Any = IMAGES,
    captions: Any = CAPTIONS,
    categories: Any = CATEGORIES,
) -> Path:
    # as LVIS does, on purpose: what the annotations refer to comes after them
    instances = {"annotations": annotations, "images": images, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(instances))
    (folder / "captions.json").write_text(json.dumps({"annotations": captions}))
    return folder


def notes(found: Annotations) -> list[tuple[str, str]]:
    return [(p.reason, p.where.partition(": ")[2]) for p in found.problems]


def test_gzipped_files_give_the_same(tmp_path: Path) -> None:
    plain = read_annotations(write(tmp_path, instance(1)))
    assert [scene.boxes for scene in plain.scenes] == [(DOG,), ()]
    for name in ("instances.json", "captions.json"):
        file = tmp_path / name
        file.write_bytes(gzip.compress(file.read_bytes()))
    assert read_annotations(tmp_path) == plain
    for name in ("instances.json", "captions.json"):
        (tmp_path / name).rename(tmp_path / f"{name}.gz")
    assert read_annotations(tmp_path) == plain
    assert read_annotations(tmp_path / "instances.json.gz") == plain


def test_what_is_given_twice_word_for_word_counts_once(tmp_path: Path) -> None:
    found = read_annotations(
        write(tmp_path, instance(1), instance(1), captions=[*CAPTIONS, CAPTIONS[0]])
    )
    assert notes(found) == [
        ("annotation id given twice", "annotation 1"),
        ("caption id given twice", "caption 1"),
    ]
    assert not any(problem.kept for problem in found.problems)
    assert [len(scene.boxes) for scene in found.scenes] == [1, 0]
    assert found.scenes[0].captions == ("A dog.",)


def test_an_id_given_twice_to_different_things_loses_none(tmp_path: Path) -> None:
    found = read_annotations(
        write(
            tmp_path,
            instance(1),
            instance(2, 8, bbox=[0, 0, 10, 10]),
            instance(1, 8, category_id=2),
            images=[*IMAGES, {**IMAGES[0], "file_name": "again.jpg"}],
            captions=[*CAPTIONS, {"id": 1, "image_id": 8, "caption": "Another."}],
        )
    )
    assert notes(found) == [
        ("image id given twice", "image 7 (again.jpg)"),
        ("annotation id given twice", "annotation 1"),
        ("caption id given twice", "caption 1"),
        ("box cut at the image's edge", "annotation 1"),
    ]
    assert [problem.kept for problem in found.problems] == [False, True, True, True]
    assert [scene.image for scene in found.scenes] == ["seven.jpg", "eight.jpg"]
    assert [scene.captions for scene in found.scenes] == [("A dog.",), ("A cat.", "Another.")]
    assert [len(scene.boxes) for scene in found.scenes] == [1, 2]
    assert [box.category for box in found.scenes[1].boxes] == ["dog", "cat"]


def test_boxes_come_in_the_order_of_the_file(tmp_path: Path) -> None:
    rows = [instance(n, image=7 + n % 2, bbox=[n, 0, 10, 10]) for n in (5, 2, 9, 4, 1)]
    found = read_annotations(write(tmp_path, *rows))
    assert [
        [box.x1 * scene.width for box in scene.boxes] for scene in found.scenes if scene.width
    ] == [
        [2, 4],
        [5, 9, 1],
    ]


@pytest.mark.parametrize("size", [{}, {"width": None, "height": 100}, {"width": 0, "height": 100}])
def test_a_missing_size_is_counted_for_each_box(tmp_path: Path, size: dict[str, Any]) -> None:
    images = [{"id": 7, "file_name": "seven.jpg", **size}]
    found = read_annotations(
        write(tmp_path, instance(1), instance(2), images=images, captions=CAPTIONS[:1])
    )
    assert notes(found) == [
        ("image without a size", "annotation 1"),
        ("image without a size", "annotation 2"),
    ]
    assert (found.scenes[0].boxes, found.scenes[0].width) == ((), None)


def test_a_number_may_be_a_float_or_a_text(tmp_path: Path) -> None:
    found = read_annotations(
        write(
            tmp_path,
            instance("a1", "7", category_id="/m/0bt9lr"),
            instance(2.0, 8.0, category_id=3.0, iscrowd=1.0),
            images=[{**IMAGES[0], "id": "7"}, {**IMAGES[1], "id": 8.0, "width": 100.0}],
            categories=[{"id": "/m/0bt9lr", "name": "dog"}, {"id": 3, "name": "cat"}],
        )
    )
    assert [(scene.id, scene.width) for scene in found.scenes] == [("7", 200), ("8", 100)]
    assert found.scenes[0].boxes == (DOG,)
    assert notes(found) == [("crowd region", "annotation 2")]


def test_open_images_in_relative_boxes(tmp_path: Path) -> None:
    name = "000002b66c9c498e"
    images = [{"id": name, "file_name": f"{name}.jpg"}]
    captions = [{"id": 1, "image_id": name, "caption": "A dog."}]
    box = [0.25, 0.125, 0.5, 0.5]
    rows = [instance(1, name, bbox=box), instance(2, name, bbox=[0, 0, 1, 1], iscrowd=1)]
    found = read_annotations(write(tmp_path, *rows, images=images, captions=captions))
    assert found.scenes == (
        Scene(
            id=name,
            image=f"{name}.jpg",
            width=None,
            height=None,
            captions=("A dog.",),
            boxes=(Box(category="dog", x1=0.25, y1=0.125, x2=0.75, y2=0.625),),
        ),
    )
    assert notes(found) == [("crowd region", "annotation 2")]


@pytest.mark.parametrize("others", [[[0, 0, 1, 1]], [[0.5, 0.5, 0.4, 0.4], [0, 0, 20, 10]]])
def test_a_small_box_in_pixels_stays_in_pixels(tmp_path: Path, others: list[list[float]]) -> None:
    rows = [instance(number, bbox=box) for number, box in enumerate(others)]
    found = read_annotations(write(tmp_path, *rows))
    box, pixels = found.scenes[0].boxes[0], others[0]
    assert (box.x2 - box.x1, box.y2 - box.y1) == pytest.approx((pixels[2] / 200, pixels[3] / 100))


def lvis(folder: Path) -> Path:
    """One image as LVIS v1 lists it, with captions of COCO's."""
    image = {
        "id": 391895,
        "coco_url": "http://images.cocodataset.org/train2017/000000391895.jpg",
        "width": 200,
        "height": 100,
        "neg_category_ids": [3],
        "not_exhaustive_category_ids": [],
    }
    category = {"id": 1, "name": "bell_pepper", "synset": "bell_pepper.n.02", "frequency": "f"}
    caption = {"id": 1, "image_id": 391895, "caption": "A pepper."}
    return write(
        folder,
        instance(1, 391895),
        images=[image],
        captions=[caption],
        categories=[category, {"id": 2, "name": "as_it_is"}],
    )


def test_lvis_with_captions_of_coco(tmp_path: Path) -> None:
    folder = lvis(tmp_path)
    (folder / "captions.json").rename(folder / "captions_train2017.json")
    found = read_annotations(folder / "instances.json", folder / "captions_train2017.json")
    assert found.scenes == (
        Scene(
            id="391895",
            image="train2017/000000391895.jpg",
            width=200,
            height=100,
            captions=("A pepper.",),
            boxes=(Box(category="bell pepper", x1=0.25, y1=0.1, x2=0.75, y2=0.6),),
        ),
    )


def test_lvis_without_captions(tmp_path: Path) -> None:
    folder = lvis(tmp_path)
    (folder / "captions.json").write_text('{"annotations": []}')
    with pytest.raises(LaternaError, match=r"no usable image in it \(image without captions\)"):
        read_annotations(folder)
    (folder / "captions.json").unlink()
    problems: list[Problem] = []
    scenes = list(stream_scenes(folder, None, problems))
    assert [(scene.captions, len(scene.boxes)) for scene in scenes] == [((), 1)]
    where = str(folder / "instances.json")
    assert problems == [Problem(reason="no captions found: read without", where=where, kept=True)]
    with pytest.raises(LaternaError, match=r"words\.json: no such annotations file"):
        stream_scenes(folder, folder / "words.json", problems, captionless=True)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("bus_(vehicle)", "bus"),
        ("mouse_(computer_equipment)", "mouse"),
        ("football_(American)", "football"),
        ("monitor_(computer_equipment) computer_monitor", "monitor"),
        ("CD_player", "CD player"),
    ],
)
def test_lvis_names_are_said_without_what_tells_meanings_apart(
    tmp_path: Path, name: str, said: str
) -> None:
    category = {"id": 1, "name": name, "synset": "bus.n.01"}
    found = read_annotations(write(tmp_path, instance(1), categories=[category]))
    assert [box.category for box in found.scenes[0].boxes] == [said]


def test_a_group_in_one_box_is_a_crowd_region(tmp_path: Path) -> None:
    """As a conversion of Open Images writes it."""
    group = instance("ab2", iscrowd=False, isgroupof=1)
    found = read_annotations(write(tmp_path, instance("ab1", isgroupof=0), group))
    assert notes(found) == [("crowd region", "annotation ab2")]
    assert len(found.scenes[0].boxes) == 1


def test_a_image_without_a_name_is_left_out(tmp_path: Path) -> None:
    nameless = {"id": 8, "width": 10, "height": 10, "coco_url": "http://images.cocodataset.org"}
    found = read_annotations(
        write(tmp_path, instance(1), instance(2, 8), images=[IMAGES[0], nameless])
    )
    assert notes(found) == [
        ("image without a file name", "image 8 ()"),
        ("annotation without an image entry", "annotation 2"),
        ("caption of an unknown image", "caption 2"),
    ]


def test_scenes_come_one_by_one(tmp_path: Path) -> None:
    problems: list[Problem] = []
    crowd = instance(2, 8, iscrowd=1)
    scenes = stream_scenes(write(tmp_path, instance(1), crowd), None, problems)
    assert next(scenes).id == "7"
    assert problems == []
    assert [scene.id for scene in scenes] == ["8"]
    assert [problem.reason for problem in problems] == ["crowd region"]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b'{"images": [{"id": 7}], "annotations": []}', "image without a file name"),
        (b'{"images": [], "annotations": [1]}', "entry that is no object"),
        (b'{"images": [{"file_name": "a"}]}', "image without an id"),
        (b'{"images": {"id": 7}}', "instances.json: images: not a list"),
        (b'{"annotations": []}', "without a list `images`"),
        (b'{"images": [{"id": "\xff"}]}', "neither UTF-8 nor UTF-16"),
        (b'{"images": []} x', r"broken or cut JSON: Extra data: line 1 column 16"),
        (b'{"images": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"annotations": "\xff', "neither UTF-8"),
    ],
)
def test_what_is_not_of_the_form_is_named(tmp_path: Path, content: bytes, complaint: str) -> None:
    (write(tmp_path) / "instances.json").write_bytes(content)
    with pytest.raises(LaternaError, match=complaint):
        read_annotations(tmp_path)


def test_a_mapped_file_gives_what_a_whole_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [instance(1), instance("2", 8, bbox=None), instance(3, 8, bbox=["1", 2, 3, 4]), 5]
    folder = write(tmp_path, *rows, captions=[*CAPTIONS, {"id": 3, "image_id": 8, "caption": 4}])
    whole = read_annotations(folder)
    monkeypatch.setattr(files, "WHOLE", 1)
    assert read_annotations(folder) == whole
    assert [len(scene.boxes) for scene in whole.scenes] == [1, 2]
    assert sorted(reason for reason, _ in notes(whole)) == [
        "box cut at the image's edge",
        "box taken from its outline",
        "box whose numbers are text",
        "caption that is no text",
        "entry that is no object",
    ]


def write_large(folder: Path, size: int) -> tuple[int, int]:
    """Write an instances file of `size` bytes as COCO's are; return images and boxes."""
    outline = json.dumps([[round(n * 3.77 % 640, 2) for n in range(70)]])
    images, boxes = size // 4_000, 0
    with (folder / "instances.json").open("w") as file:
        rows = (
            {"id": n, "file_name": f"{n:012}.jpg", "width": 640, "height": 480}
            for n in range(images)
        )
        file.write(f'{{"images": [{", ".join(map(json.dumps, rows))}], "annotations": [')
        while file.tell() < size:
            comma = ", " if boxes else ""
            left, top = boxes % 500 + 0.25, boxes % 400 + 0.5
            file.write(
                f'{comma}{{"segmentation": {outline}, "area": 702.1, "iscrowd": 0, "image_id": '
                f'{boxes * 7 % images}, "bbox": [{left}, {top}, 77.5, 70.25], "category_id": '
                f'1, "id": {boxes}}}'
            )
            boxes += 1
        file.write(f'], "categories": {json.dumps(CATEGORIES)}}}')
    captions = [
        {"id": n, "image_id": n // 5, "caption": f"A dog stands beside {n} other dogs on grass."}
        for n in range(5 * images)
    ]
    (folder / "captions.json").write_text(json.dumps({"annotations": captions}))
    return images, boxes


MEASURE = """
import sys
from pathlib import Path
from laterna.scenes.annotations import stream_scenes
from laterna.scenes.readers import files

files.WHOLE = int(sys.argv[2])

def peak() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) / 1024

before, most, scenes, boxes = peak(), 0, 0, 0
for scene in stream_scenes(Path(sys.argv[1]), None, []):
    scenes, boxes = scenes + 1, boxes + len(scene.boxes)
    most = max(most, peak() - before) if scenes % 1000 == 1 else most
print(scenes, boxes, most)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(("whole", "most"), [(10**9, 250), (1, 250)], ids=["whole", "mapped"])
def test_a_large_file_is_read_in_bounded_memory(tmp_path: Path, whole: int, most: int) -> None:
    size = 150_000_000
    images, boxes = write_large(tmp_path, size)
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path), str(whole)],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(Path(__file__).parents[3] / "src")},
    )
    scenes, found, growth = run.stdout.split()
    assert (int(scenes), int(found)) == (images, boxes)
    assert float(growth) < most
