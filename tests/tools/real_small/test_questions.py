"""The tools that ask about photographs, and that mix what stage 2 learns."""

from __future__ import annotations

import json
import random
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from laterna.errors import LaternaError
from laterna.evaluation.tasks import find_task
from laterna.evaluation.tasks.base import read_questions
from laterna.records import Box, InstructionRecord, Scene, Turn
from real_small.instructions import captions_asked, instructions, tidy, yes_and_no
from real_small.presence import ask_in_pairs
from real_small.questions import short_answers, write

if TYPE_CHECKING:
    from pathlib import Path


def _scene(
    number: int, *names: str, captions: tuple[str, ...] = ("Something is there .",)
) -> Scene:
    boxes = tuple(
        Box(category=name, x1=0.1 * at, y1=0.1, x2=0.1 * at + 0.05, y2=0.2)
        for at, name in enumerate(names)
    )
    return Scene(
        id=str(number),
        image=f"{number}.jpg",
        width=100,
        height=100,
        captions=captions,
        boxes=boxes,
    )


SCENES = [
    *(_scene(at, "dog", "frisbee", "others") for at in range(6)),
    *(_scene(at, "boat", "man") for at in range(6, 12)),
]


def test_every_kind_is_asked_as_often_where_it_is_as_where_it_is_not() -> None:
    asked = ask_in_pairs(SCENES, each=2, seed=0)
    there = Counter(one.kind for one in asked if one.there)
    absent = Counter(one.kind for one in asked if not one.there)
    assert there == absent
    assert there["dog"] > 0
    boxed = {scene.id: {box.category for box in scene.boxes} for scene in SCENES}
    assert all((one.kind in boxed[one.scene.id]) is one.there for one in asked)
    assert not any(one.kind == "others" for one in asked)
    assert ask_in_pairs(SCENES, each=2, seed=0) == asked


def test_what_a_caption_or_a_wider_word_names_is_not_absent() -> None:
    told = _scene(20, "tree", captions=("A puppy runs .", "An animal runs ."))
    asked = ask_in_pairs([*SCENES[:6], told], each=2, seed=0)
    assert not any(one.scene.id == "20" and one.kind == "dog" for one in asked)


def test_the_absent_thing_is_asked_where_it_is_likely() -> None:
    """A frisbee is likelier beside a dog than in a boat."""
    scenes = [*SCENES, *(_scene(at, "dog") for at in range(30, 34))]
    asked = ask_in_pairs(scenes, each=2, seed=0)
    where = Counter(
        int(one.scene.id) >= 30 for one in asked if one.kind == "frisbee" and not one.there
    )
    assert where[True] == 6
    assert where[False] == 0


@pytest.mark.parametrize(
    ("told", "tidied"),
    [
        ("a dog runs .", "A dog runs."),
        (" A man 's hat , red . ", "A man's hat, red."),
        ("Two girls", "Two girls."),
        (" . ", ""),
    ],
)
def test_captions_become_sentences(told: str, tidied: str) -> None:
    assert tidy(told) == tidied


def test_captions_of_an_image_are_asked_for_in_the_same_words() -> None:
    scene = _scene(1, captions=("a dog runs .", " . ", "A dog ."))
    found = list(captions_asked(scene, "What is it?"))
    assert [record.turns[1].text for record in found] == ["A dog runs.", "A dog."]
    assert {record.turns[0].text for record in found} == {"<image>\nWhat is it?"}


def test_yes_and_no_are_one_chat_whose_first_question_says_how_short() -> None:
    asked = [one for one in ask_in_pairs(SCENES, each=2, seed=0) if one.scene.id == "0"]
    record = yes_and_no(asked, random.Random(0))
    said = {turn.text for turn in record.turns if turn.role == "assistant"}
    assert said <= {"Yes", "No"}
    first, *others = [turn.text for turn in record.turns if turn.role == "user"]
    assert first.startswith("<image>\nIs there a")
    assert "single word" in first
    assert not any("single word" in text for text in others)


def _record(image: str, *turns: tuple[str, str]) -> InstructionRecord:
    told = [
        turn
        for asked, said in turns
        for turn in (Turn(role="user", text=asked), Turn(role="assistant", text=said, loss=True))
    ]
    return InstructionRecord(id=image, images=(image,), turns=tuple(told), kind="conversation")


def test_a_mix_has_every_caption_and_one_further_record_an_image() -> None:
    file = [_record(scene.image, ("<image>\nWhat is it?", "A thing.")) for scene in SCENES]
    mixed = instructions(SCENES, [file], seed=0)
    kinds = Counter("file" if "-" not in record.id else record.id.split("-")[1] for record in mixed)
    assert kinds == {"sentence": 12, "yes": 9, "file": 3}


def test_short_answers_are_those_that_were_asked_for() -> None:
    record = _record(
        "1.jpg",
        ("<image>\nWhat colour is the dress? Answer briefly.", "pink"),
        ("What is the girl up to? Answer briefly.", "running"),
        ("Can you see a dog? Answer briefly.", "yes"),
        ("Who is there?", "A girl."),
    )
    found = list(short_answers([record]))
    assert [(one.kind, one.question, one.answer) for one in found] == [
        ("colour", "What colour is the dress?", "pink"),
        ("doing what", "What is the girl up to?", "running"),
    ]


def test_the_files_are_those_that_evaluations_read(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    (data / "images").mkdir(parents=True)
    names = ["dog", "frisbee", "boat", "man"]
    images, boxes, captions = [], [], []
    for at in range(8):
        Image.new("RGB", (32, 32)).save(data / "images" / f"{at}.jpg")
        images.append({"id": at, "file_name": f"{at}.jpg", "width": 32, "height": 32})
        kinds = (0, 1) if at % 2 else (2, 3)
        for number, kind in enumerate(kinds):
            box = {"bbox": [number, 0, 4, 4], "category_id": kind, "image_id": at, "iscrowd": 0}
            boxes.append({"id": 10 * at + number, **box})
        captions.append({"id": at, "image_id": at, "caption": "Something is there ."})
    categories = [{"id": at, "name": name} for at, name in enumerate([*names, "others"])]
    for name, rows in (("instances", boxes), ("captions", captions)):
        content = {"images": images, "annotations": rows, "categories": categories}
        (data / f"{name}.json").write_text(json.dumps(content))
    records = [_record("1.jpg", ("<image>\nWhat colour is it? Answer briefly.", "pink"))]
    assert "1 colour" in write(data, out, records, images=0)
    pope = read_questions(find_task("pope"), out / "pope").questions
    assert Counter(one.references[0] for one in pope) == {"yes": len(pope) / 2, "no": len(pope) / 2}
    (gqa,) = read_questions(find_task("gqa"), out / "gqa").questions
    assert (gqa.kind, gqa.references) == ("colour", ("pink",))
    for task, questions in (("pope", pope), ("gqa", (gqa,))):
        for one in questions:
            assert find_task(task).open_image(out / task, one.images[0]).size == (32, 32)
    with pytest.raises(LaternaError):
        write(tmp_path / "nothing", tmp_path / "other", records, images=0)
