"""ChartQA's relaxed accuracy: numbers may be off by 5 %, all else must be equal but for capitals.

A percentage is a hundredth of its number (`5%` is 0.05). A reference of 0 is compared as text.
A question needs nothing but its first reference.
"""

from __future__ import annotations

from laterna.evaluation.metrics.base import Metric, each, mean_score, reference
from laterna.records import Question

TOLERANCE = 0.05


def relaxed_match(answer: str, truth: str) -> bool:
    """Tell whether an answer is right within the tolerance."""
    said, known = _number(answer), _number(truth)
    if said is not None and known:
        return abs(said - known) / abs(known) <= TOLERANCE
    return answer.lower() == truth.lower()


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def _score(question: Question, answer: str) -> float:
    return float(relaxed_match(answer, reference(question)))


RELAXED_ACCURACY = Metric(
    definition="lmms-eval 0.7.2 lmms_eval/tasks/chartqa/utils.py relaxed_correctness",
    score=each(_score),
    summarize=mean_score,
)
