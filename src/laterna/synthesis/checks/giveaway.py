"""Finds questions of reasoning that tell what is to be seen instead of asking for a look."""

from __future__ import annotations

from laterna.records import Finding
from laterna.scenes.vocabulary import COLOURS, words_of
from laterna.synthesis.checks.evidence import Evidence
from laterna.synthesis.checks.numbers import count_of
from laterna.synthesis.checks.sentences import Sentence

_DETAILS = 3
"""So many details told (objects, numbers, colours) leave little to look for."""
_RETOLD = 0.8
_LEAST_WORDS = 6
"""A question gives a caption away that retells so large a share of at least so many words."""
_SMALL = frozenset(
    """a an the this that these those is are was were be been being am do does did has have
    had of in on at to for from by with and or but as it its his her their there here
    who what which why how where when while into onto out up down over near next some
    very s t he she they them him image picture photo scene . , ; : ! ? one two three
    four five six""".split()
)


def check_giveaway(question: Sentence, evidence: Evidence) -> tuple[Finding, ...]:
    """Find a question that names three details of the picture or retells a caption."""
    details = {
        naming.category for naming in question.namings if naming.category in evidence.held
    } & evidence.held
    told = len(details)
    for naming in question.namings:
        if naming.category not in evidence.held:
            continue
        before = question.words[max(0, naming.first - 2) : naming.first]
        told += bool(COLOURS.intersection(before))
        told += count_of(question.words, naming.mention) is not None
    if told >= _DETAILS:
        names = ", ".join(sorted(details))
        return (_finding(question, f"the question tells of {names}, and how they are"),)
    asked = {_stem(word) for word in question.words if word not in _SMALL}
    for caption in evidence.captions:
        words = {_stem(word) for word in words_of(caption) if word not in _SMALL}
        if len(words) >= _LEAST_WORDS and len(words & asked) >= _RETOLD * len(words):
            return (_finding(question, f"the question retells {caption.strip()!r}"),)
    return ()


def _stem(word: str) -> str:
    return word[:-1] if word.endswith("s") and len(word) > 3 else word


def _finding(question: Sentence, detail: str) -> Finding:
    return Finding(reason="given away", sentence=question.text, detail=detail)
