"""A split COCO folder holds every image once, with its own annotations, the same every time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from laterna.errors import LaternaError
from real_small.split_coco import split


def write_coco(folder: Path, count: int) -> Path:
    (folder / "images").mkdir(parents=True)
    images = [{"id": i, "file_name": f"{i}.png"} for i in range(count)]
    for i in range(count):
        (folder / "images" / f"{i}.png").write_bytes(bytes([i]))
    for name in ("instances.json", "captions.json"):
        rows = [{"id": 10 * i + k, "image_id": i} for i in range(count) for k in range(2)]
        (folder / name).write_text(json.dumps({"images": images, "annotations": rows}))
    return folder


def ids(path: Path) -> set[int]:
    content = json.loads(path.read_bytes())
    found = {image["id"] for image in content["images"]}
    assert sorted(row["id"] for row in content["annotations"]) == sorted(
        10 * i + k for i in found for k in range(2)
    )
    return found


def test_split(tmp_path: Path) -> None:
    folder = write_coco(tmp_path / "coco", 10)
    assert split(folder, tmp_path / "a", held_out=3, seed=0) == {"train": 7, "held_out": 3}
    split(folder, tmp_path / "b", held_out=3, seed=0)
    for name in ("instances.json", "captions.json"):
        train, kept = (ids(tmp_path / "a" / part / name) for part in ("train", "held_out"))
        assert train | kept == set(range(10))
        assert not train & kept
        assert kept == ids(tmp_path / "b" / "held_out" / name)
    shown = {int(p.stem): p.read_bytes() for p in (tmp_path / "a/held_out/images").iterdir()}
    assert shown == {i: bytes([i]) for i in kept}


@pytest.mark.parametrize("held_out", [0, 10])
def test_each_part_needs_a_image(tmp_path: Path, held_out: int) -> None:
    folder = write_coco(tmp_path / "coco", 10)
    with pytest.raises(LaternaError, match=f"cannot hold out {held_out} of 10"):
        split(folder, tmp_path / "out", held_out=held_out, seed=0)
