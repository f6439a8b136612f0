"""What a metric is: a score for each answer, and named values over all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from laterna.records import Answer, Question


class Metric(NamedTuple):
    """A definition of what a right answer is."""

    definition: str
    """The source that it is exact to: file and commit, or the rule in a sentence."""
    score: Callable[[Sequence[Question], Sequence[str]], list[float]]
    """One score for each question and answer, 0 to 1; not a number where only all have one."""
    summarize: Callable[[Sequence[Answer]], dict[str, float]]
    """Named values over all answers, the one that is quoted first."""


def mean_score(answers: Sequence[Answer]) -> dict[str, float]:
    """Return the mean of the answers' scores as `accuracy`; not a number over none."""
    total = sum(answer.score for answer in answers)
    return {"accuracy": total / len(answers) if answers else math.nan}
