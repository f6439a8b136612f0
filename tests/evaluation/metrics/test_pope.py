"""POPE: denial by a word of the first sentence; what is undefined is no number."""

from __future__ import annotations

import math
from typing import Any

import pytest

from laterna.evaluation.metrics import pope
from laterna.evaluation.metrics.pope import says_yes


@pytest.mark.parametrize(
    ("answer", "yes"),
    [
        ("Yes, there is.", True),
        ("No, there is not.", False),
        ("There is not.", False),
        ("No!", True),  # sic: `No!` is not a word that denies
        ("It isn't", True),
        ("Sure. No", True),
        ("no,there", True),
        ("NO", True),
        ("", True),
    ],
)
def test_what_counts_as_yes(answer: str, yes: bool) -> None:
    assert says_yes(answer) == yes


def test_ratios_with_lmms_evals_beside(question: Any, values: Any) -> None:
    rows = [
        (question("yes", kind="random"), "Yes"),
        (question("yes", kind="random"), "Yes, it is"),
        (question("yes", kind="random"), "no"),
        (question("no", kind="random"), "yes"),
        (question("no", kind="popular"), "No."),
        (question("yes", kind="popular"), "yes"),
    ]
    found = values("pope", rows)
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert found["precision"] == 0.75
    assert found["recall"] == 0.75
    assert found["f1"] == 0.75
    assert found["yes_ratio"] == pytest.approx(4 / 6)  # of what is said
    assert found["f1.random"] == pytest.approx(2 / 3)
    assert found["f1.popular"] == 1.0
    assert found["f1_mean"] == pytest.approx(5 / 6)
    assert found["lmms_eval.accuracy"] == pytest.approx(2 / 6)
    assert found["lmms_eval.yes_ratio"] == pytest.approx(4 / 6)  # of what is true
    assert found["lmms_eval_differs"] == 2
    assert next(iter(found)) == "accuracy"


def test_without_a_predicted_yes_precision_and_f1_are_undefined(question: Any, values: Any) -> None:
    found = values("pope", [(question("yes"), "no"), (question("no"), "no")])
    assert math.isnan(found["precision"])
    assert math.isnan(found["f1"])
    assert (found["recall"], found["accuracy"], found["yes_ratio"]) == (0.0, 0.5, 0.0)
    assert found["lmms_eval.precision"] == 0.0


def test_no_answers_are_no_numbers(values: Any) -> None:
    assert math.isnan(values("pope", [])["accuracy"])


def test_each_answer_is_read_a_few_times_however_many_there_are(
    question: Any, values: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What keeps 9,000 answers within a second, counted instead of timed."""
    read: list[str] = []
    monkeypatch.setattr(pope, "says_yes", lambda answer: not read.append(answer))
    kinds = ("random", "popular", "adversarial")
    values("pope", [(question("yes", kind=kinds[number % 3]), "no") for number in range(900)])
    assert len(read) == 3 * 900  # for its score, over all, within its sampling
