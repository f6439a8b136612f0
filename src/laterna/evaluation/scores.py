"""Scores of answers with their intervals, what controls explain of them, and both as a table."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from msgspec.structs import replace
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from laterna.evaluation.asking import rated
from laterna.evaluation.metrics import METRICS
from laterna.evaluation.metrics.base import Metric, beside, theirs_of
from laterna.evaluation.statistics import interval, value_intervals
from laterna.records import Answer, Question, Record, Score

_CONSTANTS = 3
"""Most frequent references that are tried as the one answer to everything."""
_MOST = 0.5
"""Share of a score above chance from which on a control explains most of it."""


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
    """A key of `CONTROLS`, or `before_instruct`: asked of the assistant before stage 2."""
    scores: Scores
    answers: tuple[Answer, ...] = ()


class Accuracies(Record):
    """Accuracies in 0..1, in the shape in which `report.json` holds them."""

    overall: float
    kinds: dict[str, float]
    metrics: dict[str, float]
    """Each metric's values over all answers, as `METRIC.VALUE`."""
    intervals: dict[str, tuple[float, float]]
    """Ends of the 95 % intervals of the kinds, of `overall` and of `metrics`, by name."""


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
    first = METRICS[metrics[0]]
    intervals = {
        name: _ends(first, own, [answer.score for answer in own])
        for name, own in [*groups.items(), ("overall", scored)]
    }
    values: dict[str, float] = {}
    for number, name in enumerate(metrics):
        own, around = _values(METRICS[name], answers if number == 0 else rated(answers, name))
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


def _ends(
    metric: Metric, answers: Sequence[Answer], scores: Sequence[float]
) -> tuple[float, float]:
    found = interval(scores, [metric.unit(answer.question) for answer in answers])
    return found.low, found.high


