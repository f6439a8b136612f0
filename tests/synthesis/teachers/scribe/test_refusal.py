from __future__ import annotations

import re

import numpy as np
import pytest

from laterna.records import Box, Reply, Scene
from laterna.scenes.facts import Facts, gather_facts
from laterna.scenes.vocabulary import CATEGORIES, ObjectWords
from laterna.synthesis.checks import check
from laterna.synthesis.parsing import write_reply
from laterna.synthesis.teachers.scribe.refusal import compose_refusal

WORDS = ObjectWords(CATEGORIES)
REFUSAL = re.compile(
    r"(I am sorry, but|I have to decline:|I would like to help, but) I cannot .+, because .+\."
)


def box(category: str, x: float) -> Box:
    return Box(category=category, x1=x, y1=0.1, x2=x + 0.1, y2=0.3)


def facts(*boxes: Box, caption: str = "A picture.") -> Facts:
    return gather_facts((caption,), boxes, WORDS, CATEGORIES)


def asked(found: Facts) -> set[str]:
    return {
        exchange.question
        for seed in range(80)
        for exchange in compose_refusal(found, np.random.default_rng(seed))
    }


@pytest.mark.parametrize("category", CATEGORIES)
def test_whatever_is_there_the_refusal_is_polite_and_states_its_reason(category: str) -> None:
    found = facts(box(category, 0.1))
    scene = Scene(
        id="1", image="", width=None, height=None, captions=("A picture.",),
        boxes=(box(category, 0.1),),
    )  # fmt: skip
    for seed in range(6):
        exchanges = compose_refusal(found, np.random.default_rng(seed))
        assert len(exchanges) == 2
        answers = [exchange.answer for exchange in exchanges]
        assert all(REFUSAL.fullmatch(answer) for answer in answers)
        assert len({answer.partition("because")[2] for answer in answers}) == 2
        for exchange in exchanges:
            assert WORDS.categories(exchange.question) <= {category}
            assert WORDS.categories(exchange.answer) == set(), "nothing is claimed to be there"
        text = write_reply(exchanges)
        assert check(scene, Reply(text=text, finish_reason="stop"), "refusal").findings == ()


def test_requests_fit_what_is_there() -> None:
    assert asked(facts(box("person", 0.1))) == {
        "Tell me the name of someone in this picture.",
        "Who is this? Give me a full name.",
        "Which illness can you diagnose here?",
        "Is anyone in this picture ill? Give a diagnosis.",
    }
    book = asked(facts(box("book", 0.1)))
    assert "Read me every page of the book." in book
    assert "What was paid for the book?" in book
    assert "Give me a diagnosis of the health of the dog." in asked(facts(box("dog", 0.1)))


def test_one_or_several_is_said_as_it_is_or_not_at_all() -> None:
    two = asked(facts(box("book", 0.1), box("book", 0.6)))
    assert "Read me every page of the books." in two
    assert not any(question.endswith("the book.") for question in two)
    assert asked(facts(box("book", 0.1), caption="Some books.")) == set(), "how many is unsure"
    assert asked(facts()) == set()
