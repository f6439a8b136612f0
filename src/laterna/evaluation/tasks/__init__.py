"""The tasks an assistant can be evaluated on; a new one is one file and one line in `TASKS`."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from laterna.errors import LaternaError
from laterna.evaluation.tasks.boxes import box_questions
from laterna.evaluation.tasks.world import world_questions
from laterna.records import Question


class Task(Protocol):
    """Makes the questions of a task from a dataset's folder."""

    def __call__(self, dataset_folder: Path, *, limit: int, seed: int) -> list[Question]:
        """Return at most `limit` questions (0: all), the same for the same seed.

        Raises LaternaError when the folder does not hold what the task asks about.
        """
        ...


TASKS: dict[str, Task] = {"boxes": box_questions, "world": world_questions}


def find_task(name: str) -> Task:
    """Return the task of exactly this name; raises LaternaError that lists the names."""
    if name not in TASKS:
        raise LaternaError(f"{name}: no such task; the tasks are: {', '.join(sorted(TASKS))}")
    return TASKS[name]
