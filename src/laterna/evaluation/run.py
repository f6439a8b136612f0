"""Asks an assistant the questions of a task and scores its answers, with controls beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import groupby, islice
from pathlib import Path
from typing import Protocol, TypeVar

from msgspec.structs import replace
from PIL import Image
from rich.console import Console
from rich.table import Table

from laterna.data.pictures.opening import MissingPictureError, load_picture, picture_size
from laterna.errors import LaternaError
from laterna.evaluation.metrics import METRICS, find_metric
from laterna.evaluation.tasks import find_task
from laterna.inference.assistant import Assistant
from laterna.inference.generation import Decoding, Prompt, generate_answers
from laterna.model.vlm import VisionLanguageModel
from laterna.progress import shown_progress
from laterna.records import PICTURE_MARK, Answer, Question, Record, Score, Turn

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
    """Scores over all questions and by kind, the kinds in alphabetical order."""

    overall: Score
    kinds: tuple[Score, ...]
    values: dict[str, float]
    """What the task's metrics say of all answers, by name."""


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
    metrics: dict[str, float]
    """Each metric's values over all answers, as `METRIC.VALUE`."""


class Figures(Record):
    """The figures of an evaluation, in the shape in which `report.json` holds them."""

    overall: float
    kinds: dict[str, float]
    metrics: dict[str, float]
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
    """Evaluate an assistant on a task's questions about a dataset, greedily.

    `blank` adds the blank-picture control, `before_instruct` an assistant to set beside; controls
    get the very questions that the assistant answered. `limit` and `seed` are the task's.
    Raises LaternaError when the task is unknown, it finds no questions, or no picture can be read.
    """
    chosen = find_task(task)
    questions = chosen.questions(dataset, limit=limit, seed=seed)
    put = partial(
        ask,
        folder=dataset / chosen.images,
        metric=chosen.metrics[0],
        max_new_tokens=chosen.max_new_tokens,
        batch=batch,
        answer=answer,
        progress=progress,
    )
    asked = put(assistant, questions)
    _require_answers(asked, task, dataset)
    same = [given.question for given in asked.answers]
    controls = {"blank": put(assistant, same, blank=True)} if blank else {}
    if before_instruct is not None:
        controls["before_instruct"] = put(before_instruct, same)
    rate = partial(score, metrics=chosen.metrics)
    return Evaluation(
        task=task,
        limit=limit,
        seed=seed,
        scores=rate(asked.answers),
        controls=tuple(
            Control(name=name, scores=rate(one.answers)) for name, one in controls.items()
        ),
        answers=asked.answers,
        skipped=asked.skipped,
    )


def _require_answers(asked: Asked, task: str, dataset: Path) -> None:
    if not asked.answers and not asked.skipped:
        raise LaternaError(f"{dataset}: no question of task {task} can be asked about this dataset")
    if not asked.answers:
        raise LaternaError(
            f"{dataset}: none of the images of {len(asked.skipped)} questions could be read; "
            f"the first: {asked.skipped[0].message}"
        )


def ask(
    assistant: Assistant,
    questions: Sequence[Question],
    folder: Path,
    *,
    metric: str = "exact_match",
    max_new_tokens: int = 16,
    blank: bool = False,
    batch: int = 64,
    answer: AnswerFunction = generate_answers,
    progress: bool = True,
) -> Asked:
    """Ask each question once, in batches of `batch`, images of successive questions decoded once.

    `folder` holds the questions' images; with `blank` only their sizes are read, and one of the
    encoder's mean colour stands for each, as large as it, so that it takes as many tokens.
    Answers are scored by `metric`, a key of `METRICS`. Questions with an image that cannot be read
    are skipped and come back with the reason.
    """
    skipped: dict[int, Skipped] = {}
    said: dict[int, str] = {}
    opened = _opened(assistant, questions, folder, blank, skipped)
    title = "asking with blank pictures" if blank else "asking"
    console = Console(stderr=True, quiet=not progress)  # where it stays out of what is piped on
    with shown_progress(title, total=len(questions), console=console) as shown:
        for chunk in _chunks(opened, batch):
            prompts = [_prompt(questions[index], images) for index, images in chunk]
            texts = answer(assistant.model, prompts, Decoding(max_new_tokens=max_new_tokens))
            said |= {index: text for (index, _), text in zip(chunk, texts, strict=True)}
            shown.update(len(said) + len(skipped))
    order = sorted(said)
    asked, texts = [questions[index] for index in order], [said[index] for index in order]
    scores = find_metric(metric).score(asked, texts)
    return Asked(
        answers=tuple(
            Answer(question=question, text=text, score=value)
            for question, text, value in zip(asked, texts, scores, strict=True)
        ),
        skipped=tuple(skipped[index] for index in sorted(skipped)),
    )


