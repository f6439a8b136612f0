"""No answer, however odd, stops a metric; a score is 0 to 1 or none."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from laterna.errors import LaternaError
from laterna.evaluation.metrics import METRICS
from laterna.records import Answer, Question

WITHOUT_PACKAGES = sorted(set(METRICS) - {"captions"})
FIELDS = {"A": "a cat", "B": "a dog", "index": "7", "objects": "dog", "capabilities": "ocr"}
NEED_A_REFERENCE = (
    "circular",
    "mme",
    "mmvp",
    "pope",
    "relaxed_accuracy",
    "scienceqa",
    "vlmevalkit",
)


@pytest.mark.parametrize("name", WITHOUT_PACKAGES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(), st.lists(st.text(), min_size=1, max_size=10))
def test_any_text_is_scored(name: str, said: str, references: list[str]) -> None:
    asked = Question(
        id="1", images=("1.jpg",), kind="k", text="?", references=(*references,), fields=FIELDS
    )
    (score,) = METRICS[name].score([asked], [said])
    assert math.isnan(score) or 0 <= score <= 1
    values = METRICS[name].values([Answer(question=asked, text=said, score=score)])
    first = next(iter(values.values()))
    assert first == score or (math.isnan(first) and math.isnan(score))


@pytest.mark.parametrize("name", NEED_A_REFERENCE)
def test_a_question_without_a_reference_is_named(name: str, question: Any) -> None:
    with pytest.raises(LaternaError, match="question 17 has no reference"):
        METRICS[name].score([question(**FIELDS)], ["yes"])


def test_every_metric_names_its_definition() -> None:
    assert all(len(metric.definition) > 20 for metric in METRICS.values())


def test_the_page_has_every_metric_with_its_definition() -> None:
    page = (Path(__file__).parents[3] / "docs" / "evaluation.md").read_text("utf-8")
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| `")]
    assert {row[0].strip("`"): row[-1] for row in rows} == {
        name: metric.definition for name, metric in METRICS.items()
    }
