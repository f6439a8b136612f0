from __future__ import annotations

import numpy as np
import pytest

from laterna.records import Box, Reply, Scene
from laterna.scenes.facts import Facts, gather_facts
from laterna.scenes.vocabulary import CATEGORIES, ObjectWords
from laterna.synthesis.checks import check
from laterna.synthesis.parsing import write_reply
from laterna.synthesis.teachers.scribe.negative import compose_negative, surely_absent

WORDS = ObjectWords(CATEGORIES)
CAPTIONS = ("A dog beside a car.", "An orange toy lies there.")
BOXES = (
    Box(category="dog", x1=0.1, y1=0.1, x2=0.2, y2=0.2),
    Box(category="car", x1=0.5, y1=0.1, x2=0.9, y2=0.5),
)


def facts(categories: tuple[str, ...] = tuple(CATEGORIES)) -> Facts:
    return gather_facts(CAPTIONS, BOXES, WORDS, categories)


def test_only_what_is_neither_held_nor_easily_taken_for_it_is_absent() -> None:
    absent = set(surely_absent(facts()))
    assert not {"dog", "car"} & absent, "boxed"
    assert "orange" not in absent, "the captions say the word"
    assert not {"truck", "bus", "train"} & absent, "a car may be called so"
    assert not {"person", "dining table"} & absent, "may be there unannotated"
    assert {"cat", "giraffe", "umbrella", "scissors"} <= absent
    assert surely_absent(facts(("dog", "cat"))) == ["cat"], "only what is annotated"


@pytest.mark.parametrize("seed", range(30))
def test_answers_deny_the_absent_and_claim_nothing_else(seed: int) -> None:
    exchanges = compose_negative(facts(), np.random.default_rng(seed))
    assert len(exchanges) == 3
    asked = set()
    for question, answer in exchanges:
        (category,) = WORDS.categories(question)
        assert category in surely_absent(facts())
        assert WORDS.categories(answer) == {category}
        verb = "are" if category in ("scissors", "skis") else "is"
        assert answer in (
            f"There {verb} no {category} in the picture.",
            f"The picture shows no {category}.",
            f"I can see no {category} here.",
            f"No {category} can be seen in the picture.",
        )
        asked.add(category)
    assert len(asked) == 3


def test_questions_take_the_absent_for_granted() -> None:
    alone = facts(("cat",))
    questions = {
        compose_negative(alone, np.random.default_rng(seed))[0].question for seed in range(80)
    }
    assert questions == {
        "What colour is the cat?",
        "Where exactly is the cat?",
        "How large is the cat?",
        "What stands right beside the cat?",
        "Describe the cat closely.",
        "What is the cat doing?",
        "Which way is the cat looking?",
    }
    assert compose_negative(facts(("dog",)), np.random.default_rng(0)) == []


def test_the_checks_accept_them() -> None:
    scene = Scene(id="1", image="", width=None, height=None, captions=CAPTIONS, boxes=BOXES)
    for seed in range(20):
        text = write_reply(compose_negative(facts(), np.random.default_rng(seed)))
        assert check(scene, Reply(text=text, finish_reason="stop"), "negative").findings == ()
