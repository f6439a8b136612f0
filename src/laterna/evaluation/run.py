"""Asks an assistant the questions of a task and scores its answers, with controls beside them."""

from __future__ import annotations

import math
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

from laterna.data.images.opening import MissingImageError, image_size, load_image
from laterna.errors import LaternaError
from laterna.evaluation.metrics import METRICS, find_metric
from laterna.evaluation.metrics.base import Metric
from laterna.evaluation.statistics import interval, value_intervals
from laterna.evaluation.tasks import find_task
from laterna.evaluation.tasks.base import read_questions
from laterna.inference.assistant import Assistant
from laterna.inference.generation import Decoding, Prompt
from laterna.model.vlm import VisionLanguageModel
from laterna.progress import shown_progress
from laterna.records import DEFAULT_IMAGE_TOKEN, Answer, Question, Record, Score, Turn

T = TypeVar("T")


class AnswerFunction(Protocol):
    """Answers a batch of prompts, in the place of the assistant's engine."""

    def __call__(
        self, model: VisionLanguageModel, prompts: Sequence[Prompt], decoding: Decoding
    ) -> list[str]:
        """Return one answer a prompt, in order."""
        ...


class Skipped(Record):
    """A question that was not asked, because its image could not be read."""

    question: Question
    reason: str
    """The same words for every question with that fault."""
    message: str
    """What was wrong with this image, its file named."""


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
    intervals: dict[str, tuple[float, float]]
    """Ends of the 95 % intervals of the kinds' means, of `overall` and of `values`, by name; whole
    images are taken together. Counts and what is undefined have none."""


class Control(Record):
    """The same questions, asked with something essential taken away."""

    name: str
    """`blank`: every image replaced by one colour; `before_instruct`: asked of the assistant
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
    intervals: dict[str, tuple[float, float]]
    """Ends of the 95 % intervals of the kinds, of `overall` and of `metrics`, by name."""


class Figures(Record):
    """The figures of an evaluation, in the shape in which `report.json` holds them."""

    overall: float
    kinds: dict[str, float]
    metrics: dict[str, float]
    controls: dict[str, Accuracies]
    intervals: dict[str, tuple[float, float]]
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
    answer: AnswerFunction | None = None,
    progress: bool = True,
) -> Evaluation:
    """Evaluate an assistant on a task's questions about a dataset, greedily.

    `blank` adds the blank-image control, `before_instruct` an assistant to set beside; controls
    get the very questions that the assistant answered. `limit` and `seed` are the task's.
    Raises LaternaError when the task is unknown, it finds no questions, or no image can be read.
    """
    chosen = find_task(task)
    questions = read_questions(chosen, dataset, limit=limit, seed=seed).questions
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
    answer: AnswerFunction | None = None,
    progress: bool = True,
) -> Asked:
    """Ask each question once, images of successive questions decoded once.

    The assistant's engine answers them as they come, or `answer` in batches of `batch`.
    `folder` holds the questions' images; with `blank` only their sizes are read, and one of the
    encoder's mean colour stands for each, as large as it, so that it takes as many tokens.
    Answers are scored by `metric`, a key of `METRICS`. Questions with an image that cannot be read
    are skipped and come back with the reason.
    """
    skipped: dict[int, Skipped] = {}
    said: dict[int, str] = {}
    opened = _opened(assistant, questions, folder, blank, skipped)
    title = "asking with blank images" if blank else "asking"
    console = Console(stderr=True, quiet=not progress)  # where it stays out of what is piped on
    decoding = Decoding(max_new_tokens=max_new_tokens)
    with shown_progress(title, total=len(questions), console=console) as shown:
        for index, text in _answered(assistant, questions, opened, decoding, answer, batch):
            said[index] = text
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

    The first of `metrics` has scored the answers; the others score their texts anew. An answer
    without a score is in none of the sums: its metric counts it.
    """
    answers = list(answers)
    groups: dict[str, list[Answer]] = {answer.question.kind: [] for answer in answers}
    scored = [answer for answer in answers if not math.isnan(answer.score)]
    for answer in scored:
        groups[answer.question.kind].append(answer)
    unit = METRICS[metrics[0]].unit
    ends = {
        name: interval([one.score for one in own], [unit(one.question) for one in own])
        for name, own in [*groups.items(), ("overall", scored)]
    }
    values: dict[str, float] = {}
    intervals = {name: (found.low, found.high) for name, found in ends.items()}
    for number, name in enumerate(metrics):
        rated = answers if number == 0 else _rescored(answers, name)
        own, around = _values(METRICS[name], rated)
        values |= {f"{name}.{key}": value for key, value in own.items()}
        intervals |= {f"{name}.{key}": found for key, found in around.items()}
        if number == 0:  # its first value is what `overall` is the mean of
            intervals[f"{name}.{next(iter(own))}"] = intervals["overall"]
    return Scores(
        overall=_sum("overall", scored),
        kinds=tuple(_sum(kind, groups[kind]) for kind in sorted(groups)),
        values=values,
        intervals=intervals,
    )


