"""What a task is: questions made from a dataset's folder, and how their answers are scored."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol

from laterna.records import Question

IMAGE_FOLDER = "images"
"""Where datasets in COCO's form keep their images, inside their folder."""


class Questions(Protocol):
    """Makes the questions of a task from a dataset's folder."""

    def __call__(self, dataset_folder: Path, *, limit: int, seed: int) -> list[Question]:
        """Return at most `limit` questions (0: all), the same for the same seed.

        Raises LaternaError when the folder does not hold what the task asks about.
        """
        ...


class Task(NamedTuple):
    """A set of questions, with what decides how they are asked and scored."""

    questions: Questions
    about: str
    """What is asked, in a few words, for help texts."""
    metrics: tuple[str, ...] = ("exact_match",)
    """Keys of `METRICS`; the first scores each answer, the others are told beside it."""
    max_new_tokens: int = 16
    """Room for an answer."""
    images: str = IMAGE_FOLDER
    """Folder of the images inside the dataset's folder."""
