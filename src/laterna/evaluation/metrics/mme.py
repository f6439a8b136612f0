"""MME: two yes-or-no questions an image; 100 for accuracy and 100 for both right, a subtask.

A question's kind is its subtask, by MME's name for it; its images tell which two belong together;
its first reference is `Yes` or `No`. The score of a subtask is 100 · accuracy + 100 · accuracy+
(images with both right); perception adds up ten subtasks, cognition four. An image without exactly
two answers is counted in `unpaired` and stays out of accuracy+.
"""

from __future__ import annotations

from collections.abc import Sequence

from laterna.evaluation.metrics.base import Metric, each, mean, mean_score, reference
from laterna.records import Answer, Question

PERCEPTION = (
    *("existence", "count", "position", "color", "posters"),
    *("celebrity", "scene", "landmark", "artwork", "OCR"),
)
COGNITION = (
    *("commonsense_reasoning", "numerical_calculation"),
    *("text_translation", "code_reasoning"),
)
LOOKED_AT = 4
"""Characters in which a yes or no must begin."""


def parse(answer: str) -> str:
    """Return `yes`, `no` or `other`: exactly that, else what the first four characters hold."""
    answer = answer.lower()
    if answer in ("yes", "no"):
        return answer
    start = answer[:LOOKED_AT]
    return "yes" if "yes" in start else "no" if "no" in start else "other"


def lmms_eval_parse(answer: str) -> str:
    """Return what lmms-eval 0.7.2 reads: blanks and full stops go first; y and n are enough."""
    answer = answer.lower().strip().replace(".", "")
    return {"y": "yes", "n": "no"}.get(answer) or parse(answer)


def _score(question: Question, answer: str) -> float:
    return float(parse(answer) == reference(question).lower())


def _lmms_eval(question: Question, answer: str) -> float:
    return float(lmms_eval_parse(answer) == _stripped(reference(question)))


def _stripped(truth: str) -> str:
    return truth.lower().strip().replace(".", "")


def subtask_score(answers: Sequence[Answer]) -> tuple[float, int]:
    """Return the score of one subtask's answers, 0 to 200, and how many images are unpaired."""
    images: dict[tuple[str, ...], list[float]] = {}
    for answer in answers:
        images.setdefault(answer.question.images, []).append(answer.score)
    pairs = [scores for scores in images.values() if len(scores) == 2]
    accuracy = mean([answer.score for answer in answers])
    both = mean([float(sum(scores) == 2) for scores in pairs])
    return 100 * accuracy + 100 * both, len(images) - len(pairs)


def _summarize(answers: Sequence[Answer]) -> dict[str, float]:
    subtasks: dict[str, list[Answer]] = {}
    for answer in answers:
        subtasks.setdefault(answer.question.kind, []).append(answer)
    rated = {name: subtask_score(own) for name, own in subtasks.items()}
    totals = {
        name: sum(rated[subtask][0] for subtask in members if subtask in rated)
        for name, members in (("perception", PERCEPTION), ("cognition", COGNITION))
        if not rated.keys().isdisjoint(members)
    }
    return {
        **mean_score(answers),
        **totals,
        **{name: score for name, (score, _) in rated.items()},
        "unpaired": sum(unpaired for _, unpaired in rated.values()),
    }


MME = Metric(
    definition="BradyFU MME eval_tool/calculation.py (branch Evaluation, eval_tool.zip at 1c1d69e)",
    score=each(_score),
    summarize=_summarize,
    beside={"lmms_eval": _lmms_eval},
)
