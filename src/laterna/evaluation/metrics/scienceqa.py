"""ScienceQA: the letter that LLaVA's script reads, over all questions and over those with an image.

A question's first reference is the right letter; the texts of its choices are its fields `A`, `B`
and so on; it is one of IMG when it has an image. lmms-eval reads `A.` and `a`, and not
`The answer is A.`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from laterna.evaluation.metrics.base import (
    Metric,
    choices,
    each,
    mean,
    mean_score,
    reference,
)
from laterna.records import Answer, Question

_LETTERS = "ABCDE"
_THE_ANSWER_IS = re.compile(r"The answer is ([A-Z]).")
"""The full stop stands unescaped in the source: any character will do."""


def llava_letter(answer: str) -> str | None:
    """Return the letter that LLaVA's ScienceQA script reads, or None.

    A to E alone; or before a full stop and a blank; or, if no word of this form stands twice,
    after `The answer is `, where any capital counts and one more character must follow.
    """
    if answer in tuple(_LETTERS):
        return answer
    if answer[:1] in tuple(_LETTERS) and answer[1:3] == ". ":
        return answer[0]
    found: list[str] = _THE_ANSWER_IS.findall(answer)
    return found[0] if len(found) == 1 else None


def llava_choice(question: Question, answer: str) -> float:
    """Score by LLaVA's script: a letter past the question's choices is wrong."""
    letter = llava_letter(answer)
    offered = _LETTERS[: len(choices(question)) or len(_LETTERS)]
    return float(letter == reference(question) and letter in tuple(offered))


def _lmms_eval_science(question: Question, answer: str) -> float:
    """Score by lmms-eval 0.7.2: the letter in either case, or a capital before a full stop."""
    answer, letter = answer.strip(), reference(question).lower()
    if answer.lower() == letter:
        return 1.0
    named = answer[:1].isupper() and answer[1:2] == "."
    return float(named and answer[0].lower() == letter)


def _summarize_science(answers: Sequence[Answer]) -> dict[str, float]:
    with_image = [answer.score for answer in answers if answer.question.images]
    return {**mean_score(answers), "img": mean(with_image)}


SCIENCEQA = Metric(
    definition="haotian-liu/LLaVA llava/eval/eval_science_qa.py at c121f04",
    score=each(llava_choice),
    summarize=_summarize_science,
    beside={"lmms_eval": _lmms_eval_science},
)
