"""The tool that counts the things that descriptions name."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from laterna.errors import LaternaError
from real_small.named_things import Named, chance, chance_to_beat, look, named, others

if TYPE_CHECKING:
    from pathlib import Path

TRUTH = [{"cat", "couch"}, {"dog"}, {"cat", "bowl"}, {"car"}, {"bus", "person"}]


def test_precision_is_of_what_is_named_and_recall_of_what_is_there() -> None:
    said = [{"cat", "dog"}, {"dog"}, set(), {"bus"}, {"person"}]
    score = named(said, TRUTH)
    assert score == Named(3 / 5, 3 / 8)
    assert score.f1 == pytest.approx(2 * 3 / (5 + 8))
    assert named([set()] * 5, TRUTH) == Named(0.0, 0.0)
    assert named([set()] * 5, TRUTH).f1 == 0.0


def test_the_same_for_every_image_is_as_good_behind_any_other() -> None:
    same = [{"cat"}] * 5
    assert named(same, TRUTH) == others(same, TRUTH) == Named(2 / 5, 2 / 8)
    assert chance(same, TRUTH) == 1.0


def test_only_what_hangs_on_the_image_is_beyond_chance() -> None:
    assert named(TRUTH, TRUTH) == Named(1.0, 1.0)
    # Of each pair of images, only the two with a cat share a thing: 2 of 4 x 8 ordered chances.
    assert others(TRUTH, TRUTH) == pytest.approx(Named(2 / 32, 2 / 32))
    # One of 120 orders is the true one.
    assert chance(TRUTH, TRUTH) == pytest.approx(1 / 120, abs=0.004)


def test_ahead_of_the_blank_image_by_chance_or_not() -> None:
    same: list[set[str]] = [{"cat"}] * 5
    # Ahead only if none of the five pairs swaps, or all that differ: 1 of 32 ways.
    blind: list[set[str]] = [set()] * 5
    assert chance_to_beat(blind, TRUTH, TRUTH) == pytest.approx(1 / 32, abs=0.006)
    assert chance_to_beat(same, same, TRUTH) == 1.0
    assert chance_to_beat(TRUTH, same, TRUTH) > 0.9


def test_things_are_those_of_boxes_and_captions(tmp_path: Path) -> None:
    _coco(tmp_path, count=2)
    scenes, words, truth = look(tmp_path)
    assert [scene.id for scene in scenes] == ["1", "2"]
    assert truth == [{"gnome"}, {"dog", "couch"}]
    assert words.categories("Gnomes and a puppy") == {"gnome", "dog"}


def test_one_image_has_no_other(tmp_path: Path) -> None:
    _coco(tmp_path, count=1)
    with pytest.raises(LaternaError, match="1 pictures; another one needs at least 2"):
        look(tmp_path)


def _coco(folder: Path, *, count: int) -> None:
    images = [
        {"id": at, "file_name": f"{at}.jpg", "width": 8, "height": 8} for at in range(1, count + 1)
    ]
    boxes = [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [0, 0, 4, 4], "iscrowd": 0}]
    captions = [{"id": 1, "image_id": count, "caption": "A puppy beside two sofas."}]
    categories = [{"id": 3, "name": "gnome"}]
    (folder / "images").mkdir()
    for name, rows in (("instances", boxes), ("captions", captions)):
        content = {"images": images, "annotations": rows, "categories": categories}
        (folder / f"{name}.json").write_text(json.dumps(content))
