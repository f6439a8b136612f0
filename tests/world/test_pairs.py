"""Records and questions about two images: true by an independent reading, and balanced."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from laterna.data.sources import read_records
from laterna.errors import LaternaError
from laterna.evaluation.tasks import find_task
from laterna.evaluation.tasks.base import read_questions
from laterna.evaluation.tasks.world import read_truth
from laterna.records import Toy, Truth
from laterna.scenes.contrasts import Contrast, contrasts, is_in_balance
from laterna.world.dataset import write_world
from laterna.world.pairs import pair_records
from laterna.world.scenes import draw_truth
from laterna.world.toys import CATEGORIES, COLOURS

ASKED = re.compile(
    rf"(?P<which>of the two pictures)?.*?\b(?:the (?P<colour>{'|'.join(COLOURS)}) )?"
    rf"(?P<thing>{'|'.join(CATEGORIES)})\b"
)
SCENES = [draw_truth("world", 3, index) for index in range(200)]


def true_answer(question: str, one: Truth, two: Truth) -> str:
    """Read a question anew, and answer it from what is on the two tables."""
    match = ASKED.search(question.replace("a pair of ", ""))
    assert match, question
    shown = [
        any(
            toy.category == match["thing"] and match["colour"] in (None, toy.colour)
            for toy in truth.toys
        )
        for truth in (one, two)
    ]
    if "both" in question:
        return "yes" if all(shown) else "no"
    assert sum(shown) == 1, question
    return "first" if shown[0] else "second"


def test_contrasts_of_two_scenes_by_hand() -> None:
    def scene(*things: tuple[str, str]) -> Truth:
        toys = tuple(
            Toy(
                category=category, colour=colour, texture="smooth", size="small",
                box=SCENES[0].toys[0].box,
            )
            for colour, category in things
        )  # fmt: skip
        return Truth(id="1", image="1.png", lighting="dim", sign=None, sign_box=None, toys=toys)

    found = contrasts(scene(("red", "cup"), ("blue", "dog")), scene(("green", "cup")))
    assert found == [
        Contrast("both", "cup", "", "yes"),
        Contrast("object", "dog", "", "first"),
        Contrast("both", "dog", "", "no"),
        Contrast("colour", "cup", "green", "second"),
        Contrast("colour", "cup", "red", "first"),
    ]


def test_an_answer_waits_for_its_other() -> None:
    assert is_in_balance("yes", {})
    assert is_in_balance("yes", {"yes": 2, "no": 1})
    assert not is_in_balance("yes", {"yes": 2})
    assert not is_in_balance("first", {"first": 5, "second": 3})


def test_records_are_true_balanced_and_ask_each_thing_once() -> None:
    of = {truth.image: truth for truth in SCENES}
    counted: Counter[tuple[str, str]] = Counter()
    records = list(pair_records(SCENES, 400, 1))
    assert len(records) == 400
    for record in records:
        one, two = (of[name] for name in record.images)
        assert one is not two
        asked = [turn.text for turn in record.turns if turn.role == "user"]
        assert asked[0].startswith("<image>\n<image>\n")
        assert "".join(asked).count("<image>") == 2
        things = []
        for question, answer in zip(record.turns[::2], record.turns[1::2], strict=True):
            assert answer.loss
            assert answer.text == true_answer(question.text, one, two)
            match = ASKED.search(question.text)
            assert match
            things.append(match["thing"])
            kind = "both" if "both" in question.text else "colour" if match["colour"] else "object"
            counted[kind, answer.text] += 1
        assert len(set(things)) == len(things)
    for kind, pair in (("both", "yes no"), ("object", "first second"), ("colour", "first second")):
        one, two = (counted[kind, answer] for answer in pair.split())
        assert abs(one - two) <= 2
        assert one > 50


def test_the_same_seed_writes_the_same_file_and_it_is_read_as_records(tmp_path: Path) -> None:
    write_world(tmp_path / "a", images=40, seed=2, pairs=30)
    write_world(tmp_path / "b", images=40, seed=2, pairs=30)
    one = (tmp_path / "a" / "pairs.json").read_bytes()
    assert one == (tmp_path / "b" / "pairs.json").read_bytes()
    rows = json.loads(one)
    assert len(rows) == 30
    assert all(len(row["image"]) == 2 for row in rows)
    records = list(read_records(tmp_path / "a" / "pairs.json"))
    truths = read_truth(tmp_path / "a" / "truth.jsonl")
    assert [record.images for record in records] == [
        record.images for record in pair_records(truths, 30, 2)
    ]
    with pytest.raises(LaternaError, match="5 pairs need at least 2 images"):
        write_world(tmp_path / "c", images=1, seed=2, pairs=5)


def test_the_task_asks_true_balanced_questions_of_disjoint_pairs(small_world: Path) -> None:
    of = {truth.image: truth for truth in read_truth(small_world / "truth.jsonl")}
    questions = read_questions(find_task("world_pairs"), small_world, seed=4).questions
    for question in questions:
        one, two = (of[name] for name in question.images)
        assert question.references == (true_answer(question.text, one, two),)
    pairs = {question.images for question in questions}
    assert len({name for pair in pairs for name in pair}) == 2 * len(pairs)
    counted = Counter((one.kind, one.references[0]) for one in questions)
    for kind, (one, two) in {"both": ("yes", "no"), "object": ("first", "second"),
                             "colour": ("first", "second")}.items():  # fmt: skip
        assert abs(counted[kind, one] - counted[kind, two]) <= 2
        assert counted[kind, one] > 40
    assert questions == read_questions(find_task("world_pairs"), small_world, seed=4).questions
    assert questions != read_questions(find_task("world_pairs"), small_world, seed=5).questions
