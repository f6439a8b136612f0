"""The pages of an evaluation and of a comparison: each one HTML file that needs nothing else."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from laterna.data.images.files import OutsideImageError
from laterna.data.images.opening import load_image
from laterna.errors import LaternaError
from laterna.evaluation.compare import (
    COLUMNS,
    RunComparison,
    TaskComparison,
    row_cells,
)
from laterna.evaluation.metrics import METRICS
from laterna.evaluation.run import CONTROLS
from laterna.evaluation.saved import SavedRun
from laterna.evaluation.scores import Control, accuracies, calibration, cells, score
from laterna.evaluation.tasks import TASKS
from laterna.records import Answer, Question
from laterna.report.drawings import interval_chart, reliability_chart
from laterna.report.inspection import image_of
from laterna.report.nearest import Nearest, TeacherWords, TrainingRecords
from laterna.report.overlays import TaskExplanations, read_explanations
from laterna.report.parts import NamedTexts, choose, jpeg_uri, shrink, write_page

SIDE = 288
"""Longest side, in pixels, of the images inside the page."""
WRONG, RIGHT = 24, 12
"""Answers of a task that are shown: not right, and right."""
DIFFERING = 40
"""Questions of a task that are shown where two runs differ."""
NEAREST = 2
CONFUSIONS = 8
NOTES = {**CONTROLS, "before_instruct": "The assistant named by --baseline."}


class NearestShown(NamedTuple):
    """A training record near to a question, and the words that its teacher saw."""

    nearest: Nearest
    image: str
    """Data URI; empty where it cannot be opened."""
    proxy: tuple[tuple[str, str], ...]
    """Channel and line; empty where they are not known."""


class Card(NamedTuple):
    """A question with what was answered, and by which definitions it is right."""

    question: Question
    images: tuple[str, ...]
    """Data URIs."""
    missing: str
    """Why there is no image."""
    verdict: str
    """`right`, `wrong`, `partly right` or `not scored`."""
    answers: NamedTexts
    """Who said what: the assistant first, then each control; or both runs."""
    probability: float | None
    scores: NamedTexts
    """The score by each definition."""
    review: str
    nearest: tuple[NearestShown, ...] = ()


class Section(NamedTuple):
    """All that is shown of one task."""

    task: str
    setting: str
    about: str
    definitions: NamedTexts
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    values: tuple[tuple[str, ...], ...]
    notes: NamedTexts
    warnings: tuple[str, ...]
    lines: tuple[str, ...]
    """What was left out, and what the judge did."""
    reliability: str
    """Drawing; empty where probabilities were not measured."""
    calibration_error: float
    measured: int
    errors: tuple[tuple[str, int, int], ...]
    """Kind, answers that are not right, answers."""
    confusions: tuple[tuple[str, str, int], ...]
    cards: tuple[Card, ...]
    explained: TaskExplanations


def write_evaluation_page(path: Path, run: SavedRun) -> None:
    """Write the page of a run; raises LaternaError where its folder is damaged."""
    records = TrainingRecords(run.subject.training)
    explained = read_explanations(run.folder)
    sections = [
        _section(run, task, records, explained.get(task, TaskExplanations())) for task in run.tasks
    ]
    seen = [one.nearest for s in sections for card in s.cards for one in card.nearest]
    teacher = TeacherWords(seen)
    sections = [
        section._replace(cards=tuple(_with_proxies(card, teacher) for card in section.cards))
        for section in sections
    ]
    write_page(
        path,
        "evaluation.html.jinja",
        subject=run.subject,
        sections=sections,
        notes=(*records.notes, *teacher.notes),
    )


def _section(
    run: SavedRun, task: str, records: TrainingRecords, explained: TaskExplanations
) -> Section:
    saved, answers = run.tasks[task], run.answers(task)
    controls = run.controls(task)
    metrics = tuple(saved.definitions)
    own = score(answers, metrics)
    beside = [Control(name=name, scores=score(a, metrics)) for name, a in controls.items()]
    columns = [accuracies(own), *(accuracies(control.scores) for control in beside)]
    rows = [
        (one.name, str(one.total), *cells([c.kinds.get(one.name, math.nan) for c in columns],
                                          columns[0], one.name))
        for one in own.kinds
    ]  # fmt: skip
    overall = cells([column.overall for column in columns], columns[0], "overall")
    values = [
        (name, *cells([c.metrics.get(name, math.nan) for c in columns], columns[0], name))
        for name in list(own.values)[1:]
    ]
    known = [a for a in answers if a.probability is not None and not math.isnan(a.score)]
    found = calibration([a.probability or 0.0 for a in known], [a.score for a in known])
    chosen = choose(answers, WRONG, RIGHT, run.subject.seed)
    said = {name: {a.question.id: a for a in a_list} for name, a_list in controls.items()}
    shots = saved.shots.words if saved.shots else ""
    return Section(
        task=task,
        setting=", ".join(filter(None, (saved.setting, shots))),
        about=TASKS[task].about if task in TASKS else "",
        definitions=tuple(saved.definitions.items()),
        columns=("kind", "questions", "assistant", "95 %", *map(_plain, controls)),
        rows=(*rows, ("overall", str(own.overall.total), *overall)),
        values=tuple(values),
        notes=tuple((_plain(name), NOTES.get(name, "")) for name in controls),
        warnings=saved.warnings,
        lines=tuple(_lines(run, task)),
        reliability=reliability_chart(task, found.bins) if found.bins else "",
        calibration_error=found.error,
        measured=len(known),
        errors=tuple(_errors(answers)),
        confusions=tuple(_confusions(answers)),
        cards=tuple(_card(run, task, answer, said, records) for answer in chosen),
        explained=explained,
    )


def _plain(name: str) -> str:
    return name.replace("_", " ")


def _lines(run: SavedRun, task: str) -> Iterator[str]:
    saved = run.tasks[task]
    for reason, count in saved.skipped.items():
        yield f"{count} left out: {reason}"
    if (judge := saved.judge) is not None:
        outcomes = ", ".join(f"{count} {outcome}" for outcome, count in judge.outcomes.items())
        yield f"judge {judge.model} ({', '.join(judge.versions) or 'version not said'}): {outcomes}"
        yield f"the judge's prompt: {judge.note}"
        if (both := judge.agreement) is not None and both.same is not None:
            yield (
                f"agreement of {both.first} and {both.second} over {both.both} answers: "
                f"{both.same:.3f} the same, {both.difference:.3f} apart in the mean"
            )


def _errors(answers: Sequence[Answer]) -> Iterator[tuple[str, int, int]]:
    """Yield kinds with how many of their scored answers are not right, most errors first."""
    every = Counter(answer.question.kind for answer in answers if not math.isnan(answer.score))
    wrong = Counter(answer.question.kind for answer in answers if answer.score < 1)
    for kind, count in wrong.most_common():
        yield kind, count, every[kind]


def _confusions(answers: Sequence[Answer]) -> Iterator[tuple[str, str, int]]:
    """Yield what was right and what was said instead, short ones, by how often."""
    pairs = Counter(
        (answer.question.references[0], answer.text)
        for answer in answers
        if answer.score == 0 and answer.question.references and len(answer.text) <= SHORT
    )
    for (reference, said), count in pairs.most_common(CONFUSIONS):
        if count > 1 and len(reference) <= SHORT:
            yield reference, said, count


SHORT = 40
"""Characters up to which an answer is one of many that may be confused."""


def _card(
    run: SavedRun,
    task: str,
    answer: Answer,
    controls: Mapping[str, Mapping[str, Answer]],
    records: TrainingRecords,
) -> Card:
    question = answer.question
    images, missing = _images(run, task, question)
    told = [("assistant", answer.text)]
    told += [
        (_plain(name), said[question.id].text)
        for name, said in controls.items()
        if question.id in said
    ]
    near = records.nearest(question.text, answer.text, NEAREST)
    return Card(
        question=question,
        images=images,
        missing=missing,
        verdict=_verdict(answer.score),
        answers=tuple(told),
        probability=answer.probability,
        scores=tuple(_scores(run, task, answer)),
        review=answer.review or "",
        nearest=tuple(NearestShown(one, _training_image(one), ()) for one in near),
    )


def _with_proxies(card: Card, teacher: TeacherWords) -> Card:
    shown = []
    for one in card.nearest:
        proxy = teacher.proxy(one.nearest)
        lines = proxy.text.split("\n") if proxy else []
        channels = proxy.channels if proxy else ()
        shown.append(one._replace(proxy=tuple(zip(channels, lines, strict=False))))
    return card._replace(nearest=tuple(shown))


def _verdict(value: float) -> str:
    if math.isnan(value):
        return "not scored"
    return {0.0: "wrong", 1.0: "right"}.get(value, "partly right")


def _scores(run: SavedRun, task: str, answer: Answer) -> Iterator[tuple[str, str]]:
    """Yield an answer's score by each definition of the task's metrics, and by those beside."""
    scored = answer.text if answer.review is None else answer.review
    for number, name in enumerate(run.tasks[task].definitions):
        if name not in METRICS:
            continue
        metric = METRICS[name]
        if number == 0:
            yield name, _number(answer.score)
        for other, theirs in metric.beside.items():
            yield f"{name}: {other}", _number(theirs(answer.question, scored))


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3g}"


def _images(run: SavedRun, task: str, question: Question) -> tuple[tuple[str, ...], str]:
    dataset = Path(run.datasets[task])
    try:
        opened = [TASKS[task].open_image(dataset, name) for name in question.images]
    except LaternaError as error:
        return (), str(error)
    for image in opened:
        shrink(image, SIDE)
    return tuple(map(jpeg_uri, opened)), ""


def _training_image(one: Nearest) -> str:
    try:
        path = image_of(one.record, Path(one.source.images)) if one.source.images else None
        if path is None:
            return ""
        image = load_image(path)
    except (LaternaError, OutsideImageError):
        return ""
    shrink(image, SIDE // 2)
    return jpeg_uri(image)


class Pair(NamedTuple):
    """A question on which two runs differ."""

    card: Card
    verdicts: tuple[str, str]


class Compared(NamedTuple):
    """All that is shown of a task that two runs share."""

    comparison: TaskComparison
    rows: tuple[tuple[str, ...], ...]
    values: tuple[tuple[str, ...], ...]
    drawings: tuple[str, ...]
    """Differences of scores, and of values that may pass 1."""
    pairs: tuple[Pair, ...]


def write_comparison_page(path: Path, found: RunComparison) -> None:
    """Write the page of a comparison; raises LaternaError where a run's folder is damaged."""
    write_page(
        path,
        "comparison.html.jinja",
        first=found.first,
        second=found.second,
        remarks=found.remarks,
        columns=COLUMNS,
        tasks=[_compared(found, task) for task in found.tasks],
    )


