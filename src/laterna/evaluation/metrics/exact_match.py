"""Equality with a reference, as forgiving as each definition says: ours, GQA's, SEED's letter."""

from __future__ import annotations

from laterna.evaluation.metrics.base import Metric, each, mean_score
from laterna.records import Question


def normalize(text: str) -> str:
    """Return the text as exact match compares it.

    In this order, and nothing else: lower-case; every run of white space becomes one space, none
    stays at either end; one closing full stop goes, with the space that stood before it. Articles,
    digits, plurals, synonyms and all other punctuation stay as they are.
    """
    return " ".join(text.lower().split()).removesuffix(".").rstrip(" ")


def exact_match(answer: str, truth: str) -> bool:
    """Tell whether answer and truth are the same text once both are normalized."""
    return normalize(answer) == normalize(truth)


def gqa_form(answer: str) -> str:
    """Return an answer as GQA compares it: without full stops at its end, lower-case."""
    return answer.rstrip(".").lower()


def _exact(question: Question, answer: str) -> float:
    return float(any(exact_match(answer, reference) for reference in question.references))


def _gqa(question: Question, answer: str) -> float:
    return float(gqa_form(answer) in question.references)


def _letter(question: Question, answer: str) -> float:
    return float(answer in question.references)


EXACT_MATCH = Metric(
    definition="Laterna: equal but for capitals, white space and one closing full stop",
    score=each(_exact),
    summarize=mean_score,
)
GQA = Metric(
    definition="haotian-liu/LLaVA scripts/convert_gqa_for_eval.py at c121f04, then equality",
    score=each(_gqa),
    summarize=mean_score,
)
LETTER = Metric(
    definition="haotian-liu/LLaVA scripts/convert_seed_for_submission.py at c121f04: equality",
    score=each(_letter),
    summarize=mean_score,
)
