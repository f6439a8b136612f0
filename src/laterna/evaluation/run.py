"""Asks an assistant the questions of a task and scores its answers, with controls beside them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from msgspec import field
from rich.table import Table

from laterna.errors import LaternaError
from laterna.evaluation.answer_cache import CACHE_NAME, AnswerCache, model_fingerprint
from laterna.evaluation.asking import AnswerFunction as AnswerFunction
from laterna.evaluation.asking import Asked, Known, Shown, Skipped
from laterna.evaluation.asking import ask as ask
from laterna.evaluation.judge import (
    LEDGER_NAME,
    JudgeFigures,
    Judging,
    Verdict,
    find_judge,
    judge_answers,
)
from laterna.evaluation.metrics import METRICS
from laterna.evaluation.metrics.base import mean
from laterna.evaluation.scores import (
    Accuracies,
    Control,
    Scores,
    accuracies,
    constant_answers,
    score,
    table_of,
    warnings,
)
from laterna.evaluation.shots import (
    Demonstrations,
    ShotFigures,
    ShotPrompts,
    Shots,
    draw_demonstrations,
    words_alone,
)
from laterna.evaluation.tasks import find_task
from laterna.evaluation.tasks.base import Task, TaskQuestions, read_questions
from laterna.inference.assistant import Assistant
from laterna.records import Answer, Record

CONTROLS: dict[str, str] = {
    "blank": "The same assistant, every image replaced by one of the encoder's mean colour.",
    "shuffled": "The same assistant, every question asked about another question's image.",
    "text_only": "The same assistant, asked without any image.",
    "constant": "No assistant: to all questions of a kind one answer, the best of the frequent.",
}
"""Name of a control to what is asked of whom."""
BASELINE = "before_instruct"
_SHOWN: Mapping[str, Shown] = {
    "blank": "blank",
    "shuffled": "shuffled",
    "text_only": "text_only",
    BASELINE: "own",
}


class Evaluation(Record):
    """Everything that came of one evaluation; `report.json` holds the `figures` of it."""

    task: str
    limit: int
    seed: int
    scores: Scores
    controls: tuple[Control, ...]
    answers: tuple[Answer, ...]
    skipped: tuple[Skipped, ...]
    setting: str = ""
    """The task's variant that the questions were put in."""
    shots: ShotFigures | None = None
    """The demonstrations before each question; None: it was asked alone."""
    skipped_rows: dict[str, int] = field(default_factory=dict)
    """Rows of the task's files that are no questions, by reason."""
    row_examples: dict[str, str] = field(default_factory=dict)
    """Where the first row of each reason stands."""
    warnings: tuple[str, ...] = ()
    """A sentence for each control that explains most of the score."""
    judge: JudgeFigures | None = None
    verdicts: dict[str, tuple[Verdict, ...]] = field(default_factory=dict)
    """A judge's verdicts of the assistant's answers (under `assistant`) and of each control's."""


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
    """Questions not asked, and rows that are no questions, by reason."""
    setting: str = ""
    shots: ShotFigures | None = None
    definitions: dict[str, str] = field(default_factory=dict)
    """The definition that each metric is exact to."""
    warnings: tuple[str, ...] = ()
    judge: JudgeFigures | None = None


