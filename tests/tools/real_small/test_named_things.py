"""The tool that counts the things that answers name."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from laterna.errors import LaternaError
from laterna.records import Answer, Question
from real_small.named_things import Named, interval, look, named, table

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


def test_an_interval_holds_the_score_and_is_none_where_all_is_right() -> None:
    said = [{"cat", "dog"}, {"dog"}, set(), {"bus"}, {"person"}]
    low, high = interval(said, TRUTH)
    assert low < named(said, TRUTH).f1 < high
    assert interval(TRUTH, TRUTH) == (1.0, 1.0)


def _coco(folder: Path) -> None:
    images = [{"id": at, "file_name": f"{at}.jpg", "width": 8, "height": 8} for at in (1, 2)]
    boxes = [
        {"id": at, "image_id": 1, "category_id": at, "bbox": [0, 0, 4, 4], "iscrowd": 0}
        for at in (3, 4)
    ]
    captions = [{"id": 1, "image_id": 2, "caption": "A puppy beside two sofas."}]
    categories = [{"id": 3, "name": "girl"}, {"id": 4, "name": "others"}]
    (folder / "images").mkdir()
    for name, rows in (("instances", boxes), ("captions", captions)):
        content = {"images": images, "annotations": rows, "categories": categories}
        (folder / f"{name}.json").write_text(json.dumps(content))


def _answer(image: str, text: str) -> Answer:
    question = Question(
        id=image, images=(image,), kind="caption", text="What is it?", references=("A dog.",)
    )
    return Answer(question=question, text=text, score=0.0)


def test_things_are_those_of_boxes_and_captions_of_a_known_kind(tmp_path: Path) -> None:
    _coco(tmp_path)
    things = look(tmp_path)
    assert things.of_image == {"1.jpg": {"person"}, "2.jpg": {"dog", "couch"}}
    assert things.named_in("Girls and a puppy, and others") == {"person", "dog"}
    assert things.named_in("A man with a girl") == {"person"}  # each kind once


def test_answers_are_held_against_their_own_image(tmp_path: Path) -> None:
    _coco(tmp_path)
    things = look(tmp_path)
    right = [_answer("images/1.jpg", "A girl."), _answer("images/2.jpg", "A dog on a couch.")]
    wrong = [_answer("images/1.jpg", "A dog."), _answer("images/2.jpg", "A girl.")]
    own, other = table({"own": right, "other": wrong}, things)
    assert "F1 1.000 (1.000 to 1.000) of 2 images" in own
    assert "precision 0.000, recall 0.000, F1 0.000" in other
    with pytest.raises(LaternaError, match=r"9\.jpg: the run asked about it"):
        table({"own": [_answer("9.jpg", "A girl.")]}, things)
