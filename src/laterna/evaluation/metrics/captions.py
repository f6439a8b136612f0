"""CIDEr-D, BLEU and ROUGE-L of captions, by pycocoevalcap's parts that need no Java.

The references of a question are the people's captions of its image. Published figures part words
with Stanford's PTB tokenizer, a Java program; here they are parted by `english.words` and stripped
of punctuation, so that figures differ from those a little wherever words are parted otherwise.

A caption's score is its CIDEr-D / 10, which is its greatest value: CIDEr-D weighs words by all
references of the set, so the score of one caption depends on the others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from laterna.errors import LaternaError
from laterna.evaluation.metrics import english
from laterna.evaluation.metrics.base import Metric
from laterna.records import Answer, Question

TOKENIZER = f"{english.TOKENIZER}, without punctuation"
_MARKS = frozenset("'' ' `` ` . ? ! , : - -- ... ; ( ) [ ] { }".split())
"""What pycocoevalcap's PTB tokenizer leaves out; brackets are -LRB- and so on there."""
CIDER_MOST = 10.0


class CaptionScores(NamedTuple):
    """Scores of a set of captions, and of each where one has a score of its own."""

    bleu: tuple[float, float, float, float]
    """BLEU-1 to BLEU-4, over the set."""
    rouge_l: float
    cider_d: float
    rouge_l_each: list[float]
    cider_d_each: list[float]


def tokenize(caption: str) -> str:
    """Return a caption's words in lower case with single blanks, punctuation left out."""
    return " ".join(word for word in english.words(caption) if word not in _MARKS)


def caption_scores(references: Sequence[Sequence[str]], captions: Sequence[str]) -> CaptionScores:
    """Score tokenized captions against their tokenized references.

    Raises LaternaError where pycocoevalcap is not installed or a caption has no reference.
    """
    try:
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.rouge.rouge import Rouge
    except ImportError as error:
        raise LaternaError(
            "captions are scored by pycocoevalcap, which is not installed: "
            "pip install --no-deps pycocoevalcap"
        ) from error
    lacking = [number for number, own in enumerate(references) if not own]
    if lacking:
        raise LaternaError(f"caption {lacking[0] + 1} of {len(captions)} has no reference")
    known = {number: list(own) for number, own in enumerate(references)}
    said = {number: [caption] for number, caption in enumerate(captions)}
    bleu, _ = Bleu(4).compute_score(known, said, verbose=0)
    rouge, rouge_each = Rouge().compute_score(known, said)
    cider, cider_each = Cider().compute_score(known, said)
    first, second, third, fourth = (float(value) for value in bleu)
    return CaptionScores(
        bleu=(first, second, third, fourth),
        rouge_l=float(rouge),
        cider_d=float(cider),
        rouge_l_each=[float(value) for value in rouge_each],
        cider_d_each=[float(value) for value in cider_each],
    )


def _of(questions: Sequence[Question], texts: Sequence[str]) -> CaptionScores:
    references = [[tokenize(text) for text in question.references] for question in questions]
    return caption_scores(references, [tokenize(text) for text in texts])


def _score(questions: Sequence[Question], captions: Sequence[str]) -> list[float]:
    if not questions:
        return []
    return [value / CIDER_MOST for value in _of(questions, captions).cider_d_each]


def _summarize(answers: Sequence[Answer]) -> dict[str, float]:
    if not answers:
        return {"cider_d_tenth": math.nan}
    of = _of([answer.question for answer in answers], [answer.text for answer in answers])
    return {
        "cider_d_tenth": of.cider_d / CIDER_MOST,
        "cider_d": of.cider_d,
        **{f"bleu_{number}": value for number, value in enumerate(of.bleu, start=1)},
        "rouge_l": of.rouge_l,
    }


CAPTIONS = Metric(
    definition=f"pycocoevalcap 1.2 Cider (CIDEr-D), Bleu(4), Rouge; words: {TOKENIZER}",
    score=_score,
    summarize=_summarize,
    groups=10,
)
