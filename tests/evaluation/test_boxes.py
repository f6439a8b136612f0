"""Questions that boxes decide: true, about certain things alone, and of no use to the blind."""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import pytest

from laterna.errors import LaternaError
from laterna.evaluation.tasks.boxes import box_questions
from laterna.records import Question
from laterna.scenes.phrases import SHORT_ANSWER

Annotated = tuple[str, float, float]
"""Category and centre of a box of a fifth of the image's sides; a `*` before: a crowd region."""


def write_coco(
    folder: Path,
    boxes_of: Sequence[Sequence[Annotated]],
    captions: Sequence[Sequence[str]] | None = None,
) -> Path:
    names = sorted({name.strip("*") for boxes in boxes_of for name, _, _ in boxes})
    images = [
        {"id": i, "file_name": f"{i}.jpg", "width": 200, "height": 100}
        for i in range(len(boxes_of))
    ]
    annotations = [
        {
            "image_id": i,
            "category_id": names.index(name.strip("*")),
            "bbox": [200 * (x - 0.1), 100 * (y - 0.1), 40, 20],
            "iscrowd": int(name.startswith("*")),
        }
        for i, boxes in enumerate(boxes_of)
        for name, x, y in boxes
    ]
    folder.mkdir(exist_ok=True)
    instances = {
        "images": images,
        "annotations": [{"id": k, **row} for k, row in enumerate(annotations)],
        "categories": [{"id": k, "name": name} for k, name in enumerate(names)],
    }
    (folder / "instances.json").write_text(json.dumps(instances))
    if captions is not None:
        told = [
            {"image_id": i, "caption": text} for i, some in enumerate(captions) for text in some
        ]
        rows = [{"id": k, **row} for k, row in enumerate(told)]
        (folder / "captions.json").write_text(json.dumps({"images": images, "annotations": rows}))
    return folder


def asked(questions: Sequence[Question], kind: str) -> set[tuple[str, str]]:
    """What is asked of a kind, by id, with the answers."""
    return {(q.id, q.references[0]) for q in questions if q.kind == kind}


def test_existence_is_asked_of_a_image_with_it_and_of_one_without_in_the_same_words(
    tmp_path: Path,
) -> None:
    folder = write_coco(tmp_path, [[("dog", 0.2, 0.5)], [("cup", 0.5, 0.5)], [("dog", 0.5, 0.5)]])
    questions = box_questions(folder, limit=0, seed=0)
    assert {q.kind for q in questions} == {"existence"}
    told = asked(questions, "existence")
    assert {("1-existence-dog", "no"), ("1-existence-cup", "yes")} < told
    assert len(told) == 4  # one pair a category: the cup is in one image, missing in one of two
    assert [q.images[0] for q in questions] == [q.id[0] + ".jpg" for q in questions]
    for name in ("dog", "cup"):
        texts = {q.text for q in questions if q.id.endswith(name)}
        assert len(texts) == 1
        assert f"a {name}" in texts.pop().removesuffix(SHORT_ANSWER)


def test_a_kind_that_every_image_has_is_not_asked_for(tmp_path: Path) -> None:
    folder = write_coco(tmp_path, [[("dog", 0.2, 0.5)], [("dog", 0.2, 0.5)]])
    assert box_questions(folder, limit=0, seed=0) == []


def test_counts_differ_from_image_to_image(tmp_path: Path) -> None:
    dogs = [("dog", 0.15, 0.5), ("dog", 0.5, 0.5), ("dog", 0.85, 0.5)]
    folder = write_coco(tmp_path, [dogs[:1], dogs[:1], dogs[:3], [("cup", 0.5, 0.5)]])
    questions = [q for q in box_questions(folder, limit=0, seed=0) if q.kind == "count"]
    assert sorted(q.references[0] for q in questions) == ["one", "three"]
    assert len({q.text for q in questions}) == 1
    assert "dogs" in questions[0].text
    assert [q.references[0] for q in questions if q.images[0] == "2.jpg"] == ["three"]


