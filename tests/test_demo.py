"""What the demo says of things that are not there: from figures to the rows that are shown."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from laterna.demo import EVALUATED, HALLUCINATION, _explanations, _hallucination_rows
from laterna.errors import LaternaError
from laterna.evaluation.metrics import METRICS
from laterna.evaluation.tasks import TASKS
from laterna.inference.assistant import Assistant
from laterna.model.build import build_from_recipe
from laterna.model.vlm import VisionLanguageModel
from laterna.recipe import Recipe
from laterna.records import Answer, Question
from laterna.report.page import Example
from laterna.scenes.phrases import SHORT_ANSWER

from .tiny import flamingo


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


def test_answers_are_explained_where_they_can_be(
    tiny_recipe: Recipe,
    tiny_assistant: VisionLanguageModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image = tmp_path / "one.png"
    Image.effect_noise((40, 30), 90).convert("RGB").save(image)
    examples = [
        Example(image=image, kind="k", question=text, answer="", truth="", right=False)
        for text in ("What is it?", "Is it?")
    ]
    shown, missing = _explanations(Assistant(tiny_assistant), examples)
    assert missing == ()
    asked = Assistant(tiny_assistant).answer(image, "What is it?" + SHORT_ANSWER, max_new_tokens=64)
    assert (shown[0].question, shown[0].answer) == ("What is it?", asked)
    assert [one.overlay.note[:10] for one in shown] == ["strongest "] * 2
    beside = Assistant(build_from_recipe(flamingo(tiny_recipe)))
    shown, missing = _explanations(beside, examples)
    assert (len(shown), missing) == (2, ())

    def explain(*_: object, **__: object) -> None:
        raise LaternaError("the answer is empty")

    monkeypatch.setattr(Assistant, "explain", explain)
    assert _explanations(beside, examples) == ((), ("2 × the answer is empty",))


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