def _values(
    metric: Metric, answers: Sequence[Answer]
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Return what a metric and those beside it say of all answers, and the ends of intervals."""
    answers = [a if a.review is None else replace(a, text=a.review) for a in answers]
    values = metric.summarize(answers)
    intervals = value_intervals(
        lambda some: metric.summarize([answers[number] for number in some]),
        [metric.unit(answer.question) for answer in answers],
        groups=metric.groups,
    )
    for name, theirs in metric.beside.items():
        scores = theirs_of(theirs, answers)
        values |= beside(answers, name, scores)
        known = [number for number, one in enumerate(scores) if not math.isnan(one)]
        intervals[name] = _ends(
            metric, [answers[number] for number in known], [scores[number] for number in known]
        )
    return values, intervals


def _sum(name: str, answers: Sequence[Answer]) -> Score:
    return Score(name=name, sum=sum(answer.score for answer in answers), total=len(answers))


def constant_answers(questions: Sequence[Question], metric: str) -> tuple[Answer, ...]:
    """Give all questions of a kind one answer: of their most frequent references, the best.

    It is what can be had without looking; empty where there are no references.
    """
    counted: dict[str, Counter[str]] = {question.kind: Counter() for question in questions}
    for question in questions:
        counted[question.kind].update(list(dict.fromkeys(question.references)))
    best: dict[str, tuple[float, list[Answer]]] = {}
    for rank in range(_CONSTANTS):
        texts = {kind: found.most_common(rank + 1)[-1:] for kind, found in counted.items()}
        given = [
            Answer(question=one, text=texts[one.kind][0][0], score=math.nan)
            for one in questions
            if texts[one.kind]
        ]
        groups: dict[str, list[Answer]] = {}
        for answer in rated(given, metric):
            groups.setdefault(answer.question.kind, []).append(answer)
        for kind, answers in groups.items():
            total = math.fsum(one.score for one in answers if not math.isnan(one.score))
            if kind not in best or total > best[kind][0]:
                best[kind] = total, answers
    of_id = {answer.question.id: answer for _, answers in best.values() for answer in answers}
    return tuple(of_id[one.id] for one in questions if one.id in of_id)


def warnings(scores: Scores, controls: Sequence[Control], chance: float) -> tuple[str, ...]:
    """Return a sentence for each control that explains most of the score, or of some kinds.

    A control explains a score when it reaches the score's 95 % interval, and most of it when it
    has more than half of what the score is above `chance`: the mean of `constant_answers`, 0 where
    there are none. Of kinds only the first is asked.
    """
    told = []
    reached: dict[str, list[str]] = {}
    for control in controls:
        if control.name == "before_instruct":
            continue
        if explained := _explained(control.name, scores, control.scores, chance):
            told.append(explained)
            continue
        theirs = {kind.name: kind.mean for kind in control.scores.kinds}
        for kind in scores.kinds:
            if theirs.get(kind.name, -math.inf) >= scores.intervals[kind.name][0]:
                reached.setdefault(kind.name, []).append(control.name)
    for name, names in reached.items():
        told.append(f"{name}: the assistant does no better than {', '.join(names)} (95 %)")
    return tuple(told)


def _explained(name: str, scores: Scores, control: Scores, chance: float) -> str:
    own, theirs = scores.overall.mean, control.overall.mean
    low, high = scores.intervals["overall"]
    compared = f"{name} has {theirs:.3f}, the assistant {own:.3f}"
    if theirs >= low:
        return f"{name} explains the score: {compared} with the interval {low:.3f} to {high:.3f}"
    share = (theirs - chance) / (own - chance) if own > chance else 0.0
    if share > _MOST and name != "constant":
        return (
            f"{name} explains most of the score: {compared}, which is {share:.0%} of what is "
            f"above chance ({chance:.3f})"
        )
    return ""


class Bin(NamedTuple):
    """Answers whose probabilities lie in one tenth of 0 to 1."""

    probability: float
    """Their mean probability."""
    score: float
    """Their mean score."""
    answers: int


class Calibration(NamedTuple):
    """How far an answer's probability is the chance that it is right."""

    bins: tuple[Bin, ...]
    """Tenths that hold answers, from below."""
    error: float
    """Expected calibration error: mean distance of a tenth's score from its probability, weighted
    by its answers; not a number over none (Guo et al. 2017, arXiv 1706.04599)."""


def calibration(
    probabilities: Sequence[float], scores: Sequence[float], tenths: int = 10
) -> Calibration:
    """Set the scores of answers beside their probabilities, both 0 to 1."""
    groups: dict[int, list[tuple[float, float]]] = {}
    for probability, score in zip(probabilities, scores, strict=True):
        place = min(int(probability * tenths), tenths - 1)
        groups.setdefault(place, []).append((probability, score))
    bins = []
    for _, group in sorted(groups.items()):
        chance, score = np.asarray(group, dtype=np.float64).mean(axis=0).tolist()
        bins.append(Bin(chance, score, len(group)))
    total = len(scores)
    apart = math.fsum(abs(one.probability - one.score) * one.answers for one in bins)
    return Calibration(tuple(bins), apart / total if total else math.nan)


def accuracies(scores: Scores) -> Accuracies:
    """Return scores as accuracies in 0..1."""
    kinds = {kind.name: kind.mean for kind in scores.kinds}
    return Accuracies(
        overall=scores.overall.mean,
        kinds=kinds,
        metrics=scores.values,
        intervals=scores.intervals,
    )


def table_of(title: str, scores: Scores, controls: Sequence[Control]) -> Table:
    """Return accuracies by kind with their intervals, the controls beside, for the terminal."""
    columns = [accuracies(scores), *(accuracies(control.scores) for control in controls)]
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for name in ("kind", "questions", "assistant", "95 %", *(one.name for one in controls)):
        # a figure is never cut, however narrow the terminal
        table.add_column(name.replace("_", " "), no_wrap=name in ("kind", "95 %"), min_width=5)
    for kind in scores.kinds:
        shares = [column.kinds.get(kind.name, math.nan) for column in columns]
        table.add_row(escape(kind.name), str(kind.total), *cells(shares, columns[0], kind.name))
    shares = [column.overall for column in columns]
    asked = str(scores.overall.total)
    table.add_row("overall", asked, *cells(shares, columns[0], "overall"))
    for name in list(scores.values)[1:]:  # the first is what the rows above are of
        shares = [column.metrics.get(name, math.nan) for column in columns]
        table.add_row(escape(name), asked, *cells(shares, columns[0], name))
    return table


def cells(shares: Sequence[float], own: Accuracies, name: str) -> list[str]:
    """Return a row's figures with the first one's interval after it; counts without decimals."""
    first, *others = (
        str(one) if isinstance(one, int) else "–" if math.isnan(one) else f"{one:.3f}"
        for one in shares
    )
    ends = "–".join(f"{end:.3f}" for end in own.intervals.get(name, ()))
    return [first, "–" if "nan" in ends else ends, *others]