def _compared(found: RunComparison, task: TaskComparison) -> Compared:
    shown = [row for row in task.rows if not math.isnan(row.apart[0])]
    large = [row for row in shown if max(abs(row.first), abs(row.second)) > 1]
    drawings = [
        interval_chart(f"{task.task} {name}", [(row.name, *row.apart) for row in rows], axis)
        for name, rows, axis in (
            ("scores", [row for row in shown if row not in large], "A − B with its 95 % interval"),
            ("sums", large, "A − B with its 95 % interval, where values pass 1"),
        )
        if rows
    ]
    pairs = []
    lot = random.Random(found.first.subject.seed).sample(task.differing, len(task.differing))
    for a, b in sorted(lot, key=lambda pair: -abs(pair[0].score - pair[1].score))[:DIFFERING]:
        images, missing = _images(found.first, task.task, a.question)
        card = Card(
            question=a.question,
            images=images,
            missing=missing,
            verdict="A is better" if a.score > b.score else "B is better",
            answers=(("A", a.text), ("B", b.text)),
            probability=None,
            scores=() if {a.score, b.score} <= {0, 1} else _both(a.score, b.score),
            review="",
        )
        pairs.append(Pair(card, (_verdict(a.score), _verdict(b.score))))
    return Compared(
        comparison=task,
        rows=tuple(map(row_cells, [*task.kinds, task.overall])),
        values=tuple(row_cells(row) for row in task.rows[len(task.kinds) + 1 :]),
        drawings=tuple(drawings),
        pairs=tuple(pairs),
    )


def _both(first: float, second: float) -> NamedTexts:
    return ("score of A", _number(first)), ("score of B", _number(second))
