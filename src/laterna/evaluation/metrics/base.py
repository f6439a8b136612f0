"""What a metric is: a score for each answer, and named values over all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from laterna.errors import LaternaError
from laterna.records import Answer, Question

Rule = Callable[[Question, str], float]
"""Scores one answer by itself, 0 to 1; not a number where the answer cannot be scored."""


def image_of(question: Question) -> Hashable:
    """Return what questions about the same images share; a question without any stands alone."""
    return question.images or question.id


class Metric(NamedTuple):
    """A definition of what a right answer is."""

    definition: str
    """The source that it is exact to: file and commit, or the rule in a sentence."""
    score: Callable[[Sequence[Question], Sequence[str]], list[float]]
    """One score for each question and answer, 0 to 1; not a number for an answer that has none."""
    summarize: Callable[[Sequence[Answer]], dict[str, float]]
    """Named values over all answers, the one that is quoted first.

    What counts something is an `int`, and has no interval.
    """
    unit: Callable[[Question], Hashable] = image_of
    """What questions share that belong together: intervals take them whole."""
    groups: int = 30
    """Parts left out in turn for its values' intervals; fewer where they take long to work out."""
    beside: Mapping[str, Rule] = MappingProxyType({})
    """Other definitions that score one answer at a time, by the name of their scorer."""

    def values(self, answers: Sequence[Answer]) -> dict[str, float]:
        """Return its values, and beside them each other definition's mean and `NAME_differs`."""
        values = self.summarize(answers)
        for name, theirs in self.beside.items():
            values |= beside(answers, name, theirs_of(theirs, answers))
        return values


def mean(values: Sequence[float]) -> float:
    """Return the mean of the values that are numbers; not a number over none."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def mean_score(answers: Sequence[Answer]) -> dict[str, float]:
    """Return the mean of the answers' scores as `accuracy`; not a number over none."""
    return {"accuracy": mean([answer.score for answer in answers])}


def each(rule: Rule) -> Callable[[Sequence[Question], Sequence[str]], list[float]]:
    """Return the `score` of a metric that looks at one answer at a time."""

    def score(questions: Sequence[Question], answers: Sequence[str]) -> list[float]:
        return [rule(*pair) for pair in zip(questions, answers, strict=True)]

    return score


def theirs_of(theirs: Rule, answers: Sequence[Answer]) -> list[float]:
    """Return what another definition gives each answer."""
    return [theirs(answer.question, answer.text) for answer in answers]


def beside(answers: Sequence[Answer], name: str, scores: Sequence[float]) -> dict[str, float]:
    """Return another definition's mean as `name`, and as `name_differs` the answers it turns."""
    turned = sum(
        abs(score - answer.score) > 1e-9 for score, answer in zip(scores, answers, strict=True)
    )
    return {name: mean(scores), f"{name}_differs": turned}


def reference(question: Question) -> str:
    """Return a question's first reference; raises LaternaError that names one without any."""
    if not question.references:
        raise LaternaError(f"question {question.id} has no reference, and cannot be scored")
    return question.references[0]


def required_field(question: Question, name: str) -> str:
    """Return a field of the question; raises LaternaError that names question and field."""
    if name not in question.fields:
        raise LaternaError(
            f"question {question.id}: its field {name!r} is missing, and the metric needs it; "
            f"the task has to fill it in"
        )
    return question.fields[name]


def choices(question: Question) -> dict[str, str]:
    """Return the texts of the choices by letter: the fields `A`, `B` and so on, in this order."""
    letters = (chr(code) for code in range(ord("A"), ord("Z") + 1))
    return {letter: question.fields[letter] for letter in letters if letter in question.fields}
