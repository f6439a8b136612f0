"""ANLS: how near the letters of an answer are to a reference's, below one half nothing.

1 - edits / length for the nearest reference, both in lower case with single blanks; the length is
the longer of the two as they were written, in capitals (sic: `ß` counts as two). LLaVA's ST-VQA
scorer divides by the length of what it compares. A question needs nothing but its references.
"""

from __future__ import annotations

from collections.abc import Sequence

from laterna.evaluation.metrics.base import Metric, each, mean_score
from laterna.records import Answer, Question

THRESHOLD = 0.5


def edits(text: str, other: str) -> int:
    """Return the least number of letters to insert, drop or replace to make one the other."""
    row = list(range(len(other) + 1))
    for number, letter in enumerate(text, start=1):
        before, row[0] = row[0], number
        for place, wanted in enumerate(other, start=1):
            change = before + (letter != wanted)
            before = row[place]
            row[place] = min(change, before + 1, row[place - 1] + 1)
    return row[-1]


def anls(question: Question, answer: str) -> float:
    """Return the ANLS of an answer as lmms-eval gives it; not a number without references."""
    distances = [
        edits(_folded(reference), _folded(answer)) / _length(reference, answer)
        for reference in question.references
    ]
    return _above_threshold(distances)


def _m4c(question: Question, answer: str) -> float:
    said = answer.lower().strip()
    known = [reference.lower().strip() for reference in question.references]
    return _above_threshold(
        [edits(said, reference) / (max(len(said), len(reference)) or 1) for reference in known]
    )


def _folded(text: str) -> str:
    return " ".join(text.lower().split())


def _length(text: str, other: str) -> int:
    return max(len(text.upper()), len(other.upper())) or 1


def _above_threshold(distances: Sequence[float]) -> float:
    if not distances:
        return float("nan")
    nearness = 1 - min(distances)
    return nearness if nearness >= THRESHOLD else 0.0


def _summarize(answers: Sequence[Answer]) -> dict[str, float]:
    return {"anls": mean_score(answers)["accuracy"]}


ANLS = Metric(
    definition="lmms-eval 0.7.2 lmms_eval/api/metrics.py anls",
    score=each(anls),
    summarize=_summarize,
    beside={"m4c": _m4c},
)
