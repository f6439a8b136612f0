"""MME: fourteen subtasks, two questions an image, one to be answered yes and one no.

A subtask is a folder: images, and beside each (or in `questions_answers_YN`, the images in
`images`) a text of its name with a question, a tab and `Yes` or `No` a line.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from laterna.errors import LaternaError
from laterna.evaluation.metrics.mme import COGNITION, PERCEPTION
from laterna.evaluation.tasks.base import DEFAULT_SETTING, Setting, SkippedRow, Task
from laterna.evaluation.tasks.files import DEPTH, SHORT, Rows, file_text
from laterna.records import Question

SUBTASKS = (*PERCEPTION, *COGNITION)
_ENDINGS = (".jpg", ".png", ".jpeg")
_ASKS = " Please answer yes or no."
"""Ends every question of MME's; LLaVA-1.5 puts its own words in the place."""


def mme_questions(dataset_folder: Path, *, limit: int, seed: int) -> Rows:
    """Yield MME's questions by subtask; a subtask without a folder is counted as missing."""
    del limit, seed
    root = _root(dataset_folder)
    for subtask in SUBTASKS:
        if not (root / subtask).is_dir():
            yield SkippedRow(reason="subtask missing", where=str(root / subtask))
            continue
        for path in sorted((root / subtask).rglob("*.txt")):
            yield from _of_image(path, subtask, dataset_folder)


def _root(folder: Path) -> Path:
    for depth in range(DEPTH):
        for found in sorted(folder.glob("*/" * depth + "existence")):
            if found.is_dir():
                return found.parent
    raise LaternaError(
        f"{folder}: there is no folder `existence` of MME's in it; {MME.needs['existence']}"
    )


def _of_image(path: Path, subtask: str, dataset: Path) -> Iterator[Question | SkippedRow]:
    image = _image(path)
    try:
        lines = file_text(path).decode().splitlines()
    except (UnicodeDecodeError, LaternaError):
        yield SkippedRow(reason="text that cannot be read", where=str(path))
        return
    for number, line in enumerate(lines, start=1):
        text, tab, answer = line.strip().rpartition("\t")
        where = f"{path}, line {number}"
        if not line.strip():
            continue
        if not tab or answer.strip().lower() not in ("yes", "no"):
            yield SkippedRow(reason="line without a question, a tab, and Yes or No", where=where)
            continue
        yield Question(
            id=f"{subtask}/{path.stem}-{number}",
            images=(image.relative_to(dataset).as_posix(),),
            kind=subtask,
            text=text.strip().removesuffix(_ASKS.strip()).rstrip(),
            references=(answer.strip().capitalize(),),
        )


def _image(path: Path) -> Path:
    """Return the image that a text is about; where there is none, the place of one."""
    folders = (path.parent, path.parent.parent / "images")
    places = [folder / f"{path.stem}{ending}" for folder in folders for ending in _ENDINGS]
    return next((place for place in places if place.is_file()), places[0])


MME = Task(
    questions=mme_questions,
    about="MME",
    metrics=("mme",),
    max_new_tokens=128,
    settings={
        DEFAULT_SETTING: Setting("{text}" + SHORT),
        "mme": Setting("{text}" + _ASKS),
        "question-only": Setting(),
    },
    needs={
        "existence": "its authors send the images on request: "
        "https://github.com/BradyFU/Awesome-Multimodal-Large-Language-Models (branch Evaluation)"
    },
)
