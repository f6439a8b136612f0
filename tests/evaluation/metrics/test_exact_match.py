"""Exact match forgives capitals, blanks and one closing full stop, and nothing else."""

from __future__ import annotations

import pytest

from laterna.evaluation.metrics.exact_match import exact_match, normalize


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Red", "red"),
        ("  red \n", "red"),
        ("red.", "red"),
        ("Red .", "red"),
        ("teddy \t\n bear", "teddy bear"),
        ("TOP  LEFT. ", "top left"),
        ("red..", "red."),
        (".", ""),
        ("", ""),
        ("3.5", "3.5"),
        ("yes, a dog", "yes, a dog"),
    ],
)
def test_normalize(text: str, expected: str) -> None:
    assert normalize(text) == expected


@pytest.mark.parametrize(
    ("answer", "truth"),
    [("Yes", "yes"), ("yes.", "yes"), (" Teddy  bear.", "teddy bear"), ("stop", "STOP")],
)
def test_what_must_match(answer: str, truth: str) -> None:
    assert exact_match(answer, truth)


@pytest.mark.parametrize(
    ("answer", "truth"),
    [
        ("2", "two"),
        ("a dog", "dog"),
        ("the dog", "dog"),
        ("dogs", "dog"),
        ("yes!", "yes"),
        ("yes, it is", "yes"),
        ("yes..", "yes"),
        ("top-left", "top left"),
        ("topleft", "top left"),
        ("left", "top left"),
        ("color", "colour"),
        ("center", "centre"),
        ("", "no"),
        ('"red"', "red"),
        ("red\u200b", "red"),
    ],
)
def test_what_must_not_match(answer: str, truth: str) -> None:
    assert not exact_match(answer, truth)