def _values(
    metric: Metric, answers: Sequence[Answer]
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Return what a metric says of all answers, and the ends of the intervals of it."""
    units = [metric.unit(answer.question) for answer in answers]
    intervals = value_intervals(
        lambda some: metric.summarize([answers[number] for number in some]),
        units,
        groups=metric.groups,
    )
    return metric.summarize(answers), intervals


def _sum(name: str, answers: Sequence[Answer]) -> Score:
    return Score(name=name, sum=sum(answer.score for answer in answers), total=len(answers))


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
        intervals=own.intervals,
        questions=len(evaluation.answers),
        skipped=dict(Counter(skipped.reason for skipped in evaluation.skipped)),
    )


def accuracies(scores: Scores) -> Accuracies:
    """Return scores as accuracies in 0..1."""
    kinds = {kind.name: kind.mean for kind in scores.kinds}
    return Accuracies(
        overall=scores.overall.mean,
        kinds=kinds,
        metrics=scores.values,
        intervals=scores.intervals,
    )


def score_table(evaluation: Evaluation) -> Table:
    """Return accuracies by kind with their intervals, the controls beside, for the terminal."""
    columns = [accuracies(evaluation.scores)]
    columns += [accuracies(control.scores) for control in evaluation.controls]
    table = Table("kind", "questions", "assistant", "95 %")
    for control in evaluation.controls:
        table.add_column(control.name)
    rows = [
        (kind, [column.kinds[kind.name] for column in columns]) for kind in evaluation.scores.kinds
    ]
    rows.append((evaluation.scores.overall, [column.overall for column in columns]))
    for kind, shares in rows:
        table.add_row(kind.name, str(kind.total), *_cells(shares, columns[0], kind.name))
    for name in list(evaluation.scores.values)[1:]:  # the first is what the rows above are of
        shares = [column.metrics[name] for column in columns]
        asked = str(evaluation.scores.overall.total)
        table.add_row(name, asked, *_cells(shares, columns[0], name))
    return table


def _cells(shares: Sequence[float], own: Accuracies, name: str) -> list[str]:
    """Return a row's figures with the first one's interval after it; counts without decimals."""
    first, *others = (str(one) if isinstance(one, int) else f"{one:.3f}" for one in shares)
    ends = " to ".join(f"{end:.3f}" for end in own.intervals.get(name, ()))
    return [first, ends, *others]


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
            opened = [blank_of(*image_size(path)) if blank else load_image(path) for path in paths]
        except LaternaError as error:
            missing = isinstance(error, MissingImageError)
            reason = "image missing" if missing else "image cannot be read"
            for i in indices:
                skipped[i] = Skipped(question=questions[i], reason=reason, message=str(error))
            continue
        yield from ((index, opened) for index in indices)


def _prompt(question: Question, images: Sequence[Image.Image]) -> Prompt:
    marks = f"{DEFAULT_IMAGE_TOKEN}\n" * len(images)
    return [Turn(role="user", text=marks + question.text)], images


def _answered(
    assistant: Assistant,
    questions: Sequence[Question],
    opened: Iterator[tuple[int, list[Image.Image]]],
    decoding: Decoding,
    answer: AnswerFunction | None,
    batch: int,
) -> Iterator[tuple[int, str]]:
    """Yield each question's index with its answer, in the order of `opened`."""
    if answer is None:
        indices: list[int] = []

        def prompts() -> Iterator[Prompt]:
            for index, images in opened:
                indices.append(index)
                yield _prompt(questions[index], images)

        completions = assistant.engine.answers(prompts(), decoding, fit=True)
        for place, completion in enumerate(completions):
            yield indices[place], completion.text.strip()
        return
    for chunk in _chunks(opened, batch):
        asked = [_prompt(questions[index], images) for index, images in chunk]
        texts = answer(assistant.model, asked, decoding)
        yield from zip((index for index, _ in chunk), texts, strict=True)


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    remaining = iter(items)
    while chunk := list(islice(remaining, size)):
        yield chunk
