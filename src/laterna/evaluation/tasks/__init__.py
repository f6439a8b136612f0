"""The tasks an assistant can be evaluated on; a new one is one file and one line in `TASKS`."""

from __future__ import annotations

from laterna.errors import LaternaError
from laterna.evaluation.tasks.base import Task
from laterna.evaluation.tasks.boxes import BOXES
from laterna.evaluation.tasks.world import WORLD

TASKS: dict[str, Task] = {"boxes": BOXES, "world": WORLD}
"""Name to task."""


def find_task(name: str) -> Task:
    """Return the task of exactly this name; raises LaternaError that lists the names."""
    if name not in TASKS:
        raise LaternaError(f"{name}: no such task; the tasks are: {', '.join(sorted(TASKS))}")
    return TASKS[name]
