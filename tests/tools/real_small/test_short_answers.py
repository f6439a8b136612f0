"""The tool that scores short answers against captions."""

from __future__ import annotations

import pytest

from laterna.records import Answer, Question
from real_small.short_answers import by_kind, is_right

CAPTIONS = {"1": ("A dog is running in the snow .", "A brown dog with a red ball .")}


def _answer(kind: str, text: str, reference: str = "red", question: str = "What?") -> Answer:
    asked = Question(
        id="1", images=("images/1.jpg",), kind=kind, text=question, references=(reference,)
    )
    return Answer(question=asked, text=text, score=0.0)


@pytest.mark.parametrize(
    ("kind", "text", "right"),
    [
        ("colour", "Red.", True),
        ("colour", "brown", False),  # a colour in the image, not of what is asked about
        ("doing what", "running on grass", True),
        ("doing what", "jumping in the snow", False),
        ("who or what", "a big dog", True),
        ("who or what", "a dog house", False),
        ("where", "in the snow", True),
        ("where", "", False),
        ("where", "the", False),
    ],
)
def test_the_chief_word_counts(kind: str, text: str, right: bool) -> None:
    assert is_right(_answer(kind, text), CAPTIONS) is right


def test_what_geometry_answers_is_left_out() -> None:
    answers = [
        _answer("where", "snow"),
        _answer("where", "top", question="In which part of the picture is the dog?"),
        _answer("colour", "blue"),
    ]
    assert by_kind(answers, CAPTIONS) == {"where": [1.0], "colour": [0.0]}
