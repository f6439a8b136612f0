"""Which letter an answer picks: ScienceQA's script, VLMEvalKit, circular asking, MMVP, SEED."""

from __future__ import annotations

from typing import Any

import pytest

from laterna.errors import LaternaError
from laterna.evaluation.metrics import multiple_choice as choice
from laterna.evaluation.metrics.scienceqa import llava_letter

ANIMALS = {"A": "a cat", "B": "a dog", "C": "a horse"}


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("B. a dog", "B"),
        ("B.", None),
        ("b", None),
        ("The answer is B.", "B"),
        ("The answer is BC", "B"),  # sic: any character stands for the full stop
        ("The answer is B", None),
        ("The answer is A. The answer is B.", None),
        ("F", None),
    ],
)
def test_scienceqas_letter(answer: str, letter: str | None) -> None:
    assert llava_letter(answer) == letter


def test_scienceqa_over_all_and_with_an_image(question: Any, values: Any) -> None:
    rows = [
        (question("B", **ANIMALS), "B"),
        (question("B", **ANIMALS), "B."),
        (question("A", images=(), **ANIMALS), "The answer is A."),
        (question("D", images=(), **ANIMALS), "D"),  # there is no such choice
    ]
    assert values("scienceqa", rows) == {
        "accuracy": 0.5,
        "img": 0.5,
        "lmms_eval": 0.75,
        "lmms_eval_differs": 3,
    }


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("(B) a dog", "B"),
        ("It is a dog!", "B"),
        ("It is a dog or a cat", None),
        ("A or B", None),
        ("The answer is **C**, not A, B", "C"),
        ("B is my choice of these three", None),  # named too early
        ("Cannot determine the answer", "Z"),
        ("Failed to obtain answer via API", None),
        ("D", None),
    ],
)
def test_vlmevalkits_letter(answer: str, letter: str | None) -> None:
    assert choice.vlmevalkit_letter(answer, ANIMALS) == letter


def test_circular_needs_every_rotation(question: Any, values: Any) -> None:
    def ask(index: int, truth: str, said: str) -> tuple[Any, str]:
        return question(truth, index=str(index), **ANIMALS), said

    rows = [
        ask(5, "A", "A"),
        ask(1_000_005, "B", "B. a dog"),
        ask(6, "A", "A"),
        ask(1_000_006, "B", "C"),
    ]
    found = values("circular", rows)
    assert (found["accuracy"], found["circular"], found["vanilla"]) == (0.75, 0.5, 1.0)
    assert (found["letter"], found["letter_differs"]) == (0.5, 1)
    assert (found["llava"], found["llava_differs"]) == (0.75, 0)


def test_a_missing_or_faulty_index_is_named(question: Any, values: Any) -> None:
    with pytest.raises(LaternaError, match="question 17: its field 'index' is missing"):
        values("circular", [(question("A", **ANIMALS), "A")])
    with pytest.raises(LaternaError, match="question 17: its field 'index' is 'x', not a number"):
        values("mmvp_corrected", [(question("A", index="x"), "A")])


@pytest.mark.parametrize(
    ("answer", "letter"),
    [("(b)", "B"), ("a.", "A"), ("Option B", "B"), ("cab", "B"), ("Open", ""), ("(c)", "")],
)
def test_mmvps_letter(answer: str, letter: str) -> None:
    assert choice.mmvp_letter(answer) == letter


def test_mmvp_pairs_under_both_ground_truths(question: Any, values: Any) -> None:
    rows = [
        (question("A", index="1"), "(a)"),
        (question("B", index="2"), "(b)"),
        (question("A", index="99"), "(b)"),
        (question("B", index="100"), "(a)"),
        (question("A", index="299"), "(a)"),  # its pair was not asked
    ]
    own, corrected = values("mmvp", rows), values("mmvp_corrected", rows)
    assert own == {
        "accuracy": 0.6,
        "pairs": 0.5,
        "corrected": 1.0,
        "corrected_differs": 2,
        "corrected_pairs": 1.0,
    }
    assert (corrected["accuracy"], corrected["pairs"]) == (1.0, 1.0)
    assert (corrected["original"], corrected["original_pairs"]) == (0.6, 0.5)


def test_seeds_letter_and_gqas_words(question: Any, scores: Any) -> None:
    rows = [(question("A"), said) for said in ("A", "a", "A.", "(A)")]
    assert scores("letter", rows) == [1.0, 0.0, 0.0, 0.0]
    rows = [(question("left"), said) for said in ("Left.", "left..", " left", "the left")]
    assert scores("gqa", rows) == [1.0, 1.0, 0.0, 0.0]
