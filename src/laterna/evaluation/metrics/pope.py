"""POPE: is it in the image, yes or no, with precision, recall, F1 and the share of yes.

The first of a question's references is `no` or `yes`. Its kind is the sampling (`random`,
`popular`, `adversarial`): with more than one, F1 is told for each, and their mean, which is what is
published. What is undefined (no yes predicted, no yes true) is not a number; the reference scorer
stops there with a division by zero, lmms-eval calls it 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from laterna.evaluation.metrics.base import (
    Metric,
    beside,
    each,
    mean,
    mean_score,
    reference,
    theirs_of,
)
from laterna.records import Answer, Question

_NO = frozenset({"No", "not", "no"})


def says_yes(answer: str) -> bool:
    """Tell whether POPE takes an answer for yes: no word of its first sentence denies."""
    return _NO.isdisjoint(answer.partition(".")[0].replace(",", "").split(" "))


class Counts(NamedTuple):
    """Answers by what was said and what is true."""

    tp: int
    fp: int
    tn: int
    fn: int

    def values(self) -> dict[str, float]:
        """Return the ratios by name, undefined ones as not a number."""
        said_yes = self.tp + self.fp
        precision = ratio(self.tp, said_yes)
        recall = ratio(self.tp, self.tp + self.fn)
        return {
            "accuracy": ratio(self.tp + self.tn, sum(self)),
            "precision": precision,
            "recall": recall,
            "f1": ratio(2 * precision * recall, precision + recall),
            "yes_ratio": ratio(said_yes, sum(self)),
        }


def ratio(part: float, whole: float) -> float:
    """Return part / whole, or not a number where that is undefined."""
    return part / whole if whole else math.nan


def count(answers: Sequence[Answer]) -> Counts:
    """Count answers by what POPE takes them for and what is true."""
    seen = [(says_yes(answer.text), _is_yes(answer.question)) for answer in answers]
    return Counts(
        tp=seen.count((True, True)),
        fp=seen.count((True, False)),
        tn=seen.count((False, False)),
        fn=seen.count((False, True)),
    )


def lmms_eval_values(answers: Sequence[Answer]) -> dict[str, float]:
    """Return what lmms-eval 0.7.2 prints: whole answers compared, yes ratio of the truth (sic)."""
    seen = [
        (answer.text.lower().strip(), reference(answer.question).lower().strip())
        for answer in answers
    ]
    yes, missed, wrong = (
        seen.count(pair) for pair in (("yes", "yes"), ("no", "yes"), ("yes", "no"))
    )
    precision = yes / (yes + wrong) if yes + wrong else 0.0
    recall = yes / (yes + missed) if yes + missed else 0.0
    both = precision + recall
    return {
        "accuracy": mean([float(said == true) for said, true in seen]),
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / both if both else 0.0,
        "yes_ratio": mean([float(true == "yes") for _, true in seen]),
    }


def _is_yes(question: Question) -> bool:
    return reference(question) != "no"


def _score(question: Question, answer: str) -> float:
    return float(says_yes(answer) == _is_yes(question))


def _lmms_eval(question: Question, answer: str) -> float:
    return float(answer.lower().strip() == reference(question).lower().strip())


def _summarize(answers: Sequence[Answer]) -> dict[str, float]:
    values = mean_score(answers) | count(answers).values()
    kinds = sorted({answer.question.kind for answer in answers})
    if len(kinds) > 1:
        of_kind = {
            kind: count([one for one in answers if one.question.kind == kind]).values()["f1"]
            for kind in kinds
        }
        values |= {f"f1.{kind}": value for kind, value in of_kind.items()}
        values["f1_mean"] = sum(of_kind.values()) / len(kinds)
    theirs = {f"lmms_eval.{name}": value for name, value in lmms_eval_values(answers).items()}
    return (
        values
        | theirs
        | {"lmms_eval_differs": beside(answers, "", theirs_of(_lmms_eval, answers))["_differs"]}
    )


POPE = Metric(
    definition="haotian-liu/LLaVA llava/eval/eval_pope.py at c121f04 (AoiDragon/POPE evaluate.py)",
    score=each(_score),
    summarize=_summarize,
)
