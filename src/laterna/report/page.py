"""The page that shows a run to people: one HTML file that needs nothing from outside itself."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from laterna.data.images.opening import load_image
from laterna.evaluation.scores import Scores
from laterna.records import Answer, Record, Score
from laterna.report.drawings import loss_curve
from laterna.report.explanation import Explained
from laterna.report.parts import NamedTexts, jpeg_uri, shrink, write_page
from laterna.scenes.phrases import SHORT_ANSWER
from laterna.training.throughput import SampleAnswer, StepFigures

THUMBNAIL_SIDE = 336
"""Longest side, in pixels, of the images inside the page."""


class Curve(Record):
    """The losses of one training stage, one a step, in nats a target token."""

    name: str
    losses: tuple[float, ...]
    validation: tuple[tuple[int, float], ...] = ()
    """Steps, counted from 1, and the validation loss after them."""


def curve_of(name: str, steps: Sequence[StepFigures]) -> Curve:
    """Return the curve of a stage from its `metrics.jsonl`."""
    finite = tuple(
        (step.step, step.validation.loss)
        for step in steps
        if step.validation is not None and step.validation.loss is not None
    )
    return Curve(name=name, losses=tuple(step.loss for step in steps), validation=finite)


class StageShown(Record):
    """One training stage: what trained in it, and how fast."""

    name: str
    parts: tuple[tuple[str, ...], ...]
    """A line for each part: name, mode, trained weights, frozen weights, learning rate."""
    speeds: NamedTexts
    """The same names in every stage."""
    answers: tuple[SampleAnswer, ...] = ()
    """Its answers to validation records, at the last validation."""
    answered_after: int = 0
    """The step of that validation."""


class EvaluationShown(Record):
    """The figures that an evaluation left in a file: accuracies by kind, in percent."""

    name: str
    questions: int
    columns: tuple[str, ...]
    """The assistant first, then the controls."""
    rows: tuple[tuple[str, ...], ...]
    """A kind, then a cell a column."""
    skipped: tuple[str, ...] = ()


class Column(Record):
    """One column of the table of accuracies: the assistant, or a control beside it."""

    name: str
    note: str
    """Who was asked what, in a sentence."""
    scores: Scores


class Example(Record):
    """A validation image with a question, the assistant's answer and the reference."""

    image: Path
    kind: str
    question: str
    answer: str
    truth: str
    right: bool


class ReportContent(Record):
    """Everything the page shows, in the order of the page."""

    title: str
    summary: str
    """The run in a sentence or two."""
    columns: tuple[Column, ...]
    """The assistant first, then the controls."""
    curves: tuple[Curve, ...]
    examples: tuple[Example, ...]
    explanations: tuple[Explained, ...] = ()
    """Some of the examples, by occlusion."""
    unexplained: tuple[str, ...] = ()
    """Why others of them could not be explained, a line each."""
    stages: tuple[StageShown, ...] = ()
    evaluations: tuple[EvaluationShown, ...] = ()
    skipped: tuple[str, ...] = ()
    """What was left out of the scores and why, a line each."""
    settings: NamedTexts = ()
    seconds: tuple[tuple[str, float], ...] = ()
    """Steps of the run and how long they took."""
    versions: NamedTexts = ()
    next_command: str = ""
    """A next command, such as a chat with the result."""


def choose_examples(
    answers: Sequence[Answer], images: Path, *, count: int = 24, seed: int = 0
) -> tuple[Example, ...]:
    """Draw answers by lot for the page, kinds in turn, each image once, right and wrong alike.

    `images` is the folder of the questions' images. Fewer than `count` come back when there
    are not as many images.
    """
    by_kind: dict[str, list[Answer]] = {}
    for answer in sorted(answers, key=lambda answer: answer.question.id):
        by_kind.setdefault(answer.question.kind, []).append(answer)
    rng = random.Random(seed)
    for group in by_kind.values():
        rng.shuffle(group)
    chosen: dict[tuple[str, ...], Answer] = {}
    while any(by_kind.values()) and len(chosen) < count:
        for group in by_kind.values():
            while group and group[-1].question.images in chosen:
                group.pop()
            if group and len(chosen) < count:
                answer = group.pop()
                chosen[answer.question.images] = answer
    return tuple(_example(answer, images) for answer in chosen.values())


def write_report(path: Path, content: ReportContent) -> None:
    """Write the page; the same content gives the same bytes.

    Raises LaternaError when an example's image cannot be read or a curve is empty.
    """
    names = list(dict.fromkeys(s.name for c in content.columns for s in c.scores.kinds))
    write_page(
        path,
        "run.html.jinja",
        points=points,
        content=content,
        curves=[
            (curve, loss_curve(curve.name, curve.losses, curve.validation))
            for curve in content.curves
        ],
        rows=[(name, [_named_score(column, name) for column in content.columns]) for name in names],
        thumbnails=[_data_uri(example.image) for example in content.examples],
        durations=[(step, duration(seconds)) for step, seconds in content.seconds],
        speeds=_side_by_side([stage.speeds for stage in content.stages]),
        short_answer=SHORT_ANSWER.strip(),
    )


def _side_by_side(tables: Sequence[NamedTexts]) -> list[tuple[str, ...]]:
    """Join tables of the same names: a line for each name."""
    return [(lines[0][0], *(value for _, value in lines)) for lines in zip(*tables, strict=True)]


def _example(answer: Answer, images: Path) -> Example:
    question = answer.question
    return Example(
        image=images / question.images[0],
        kind=question.kind,
        question=question.text.removesuffix(SHORT_ANSWER),
        answer=answer.text.strip(),
        truth=question.references[0],
        right=answer.score == 1,
    )


def _named_score(column: Column, name: str) -> Score:
    """Return the column's score of a kind; of a kind it was never asked, none of none."""
    none = Score(name=name, sum=0, total=0)
    return next((score for score in column.scores.kinds if score.name == name), none)


def _data_uri(image: Path) -> str:
    """Return the image as a JPEG data URI, no side longer than `THUMBNAIL_SIDE`."""
    thumbnail = load_image(image)
    shrink(thumbnail, THUMBNAIL_SIDE)
    return jpeg_uri(thumbnail)


def points(total: float) -> str:
    """Return a sum of scores as "3" or "2.7"."""
    return f"{total:.0f}" if float(total).is_integer() else f"{total:.1f}"


def duration(seconds: float) -> str:
    """Return seconds as "4.2 s" or "3 min 05 s"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"
