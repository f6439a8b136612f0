"""Exact match: the answer is the truth, but for capitals, blanks and one closing full stop."""

from __future__ import annotations

from collections.abc import Sequence

from laterna.evaluation.metrics.base import Metric, mean_score
from laterna.records import Question


def normalise(text: str) -> str:
    """Return the text as exact match compares it.

    In this order, and nothing else: lower-case; every run of white space becomes one space, none
    stays at either end; one closing full stop goes, with the space that stood before it. Articles,
    digits, plurals, synonyms and all other punctuation stay as they are.
    """
    return " ".join(text.lower().split()).removesuffix(".").rstrip(" ")


def exact_match(answer: str, truth: str) -> bool:
    """Tell whether answer and truth are the same text once both are normalised."""
    return normalise(answer) == normalise(truth)


def exact_matches(questions: Sequence[Question], answers: Sequence[str]) -> list[float]:
    """Return 1 for each answer that is one of its question's references, else 0."""
    return [
        float(any(exact_match(answer, reference) for reference in question.references))
        for question, answer in zip(questions, answers, strict=True)
    ]


EXACT_MATCH = Metric(
    definition="Laterna: equal but for capitals, white space and one closing full stop",
    score=exact_matches,
    summarize=mean_score,
)
