"""LLaVA-Bench and MM-Vet: a judge's failure is counted and never enters a mean."""

from __future__ import annotations

import math
from typing import Any

import pytest

from laterna.evaluation.metrics.llava_bench import FAILED, is_failure, parse_review
from laterna.evaluation.metrics.mm_vet import parse_correctness


@pytest.mark.parametrize(
    ("review", "pair"),
    [
        ("8 7\nBecause.", (8, 7)),
        ("8.5,7", (8.5, 7)),
        ("8, 7", FAILED),
        ("8 7 ", FAILED),
        ("Assistant 1: 8", FAILED),
        ("eight seven", FAILED),
        ("", FAILED),
    ],
)
def test_a_reviews_numbers(review: str, pair: tuple[float, float]) -> None:
    assert parse_review(review) == pair


def test_a_number_that_is_none_is_a_failure() -> None:
    assert is_failure(parse_review("nan 5"))
    assert is_failure(parse_review("inf 5"))
    assert is_failure(parse_review("-1 -1"))
    assert is_failure(parse_review("8_0 7"))  # 80, as Python reads it
    assert not is_failure(parse_review("0 0"))


def test_failed_reviews_are_left_out_and_counted(question: Any, values: Any, scores: Any) -> None:
    rows = [
        (question(kind="llava_bench_conv"), "8 6"),
        (question(kind="llava_bench_conv"), "no idea"),
        (question(kind="llava_bench_detail"), "10 5"),
    ]
    assert scores("llava_bench", rows)[::2] == [0.6, 0.5]
    assert math.isnan(scores("llava_bench", rows)[1])
    found = values("llava_bench", rows)
    assert found["model"] == pytest.approx(0.55)
    assert found["relative"] == 61.1  # 5.5 of 9
    assert found["relative.llava_bench_conv"] == 75.0
    assert found["failures"] == 1
    assert found["llava.relative.all"] == 58.8  # 10 / 3 of 17 / 3, the failure as -1 and -1
    assert found["llava.relative.llava_bench_conv"] == 71.4


def test_a_dead_judge_gives_no_number_where_llavas_summary_gives_100(
    question: Any, values: Any
) -> None:
    found = values("llava_bench", [(question(), "error"), (question(), "")])
    assert math.isnan(found["relative"])
    assert math.isnan(found["model"])
    assert found["llava.relative.all"] == 100.0
    assert found["failures"] == 2


@pytest.mark.parametrize(
    ("reply", "value"), [("0.5", 0.5), ("1.0 | because", 1.0), ("0\n", 0.0), ("1", 1.0)]
)
def test_correctness(reply: str, value: float) -> None:
    assert parse_correctness(reply) == value


def test_correctness_outside_its_range_is_a_failure() -> None:
    assert all(math.isnan(parse_correctness(reply)) for reply in ("1.5", "-0.1", "good", "", "nan"))


def test_mm_vet_by_capability(question: Any, values: Any) -> None:
    rows = [
        (question(capabilities="ocr,math"), "1.0"),
        (question(capabilities="ocr"), "0.4"),
        (question(capabilities="math"), "sorry"),
    ]
    assert values("mm_vet", rows) == pytest.approx(
        {
            "accuracy": 0.7,
            "total": 70,
            "math": 100,
            "ocr": 70,
            "failures": 1,
            "mm_vet.total": 140 / 3,
        }
    )