def evaluate(
    assistant: Assistant,
    task: str,
    dataset: Path,
    *,
    setting: str = "",
    limit: int = 0,
    seed: int = 0,
    controls: Sequence[str] = tuple(CONTROLS),
    before_instruct: Assistant | None = None,
    shots: Shots | None = None,
    judging: Judging | None = None,
    cache: Path | None = None,
    read: TaskQuestions | None = None,
    batch: int = 64,
    answer: AnswerFunction | None = None,
    progress: bool = True,
) -> Evaluation:
    """Evaluate an assistant on a task's questions about a dataset, greedily.

    `controls` are keys of `CONTROLS`; they and `before_instruct`, an assistant to set beside, get
    the very questions that the assistant answered. `setting`, `limit` and `seed` are the task's.
    `shots` puts demonstrations before each question. With the folder `cache` nothing is asked
    twice, in this run or a later one. A task that a judge scores needs `judging` and `cache`.
    `read` are the questions, where they have been read.
    Raises LaternaError when a name is unknown, nothing can be asked, or the judge is dead.
    """
    chosen = find_task(task)
    require_controls(controls)
    require_judge(task, judging, cache)
    if shots and not setting and (setting := words_alone(assistant, chosen)):
        read = None
    read = read or read_questions(chosen, dataset, limit=limit, seed=seed, setting=setting)
    find = partial(chosen.image, dataset)
    shown = draw_demonstrations(shots, chosen, read.questions, find, setting=setting, seed=seed)
    put = partial(ask, images=find, seed=seed, batch=batch, answer=answer, progress=progress)
    asker = _asker(assistant, put, chosen, setting, shown)
    other = before_instruct and _asker(before_instruct, put, chosen, setting, shown)
    asked = _ask((asker, other or None), chosen, read, controls, cache)
    _require_answers(asked, read, task, dataset)
    return Evaluation(
        task=task,
        limit=limit,
        seed=seed,
        setting=setting or next(iter(chosen.settings)),
        shots=shown and shown.figures(),
        **_scored(asked, chosen, read, judging, cache),
    )


class _Said(NamedTuple):
    """What came of all the asking."""

    answers: dict[str, tuple[Answer, ...]]
    """By who gave them: `assistant`, then the controls."""
    skipped: tuple[Skipped, ...]
    chance: float
    """Mean score of the constant answers."""


class _Asker(NamedTuple):
    """Who is asked, and how questions are put to him."""

    assistant: Assistant
    put: Callable[..., Asked]


def _asker(
    assistant: Assistant,
    put: Callable[..., Asked],
    task: Task,
    setting: str,
    shown: Demonstrations | None,
) -> _Asker:
    """Return an asker; what is shown before a question may change form and length of answers."""
    metric = "" if task.judge else task.metrics[0]
    room = task.find_setting(setting).max_new_tokens or task.max_new_tokens
    if shown is None:
        return _Asker(assistant, partial(put, assistant, metric=metric, max_new_tokens=room))
    prompts = ShotPrompts(shown, assistant, task)
    room = prompts.longest or room
    put = partial(put, prompts.assistant, metric=metric, max_new_tokens=room)
    return _Asker(prompts.assistant, partial(put, put=prompts, stop=prompts.stop))


def _ask(
    askers: tuple[_Asker, _Asker | None],
    task: Task,
    read: TaskQuestions,
    controls: Sequence[str],
    cache: Path | None,
) -> _Said:
    """Ask the assistant, then about what it answered in each control, and the baseline."""
    (assistant, put), baseline = askers
    with AnswerCache(None if cache is None else cache / CACHE_NAME) as kept:
        known = Known(kept, _fingerprint(assistant, cache, "assistant"))
        asked = put(read.questions, known=known)
        said = {"assistant": asked.answers}
        if not asked.answers:
            return _Said(said, asked.skipped, 0.0)
        same = [given.question for given in asked.answers]
        guessed = () if task.judge else constant_answers(same, task.metrics[0])
        for name in controls:
            said[name] = (
                guessed
                if name == "constant"
                else put(same, shown=_SHOWN[name], known=known).answers
            )
        if baseline is not None:
            known = Known(kept, _fingerprint(baseline.assistant, cache, BASELINE))
            said[BASELINE] = baseline.put(same, known=known).answers
    chance = mean([answer.score for answer in guessed])
    return _Said(said, asked.skipped, 0.0 if math.isnan(chance) else chance)


def require_controls(names: Sequence[str]) -> None:
    """Raise LaternaError for a control that there is not."""
    for name in names:
        if name not in CONTROLS:
            raise LaternaError(f"{name}: no such control; the controls are: {', '.join(CONTROLS)}")


