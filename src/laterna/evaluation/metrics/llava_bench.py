"""LLaVA-Bench: a judge's two numbers, the reference answer's and the assistant's.

The texts that this metric scores are the judge's reviews, not the assistant's answers; a question's
kind is its category. A review's score is the assistant's number / 10. A review that failed (no two
numbers in its first line, or one that is not from 0 to 10) has none: it is counted in
`failures` and enters no mean. LLaVA's own summary takes one that it cannot parse for -1 and
-1: its values stand beside ours as `llava.…`; where every review failed, they say 100.0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from laterna.evaluation.metrics.base import Metric, each, mean
from laterna.records import Answer, Question

Pair = tuple[float, float]
"""What the judge gave the reference answer, and what the assistant."""
FAILED: Pair = (-1, -1)
MOST = 10
"""The judge is told to rate from 1 to 10."""


class Relative(NamedTuple):
    """A summary as LLaVA prints it, rounded as there."""

    relative: float
    """The assistant's mean in percent of the reference answer's."""
    reference_x10: float
    model_x10: float


def parse_review(review: str) -> Pair:
    """Return the two numbers of a review's first line, or `FAILED`.

    A comma counts as a blank, and exactly one blank may stand, between the numbers.
    """
    parts = review.partition("\n")[0].replace(",", " ").split(" ")
    if len(parts) != 2:
        return FAILED
    try:
        return float(parts[0]), float(parts[1])
    except ValueError:
        return FAILED


def is_failure(pair: Pair) -> bool:
    """Tell whether a pair is no judgement: a number is not on the judge's scale, 0 to 10."""
    return not all(0 <= number <= MOST for number in pair)


def relative(pairs: Sequence[Pair]) -> Relative:
    """Summarize pairs as LLaVA does, failures and all; not a number where that is undefined."""
    reference, model = (
        round(sum(numbers) / len(pairs), 3) if pairs else math.nan
        for numbers in ([pair[0] for pair in pairs], [pair[1] for pair in pairs])
    )
    percent = round(model / reference * 100, 1) if reference else math.nan
    return Relative(percent, round(reference * 10, 1), round(model * 10, 1))


def summarize_reviews(reviews: Iterable[tuple[str, Pair]]) -> dict[str, float]:
    """Summarize pairs with their categories: ours without failures, then LLaVA's as printed."""
    groups: dict[str, list[Pair]] = {"all": []}
    for category, pair in reviews:
        groups["all"].append(pair)
        groups.setdefault(category, []).append(pair)
    values: dict[str, float] = {}
    for name, pairs in sorted(groups.items()):
        heard = relative([pair for pair in pairs if not is_failure(pair)])
        values |= _named(heard, "" if name == "all" else f".{name}")
    values["failures"] = sum(is_failure(pair) for pair in groups["all"])
    for name, pairs in sorted(groups.items()):
        values |= {
            f"llava.{key}": value for key, value in _named(relative(pairs), f".{name}").items()
        }
    return values


def _named(summary: Relative, suffix: str) -> dict[str, float]:
    return {f"{name}{suffix}": value for name, value in summary._asdict().items()}


def _score(_: Question, review: str) -> float:
    pair = parse_review(review)
    return math.nan if is_failure(pair) else pair[1] / MOST


def _summarize(answers: Sequence[Answer]) -> dict[str, float]:
    reviews = [(answer.question.kind, parse_review(answer.text)) for answer in answers]
    return {"model": mean([answer.score for answer in answers]), **summarize_reviews(reviews)}


LLAVA_BENCH = Metric(
    definition="haotian-liu/LLaVA llava/eval/eval_gpt_review_bench.py and summarize_gpt_review.py "
    "at c121f04, with failed reviews left out",
    score=each(_score),
    summarize=_summarize,
)
