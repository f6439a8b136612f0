"""VQA accuracy: ten people, three of whom are enough, and what the two scorers do to texts."""

from __future__ import annotations

from typing import Any

import pytest

from laterna.evaluation.metrics import METRICS, vqa

PEOPLE = ("yes",) * 5 + ("a red car",) * 3 + ("two",) + ("no",)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Yes.", 1.0),  # five agree: whoever is left out, three others do
        ("red car", 0.9),  # three: with one of them left out, two thirds in 3 of 10
        ("2", 0.3),  # one: a third in 9 of 10
        ("blue", 0.0),
    ],
)
def test_people_left_out_in_turn(question: Any, scores: Any, answer: str, expected: float) -> None:
    for metric in ("vqa", "textvqa"):
        assert scores(metric, [(question(*PEOPLE), answer)]) == [pytest.approx(expected, abs=1e-12)]


@pytest.mark.parametrize(
    ("text", "official", "m4c"),
    [
        ("Two, three", "2 3", "2 3"),
        ("two,three", "2 3", "twothree"),
        ("1,000 men/women", "1000 menwomen", "1000 men women"),
        ("women's", "women's", "women 's"),
        ("dont know", "don't know", "don't know"),
        ("3.5.", "3.5", "3.5"),
        ("the end.\n", "end", "end"),
        ("black-white", "black white", "black white"),
        ("a", "", ""),
    ],
)
def test_what_is_compared(text: str, official: str, m4c: str) -> None:
    assert vqa.official_form(text) == official
    assert vqa.m4c_form(text) == m4c


def test_thirty_two_full_stops_go_as_the_scorers_flag_has_it() -> None:
    assert vqa.official_form("." * 40) == "." * 8


def test_where_people_are_unanimous_the_official_scorer_compares_what_was_written(
    question: Any, values: Any
) -> None:
    rows = [(question(*["yes"] * 10), "Yes"), (question(*PEOPLE), "yes")]
    assert values("vqa", rows) == {"accuracy": 0.5, "m4c": 1.0, "m4c_differs": 1}
    assert values("textvqa", rows) == {"accuracy": 1.0, "official": 0.5, "official_differs": 1}


def test_a_text_that_comes_again_is_not_normalized_again(question: Any) -> None:
    """What keeps 100,000 answers within seconds, counted instead of timed."""
    vqa.official_form.cache_clear()
    rows = [question(*PEOPLE) for _ in range(1000)]
    METRICS["vqa"].score(rows, ["a blue car"] * len(rows))
    made = vqa.official_form.cache_info()
    assert (made.misses, made.hits) == (5, 11 * 1000 - 5)