def require_judge(task: str, judging: Judging | None, cache: Path | None) -> None:
    """Raise LaternaError where a task needs a judge and has none, or nowhere to keep reviews."""
    name = find_task(task).judge
    if not name:
        return
    find_judge(name)
    if judging is None:
        raise LaternaError(
            f"{task}: a judge scores its answers; name a model with --judge (and its endpoint with "
            "--judge-base-url)"
        )
    if cache is None:
        raise LaternaError(f"{task}: the judge's reviews need a place; give --out or --cache")


def _fingerprint(assistant: Assistant, cache: Path | None, name: str) -> str:
    """Return who answers; in a cache that ends with the run a name tells them apart."""
    return name if cache is None else model_fingerprint(assistant.model)


def _scored(
    asked: _Said, task: Task, read: TaskQuestions, judging: Judging | None, cache: Path | None
) -> dict[str, Any]:
    """Return the fields of an evaluation that follow from the questions and the answers."""
    said, judged = asked.answers, None
    verdicts: dict[str, tuple[Verdict, ...]] = {}
    if judging is not None and cache is not None and task.judge:
        said, verdicts, judged = _judged(judging, task.judge, said, cache / LEDGER_NAME)
    own = score(said["assistant"], metrics=task.metrics)
    controls = tuple(
        Control(name=name, scores=score(answers, metrics=task.metrics), answers=tuple(answers))
        for name, answers in said.items()
        if name != "assistant" and answers
    )
    return {
        "scores": own,
        "controls": controls,
        "answers": said["assistant"],
        "skipped": asked.skipped,
        "skipped_rows": read.skipped,
        "row_examples": read.examples,
        "warnings": warnings(own, controls, asked.chance),
        "judge": judged,
        "verdicts": verdicts,
    }


def _judged(
    judging: Judging, name: str, said: Mapping[str, Sequence[Answer]], ledger: Path
) -> tuple[dict[str, tuple[Answer, ...]], dict[str, tuple[Verdict, ...]], JudgeFigures]:
    """Have the assistant's answers judged, and each control's."""
    found = {
        who: judge_answers(judging, name, answers, ledger)
        for who, answers in said.items()
        if answers
    }
    return (
        {who: tuple(one.answers) for who, one in found.items()},
        {who: tuple(one.verdicts) for who, one in found.items()},
        found["assistant"].figures,
    )


def _require_answers(asked: _Said, read: TaskQuestions, task: str, dataset: Path) -> None:
    if asked.answers["assistant"]:
        return
    if not asked.skipped:
        lost = "".join(
            f"; {count} rows: {reason} (the first: {read.examples[reason]})"
            for reason, count in read.skipped.items()
        )
        raise LaternaError(
            f"{dataset}: no question of task {task} can be asked about this dataset{lost}"
        )
    raise LaternaError(
        f"{dataset}: none of the images of {len(asked.skipped)} questions could be read; "
        f"the first: {asked.skipped[0].message}"
    )


def figures(evaluation: Evaluation) -> Figures:
    """Return the evaluation's figures as `report.json` holds them."""
    own = accuracies(evaluation.scores)
    lost = Counter(skipped.reason for skipped in evaluation.skipped)
    return Figures(
        overall=own.overall,
        kinds=own.kinds,
        metrics=own.metrics,
        controls={control.name: accuracies(control.scores) for control in evaluation.controls},
        intervals=own.intervals,
        questions=len(evaluation.answers),
        skipped=dict(lost + Counter(evaluation.skipped_rows)),
        setting=evaluation.setting,
        shots=evaluation.shots,
        definitions={name: METRICS[name].definition for name in find_task(evaluation.task).metrics},
        warnings=evaluation.warnings,
        judge=evaluation.judge,
    )


def score_table(evaluation: Evaluation) -> Table:
    """Return accuracies by kind with their intervals, the controls beside, for the terminal."""
    shots = evaluation.shots.words if evaluation.shots else ""
    told = ", ".join(filter(None, (evaluation.task, evaluation.setting, shots)))
    return table_of(told, evaluation.scores, evaluation.controls)
