"""Two runs over the same questions: paired tests of every score, and where they differ.

Scores of single answers, over all and by kind, are tested by McNemar's exact test (the paired
t-test where they are not only 0 and 1); values that are no mean of them, such as F1, by a paired
jackknife.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from msgspec.structs import replace
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from laterna.errors import LaternaError
from laterna.evaluation.asking import rated
from laterna.evaluation.metrics import find_metric
from laterna.evaluation.metrics.base import Metric
from laterna.evaluation.saved import SavedRun
from laterna.evaluation.statistics import Comparison, ValueDifference, compare, value_differences
from laterna.records import Answer

NAMES = ("A", "B")
"""What the runs are called, in the order of the command line."""


class Row(NamedTuple):
    """The questions of one kind, or all of them: both runs' means and how they compare."""

    name: str
    questions: int
    first: float
    second: float
    comparison: Comparison

    @property
    def test(self) -> str:
        """What p is of: McNemar's exact test where scores are 0 and 1, else the paired t-test."""
        return "t" if self.comparison.mcnemar is None else "McNemar"

    @property
    def p(self) -> float:
        """Two-sided."""
        tests = self.comparison
        return tests.paired_t.p if tests.mcnemar is None else tests.mcnemar.p

    @property
    def apart(self) -> tuple[float, float, float]:
        """A − B, and the ends of its interval by a paired bootstrap over whole images."""
        difference, low, high, _ = self.comparison.bootstrap
        return difference, low, high

    @property
    def needed(self) -> int | None:
        """Questions that would tell a difference of this size."""
        return self.comparison.needed


class ValueRow(NamedTuple):
    """A value that is no mean of scores, such as F1: that of both runs and how they compare."""

    name: str
    questions: int
    first: float
    second: float
    found: ValueDifference
    test: str = "jackknife"
    needed: int | None = None

    @property
    def p(self) -> float:
        """Two-sided, of Student's t over the parts that were left out in turn."""
        return self.found.p

    @property
    def apart(self) -> tuple[float, float, float]:
        """A − B, and the ends of its interval."""
        return self.found[:3]


class TaskComparison(NamedTuple):
    """One task that both runs hold."""

    task: str
    metric: str
    overall: Row
    kinds: tuple[Row, ...]
    differing: tuple[tuple[Answer, Answer], ...]
    """Answers to the same question with other scores."""
    unscored: int
    """Questions that one of the runs has no score for; they are in no test."""
    others: tuple[Row, ...] = ()
    """The scores by other definitions, over all questions."""
    values: tuple[ValueRow, ...] = ()
    """What else the metrics say of all answers."""
    parts: int = 30
    """Parts that are left out in turn for these."""

    @property
    def rows(self) -> list[Row | ValueRow]:
        """All that is compared, in the order of the table."""
        return [*self.kinds, self.overall, *self.others, *self.values]

    @property
    def sentence(self) -> str:
        """What the tests say, in a sentence."""
        row = self.overall
        difference, low, high, _ = row.comparison.bootstrap
        told = f"{self.task}: A {row.first:.3f}, B {row.second:.3f}; "
        ends = f"{low:+.3f} to {high:+.3f}"
        if not low <= 0 <= high:
            better = NAMES[difference < 0]
            return f"{told}{better} is better by {abs(difference):.3f} (A − B: {ends}, 95 %)"
        needed = row.comparison.needed
        more = f"; {needed:,} questions would tell a difference of this size" if needed else ""
        return f"{told}{row.questions:,} questions do not tell them apart (A − B: {ends}){more}"


class RunComparison(NamedTuple):
    """Two runs and all that they have in common."""

    first: SavedRun
    second: SavedRun
    tasks: tuple[TaskComparison, ...]
    remarks: tuple[str, ...]


