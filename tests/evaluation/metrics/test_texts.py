"""ANLS and relaxed accuracy."""

from __future__ import annotations

import math
from typing import Any

import pytest

from laterna.evaluation.metrics.anls import edits
from laterna.evaluation.metrics.relaxed_accuracy import relaxed_match


@pytest.mark.parametrize(
    ("text", "other", "number"),
    [("", "", 0), ("", "abc", 3), ("kitten", "sitting", 3), ("abc", "acb", 2), ("abc", "abc", 0)],
)
def test_edits(text: str, other: str, number: int) -> None:
    assert edits(text, other) == number == edits(other, text)


def test_anls_takes_the_nearest_reference_and_nothing_below_a_half(
    question: Any, scores: Any, values: Any
) -> None:
    rows = [
        (question("hello", "bye"), "Helo"),
        (question("hello"), "hel"),
        (question("abcd"), "zzcd"),
        (question("abcd"), "zzzd"),
        (question("a b"), "a   b"),
        (question(""), ""),
        (question("Maße"), "Mase"),  # the length is that of MASSE
    ]
    assert scores("anls", rows) == pytest.approx([0.8, 0.6, 0.5, 0.0, 1.0, 1.0, 0.8])
    found = values("anls", rows)
    assert found["anls"] == pytest.approx(4.7 / 7)
    assert found["m4c_differs"] == 2  # blanks: two edits in five letters; 0.75 of four letters
    assert math.isnan(scores("anls", [(question(), "x")])[0])


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [
        ("105", "100", True),
        ("106", "100", False),
        ("5%", "0.05", True),
        ("5%", "5", False),
        ("0", "0", True),
        ("0.01", "0", False),
        ("Yes", "yes", True),
        ("five", "5", False),
        ("-5.2", "-5", True),
        ("$100", "100", False),
    ],
)
def test_relaxed(answer: str, reference: str, right: bool) -> None:
    assert relaxed_match(answer, reference) == right
