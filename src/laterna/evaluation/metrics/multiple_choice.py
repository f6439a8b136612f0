"""Which letter an answer picks, by the rule of VLMEvalKit (MMBench, circular or not) and of MMVP.

A question's first reference is the right letter. The texts of its choices are its fields `A`, `B`
and so on. Some need more: CircularEval the field `index` (MMBench's: rotation · 10⁶ + number),
MMVP the field `index` (1 to 300; two that follow each other are a pair).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial

from laterna.errors import LaternaError
from laterna.evaluation.metrics.base import (
    Metric,
    beside,
    choices,
    each,
    mean,
    mean_score,
    reference,
    required_field,
    theirs_of,
)
from laterna.evaluation.metrics.scienceqa import llava_choice
from laterna.records import Answer, Question

_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
_FAILED = "Failed to obtain answer via API"
_PUNCTUATION = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_VERBOSE = re.compile(r"(?:correct\s+)?answer\s+is\s+\**([ABCD])\**", re.IGNORECASE)
_LATE = 5
"""A lone letter counts when fewer than this many words follow its first mention."""
NO_CHOICE = "Z"
"""What VLMEvalKit calls an answer that refuses to choose."""


def vlmevalkit_option(answer: str, offered: dict[str, str]) -> str | None:
    """Return the letter that VLMEvalKit finds by itself in an answer, `Z` for a refusal, or None.

    Of the choices' letters, exactly one stands as a word, near the end; else `answer is X`.
    """
    if _FAILED in answer:
        return None
    if any(refusal in answer for refusal in _REFUSALS):
        return NO_CHOICE
    words = answer.translate(_PUNCTUATION).split()
    named = [letter for letter in offered if letter in words]
    if len(named) == 1 and words.index(named[0]) > len(words) - _LATE:
        return named[0]
    if not named and NO_CHOICE in words:
        return NO_CHOICE
    verbose = _VERBOSE.search(answer)
    letter = verbose.group(1).upper() if verbose else None
    return letter if letter in offered else None


def vlmevalkit_text(answer: str, offered: dict[str, str]) -> str | None:
    """Return the letter of the one choice whose text stands in the answer, or None."""
    answer = answer.lower()
    if len(answer) > 2 * sum(len(text) for text in offered.values()):
        return None
    named = [letter for letter, text in offered.items() if text.lower() in answer]
    return named[0] if len(named) == 1 else None


def vlmevalkit_letter(answer: str, offered: dict[str, str]) -> str | None:
    """Return the letter that VLMEvalKit's exact matching infers, `Z` for a refusal, or None."""
    return vlmevalkit_option(answer, offered) or vlmevalkit_text(answer, offered)


def _vlmevalkit(question: Question, answer: str) -> float:
    return float(vlmevalkit_letter(answer, choices(question)) == reference(question))


def _exact(question: Question, answer: str) -> float:
    return float(answer == reference(question))


ROTATIONS = 10**6
"""MMBench numbers a rotation of a question this much further on."""


def _summarize_circular(answers: Sequence[Answer]) -> dict[str, float]:
    """Add `vanilla` (questions as first asked) and `circular` (right in all rotations)."""
    groups: dict[int, list[Answer]] = {}
    for answer in answers:
        groups.setdefault(_rotated(answer.question), []).append(answer)
    first = [answer.score for answer in answers if _index(answer.question) < ROTATIONS]
    every = [min(answer.score for answer in group) for group in groups.values()]
    return {
        **mean_score(answers),
        "circular": mean(every),
        "vanilla": mean(first),
    }


def _rotated(question: Question) -> int:
    """Return the number that all rotations of a question share."""
    return _index(question) % ROTATIONS


def _pair(question: Question) -> int:
    return (_index(question) - 1) // 2


def _index(question: Question) -> int:
    text = required_field(question, "index")
    if not text.isdecimal():
        raise LaternaError(f"question {question.id}: its field 'index' is {text!r}, not a number")
    return int(text)


_MMVP_LETTERS = [
    re.compile(form, re.IGNORECASE)
    for form in (
        r"^\s*\(?([AB])\)?\.?\s*$",
        r"^\s*\(?([AB])\)?[.\s]",
        r"answer\s+is\s+\(?([AB])\)?",
        r"option\s+\(?([AB])\)?",
        r"\(?([AB])\)?(?:\s|$)",
    )
]
"""Alone; at the start; `answer is`; `option`; before a blank or at the end, even of a word."""
CORRECTED = {99: "B", 100: "A", 279: "B", 280: "A"}
"""MMVP's true letters where its file has them swapped (EvolvingLMMs-Lab/lmms-eval issue 1018)."""


def mmvp_letter(answer: str) -> str:
    """Return the A or B that lmms-eval reads in an answer, or an empty text."""
    answer = answer.strip()
    for form in _MMVP_LETTERS:
        found = form.search(answer)
        if found:
            return found.group(1).upper()
    first = answer[:1].upper()
    return first if first in ("A", "B") else ""


def _mmvp(question: Question, answer: str, corrected: bool = False) -> float:
    letter = reference(question)
    if corrected:
        letter = CORRECTED.get(_index(question), letter)
    return float(mmvp_letter(answer) == letter)


def _summarize_mmvp(answers: Sequence[Answer], corrected: bool) -> dict[str, float]:
    """Add `pairs` (both right, whole pairs alone) and what the other ground truth gives."""
    other = "original" if corrected else "corrected"
    turned = theirs_of(partial(_mmvp, corrected=not corrected), answers)
    return {
        **mean_score(answers),
        "pairs": _pairs(answers, [answer.score for answer in answers]),
        **beside(answers, other, turned),
        f"{other}_pairs": _pairs(answers, turned),
    }


def _pairs(answers: Sequence[Answer], scores: Sequence[float]) -> float:
    pairs: dict[int, list[float]] = {}
    for answer, score in zip(answers, scores, strict=True):
        pairs.setdefault(_pair(answer.question), []).append(score)
    return mean([min(pair) for pair in pairs.values() if len(pair) == 2])


VLMEVALKIT = Metric(
    definition="open-compass/VLMEvalKit vlmeval/utils/matching_util.py can_infer at e8e78f05",
    score=each(_vlmevalkit),
    summarize=mean_score,
    beside={"letter": _exact, "llava": llava_choice},
)
CIRCULAR = VLMEVALKIT._replace(
    definition=f"{VLMEVALKIT.definition}; circular: right in every rotation of the choices",
    summarize=_summarize_circular,
    unit=_rotated,
)
MMVP = Metric(
    definition="lmms-eval 0.7.2 lmms_eval/tasks/mmvp/utils.py, with MMVP's own ground truth",
    score=each(_mmvp),
    summarize=partial(_summarize_mmvp, corrected=False),
    unit=_pair,
)
MMVP_CORRECTED = Metric(
    definition="lmms-eval 0.7.2 lmms_eval/tasks/mmvp/utils.py, with the ground truth corrected",
    score=each(partial(_mmvp, corrected=True)),
    summarize=partial(_summarize_mmvp, corrected=True),
    unit=_pair,
)