def compare_runs(first: SavedRun, second: SavedRun) -> RunComparison:
    """Compare two runs, task by task.

    Raises LaternaError, naming what differs, where they share no task, or where a shared one was
    put otherwise, scored by other definitions, or holds other questions.
    """
    tasks = [task for task in first.tasks if task in second.tasks]
    if not tasks:
        raise LaternaError(
            f"{first.folder} and {second.folder} share no task: the first holds "
            f"{', '.join(first.tasks)}, the second {', '.join(second.tasks)}"
        )
    remarks = [
        f"{task}: only in {run.folder}"
        for run, other in ((first, second), (second, first))
        for task in run.tasks
        if task not in other.tasks
    ]
    if first.subject.fingerprint == second.subject.fingerprint:
        remarks.append("both runs asked the same model (their fingerprints are equal)")
    compared = [_compare_task(task, first, second) for task in tasks]
    return RunComparison(first, second, tuple(compared), tuple(remarks))


def _compare_task(task: str, first: SavedRun, second: SavedRun) -> TaskComparison:
    _require_same_form(task, first, second)
    pairs = _pairs(task, first, second)
    scored = [pair for pair in pairs if not any(math.isnan(answer.score) for answer in pair)]
    if not scored:
        raise LaternaError(f"{task}: no question has a score in both runs")
    metric = next(iter(first.tasks[task].definitions))
    groups: dict[str, list[tuple[Answer, Answer]]] = {}
    for pair in scored:
        groups.setdefault(pair[0].question.kind, []).append(pair)
    differing = [pair for pair in scored if pair[0].score != pair[1].score]
    others, values = _every_score(list(first.tasks[task].definitions), pairs)
    return TaskComparison(
        task=task,
        metric=metric,
        overall=_row("overall", metric, scored),
        kinds=tuple(_row(kind, metric, groups[kind]) for kind in sorted(groups)),
        differing=tuple(differing),
        unscored=len(pairs) - len(scored),
        others=tuple(others),
        values=tuple(values),
        parts=find_metric(metric).groups,
    )


def _every_score(
    metrics: Sequence[str], pairs: Sequence[tuple[Answer, Answer]]
) -> tuple[list[Row], list[ValueRow]]:
    """Compare what the metrics and the definitions beside them say, but for the first's scores."""
    others: list[Row] = []
    values: list[ValueRow] = []
    for number, name in enumerate(metrics):
        metric = find_metric(name)
        runs = [_scored_by(name, [pair[run] for pair in pairs], number == 0) for run in (0, 1)]
        both = list(zip(*runs, strict=True))
        if number:
            others += _other_row(name, name, both)
        for other, theirs in metric.beside.items():
            by_theirs = [
                [replace(answer, score=theirs(answer.question, answer.text)) for answer in run]
                for run in runs
            ]
            others += _other_row(f"{name}.{other}", name, list(zip(*by_theirs, strict=True)))
        values += _value_rows(name, metric, *runs)
    return others, values


def _scored_by(metric: str, answers: list[Answer], already: bool) -> list[Answer]:
    """Return answers with a metric's scores, the texts being what it scores."""
    scored = answers if already else rated(answers, metric)
    return [a if a.review is None else replace(a, text=a.review) for a in scored]


def _other_row(name: str, metric: str, both: Sequence[tuple[Answer, Answer]]) -> Iterator[Row]:
    known = [pair for pair in both if not any(math.isnan(answer.score) for answer in pair)]
    if known:
        yield _row(name, metric, known)


def _value_rows(
    name: str, metric: Metric, ours: Sequence[Answer], theirs: Sequence[Answer]
) -> Iterator[ValueRow]:
    """Yield what a metric says of all answers; its first value is the mean of the scores."""
    first, second = (
        lambda some, own=own: metric.summarize([own[number] for number in some])
        for own in (ours, theirs)
    )
    units = [metric.unit(answer.question) for answer in ours]
    found = value_differences(first, second, units, groups=metric.groups)
    a, b = metric.summarize(ours), metric.summarize(theirs)
    for key in list(a)[1:]:
        if key in found:
            yield ValueRow(f"{name}.{key}", len(ours), a[key], b[key], found[key])


