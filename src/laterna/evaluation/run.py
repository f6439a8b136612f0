"""Asks an assistant the questions of a task and scores its answers, with controls beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import Protocol, TypeVar

from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from laterna.data.pictures import MissingPictureError, load_picture, picture_size
from laterna.errors import LaternaError
from laterna.evaluation.metrics.exact_match import exact_match
from laterna.evaluation.tasks import find_task
from laterna.inference.assistant import Assistant
from laterna.inference.generation import Decoding, Prompt, generate_answers
from laterna.model.vlm import VisionLanguageModel
from laterna.records import PICTURE_MARK, Answer, Question, Record, Score, Turn

PICTURE_FOLDER = "images"
"""Where a dataset's pictures lie, inside its folder."""
MAX_NEW_TOKENS = 16
"""Room for a short answer; what is longer is wrong by exact match anyway."""
T = TypeVar("T")


class AnswerFunction(Protocol):
    """Answers a batch of prompts; `inference.generation.generate_answers` is the real one."""

    def __call__(
        self, model: VisionLanguageModel, prompts: Sequence[Prompt], decoding: Decoding
    ) -> list[str]:
        """Return one answer a prompt, in order."""
        ...


class Skipped(Record):
    """A question that was not asked, because its picture could not be read."""

    question: Question
    reason: str
    """The same words for every question with that fault."""
    message: str
    """What was wrong with this picture, its file named."""


class Asked(Record):
    """What came of asking: the answers in the questions' order, and what could not be asked."""

    answers: tuple[Answer, ...]
    skipped: tuple[Skipped, ...] = ()


class Scores(Record):
    """Right answers over all questions and by kind, the kinds in alphabetical order."""

    overall: Score
    kinds: tuple[Score, ...]


class Control(Record):
    """The same questions, asked with something essential taken away."""

    name: str
    """`blank`: every picture replaced by one colour; `before_instruct`: asked of the assistant
    as it was before stage 2."""
    scores: Scores


class Evaluation(Record):
    """Everything that came of one evaluation; `report.json` holds the `figures` of it."""

    task: str
    limit: int
    seed: int
    scores: Scores
    controls: tuple[Control, ...]
    answers: tuple[Answer, ...]
    skipped: tuple[Skipped, ...]


class Accuracies(Record):
    """Accuracies in 0..1, in the shape in which `report.json` holds them."""

    overall: float
    kinds: dict[str, float]


class Figures(Record):
    """The figures of an evaluation, in the shape in which `report.json` holds them."""

    overall: float
    kinds: dict[str, float]
    controls: dict[str, Accuracies]
    questions: int
    """Questions answered; the accuracies are over these."""
    skipped: dict[str, int]
    """Questions not asked, by reason."""


def evaluate(
    assistant: Assistant,
    task: str,
    dataset: Path,
    *,
    limit: int = 0,
    seed: int = 0,
    blank: bool = True,
    before_instruct: Assistant | None = None,
    batch: int = 64,
    answer: AnswerFunction = generate_answers,
    progress: bool = True,
) -> Evaluation:
    """Evaluate an assistant on a task's questions about a dataset, greedily, by exact match.

    `blank` adds the blank-picture control, `before_instruct` an assistant to set beside; controls
    get the very questions that the assistant answered. `limit` and `seed` are the task's.
    Raises LaternaError when the task is unknown, it finds no questions, or no picture can be read.
    """
    questions = find_task(task)(dataset, limit=limit, seed=seed)
    if not questions:
        raise LaternaError(f"{dataset}: no question of task {task} can be asked about this dataset")
    put = partial(
        ask, pictures=dataset / PICTURE_FOLDER, batch=batch, answer=answer, progress=progress
    )
    asked = put(assistant, questions)
    if not asked.answers:
        raise LaternaError(
            f"{dataset}: none of the pictures of {len(questions)} questions could be read; "
            f"the first: {asked.skipped[0].message}"
        )
    same = [given.question for given in asked.answers]
    controls = []
    if blank:
        controls.append(
            Control(name="blank", scores=score(put(assistant, same, blank=True).answers))
        )
    if before_instruct is not None:
        before = put(before_instruct, same)
        controls.append(Control(name="before_instruct", scores=score(before.answers)))
    return Evaluation(
        task=task,
        limit=limit,
        seed=seed,
        scores=score(asked.answers),
        controls=tuple(controls),
        answers=asked.answers,
        skipped=asked.skipped,
    )


