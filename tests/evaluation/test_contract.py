"""The contract of evaluation: what a new task and a new metric need, and what comes out."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from PIL import Image
from rich.console import Console

from laterna.errors import LaternaError
from laterna.evaluation.metrics import METRICS, find_metric
from laterna.evaluation.metrics.base import Metric, mean_score
from laterna.evaluation.run import evaluate, figures, score_table
from laterna.evaluation.tasks import TASKS
from laterna.evaluation.tasks.base import Task
from laterna.inference.assistant import Assistant
from laterna.inference.generation import Decoding, Prompt
from laterna.model.vlm import VisionLanguageModel
from laterna.records import Answer, Question


def pairs(dataset_folder: Path, *, limit: int, seed: int) -> list[Question]:
    """Two questions about two images each."""
    return [
        Question(
            id=str(number),
            images=("a.png", "b.png"),
            kind="pair",
            text=("Which is larger?", "Which is smaller?")[number],
            references=("left", "the left one"),
            fields={"group": str(number)},
        )
        for number in range(2)
    ]


def share_of_letters(questions: Sequence[Question], answers: Sequence[str]) -> list[float]:
    return [len(answer) / 10 for answer in answers]


def longest(answers: Sequence[Answer]) -> dict[str, float]:
    return {"longest": max(answer.score for answer in answers)}


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two images, a task of one line and a metric of one line."""
    for name, width in (("a.png", 8), ("b.png", 4)):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.new("RGB", (width, 4)).save(tmp_path / "photos" / name)
    metric = Metric("ours", share_of_letters, longest)
    monkeypatch.setitem(METRICS, "letters", metric)
    task = Task(
        questions=pairs,
        about="which of two images is larger",
        metrics=("exact_match", "letters"),
        max_new_tokens=5,
        images="photos",
    )
    monkeypatch.setitem(TASKS, "pairs", task)
    return tmp_path


def test_a_task_says_images_references_decoding_and_metrics(dataset: Path) -> None:
    asked: list[Prompt] = []
    allowed: set[int] = set()

    def answer(
        model: VisionLanguageModel, prompts: Sequence[Prompt], decoding: Decoding
    ) -> list[str]:
        asked.extend(prompts)
        allowed.add(decoding.max_new_tokens)
        return ["The left one."] + ["right"] * (len(prompts) - 1)

    nobody = cast(Assistant, SimpleNamespace(model=SimpleNamespace(prepare=None)))
    found = evaluate(nobody, "pairs", dataset, controls=(), answer=answer, progress=False)
    turns, images = asked[0]
    assert turns[0].text == "<image>\n<image>\nWhich is larger?"
    assert [image.width for image in images] == [8, 4]
    assert allowed == {5}
    assert [given.score for given in found.answers] == [1.0, 0.0]
    assert found.scores.values == {"exact_match.accuracy": 0.5, "letters.longest": 1.3}
    assert figures(found).metrics == found.scores.values
    shown = io.StringIO()
    Console(file=shown, width=80).print(score_table(found))
    rows = [line.split() for line in shown.getvalue().splitlines()]
    assert ["letters.longest", "2", "1.300"] in rows
    assert ["pair", "2", "0.500", "0.055–0.945"] in rows  # of one image


def test_every_task_names_metrics_that_there_are() -> None:
    for task in TASKS.values():
        assert all(find_metric(name) for name in task.metrics)
        assert task.about
    with pytest.raises(LaternaError, match=r"f1: no such metric; the metrics are: .*exact_match"):
        find_metric("f1")


def test_a_mean_over_nothing_is_no_number() -> None:
    assert math.isnan(mean_score([])["accuracy"])