def score(answers: Iterable[Answer], metrics: Sequence[str] = ("exact_match",)) -> Scores:
    """Add up the answers' scores over all and by kind, and ask each metric for its values.

    The first of `metrics` has scored the answers; the others score their texts anew.
    """
    answers = list(answers)
    asked: Counter[str] = Counter()
    sums: dict[str, float] = {}
    for answer in answers:
        kind = answer.question.kind
        asked[kind] += 1
        sums[kind] = sums.get(kind, 0.0) + answer.score
    values: dict[str, float] = {}
    for number, name in enumerate(metrics):
        metric = METRICS[name]
        rated = answers if number == 0 else _rescored(answers, name)
        values |= {f"{name}.{key}": value for key, value in metric.summarize(rated).items()}
    return Scores(
        overall=Score(name="overall", sum=sum(sums.values()), total=asked.total()),
        kinds=tuple(Score(name=kind, sum=sums[kind], total=asked[kind]) for kind in sorted(asked)),
        values=values,
    )


def _rescored(answers: Sequence[Answer], name: str) -> list[Answer]:
    questions, texts = [one.question for one in answers], [one.text for one in answers]
    scores = METRICS[name].score(questions, texts)
    return [replace(one, score=value) for one, value in zip(answers, scores, strict=True)]


def figures(evaluation: Evaluation) -> Figures:
    """Return the evaluation's figures as `report.json` holds them."""
    own = accuracies(evaluation.scores)
    return Figures(
        overall=own.overall,
        kinds=own.kinds,
        metrics=own.metrics,
        controls={control.name: accuracies(control.scores) for control in evaluation.controls},
        questions=len(evaluation.answers),
        skipped=dict(Counter(skipped.reason for skipped in evaluation.skipped)),
    )


def accuracies(scores: Scores) -> Accuracies:
    """Return scores as accuracies in 0..1."""
    kinds = {kind.name: kind.mean for kind in scores.kinds}
    return Accuracies(overall=scores.overall.mean, kinds=kinds, metrics=scores.values)


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
    for name in list(evaluation.scores.values)[1:]:  # the first is what the rows above are of
        shares = [column.metrics[name] for column in columns]
        asked = str(evaluation.scores.overall.total)
        table.add_row(name, asked, *(f"{share:.3f}" for share in shares))
    return table


def _opened(
    assistant: Assistant,
    questions: Sequence[Question],
    folder: Path,
    blank: bool,
    skipped: dict[int, Skipped],
) -> Iterator[tuple[int, list[Image.Image]]]:
    """Yield each question's index with its opened images; fill `skipped` with the others."""
    by_images = sorted(range(len(questions)), key=lambda index: questions[index].images)
    prepare = assistant.model.prepare
    blank_of = lru_cache(lambda width, height: prepare.blank(width, height))  # encoded once a batch
    for names, indices in groupby(by_images, key=lambda index: questions[index].images):
        try:
            paths = [folder / name for name in names]
            opened = [
                blank_of(*picture_size(path)) if blank else load_picture(path) for path in paths
            ]
        except LaternaError as error:
            missing = isinstance(error, MissingPictureError)
            reason = "picture missing" if missing else "picture cannot be read"
            for i in indices:
                skipped[i] = Skipped(question=questions[i], reason=reason, message=str(error))
            continue
        yield from ((index, opened) for index in indices)


def _prompt(question: Question, images: Sequence[Image.Image]) -> Prompt:
    marks = f"{PICTURE_MARK}\n" * len(images)
    return [Turn(role="user", text=marks + question.text)], images


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    remaining = iter(items)
    while chunk := list(islice(remaining, size)):
        yield chunk
