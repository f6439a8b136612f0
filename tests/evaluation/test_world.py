"""Questions about the world: true by an independent reading, unambiguous, and balanced."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from laterna.errors import LaternaError
from laterna.evaluation.tasks import TASKS, find_task, wordings
from laterna.evaluation.tasks.world import GAP, KINDS, read_truth, world_questions
from laterna.records import Box, Question, Toy, Truth
from laterna.scenes import geometry, phrases
from laterna.scenes.vocabulary import plural
from laterna.world.scenes import draw_truth
from laterna.world.toys import COLOURS


def toy(category: str, colour: str, x: float, y: float) -> Toy:
    box = Box(category=category, x1=x - 0.1, y1=y - 0.1, x2=x + 0.1, y2=y + 0.1)
    return Toy(category=category, colour=colour, texture="smooth", size="small", box=box)


def scene(*toys: Toy, sign_at: tuple[float, float] | None = None) -> Truth:
    sign_box = None
    if sign_at is not None:
        x, y = sign_at
        sign_box = Box(category="sign", x1=x - 0.1, y1=y - 0.05, x2=x + 0.1, y2=y + 0.05)
    return Truth(
        id="7",
        image="7.png",
        lighting="dim",
        sign="STOP" if sign_box else None,
        sign_box=sign_box,
        toys=toys,
    )


def write_truth(folder: Path, truths: Sequence[Truth]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [msgspec.json.encode(truth) + b"\n" for truth in truths]
    (folder / "truth.jsonl").write_bytes(b"".join(lines))
    return folder


def answers(kind: str, truth: Truth) -> list[tuple[str, str]]:
    """Every question of a kind that the scene allows, in its first phrasing, with its answer."""
    found = KINDS[kind](truth, ["cat", "cup", "dog"])
    return [(c.phrasings[0].format(**c.fields), c.truth) for c in found]


TWO_DOGS_AND_A_CUP = scene(
    toy("dog", "red", 0.2, 0.2), toy("dog", "blue", 0.8, 0.2), toy("cup", "red", 0.5, 0.82)
)


def test_existence_asks_about_present_and_absent_categories() -> None:
    assert answers("existence", TWO_DOGS_AND_A_CUP) == [
        ("Is there a cat in the picture?", "no"),
        ("Is there a cup in the picture?", "yes"),
        ("Is there a dog in the picture?", "yes"),
    ]


def test_count_is_in_words() -> None:
    assert answers("count", TWO_DOGS_AND_A_CUP) == [
        ("How many dogs are there?", "two"),
        ("How many cups are there?", "one"),
    ]


def test_colour_and_place_are_asked_only_of_a_category_that_stands_once() -> None:
    assert answers("colour", TWO_DOGS_AND_A_CUP) == [("What colour is the cup?", "red")]
    assert answers("place", TWO_DOGS_AND_A_CUP) == [("Where is the cup?", "bottom")]


def test_kind_is_asked_by_a_colour_or_place_that_nothing_else_has() -> None:
    assert answers("kind", TWO_DOGS_AND_A_CUP) == [
        ("What is at the top left?", "dog"),
        ("What is the blue object?", "dog"),
        ("What is at the top right?", "dog"),
        ("What is at the bottom?", "cup"),
    ]


def test_a_centre_near_a_border_of_thirds_has_no_place_and_spoils_the_places_beside_it() -> None:
    near = scene(toy("dog", "red", 0.36, 0.2), toy("cup", "red", 0.2, 0.2))
    assert answers("place", near) == [("Where is the cup?", "top left")]
    # The dog, at 0.36, could be called top left as well.
    assert answers("kind", near) == []


def test_a_sign_counts_as_something_at_its_place() -> None:
    cup = toy("cup", "red", 0.2, 0.2)
    assert ("What is at the top left?", "cup") in answers("kind", scene(cup, sign_at=(0.8, 0.8)))
    assert answers("kind", scene(cup, sign_at=(0.15, 0.1))) == [("What is the red object?", "cup")]


def test_relations_hold_both_ways_and_only_beyond_the_gap() -> None:
    assert 0.05 < GAP < 0.5
    pair = scene(toy("dog", "red", 0.2, 0.5), toy("cup", "red", 0.7, 0.55))
    assert answers("relation", pair) == [
        ("Is the dog to the left of the cup?", "yes"),
        ("Is the dog to the right of the cup?", "no"),
        ("Is the cup to the left of the dog?", "no"),
        ("Is the cup to the right of the dog?", "yes"),
    ]
    stacked = scene(toy("dog", "red", 0.5, 0.2), toy("cup", "red", 0.5, 0.7))
    assert answers("relation", stacked)[:2] == [
        ("Is the dog above the cup?", "yes"),
        ("Is the dog below the cup?", "no"),
    ]
    assert answers("relation", TWO_DOGS_AND_A_CUP) == []


def fields_of(question: Question, *pools: tuple[str, ...]) -> dict[str, str]:
    """Read a question back into the fields of its phrasing."""
    text = question.text.removesuffix(phrases.SHORT_ANSWER)
    assert text != question.text
    for phrasing in (phrasing for pool in pools for phrasing in pool):
        # Without these two, "Which object is {colour}?" would take a place for a colour, and
        # "to the right" could go to either side of {relation}.
        escaped = re.escape(phrasing)
        escaped = escaped.replace(r"\{colour\}", rf"(?P<colour>{'|'.join(COLOURS)})")
        escaped = escaped.replace(r"\{relation\}", rf"(?P<relation>{'|'.join(geometry.RELATIONS)})")
        pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>.+)", escaped)
        if match := re.fullmatch(pattern, text):
            return match.groupdict()
    raise AssertionError(f"{text}: in none of the phrasings")


def middle(box: Box) -> tuple[float, float]:
    return (box.x1 + box.x2) / 2, (box.y1 + box.y2) / 2


def reading(question: Question, truth: Truth) -> str:
    """Answer a question from the truth by another way than the one that made it."""
    toys = {t.category: t for t in truth.toys}
    counts = Counter(t.category for t in truth.toys)
    if question.kind == "existence":
        named = fields_of(question, wordings.EXISTENCE_QUESTIONS)["a_thing"]
        return "yes" if named in [phrases.with_article(c) for c in counts] else "no"
    if question.kind == "count":
        named = fields_of(question, wordings.COUNT_QUESTIONS)["things"]
        return phrases.NUMBERS[sum(plural(t.category) == named for t in truth.toys)]
    if question.kind == "kind":
        pools = wordings.KIND_OF_COLOUR_QUESTIONS, wordings.KIND_AT_PLACE_QUESTIONS
        fields = fields_of(question, *pools)
        fitting = [
            t.category
            for t in truth.toys
            if t.colour == fields.get("colour")
            or phrases.at_place(geometry.place_of(*middle(t.box))) == fields.get("place")
        ]
        assert len(fitting) == 1
        return fitting[0]
    if question.kind == "relation":
        fields = fields_of(question, wordings.RELATION_QUESTIONS)
        (x, y), (other_x, other_y) = (middle(toys[fields[name]].box) for name in ("thing", "other"))
        holds = {
            "to the left of": x < other_x,
            "to the right of": x > other_x,
            "above": y < other_y,
            "below": y > other_y,
        }
        return "yes" if holds[fields["relation"]] else "no"
    pool = {"colour": wordings.COLOUR_QUESTIONS, "place": wordings.PLACE_QUESTIONS}[question.kind]
    named = fields_of(question, pool)["thing"]
    assert counts[named] == 1
    if question.kind == "colour":
        return toys[named].colour
    x, y = middle(toys[named].box)
    row = "top" if y < 1 / 3 else "bottom" if y > 2 / 3 else ""
    column = "left" if x < 1 / 3 else "right" if x > 2 / 3 else ""
    return f"{row} {column}".strip() or "centre"


@pytest.fixture(scope="module")
def truths() -> list[Truth]:
    return [draw_truth("world", 5, index) for index in range(600)]


def test_every_answer_is_true_by_an_independent_reading(
    tmp_path: Path, truths: list[Truth]
) -> None:
    questions = world_questions(write_truth(tmp_path, truths), limit=0, seed=1)
    by_id = {truth.id: truth for truth in truths}
    assert len(questions) > 4.5 * len(truths)
    assert {question.kind for question in questions} == set(KINDS)
    for question in questions:
        truth = by_id[question.id.rpartition("-")[0]]
        assert question.images[0] == truth.image
        assert question.references[0] == reading(question, truth), question


def test_answers_are_as_balanced_as_the_images_allow(tmp_path: Path, truths: list[Truth]) -> None:
    questions = world_questions(write_truth(tmp_path, truths), limit=0, seed=1)
    given = {kind: Counter(q.references[0] for q in questions if q.kind == kind) for kind in KINDS}
    for kind in ("existence", "relation"):
        assert abs(given[kind]["yes"] - given[kind]["no"]) <= 1
    assert set(given["place"]) == set(geometry.PLACES.values())
    assert max(given["colour"].values()) < 1.3 * min(given["colour"].values())
    # Several of a kind are rarer than one alone; each image that has them asks about them.
    many = sum(max(Counter(t.category for t in x.toys).values()) >= 3 for x in truths)
    assert sum(given["count"][number] for number in ("three", "four", "five")) >= 0.9 * many
    most_common = sum(max(counts.values()) for counts in given.values()) / len(questions)
    assert most_common < 0.4


def test_limit_and_seed(tmp_path: Path, truths: list[Truth]) -> None:
    folder = write_truth(tmp_path, truths)
    whole = world_questions(folder, limit=0, seed=3)
    assert world_questions(folder, limit=100, seed=3) == whole[:100]
    assert world_questions(folder, limit=100, seed=4) != whole[:100]
    assert len({question.id for question in whole}) == len(whole)


def test_a_missing_empty_or_broken_truth_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(LaternaError, match=r"truth\.jsonl: no such file"):
        world_questions(tmp_path, limit=0, seed=0)
    with pytest.raises(LaternaError, match="empty"):
        world_questions(write_truth(tmp_path, []), limit=0, seed=0)
    path = write_truth(tmp_path, [TWO_DOGS_AND_A_CUP]) / "truth.jsonl"
    path.write_bytes(path.read_bytes() + b'{"id": 8}\n')
    with pytest.raises(LaternaError, match=r"truth\.jsonl, line 2: .*id"):
        read_truth(path)


def test_tasks_are_found_by_exact_name() -> None:
    assert find_task("world") is TASKS["world"]
    with pytest.raises(LaternaError, match=r"wor: no such task; the tasks are: boxes, .*, world"):
        find_task("wor")
