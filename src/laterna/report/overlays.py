"""What some answers of an evaluation hang on: looked for once, and kept beside its figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from msgspec import field

from laterna.errors import LaternaError
from laterna.evaluation.saved import SavedRun
from laterna.evaluation.tasks import TASKS
from laterna.files import write_json
from laterna.inference.assistant import Assistant
from laterna.inference.covering import grid_of
from laterna.records import Answer, Record
from laterna.report.explanation import Explained, explained
from laterna.report.parts import choose

EXPLANATIONS = "explanations.json"
"""Its name in the folder of an evaluation."""
PASSES = 8
"""Squares that are covered along a side, at most: an answer is scored anew for each."""


class TaskExplanations(Record):
    """Explained answers of one task."""

    shown: tuple[Explained, ...] = ()
    missing: dict[str, int] = field(default_factory=dict)
    """Why others could not be explained, and how many."""

    @property
    def reasons(self) -> tuple[str, ...]:
        """Return a line for each reason."""
        return tuple(f"{count} × {why}" for why, count in self.missing.items())


def explain_answers(assistant: Assistant, run: SavedRun, count: int) -> dict[str, TaskExplanations]:
    """Explain `count` answers of each task by occlusion, of which half are not right if there are
    so many.

    Each costs 64 forward passes at most. What cannot be explained is counted by reason.
    """
    return {task: _explained(assistant, run, task, count) for task in run.tasks if count}


def write_explanations(folder: Path, found: dict[str, TaskExplanations]) -> None:
    """Write them into the folder of an evaluation."""
    write_json(folder / EXPLANATIONS, found)


def read_explanations(folder: Path) -> dict[str, TaskExplanations]:
    """Read them; none where none were made. Raises LaternaError for a file that is damaged."""
    path = folder / EXPLANATIONS
    if not path.is_file():
        return {}
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, TaskExplanations])
    except (OSError, msgspec.MsgspecError) as error:
        raise LaternaError(f"{path}: cannot be read: {error}; evaluate again") from error


def find_explanations(run: Path) -> Iterator[TaskExplanations]:
    """Yield those that evaluations left in a training run's folder, or in folders inside it."""
    for folder in (run, *sorted(path.parent for path in run.glob(f"*/{EXPLANATIONS}"))):
        yield from read_explanations(folder).values()


def drawn_from(answers: Sequence[Answer], count: int, seed: int) -> list[Answer]:
    """Draw answers by lot, kinds in turn: half of them not right, where there are so many."""
    wrong, right = choose(answers, count, 0, seed), choose(answers, 0, count, seed)
    rights = min(len(right), max(count - count // 2, count - len(wrong)))
    return [*wrong[: count - rights], *right[:rights]]


def _explained(assistant: Assistant, run: SavedRun, task: str, count: int) -> TaskExplanations:
    shown: list[Explained] = []
    missing: Counter[str] = Counter()
    for answer in drawn_from(run.answers(task), count, run.subject.seed):
        try:
            shown.append(_one(assistant, run, task, answer))
        except LaternaError as error:
            missing[str(error)] += 1
    return TaskExplanations(shown=tuple(shown), missing=dict(missing))


def _one(assistant: Assistant, run: SavedRun, task: str, answer: Answer) -> Explained:
    question = answer.question
    if len(question.images) != 1:
        raise LaternaError(f"asked about {len(question.images)} images")
    image = TASKS[task].open_image(Path(run.datasets[task]), question.images[0])
    side, _ = grid_of(assistant.model)
    found = assistant.explain(image, question.text, answer.text, window=-(-side // PASSES))
    return explained(question.text, found)
