from __future__ import annotations

import numpy as np
import pytest

from laterna.records import Box
from laterna.synthesis.coco import CATEGORIES
from laterna.synthesis.object_words import ObjectWords
from laterna.synthesis.phrases import SHORT_ANSWER
from laterna.synthesis.teachers.scribe.conversation import (
    TURNS,
    compose_conversation,
    relation_holds,
)
from laterna.synthesis.teachers.scribe.facts import Facts, Thing, gather_facts

WORDS = ObjectWords(CATEGORIES)


def box(category: str, x: float, y: float) -> Box:
    return Box(category=category, x1=x - 0.05, y1=y - 0.05, x2=x + 0.05, y2=y + 0.05)


def facts(*captions: str, boxes: tuple[Box, ...] = ()) -> Facts:
    return gather_facts(captions, boxes, WORDS, ("cup", "dog", "kite", "train"))


def said(found: Facts, rounds: int = 800) -> dict[str, set[str]]:
    """Every question that the seeds bring up, with its answers."""
    answers: dict[str, set[str]] = {}
    for seed in range(rounds):
        for question, answer in compose_conversation(found, np.random.default_rng(seed)):
            answers.setdefault(question, set()).add(answer)
    return answers


def thing(x: float, y: float) -> Thing:
    return Thing("dog", x, y, box("dog", x, y))


@pytest.mark.parametrize(
    ("relation", "holds"),
    [("to the left of", True), ("to the right of", False), ("above", None), ("below", None)],
)
def test_relations_hold_where_the_offset_is_clear(relation: str, holds: bool | None) -> None:
    assert relation_holds(relation, thing(0.2, 0.5), thing(0.8, 0.55)) is holds


def test_relations_down_the_picture() -> None:
    assert relation_holds("above", thing(0.5, 0.1), thing(0.5, 0.9)) is True
    assert relation_holds("below", thing(0.5, 0.1), thing(0.5, 0.9)) is False


def test_every_answer_about_two_single_things() -> None:
    found = facts(
        "A red dog and a blue cup.", boxes=(box("dog", 0.15, 0.15), box("cup", 0.85, 0.85))
    )
    answers = said(found)
    expected = {
        "Is there a dog in the picture?": {"Yes"},
        "Can you see a kite?": {"No"},
        "How many dogs are there?": {"One"},
        "What colour is the cup?": {"Blue"},
        "Where is the dog?": {"Top left"},
        "What is at the bottom right?": {"Cup"},
        "Which object is red?": {"Dog"},
        "Is the dog above the cup?": {"Yes"},
        "Is the cup to the left of the dog?": {"No"},
    }
    for question, answer in expected.items():
        assert answers[question + SHORT_ANSWER] == answer, question
    told = set().union(*(answers[q] for q in answers if not q.endswith(SHORT_ANSWER)))
    assert told >= {
        "Yes, there is a dog.",
        "No, there is none in the picture.",
        "There is one cup.",
        "The dog is red.",
        "The cup is at the bottom right.",
        "There is a dog at the top left.",
        "The blue object is a cup.",
        "Yes, the dog is above the cup.",
        "No, the cup is not to the left of the dog.",
    }


def test_several_of_a_kind_are_counted_and_nothing_else_is_said_of_them() -> None:
    found = facts("Two red dogs.", boxes=(box("dog", 0.15, 0.15), box("dog", 0.15, 0.85)))
    answers = said(found)
    assert answers["How many dogs are there?" + SHORT_ANSWER] == {"Two"}
    assert not [question for question in answers if "colour" in question]
    assert not [question for question in answers if question.startswith("Where")]


def test_a_colour_that_two_things_share_names_neither() -> None:
    found = facts(
        "A red dog and a red cup.", boxes=(box("dog", 0.15, 0.15), box("cup", 0.85, 0.85))
    )
    assert not [q for q in said(found) if "red" in q.lower().split("?")[0]]


def test_a_colour_has_no_owner_where_another_things_colour_is_unknown() -> None:
    found = facts("A red dog and a cup.", boxes=(box("dog", 0.15, 0.15), box("cup", 0.85, 0.85)))
    assert not [q for q in said(found) if "the red" in q or "is red" in q]


def test_nothing_certain_gives_no_conversation() -> None:
    found = gather_facts(("A sunny day.",), (), WORDS, ("dog",))
    assert compose_conversation(found, np.random.default_rng(0)) == []


def test_conversations_have_several_turns_and_no_question_twice() -> None:
    boxes = (box("dog", 0.15, 0.15), box("cup", 0.85, 0.85), box("train", 0.15, 0.85))
    found = facts("A red dog, a blue cup and a black train.", boxes=boxes)
    for seed in range(40):
        exchanges = compose_conversation(found, np.random.default_rng(seed))
        assert 4 <= len(exchanges) <= TURNS
        assert len({exchange.question for exchange in exchanges}) == len(exchanges)
