from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from laterna.errors import LaternaError
from laterna.records import Truth
from laterna.scenes.annotations import read_annotations
from laterna.world import dataset
from laterna.world.dataset import write_world
from laterna.world.scenes import draw_truth
from laterna.world.toys import CATEGORIES

FILES = [".laterna-made.json", "captions.json", "images", "instances.json", "truth.jsonl"]


def load(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_coco_files_agree_with_each_other(small_world: Path) -> None:
    instances, captions = (load(small_world / f) for f in ("instances.json", "captions.json"))
    assert sorted(path.name for path in small_world.iterdir()) == FILES
    assert instances["images"] == captions["images"]
    ids = [image["id"] for image in instances["images"]]
    assert ids == list(range(10, 310))
    names = [image["file_name"] for image in instances["images"]]
    assert names == sorted(path.name for path in (small_world / "images").iterdir())
    assert [c["name"] for c in instances["categories"]] == list(CATEGORIES)
    assert [c["id"] for c in instances["categories"]] == list(range(1, len(CATEGORIES) + 1))
    annotations = instances["annotations"]
    assert [a["id"] for a in annotations] == list(range(1, len(annotations) + 1))
    for annotation in annotations:
        x, y, width, height = annotation["bbox"]
        assert annotation["image_id"] in ids
        assert 1 <= annotation["category_id"] <= len(CATEGORIES)
        assert annotation["area"] == width * height > 0
        assert min(x, y) >= 0
        assert max(x + width, y + height) <= 112
        assert annotation["iscrowd"] == 0
        assert set(annotation) == {"id", "image_id", "category_id", "bbox", "area", "iscrowd"}
    assert Counter(c["image_id"] for c in captions["annotations"]) == dict.fromkeys(ids, 5)
    assert [c["id"] for c in captions["annotations"]] == list(range(1, 1501))


def test_truth_is_what_was_drawn(small_world: Path) -> None:
    lines = (small_world / "truth.jsonl").read_bytes().splitlines()
    truths = [msgspec.json.decode(line, type=Truth) for line in lines]
    assert truths == [draw_truth("world", 6, index) for index in range(10, 310)]
    assert [msgspec.json.encode(truth) for truth in truths] == lines


def test_images_are_what_their_names_say(small_world: Path) -> None:
    for path in list((small_world / "images").iterdir())[:20]:
        with Image.open(path) as image:
            assert (image.format, image.mode, image.size) == ("PNG", "RGB", (112, 112))


def test_the_world_is_read_like_any_dataset(small_world: Path) -> None:
    found = read_annotations(small_world)
    assert found.problems == ()
    for scene, index in zip(found.scenes, range(10, 310), strict=True):
        truth = draw_truth("world", 6, index)
        assert (scene.id, scene.image) == (str(index), truth.image)
        assert [box.category for box in scene.boxes] == [toy.category for toy in truth.toys]
        for box, toy in zip(scene.boxes, truth.toys, strict=True):
            corners = [box.x1, box.y1, box.x2, box.y2]
            wanted = [toy.box.x1, toy.box.y1, toy.box.x2, toy.box.y2]
            assert np.allclose(corners, wanted, rtol=0, atol=1e-4)


def test_same_seed_same_bytes(tmp_path: Path, small_world: Path) -> None:
    summary = write_world(tmp_path / "a", images=5, seed=6, start=10)
    write_world(tmp_path / "b", images=5, seed=6, start=10)
    write_world(tmp_path / "c", images=5, seed=7, start=10)
    a, b, c = (contents(tmp_path / name) for name in "abc")
    assert a == b
    assert a.keys() == c.keys()
    assert all(a[name] != c[name] for name in a)
    larger = contents(small_world)
    images = [name for name in a if name.endswith(".png")]
    assert [larger[name] for name in images] == [a[name] for name in images]
    toys = len(load(tmp_path / "a" / "instances.json")["annotations"])
    assert summary.line() == f"drew 5 images of {toys} toys in {tmp_path / 'a'}"


def test_a_failure_leaves_no_folder_and_the_old_one_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    write_world(old, images=2, seed=0)
    before = contents(old)

    def fail(truths: list[Truth], seed: int) -> dict[str, object]:
        raise KeyboardInterrupt

    monkeypatch.setattr(dataset, "_captions", fail)
    for folder in (old, new):
        with pytest.raises(KeyboardInterrupt):
            write_world(folder, images=3, seed=1, overwrite=True)
    assert contents(old) == before
    assert list(tmp_path.iterdir()) == [old]


def test_a_world_replaces_itself_an_empty_folder_and_another_world_when_asked(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "world"
    folder.mkdir()
    write_world(folder, images=3, seed=0)
    write_world(folder, images=3, seed=0)
    with pytest.raises(LaternaError, match=r"world made differently \(images 3, now 1\)"):
        write_world(folder, images=1, seed=0)
    assert len(list((folder / "images").iterdir())) == 3
    write_world(folder, images=1, seed=0, overwrite=True)
    assert len(list((folder / "images").iterdir())) == 1


def test_nothing_but_a_world_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(LaternaError, match=r"not Laterna's world: it holds thesis\.tex"):
        write_world(tmp_path, images=1, seed=0)
    with pytest.raises(LaternaError, match=r"thesis\.tex is a file; name a folder"):
        write_world(tmp_path / "thesis.tex", images=1, seed=0)
    assert (tmp_path / "thesis.tex").read_text() == "precious"


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"images": 0}, "cannot draw 0 images, ask for at least 1"),
        ({"images": -2}, "cannot draw -2 images"),
        ({"seed": -1}, "seed -1 and start 0 cannot be negative"),
        ({"start": -5}, "seed 0 and start -5 cannot be negative"),
    ],
)
def test_what_the_user_can_mend_is_said(
    tmp_path: Path, changes: dict[str, int], complaint: str
) -> None:
    with pytest.raises(LaternaError, match=complaint):
        write_world(tmp_path / "world", **({"images": 1, "seed": 0} | changes))
    assert list(tmp_path.iterdir()) == []


def test_several_processes_draw_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "WORTH_A_PROCESS", 2)
    for name, workers in (("one", 1), ("two", 2)):
        write_world(tmp_path / name, images=4, seed=3, workers=workers)
    one, two = (
        {path.name: path.read_bytes() for path in (tmp_path / name).rglob("*") if path.is_file()}
        for name in ("one", "two")
    )
    assert len(one) == 4 + 3 + 1  # what the folder says of itself, too
    assert one == two