def _row(name: str, metric: str, pairs: Sequence[tuple[Answer, Answer]]) -> Row:
    ours, theirs = [a.score for a, _ in pairs], [b.score for _, b in pairs]
    units = [find_metric(metric).unit(answer.question) for answer, _ in pairs]
    first, second = (math.fsum(scores) / len(scores) for scores in (ours, theirs))
    return Row(name, len(pairs), first, second, compare(ours, theirs, units))


def _require_same_form(task: str, first: SavedRun, second: SavedRun) -> None:
    """Raise LaternaError where a task's scores are not of one kind."""
    one, other = first.tasks[task], second.tasks[task]
    prompts = [run.judge.prompt if run.judge else "" for run in (one, other)]
    judges = [run.judge.model if run.judge else "nobody" for run in (one, other)]
    told = {
        "setting": (one.setting, other.setting),
        "metrics": (_listed(one.definitions), _listed(other.definitions)),
        "judge": tuple(judges),
        "judge's prompt": tuple(prompts),
    }
    differs = [f"{name}: {a} and {b}" for name, (a, b) in told.items() if a != b]
    if differs:
        raise LaternaError(
            f"{task}: {first.folder} and {second.folder} cannot be compared; "
            f"what differs: {'; '.join(differs)}"
        )


def _listed(definitions: dict[str, str]) -> str:
    return ", ".join(f"{name} ({exact})" for name, exact in sorted(definitions.items()))


def _pairs(task: str, first: SavedRun, second: SavedRun) -> list[tuple[Answer, Answer]]:
    """Return both answers to each question; raises LaternaError where questions differ."""
    ours = {answer.question.id: answer for answer in first.answers(task)}
    theirs = {answer.question.id: answer for answer in second.answers(task)}
    faults = []
    for run, own, other in ((first, ours, theirs), (second, theirs, ours)):
        if alone := [name for name in own if name not in other]:
            faults.append(f"{len(alone)} only in {run.folder} (the first: {alone[0]})")
    changed = [
        name for name in ours if name in theirs and _asked(ours[name]) != _asked(theirs[name])
    ]
    if changed:
        faults.append(
            f"{len(changed)} with another text, image or reference (the first: {changed[0]})"
        )
    if faults:
        raise LaternaError(
            f"{task}: the questions of {first.folder} and {second.folder} differ: "
            f"{'; '.join(faults)}; evaluate both with the same --data, --limit and --seed"
        )
    return [(answer, theirs[name]) for name, answer in ours.items()]


def _asked(answer: Answer) -> tuple[object, ...]:
    question = answer.question
    return question.text, question.images, question.references, question.kind, question.fields


def comparison_tables(found: RunComparison) -> Iterator[Table]:
    """Yield both runs' scores and the tests between them, a table a task, for the terminal."""
    for task in found.tasks:
        table = Table(title=task.task, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        for name in COLUMNS:
            table.add_column(name, no_wrap=name != "questions")
        for row in task.rows:
            table.add_row(*map(escape, row_cells(row)))
        yield table


COLUMNS = ("kind", "questions", "A", "B", "A − B", "95 %", "p", "test", "needed")


def row_cells(row: Row | ValueRow) -> tuple[str, ...]:
    """Return a row's cells, by `COLUMNS`; a dash for what is undefined."""
    difference, low, high = row.apart
    ends = "–" if math.isnan(low) else f"{low:+.3f} {high:+.3f}"
    p = "–" if math.isnan(row.p) else "<0.001" if row.p < 0.001 else f"{row.p:.3f}"
    needed = "–" if row.needed is None else f"{row.needed:,}"
    first, second = ("–" if math.isnan(one) else f"{one:.3f}" for one in (row.first, row.second))
    apart = "–" if math.isnan(difference) else f"{difference:+.3f}"
    return row.name, f"{row.questions:,}", first, second, apart, ends, p, row.test, needed