def ask(
    assistant: Assistant,
    questions: Sequence[Question],
    pictures: Path,
    *,
    blank: bool = False,
    batch: int = 64,
    max_new_tokens: int = MAX_NEW_TOKENS,
    answer: AnswerFunction = generate_answers,
    progress: bool = True,
) -> Asked:
    """Ask each question once, in batches of `batch`, every picture being decoded once.

    `pictures` is the folder of the questions' pictures; with `blank` only their sizes are read,
    and one of the encoder's mean colour stands for each, as large as it, so that it takes as many
    tokens. Questions whose picture cannot be read are skipped and come back with the reason.
    """
    skipped: dict[int, Skipped] = {}
    answers: dict[int, Answer] = {}
    by_picture = sorted(range(len(questions)), key=lambda index: questions[index].picture)
    opened = _opened(assistant, questions, by_picture, pictures, blank, skipped)
    title = "asking with blank pictures" if blank else "asking"
    with _progress(progress) as bar:
        job = bar.add_task(title, total=len(questions))
        for chunk in _chunks(opened, batch):
            prompts = [_prompt(questions[index], picture) for index, picture in chunk]
            texts = answer(assistant.model, prompts, Decoding(max_new_tokens=max_new_tokens))
            for (index, _), text in zip(chunk, texts, strict=True):
                question = questions[index]
                right = exact_match(text, question.truth)
                answers[index] = Answer(question=question, text=text, right=right)
            bar.update(job, completed=len(answers) + len(skipped))
    return Asked(
        answers=tuple(answers[index] for index in sorted(answers)),
        skipped=tuple(skipped[index] for index in sorted(skipped)),
    )


def score(answers: Iterable[Answer]) -> Scores:
    """Count right answers over all and by kind."""
    asked: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for answer in answers:
        asked[answer.question.kind] += 1
        right[answer.question.kind] += answer.right
    return Scores(
        overall=Score(name="overall", right=right.total(), total=asked.total()),
        kinds=tuple(
            Score(name=kind, right=right[kind], total=asked[kind]) for kind in sorted(asked)
        ),
    )


def figures(evaluation: Evaluation) -> Figures:
    """Return the evaluation's figures as `report.json` holds them."""
    own = accuracies(evaluation.scores)
    return Figures(
        overall=own.overall,
        kinds=own.kinds,
        controls={control.name: accuracies(control.scores) for control in evaluation.controls},
        questions=len(evaluation.answers),
        skipped=dict(Counter(skipped.reason for skipped in evaluation.skipped)),
    )


def accuracies(scores: Scores) -> Accuracies:
    """Return scores as accuracies in 0..1."""
    kinds = {kind.name: kind.accuracy for kind in scores.kinds}
    return Accuracies(overall=scores.overall.accuracy, kinds=kinds)


def score_table(evaluation: Evaluation) -> Table:
    """Return accuracies by kind, the controls beside the assistant, for the terminal."""
    columns = [accuracies(evaluation.scores)]
    columns += [accuracies(control.scores) for control in evaluation.controls]
    table = Table("kind", "questions", "assistant")
    for control in evaluation.controls:
        table.add_column(control.name)
    rows = [
        (kind, [column.kinds[kind.name] for column in columns]) for kind in evaluation.scores.kinds
    ]
    rows.append((evaluation.scores.overall, [column.overall for column in columns]))
    for kind, shares in rows:
        table.add_row(kind.name, str(kind.total), *(f"{share:.3f}" for share in shares))
    return table


def _opened(
    assistant: Assistant,
    questions: Sequence[Question],
    by_picture: Sequence[int],
    pictures: Path,
    blank: bool,
    skipped: dict[int, Skipped],
) -> Iterator[tuple[int, Image.Image]]:
    """Yield each question's index with its opened picture; fill `skipped` with the others."""
    for name, indices in groupby(by_picture, key=lambda index: questions[index].picture):
        try:
            path = pictures / name
            picture = (
                assistant.model.prepare.blank(*picture_size(path)) if blank else load_picture(path)
            )
        except LaternaError as error:
            missing = isinstance(error, MissingPictureError)
            reason = "picture missing" if missing else "picture cannot be read"
            for i in indices:
                skipped[i] = Skipped(question=questions[i], reason=reason, message=str(error))
            continue
        yield from ((index, picture) for index in indices)


def _prompt(question: Question, picture: Image.Image) -> Prompt:
    return [Turn(role="user", text=f"{PICTURE_MARK}\n{question.text}")], [picture]


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    remaining = iter(items)
    while chunk := list(islice(remaining, size)):
        yield chunk


def _progress(shown: bool) -> Progress:
    """Return a progress bar on standard error, where it stays out of what is piped on."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not shown,
    )
