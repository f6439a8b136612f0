"""Sets in POPE's form, built from annotations: the published rule, held to values."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from laterna.errors import LaternaError
from laterna.evaluation.tasks import TASKS
from laterna.evaluation.tasks.base import read_questions
from laterna.evaluation.tasks.pope import SAMPLINGS, Asked, build_pope, sample_pope

COCO = Path(__file__).parents[4] / "shared" / "data" / "coco_mini" / "instances.json"

KINDS = {
    "1": ["dog", "sofa", "cup", "tv"],
    "2": ["dog", "car", "sofa"],
    "3": ["car", "bus", "cup"],
    "4": ["kite", "dog", "bus"],
}
"""By frequency, the earlier seen first: dog 3; sofa, cup, car, bus 2; tv, kite 1."""


def drawn(
    kinds_of: Mapping[str, Sequence[str]], sampling: str, wanted: int = 3, seed: int = 0
) -> dict[str, list[tuple[str, str]]]:
    """Each image's questions, as kind and label, in their order."""
    found: dict[str, list[tuple[str, str]]] = {}
    for asked in sample_pope(kinds_of, sampling, wanted, random.Random(seed)):
        found.setdefault(asked.image, []).append((asked.kind, asked.label))
    return found


def absent(questions: list[tuple[str, str]]) -> list[str]:
    return [kind for kind, label in questions if label == "no"]


def test_the_first_kinds_are_asked_in_order_an_absent_one_behind_each() -> None:
    for sampling in SAMPLINGS:
        found = drawn(KINDS, sampling)
        assert list(found) == ["1", "2", "3", "4"]
        for image, questions in found.items():
            assert [label for _, label in questions] == ["yes", "no"] * 3
            assert [kind for kind, label in questions if label == "yes"] == KINDS[image][:3]
            assert len(set(absent(questions))) == 3
            assert not set(absent(questions)) & set(KINDS[image])


def test_popular_takes_the_most_frequent_of_all_images() -> None:
    found = drawn(KINDS, "popular")
    assert {image: absent(questions) for image, questions in found.items()} == {
        "1": ["car", "bus", "kite"],
        "2": ["cup", "bus", "tv"],
        "3": ["dog", "sofa", "tv"],
        "4": ["sofa", "cup", "car"],
    }


def test_adversarial_takes_what_stands_most_often_with_the_kind_before_it() -> None:
    found = drawn(KINDS, "adversarial")
    # Image 1: with the dog stand sofa (2), cup, tv, car, kite, bus (1 each), of which the image
    # lacks car, kite, bus; with the sofa then car (taken), so any that is left; and so on.
    assert absent(found["1"])[0] == "car"
    assert absent(found["1"])[2] == "bus"  # cup stands with car and bus in image 3
    assert absent(found["3"])[0] == "dog"  # car: dog, sofa, bus, cup, once each
    assert absent(found["4"])[1] == "sofa"  # dog: sofa twice


def test_random_takes_every_absent_kind_as_often() -> None:
    kinds_of = {"1": ["a", "b"], "2": ["c", "d"], "3": ["e", "f"]}
    counted: Counter[str] = Counter()
    for seed in range(600):
        counted.update(absent(drawn(kinds_of, "random", wanted=1, seed=seed)["1"]))
    assert set(counted) == {"c", "d", "e", "f"}
    assert all(110 < number < 190 for number in counted.values())


def test_an_image_that_lacks_too_few_kinds_is_left_out() -> None:
    assert list(drawn({"1": ["a", "b", "c"], "2": ["a", "b", "d"]}, "popular", wanted=2)) == []
    assert [*sample_pope({"1": ["a", "b"], "2": ["c"]}, "popular", 1, random.Random(0))] == [
        Asked("1", "a", "yes"),
        Asked("1", "c", "no"),
        Asked("2", "c", "yes"),
        Asked("2", "a", "no"),
    ]


def coco(folder: Path, kinds_of: Mapping[str, Sequence[str]]) -> Path:
    names = sorted({kind for own in kinds_of.values() for kind in own})
    path = folder / "instances.json"
    rows = [
        {"image_id": int(image), "category_id": names.index(kind)}
        for image, own in kinds_of.items()
        for kind in (*own, own[0])  # a second one of the first kind
    ]
    content = {
        "images": [{"id": int(image), "file_name": f"{image}.jpg"} for image in kinds_of],
        "annotations": [*rows, {"image_id": 99, "category_id": 0}, {"image_id": 1}],
        "categories": [{"id": number, "name": name} for number, name in enumerate(names)],
    }
    path.write_text(json.dumps(content))
    return path


def test_a_set_is_built_and_asked(tmp_path: Path) -> None:
    out = tmp_path / "set"
    out.mkdir()
    path = coco(tmp_path, KINDS | {"5": ["apple"], "6": ["pear", "car", "hat", "dog"]})
    for sampling in SAMPLINGS:
        built = build_pope(path, out / f"mine_pope_{sampling}.json", sampling, seed=1, images=4)
        assert (built.questions, built.images) == (24, 4)
        assert built.skipped == {
            "image with fewer than 3 kinds": 1,
            "annotation of no listed image or kind": 1,
            "row: Object missing required field `category_id`": 1,
        }
    rows = [json.loads(line) for line in (out / "mine_pope_popular.json").read_text().splitlines()]
    assert [row["question_id"] for row in rows] == list(range(1, 25))
    assert rows[0].keys() == {"question_id", "image", "text", "label"}
    assert all(row["text"].startswith("Is there a ") for row in rows)
    asked = read_questions(TASKS["pope"], out)
    images = {
        sampling: {one.images for one in asked.questions if one.kind == sampling}
        for sampling in SAMPLINGS
    }
    assert images["random"] == images["popular"] == images["adversarial"]
    assert Counter(one.references for one in asked.questions) == {("yes",): 36, ("no",): 36}


def test_an_before_a_vowel_and_errors_that_say_what_to_do(tmp_path: Path) -> None:
    path = coco(tmp_path, {"1": ["apple"], "2": ["cup"]})
    build_pope(path, tmp_path / "out.json", "popular", images=2, per_image=2)
    texts = [json.loads(line)["text"] for line in (tmp_path / "out.json").read_text().splitlines()]
    assert sorted(set(texts)) == ["Is there a cup in the image?", "Is there an apple in the image?"]
    with pytest.raises(LaternaError, match="2 images have 1 kinds or more, and 500 are"):
        build_pope(path, tmp_path / "out.json", "popular", per_image=2)
    with pytest.raises(LaternaError, match="popular, adversarial"):
        build_pope(path, tmp_path / "out.json", "frequent")


@pytest.mark.skipif(not COCO.is_file(), reason="../shared/data/coco_mini is not there")
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_a_set_of_real_annotations_says_what_they_say(tmp_path: Path, sampling: str) -> None:
    out = tmp_path / f"coco_pope_{sampling}.json"
    built = build_pope(COCO, out, sampling, images=30)
    content = json.loads(COCO.read_text())
    names = {row["id"]: row["name"] for row in content["categories"]}
    files = {row["id"]: row["file_name"] for row in content["images"]}
    present = {(files[r["image_id"]], names[r["category_id"]]) for r in content["annotations"]}
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == built.questions == 180
    for row in rows:
        kind = row["text"].removesuffix(" in the image?").split(" ", 3)[3]
        assert ((row["image"], kind) in present) == (row["label"] == "yes"), row
