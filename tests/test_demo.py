"""What the demo says of things that are not there: from figures to the rows that are shown."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

from laterna.demo import EVALUATED, HALLUCINATION, _hallucination_rows
from laterna.evaluation.metrics import METRICS
from laterna.evaluation.tasks import TASKS
from laterna.records import Answer, Question


def test_rows_have_the_value_its_interval_and_the_value_before() -> None:
    named = dict(HALLUCINATION.values())
    found: Any = {
        task: SimpleNamespace(
            metrics={value: 0.25 for one, value in HALLUCINATION.values() if one == task},
            intervals={named[task]: (0.125, 0.5)},
            controls={
                "before_instruct": SimpleNamespace(
                    metrics={v: math.nan for one, v in HALLUCINATION.values() if one == task}
                )
            },
        )
        for task in named
    }
    rows = list(_hallucination_rows(found))
    assert [row[0] for row in rows] == list(HALLUCINATION)
    assert rows[0] == ("POPE F1, mean of the samplings", "0.250", "", "undefined")
    assert rows[-1] == (
        "CHAIRi, mentions of something absent",
        "0.250",
        "0.125 to 0.500",
        "undefined",
    )


def test_what_is_shown_is_what_the_tasks_metrics_give() -> None:
    assert next(iter(EVALUATED)) == "world"
    for task, value in HALLUCINATION.values():
        metric, _, key = value.partition(".")
        assert task in EVALUATED
        assert metric in TASKS[task].metrics
        answers = [
            Answer(
                question=Question(
                    id=str(number),
                    images=(f"{number}.png",),
                    kind=kind,
                    text="?",
                    references=("yes",),
                    fields={"objects": "dog", "kinds": "dog"},
                ),
                text="yes",
                score=1.0,
            )
            for number, kind in enumerate(("random", "popular", "adversarial"))
        ]
        assert key in METRICS[metric].summarize(answers)
