from __future__ import annotations

import numpy as np
import pytest

from laterna.records import Box
from laterna.scenes.facts import Facts, gather_facts
from laterna.scenes.vocabulary import CATEGORIES, ObjectWords
from laterna.synthesis.teachers.scribe.reasoning import EXCHANGES, compose_reasoning

WORDS = ObjectWords(CATEGORIES)


def facts(*categories: str) -> Facts:
    boxes = tuple(
        Box(category=name, x1=n / 100, y1=0, x2=(n + 0.9) / 100, y2=0.1)
        for n, name in enumerate(categories)
    )
    return gather_facts(("A sunny day.",), boxes, WORDS, CATEGORIES)


def test_an_answer_gives_what_is_there_and_the_reason() -> None:
    assert {
        answer
        for seed in range(20)
        for _, answer in compose_reasoning(facts("dog", "cat"), np.random.default_rng(seed))
    } == {"The dog and the cat, because animals have to eat and drink."}
    (_, answer), *rest = compose_reasoning(facts("umbrella"), np.random.default_rng(1))
    assert answer in {
        "An umbrella, because it keeps the rain off.",
        "An umbrella, because such things are worn or carried.",
    }
    assert len(rest) == EXCHANGES - 1


def test_every_category_of_coco_gives_thoughts_that_name_it_alone() -> None:
    for category in CATEGORIES:
        for seed in range(4):
            exchanges = compose_reasoning(facts(category), np.random.default_rng(seed))
            assert 1 <= len(exchanges) <= EXCHANGES
            for question, answer in exchanges:
                assert question.endswith("?")
                assert category not in WORDS.categories(question), question
                # "because only a person can talk" is about persons
                assert WORDS.categories(answer) <= {category}, answer


def test_at_most_two_and_none_where_nothing_is_known() -> None:
    many = facts("dog", "cup", "car", "book", "apple")
    assert len(compose_reasoning(many, np.random.default_rng(0))) == EXCHANGES
    assert compose_reasoning(facts(), np.random.default_rng(0)) == []
    assert compose_reasoning(facts("lamp post"), np.random.default_rng(0)) == []


@pytest.mark.parametrize(
    ("category", "questions"),
    [
        ("person", {"Who in this picture could answer a question?", "Who could one talk to here?"}),
        (
            "apple",
            {"What here would help against hunger?", "What in this picture would spoil in time?"},
        ),
        ("laptop", {"What here needs electricity?", "What would stop working in a power cut?"}),
        (
            "chair",
            {
                "What would help tired legs here?",
                "What here would be bought for a new home?",
                "What makes a place more comfortable?",
            },
        ),
    ],
)
def test_questions_ask_for_a_thing_and_never_whether_there_is_one(
    category: str, questions: set[str]
) -> None:
    assert {
        question
        for seed in range(40)
        for question, _ in compose_reasoning(facts(category), np.random.default_rng(seed))
    } == questions
