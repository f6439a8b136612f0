"""MM-Vet: a judge's correctness from 0.0 to 1.0, over all questions and by capability.

The texts that this metric scores are the judge's replies, not the assistant's answers. A question's
field `capabilities` names what it needs, with commas between (`ocr,math`). A reply that does not
begin with a number from 0 to 1 has no score: it is counted in `failures` and enters no mean. The
published evaluator asks again and at last takes it for 0, as `mm_vet.total` does beside ours.
Values are in percent, and not rounded; the evaluator rounds to one decimal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from laterna.evaluation.metrics.base import Metric, each, mean, mean_score, required_field
from laterna.records import Answer, Question


def parse_correctness(reply: str) -> float:
    """Return the number that a judge's reply begins with, or not a number."""
    try:
        value = float(reply.partition(" ")[0].strip())
    except ValueError:
        return math.nan
    return value if 0 <= value <= 1 else math.nan


def _score(_: Question, reply: str) -> float:
    return parse_correctness(reply)


def _summarize(answers: Sequence[Answer]) -> dict[str, float]:
    by_capability: dict[str, list[float]] = {}
    for answer in answers:
        for name in set(required_field(answer.question, "capabilities").split(",")):
            by_capability.setdefault(name.strip(), []).append(answer.score)
    scores = [answer.score for answer in answers]
    failed = [math.isnan(score) for score in scores]
    as_zero = [0.0 if lost else score for score, lost in zip(scores, failed, strict=True)]
    return {
        **mean_score(answers),
        "total": 100 * mean(scores),
        **{name: 100 * mean(own) for name, own in sorted(by_capability.items())},
        "failures": sum(failed),
        "mm_vet.total": 100 * mean(as_zero),
    }


MM_VET = Metric(
    definition="yuweihao/MM-Vet mm-vet_evaluator.py at acde843, with failed replies left out",
    score=each(_score),
    summarize=_summarize,
)