def test_a_relation_is_asked_both_ways_round_and_only_where_it_is_clear(tmp_path: Path) -> None:
    clear = [("dog", 0.2, 0.5), ("cup", 0.7, 0.5)]
    unclear = [("dog", 0.5, 0.2), ("cup", 0.55, 0.8)]
    two_cups = [("dog", 0.2, 0.5), ("cup", 0.5, 0.2), ("cup", 0.8, 0.5)]
    folder = write_coco(tmp_path, [clear, unclear, two_cups])
    questions = [q for q in box_questions(folder, limit=0, seed=0) if q.kind == "relation"]
    assert {q.images[0] for q in questions} == {"0.jpg"}
    dog_first = {("0-relation-dog to the left of cup", "yes")}
    dog_first |= {("0-relation-dog to the right of cup", "no")}
    cup_first = {("0-relation-cup to the left of dog", "no")}
    cup_first |= {("0-relation-cup to the right of dog", "yes")}
    assert asked(questions, "relation") in (dog_first, cup_first)
    left, right = sorted(questions, key=lambda q: q.id)
    assert left.text.replace("left", "right") == right.text


def test_of_a_image_two_relations_are_asked_at_most(tmp_path: Path) -> None:
    row = [("dog", 0.1, 0.5), ("cup", 0.4, 0.5), ("bus", 0.6, 0.5), ("tv", 0.9, 0.5)]
    questions = box_questions(write_coco(tmp_path, [row]), limit=0, seed=0)
    assert Counter(q.references[0] for q in questions) == {"yes": 2, "no": 2}


def test_what_captions_name_or_dispute_is_not_asked(tmp_path: Path) -> None:
    images = [[("dog", 0.2, 0.5)], [("cup", 0.5, 0.5)], [("dog", 0.2, 0.5), ("dog", 0.6, 0.5)]]
    plain = [["A dog."], ["A cup."], ["Two dogs."]]
    with_them = box_questions(write_coco(tmp_path, images, plain), limit=0, seed=0)
    assert asked(with_them, "existence") >= {("1-existence-dog", "no")}
    assert {truth for _, truth in asked(with_them, "count")} == {"one", "two"}
    # The dog beside the cup has no box; the two boxes are three dogs, a caption says.
    told = [["A dog."], ["A cup and a puppy."], ["Three dogs."]]
    questions = box_questions(write_coco(tmp_path, images, told), limit=0, seed=0)
    assert {about for about, _ in asked(questions, "existence")} <= {
        f"{i}-existence-cup" for i in range(3)
    }
    assert asked(questions, "count") == set()


def test_a_crowd_region_makes_its_kind_unsure(tmp_path: Path) -> None:
    one = [("dog", 0.2, 0.5), ("cup", 0.7, 0.5)]
    crowd = [("dog", 0.2, 0.5), ("*dog", 0.5, 0.5), ("cup", 0.7, 0.5), ("cup", 0.9, 0.5)]
    only_crowd = [("*dog", 0.5, 0.5), ("tv", 0.7, 0.5)]
    two = [("dog", 0.2, 0.5), ("dog", 0.8, 0.5)]
    questions = box_questions(write_coco(tmp_path, [one, crowd, only_crowd, two]), limit=0, seed=0)
    about_dogs = {(q.kind, q.images[0][0]) for q in questions if q.id.endswith("dog")}
    # Dogs are in every image, if only as a crowd; how many is sure in the first and the last.
    assert about_dogs - {("relation", "0")} == {("count", "0"), ("count", "3")}
    assert {q.images[0][0] for q in questions if q.kind == "relation"} == {"0"}


@pytest.fixture
def many(tmp_path: Path) -> Path:
    rng = random.Random(0)
    names = ("dog", "cup", "bus", "tv", "orange")
    images = [
        [(rng.choice(names), 0.1 + 0.2 * k, 0.2 + 0.1 * (i % 7)) for k in range(1 + i % 5)]
        for i in range(60)
    ]
    return write_coco(tmp_path, images)


def test_the_same_answer_to_the_same_words_earns_half_at_most(many: Path) -> None:
    questions = box_questions(many, limit=0, seed=0)
    by_words: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for question in questions:
        words = question.text if question.kind != "relation" else "relation"
        by_words[question.kind, words][question.references[0]] += 1
    assert {kind for kind, _ in by_words} == {"existence", "count", "relation"}
    for counts in by_words.values():
        assert len(counts) > 1
        assert len(set(counts.values())) == 1


def test_limit_and_seed(many: Path) -> None:
    whole = box_questions(many, limit=0, seed=3)
    assert len(whole) > 60
    assert box_questions(many, limit=0, seed=3) == whole
    assert box_questions(many, limit=20, seed=3) == whole[:20]
    assert box_questions(many, limit=20, seed=4) != whole[:20]
    assert len({question.id for question in whole}) == len(whole)


def test_a_folder_without_instances_is_told(tmp_path: Path) -> None:
    with pytest.raises(LaternaError, match="a folder without annotations"):
        box_questions(tmp_path, limit=0, seed=0)
