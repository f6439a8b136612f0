"""MME: the first four characters, and 200 for a subtask with every pair right."""

from __future__ import annotations

from typing import Any

import pytest

from laterna.evaluation.metrics.mme import lmms_eval_parse, parse


@pytest.mark.parametrize(
    ("answer", "ours", "theirs"),
    [
        ("YES", "yes", "yes"),
        ("No, it is not", "no", "no"),
        ("snow", "no", "no"),
        ("eyes", "yes", "yes"),
        ("  yes", "other", "yes"),
        ("y", "other", "yes"),
        ("n.o", "other", "no"),
        ("It is yes", "other", "other"),
        ("", "other", "other"),
    ],
)
def test_what_is_read(answer: str, ours: str, theirs: str) -> None:
    assert parse(answer) == ours
    assert lmms_eval_parse(answer) == theirs


def test_subtasks_and_totals(question: Any, values: Any) -> None:
    def ask(kind: str, image: str, *answers: str) -> list[tuple[Any, str]]:
        pairs = zip(("Yes", "No"), answers, strict=False)
        return [(question(truth, kind=kind, images=(image,)), said) for truth, said in pairs]

    rows = [
        *ask("count", "1.jpg", "yes", "no"),
        *ask("count", "2.jpg", "yes", "yes"),
        *ask("OCR", "1.jpg", "yes", "no"),
        *ask("code_reasoning", "1.jpg", "no", "  no"),
        *ask("code_reasoning", "2.jpg", "y"),
    ]
    found = values("mme", rows)
    assert found["count"] == 75 + 50
    assert found["OCR"] == 200
    assert found["perception"] == 325
    assert found["code_reasoning"] == found["cognition"] == pytest.approx(100 / 3)
    assert found["unpaired"] == 1
    assert found["lmms_eval_differs"] == 1
    assert found["accuracy"] == pytest.approx(6 / 9)
