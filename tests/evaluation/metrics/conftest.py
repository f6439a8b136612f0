"""Makes questions in few words, and asks a metric about them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from laterna.evaluation.metrics import METRICS
from laterna.records import Answer, Question

Rows = list[tuple[Question, str]]


def make(
    *references: str, kind: str = "kind", images: tuple[str, ...] = ("1.jpg",), **fields: str
) -> Question:
    return Question(
        id="17", images=images, kind=kind, text="?", references=references, fields=fields
    )


def answered(metric: str, rows: Rows) -> list[Answer]:
    questions, texts = [row[0] for row in rows], [row[1] for row in rows]
    scores = METRICS[metric].score(questions, texts)
    return [
        Answer(question=question, text=text, score=score)
        for question, text, score in zip(questions, texts, scores, strict=True)
    ]


@pytest.fixture
def question() -> Callable[..., Question]:
    """Makes a question of references, kind, images and fields."""
    return make


@pytest.fixture
def scores() -> Callable[[str, Rows], list[float]]:
    """Gives a metric's score of each answer."""
    return lambda metric, rows: [answer.score for answer in answered(metric, rows)]


@pytest.fixture
def values() -> Callable[[str, Rows], dict[str, float]]:
    """Gives a metric's values over all answers."""
    return lambda metric, rows: METRICS[metric].values(answered(metric, rows))
