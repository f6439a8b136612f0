"""VQA accuracy: how many of ten people gave the answer, by the official and by LLaVA's scorer.

Both leave out each person in turn, count how many of the others agree, take three as enough, and
average: min(1, matches / 3). They differ in what they do to the texts before they compare. The
official one compares unanimous people's answers as they stand, and keeps `'s` on its word; LLaVA's
(TextVQA's, from MMF) always normalizes, drops commas and question marks and parts `'s` from the
word.

A question needs nothing but its references, in people's order or any other.
"""

from __future__ import annotations

import re
import tomllib
from functools import lru_cache
from importlib.resources import files

from laterna.evaluation.metrics.base import Metric, each, mean_score
from laterna.records import Question

_WORDS = tomllib.loads(files(__package__).joinpath("vqa_words.toml").read_text("utf-8"))
_NUMBERS: dict[str, str] = _WORDS["numbers"]
_CONTRACTIONS: dict[str, str] = _WORDS["contractions"]
_ARTICLES = frozenset[str](_WORDS["articles"])
_MARKS = frozenset(';/[]"{}()=+\\_-><@`,?!')
_DIGIT_COMMA = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"\.(?!\d)")
"""The scorers mean to keep the stop after a digit too, but their look-behind is malformed."""
_MOST_STOPS = 32
"""They pass `re.UNICODE`, which is 32, where the number of replacements stands."""
KEPT = 1 << 17
"""Normalized texts kept: people's answers repeat, and each is compared ten times."""


@lru_cache(maxsize=KEPT)
def official_form(text: str) -> str:
    """Return a text as the official scorer compares it where people disagree."""
    return _words(_unmarked(_one_line(text)))


@lru_cache(maxsize=KEPT)
def m4c_form(text: str) -> str:
    """Return a text as LLaVA's TextVQA scorer compares it."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return _words(_unmarked(_one_line(text)))


def official(question: Question, answer: str) -> float:
    """Return the official VQA accuracy of an answer; not a number without references."""
    references = [_one_line(reference) for reference in question.references]
    answer = _one_line(answer)
    if len(set(references)) > 1:
        references = [official_form(reference) for reference in references]
        answer = official_form(answer)
    return _agreement(references.count(answer), len(references))


def m4c(question: Question, answer: str) -> float:
    """Return an answer's accuracy by LLaVA's TextVQA scorer; not a number without references."""
    references = [m4c_form(reference) for reference in question.references]
    return _agreement(references.count(m4c_form(answer)), len(references))


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _unmarked(text: str) -> str:
    """Delete each mark that stands beside a blank, all with `1,000` in it; else make it a blank."""
    present = _MARKS.intersection(text)
    if present:
        closed = _DIGIT_COMMA.search(text) is not None
        gone = {
            ord(mark): "" if closed or f"{mark} " in text or f" {mark}" in text else " "
            for mark in present
        }
        text = text.translate(gone)
    return _FULL_STOP.sub("", text, count=_MOST_STOPS) if "." in text else text


def _words(text: str) -> str:
    words = (_NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def _agreement(matches: int, people: int) -> float:
    """Average min(1, matches / 3) over leaving out each person."""
    if not people:
        return float("nan")
    without_a_match = min(1.0, max(matches - 1, 0) / 3)
    return ((people - matches) * min(1.0, matches / 3) + matches * without_a_match) / people


VQA = Metric(
    definition="GT-Vision-Lab/VQA PythonEvaluationTools/vqaEvaluation/vqaEval.py at a013f00",
    score=each(official),
    summarize=mean_score,
    beside={"m4c": m4c},
)
TEXTVQA = Metric(
    definition="haotian-liu/LLaVA llava/eval/m4c_evaluator.py at c121f04",
    score=each(m4c),
    summarize=mean_score,
    beside={"official": official},
)
