"""The world's POPE and CHAIR: true by its truth, balanced, and scored by the published metrics."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import pytest

from laterna.evaluation.tasks import TASKS
from laterna.evaluation.tasks.base import TaskQuestions, read_questions
from laterna.evaluation.tasks.world import POPE_KINDS, read_truth
from laterna.records import Truth
from laterna.scenes.phrases import with_article
from laterna.world.scenes import draw_truth

Values = Callable[[str, TaskQuestions, Mapping[str, str]], dict[str, float]]


@pytest.fixture
def world(tmp_path: Path) -> Path:
    truths = [draw_truth("world", seed=3, index=index) for index in range(60)]
    lines = [msgspec.json.encode(truth) + b"\n" for truth in truths]
    (tmp_path / "truth.jsonl").write_bytes(b"".join(lines))
    return tmp_path


def kinds(truth: Truth) -> set[str]:
    return {toy.category for toy in truth.toys}


def test_pope_is_balanced_and_true(world: Path) -> None:
    asked = read_questions(TASKS["world_pope"], world, seed=1)
    known = {truth.image: kinds(truth) for truth in read_truth(world / "truth.jsonl")}
    enough = {image for image, own in known.items() if len(own) >= POPE_KINDS}
    for sampling in ("random", "popular", "adversarial"):
        own = [question for question in asked.questions if question.kind == sampling]
        assert {question.images[0] for question in own} == enough
        assert Counter(question.references for question in own) == {
            ("yes",): POPE_KINDS * len(enough),
            ("no",): POPE_KINDS * len(enough),
        }
        for question in own:
            named = {with_article(one) for one in known[question.images[0]]}
            text = question.text.removesuffix(" in the picture? Answer briefly.")
            assert (text.removeprefix("Is there ") in named) == (question.references == ("yes",))


def test_popular_asks_in_vain_about_fewer_kinds_than_random(world: Path) -> None:
    asked = read_questions(TASKS["world_pope"], world, seed=1)
    absent: dict[str, set[str]] = defaultdict(set)
    for question in asked.questions:
        if question.references == ("no",):
            absent[question.kind].add(question.text)
    assert len(absent["popular"]) < len(absent["adversarial"]) <= len(absent["random"])


def test_pope_of_an_assistant_that_always_says_yes(world: Path, values: Values) -> None:
    asked = read_questions(TASKS["world_pope"], world, limit=60)
    assert 56 <= len(asked.questions) <= 60
    found = values("world_pope", asked, {one.id: "yes" for one in asked.questions})
    assert found["recall"] == 1.0
    assert found["yes_ratio"] == 1.0
    assert found["f1"] == pytest.approx(2 / 3)


def test_chair_counts_only_what_the_world_can_hold(world: Path, values: Values) -> None:
    asked = read_questions(TASKS["world_chair"], world)
    truths = {truth.id: truth for truth in read_truth(world / "truth.jsonl")}
    assert [one.id for one in asked.questions] == list(truths)
    faithful = {
        one.id: f"An orange {next(iter(kinds(truths[one.id])))} on a desk."
        for one in asked.questions
    }
    found = values("world_chair", asked, faithful)
    assert found["chair_s"] == 0.0
    invented = faithful | {
        asked.questions[0].id: "A cat, a horse, a dog, a giraffe, a boat and a train."
    }
    present = kinds(truths[asked.questions[0].id])
    named = {"cat", "horse", "dog", "giraffe", "boat", "train"}
    found = values("world_chair", asked, invented)
    assert found["chair_s"] == pytest.approx(1 / 60)
    assert found["chair_i"] == pytest.approx(len(named - present) / found["mentions"])
