"""What a task is: questions made from a dataset's folder, and how they are put and scored.

A task's questions are read with `read_questions`, which puts them in the words of a setting, takes
of them as many as are wanted, and counts the rows of the files that are no questions.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, Protocol

from msgspec.structs import replace
from PIL import Image

from laterna.data.images.opening import MissingImageError, load_image
from laterna.errors import LaternaError
from laterna.evaluation.metrics import find_metric
from laterna.evaluation.tasks.images import find_image
from laterna.records import Question, Record

IMAGE_FOLDER = "images"
"""Where datasets in COCO's form keep their images, inside their folder."""
DEFAULT_SETTING = "llava-1.5"
"""The default setting of published tasks: LLaVA-1.5's words."""
OWN_SETTING = "own"
"""The default setting of tasks that are Laterna's own."""
LONG_ANSWER = 1024
"""Tokens for an answer of sentences, as LLaVA-1.5 allows."""


class SkippedRow(Record):
    """A row of a task's files that no question can be made of."""

    reason: str
    """The same words for every row with that fault."""
    where: str
    """File and line or row."""


class Setting(NamedTuple):
    """A variant of a task: how its questions are put and answered. It is shown with the score."""

    prompt: str = "{text}"
    """What is said to the assistant: the question as `{text}`, and any of its fields by name."""
    max_new_tokens: int = 0
    """Room for an answer; 0: the task's."""


class Questions(Protocol):
    """Makes the questions of a task from a dataset's folder."""

    def __call__(
        self, dataset_folder: Path, *, limit: int, seed: int
    ) -> Iterable[Question | SkippedRow]:
        """Yield the questions without the setting's words, and the rows that are none.

        More than `limit` questions (0: all) may come; the same for the same seed.
        Raises LaternaError when the folder does not hold what the task asks about.
        """
        ...


class TaskQuestions(Record):
    """The questions of a task as they are put to an assistant, and what was left out."""

    questions: tuple[Question, ...]
    skipped: dict[str, int]
    """Rows of the files that are no questions, by reason."""
    examples: dict[str, str]
    """Where the first row of each reason stands."""


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
    settings: Mapping[str, Setting] = MappingProxyType({OWN_SETTING: Setting()})
    """Variants by name; the first is the default."""
    needs: Mapping[str, str] = MappingProxyType({})
    """The files that the dataset's folder must hold, with where each is to be had."""
    judge: str = ""
    """Name of the judge's prompt, where a judge's replies are scored and not the answers."""
    demonstrable: bool = True
    """Whether a reference is an answer, which a demonstration before a question can show."""
    find: Callable[[Path, str], Path | bytes] | None = None
    """Finds an image that is no file in the folder of images or in a zip in its place."""

    def image(self, dataset: Path, name: str) -> Path | bytes:
        """Return the file of a question's image, or the bytes of one.

        Raises MissingImageError that says where the images are to be had, and LaternaError for a
        zip or a table that cannot be read.
        """
        if self.find is not None:
            return self.find(dataset, name)
        found = find_image(dataset, self.images, name)
        if isinstance(found, Path) and not found.is_file():
            where = next((f"; {text}" for need, text in self.needs.items() if need in name), "")
            raise MissingImageError(f"{found}: no such image{where}")
        return found

    def open_image(self, dataset: Path, name: str) -> Image.Image:
        """Open an image of a question; raises as `load_image` does."""
        return load_image(self.image(dataset, name), name)

    def find_setting(self, name: str = "") -> Setting:
        """Return the setting of exactly this name, or the default; raises LaternaError."""
        if not name:
            return next(iter(self.settings.values()))
        if name not in self.settings:
            raise LaternaError(
                f"{name}: no such setting of this task; its settings are: "
                f"{', '.join(self.settings)}"
            )
        return self.settings[name]


def read_questions(
    task: Task, dataset: Path, *, limit: int = 0, seed: int = 0, setting: str = ""
) -> TaskQuestions:
    """Return a task's questions as they are put, at most `limit` (0: all), drawn by `seed`.

    A part is drawn in whole units of the task's first metric (all questions about an image, both
    of a pair), and keeps the files' order. Of two questions with one id the second is left out, as
    is one without a reference, with a text that is none, or an image outside the folder.
    Raises LaternaError as the task's reader does, for an unknown setting or one that needs what
    the files do not have, and where no row is a question.
    """
    chosen = task.find_setting(setting)
    found: dict[str, Question] = {}
    skipped: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for row in task.questions(dataset, limit=limit, seed=seed):
        lost = row if isinstance(row, SkippedRow) else _unusable(row, found)
        if lost is not None:
            skipped[lost.reason] += 1
            examples.setdefault(lost.reason, lost.where)
        elif isinstance(row, Question):
            found[row.id] = row
    if skipped and not found:
        raise LaternaError(
            f"{dataset}: no row of its files is a question: "
            + "; ".join(f"{number} {why} ({examples[why]})" for why, number in skipped.items())
        )
    questions = list(found.values())
    if limit and len(questions) > limit:
        questions = _drawn(questions, limit, seed, task.metrics[0])
    return TaskQuestions(
        questions=tuple(_put(question, chosen.prompt) for question in questions),
        skipped=dict(skipped),
        examples=examples,
    )


def _unusable(question: Question, before: Mapping[str, Question]) -> SkippedRow | None:
    """Return why a question cannot be put, or None."""
    texts = (question.id, question.text, *question.images, *question.references)
    if question.id in before:
        reason = "question id stands twice"
    elif not question.references:
        reason = "no reference"
    elif not question.text.strip():
        reason = "no words in the question"
    elif any(map(is_broken, (*texts, *question.fields.values()))):
        reason = "half a character, or NUL, in a text"
    elif any(name.startswith("/") or ".." in name.split("/") for name in question.images):
        reason = "image outside the folder"
    else:
        return None
    return SkippedRow(reason=reason, where=f"question {question.id!r}")


def is_broken(text: str) -> bool:
    """Tell whether a text holds half a character or a NUL: it cannot be shown or tokenized."""
    return "\0" in text or (not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text))


def _drawn(questions: list[Question], limit: int, seed: int, metric: str) -> list[Question]:
    unit = find_metric(metric).unit
    units = [unit(question) for question in questions]
    sizes = Counter(units)
    order = list(sizes)
    random.Random(seed).shuffle(order)
    kept, room = set(), limit
    for one in order:
        if sizes[one] <= room:
            kept.add(one)
            room -= sizes[one]
    chosen = [question for question, one in zip(questions, units, strict=True) if one in kept]
    return chosen or questions[:limit]  # one unit is larger than the limit


def _put(question: Question, prompt: str) -> Question:
    """Return a question in a setting's words."""
    if prompt == "{text}":
        return question
    try:
        return replace(question, text=prompt.format_map({**question.fields, "text": question.text}))
    except KeyError as error:
        raise LaternaError(
            f"question {question.id}: there is no {error.args[0]!r} for it, which the setting's "
            f"prompt {prompt!r} asks for; choose another setting, or add the file that holds it"
        ) from error
