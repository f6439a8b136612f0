"""The folder that an evaluation leaves: figures, every answer, every verdict; written and read.

`report.json` holds a `Run`. Beside it lie for each task TASK.jsonl (an `Answer` a line),
TASK.CONTROL.jsonl for each control, and TASK.verdicts.jsonl where a judge was asked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from laterna.errors import LaternaError
from laterna.evaluation.judge import JudgeFigures
from laterna.evaluation.run import Evaluation, Figures, figures
from laterna.evaluation.shots import ShotFigures
from laterna.files import Made, read_made, write_json, write_lines
from laterna.recipe import Recipe, SourceSettings
from laterna.records import Answer, Question, Record

FIGURES, PAGE = "report.json", "report.html"
KIND = "evaluation"
"""What such a folder says that it is."""


class Subject(Record):
    """Who was asked about what: all that a run's figures hang on besides the tasks."""

    model: str
    """As it was named."""
    fingerprint: str
    limit: int
    seed: int
    laterna: str
    """Version that asked."""
    baseline: str = ""
    training: tuple[SourceSettings, ...] = ()
    """Where the records of the last training stage are, if the model's recipe says so."""


class Run(Subject, kw_only=True):
    """The figures of a run, as `report.json` holds them."""

    datasets: dict[str, str]
    """The folder of each task's files."""
    tasks: dict[str, Figures]


class SavedTask(msgspec.Struct, frozen=True, kw_only=True):
    """What is read again of a task's figures; the scores follow from the answers."""

    questions: int
    skipped: dict[str, int]
    setting: str
    definitions: dict[str, str]
    shots: ShotFigures | None = None
    warnings: tuple[str, ...] = ()
    judge: JudgeFigures | None = None


class _SavedRun(Subject, kw_only=True):
    datasets: dict[str, str]
    tasks: dict[str, SavedTask]


class _SavedAnswer(msgspec.Struct, frozen=True):
    question: Question
    text: str
    score: float | None
    probability: float | None = None
    review: str | None = None


class SavedRun(NamedTuple):
    """A run as its folder holds it."""

    folder: Path
    subject: Subject
    datasets: dict[str, str]
    tasks: dict[str, SavedTask]

    def answers(self, task: str) -> list[Answer]:
        """Return the assistant's answers; raises LaternaError for a file that is damaged."""
        return _read_answers(self.folder / f"{task}.jsonl")

    def controls(self, task: str) -> dict[str, list[Answer]]:
        """Return the answers of each control, in the order of the table."""
        names = [path.name.split(".") for path in self.folder.glob(f"{task}.*.jsonl")]
        found = {parts[1] for parts in names if len(parts) == 3 and parts[1] != "verdicts"}
        order = [*(name for name in CONTROL_ORDER if name in found), *sorted(found)]
        return {
            name: _read_answers(self.folder / f"{task}.{name}.jsonl")
            for name in dict.fromkeys(order)
        }


CONTROL_ORDER = ("blank", "shuffled", "text_only", "constant", "before_instruct")


def training_sources(recipe: Recipe | None) -> tuple[SourceSettings, ...]:
    """Return the sources of a recipe's second stage; none where it names none."""
    stage = recipe.instruct if recipe is not None else None
    return stage.mixture() if stage is not None and (stage.data or stage.sources) else ()


def write_run(
    folder: Path, subject: Subject, evaluations: Sequence[Evaluation], datasets: dict[str, Path]
) -> None:
    """Write a run into a folder that is empty or not yet there."""
    folder.mkdir(parents=True, exist_ok=True)
    for evaluation in evaluations:
        task = evaluation.task
        write_lines(folder / f"{task}.jsonl", evaluation.answers)
        for control in evaluation.controls:
            write_lines(folder / f"{task}.{control.name}.jsonl", control.answers)
        if evaluation.verdicts:
            rows = (
                {"of": who, **msgspec.structs.asdict(verdict)}
                for who, verdicts in evaluation.verdicts.items()
                for verdict in verdicts
            )
            write_lines(folder / f"{task}.verdicts.jsonl", rows)
    run = Run(
        **msgspec.structs.asdict(subject),
        datasets={task: str(path.resolve()) for task, path in datasets.items()},
        tasks={evaluation.task: figures(evaluation) for evaluation in evaluations},
    )
    write_json(folder / FIGURES, run)


def is_run(folder: Path) -> bool:
    """Tell whether a folder is one that an evaluation left, though its figures be damaged."""
    left = read_made(folder)
    if left is not None and left.kind == KIND:
        return True
    try:
        read_run(folder)
    except LaternaError:
        return False
    return True


def read_run(folder: Path) -> SavedRun:
    """Read a run's figures; raises LaternaError where the folder holds none."""
    path = folder / FIGURES
    try:
        found = msgspec.json.decode(path.read_bytes(), type=_SavedRun)
    except OSError as error:
        raise LaternaError(
            f"{folder}: not the folder of an evaluation, it holds no {FIGURES}; "
            "make one with `laterna evaluate --out`"
        ) from error
    except msgspec.MsgspecError as error:
        raise LaternaError(f"{path}: not the figures of `laterna evaluate`: {error}") from error
    told = msgspec.structs.asdict(found)
    datasets, tasks = told.pop("datasets"), told.pop("tasks")
    return SavedRun(folder, Subject(**told), datasets, tasks)


def _read_answers(path: Path) -> list[Answer]:
    decoder = msgspec.json.Decoder(_SavedAnswer)
    answers = []
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise LaternaError(f"{path}: cannot be read: {error.strerror}; evaluate again") from error
    for number, line in enumerate(lines, start=1):
        try:
            saved = decoder.decode(line)
        except msgspec.MsgspecError as error:
            raise LaternaError(
                f"{path}, line {number}: not an answer: {error}; evaluate again"
            ) from error
        told = msgspec.structs.asdict(saved)
        score = math.nan if saved.score is None else saved.score
        answers.append(Answer(**{**told, "score": score}))
    return answers


def made(of: dict[str, str]) -> Made:
    """Return what a run's folder says of itself."""
    return Made(kind=KIND, of=of, later=(PAGE,))
