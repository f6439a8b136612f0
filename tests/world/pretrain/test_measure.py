from __future__ import annotations

import msgspec
import pytest

from laterna.records import Box, Toy, Truth
from laterna.synthesis.prompts import detail_questions
from laterna.world.pretrain.corpus import write_document
from laterna.world.pretrain.measure import _ATTRIBUTES, _question

SHORT = " Answer in one word or phrase."
MAP = "- - red dog - -"


@pytest.mark.parametrize(
    "question",
    [
        "Is there a dog in the picture?",
        "Where is the dog?" + SHORT,
        "Count the dogs. How many are there?",
        *detail_questions(),
    ],
)
def test_the_question_is_found_before_and_behind_the_description(question: str) -> None:
    assert _question(f"{MAP}\n{question}") == question
    assert _question(f"{question}\n{MAP}") == question


def test_a_request_without_a_question_mark_is_one() -> None:
    assert any("?" not in question for question in detail_questions())


def test_the_control_is_left_without_any_description() -> None:
    chats = 0
    for index in range(150):
        record, is_chat = write_document(1, index)
        if is_chat and record.turns:
            text = record.turns[0].text
            lines = text.split("\n")
            question = _question(text)
            assert question in lines
            (description,) = (line for line in lines if line != question)
            assert len(lines) == 2
            assert "?" not in description
            assert description not in detail_questions()
            chats += 1
    assert chats > 100


def test_what_is_looked_for_in_a_picture() -> None:
    box = Box(category="cup", x1=0.5, y1=0.125, x2=0.75, y2=0.375)
    cup = Toy(category="cup", colour="red", texture="rough", size="small", box=box)
    sign_box = Box(category="sign", x1=0.0, y1=0.0, x2=0.375, y2=0.125)
    truth = Truth(
        id="1", picture="1.png", lighting="dim", sign="ZOO", sign_box=sign_box, toys=(cup,)
    )
    assert {what: look(truth) for what, (look, _) in _ATTRIBUTES.items()} == {
        "category": ("cup", box),
        "colour": ("red", box),
        "size": ("small", box),
        "texture": ("rough", box),
        "lighting": ("dim", None),
        "sign word": ("ZOO", sign_box),
    }
    unsigned = msgspec.structs.replace(truth, sign=None, sign_box=None)
    assert _ATTRIBUTES["sign word"][0](unsigned) is None, "no case of the probe"
