"""Finds what a reply lets out: that the picture was read and not seen, or what is to be seen.

The first is a leak of the source; the second a question of reasoning that retells the picture
instead of asking for a look.
"""

from __future__ import annotations

import re

from laterna.records import Finding
from laterna.scenes.vocabulary import COLOURS, words_of
from laterna.synthesis.checks.evidence import Evidence
from laterna.synthesis.checks.numbers import count_of
from laterna.synthesis.checks.sentences import Sentence

_GIVEN = r"(?:given|provided|supplied|accompanying|available|above)"
_SOURCE = (
    r"(?:captions?|descriptions?|text|sentences?|context|information|annotations?|metadata|"
    r"details|data|labels?|prompt|input)"
)
_LEAKS = re.compile(
    rf"""
      \b(?:image\s+|picture\s+)?captions?\b
    | \bbounding[\s-]+box(?:es)?\b | \bbounding\s+regions?\b | \bbboxe?s?\b
    | \b(?:[xy][\s-]+)?co-?ordinates?\b
    | [\[(]\s*[01]?\.\d+\s*,\s*[01]?\.\d+  # the corners of a box
    | \b{_GIVEN}\s+(?:\w+\s+)?{_SOURCE}\b
    | \b{_SOURCE}\s+(?:that\s+)?(?:(?:i|we)\s+)?(?:was|were|am|is|are|has\s+been|have\s+been)?\s*
      (?:not\s+)?(?:given|provided|supplied)\b
    | \b(?:the|these|those|this|that|your|all|each|one\s+of\s+the)\s+
      (?:image\s+|picture\s+|scene\s+|object\s+|textual\s+|text\s+)?
      (?:descriptions?|annotations?|metadata)\b
    | \b(?:according\s+to|based\s+on|judging\s+(?:from|by)|as\s+per)\s+the\s+(?:\w+\s+)?
      (?:{_SOURCE})\b
    | \b(?:the|these|those)\s+(?:text|sentences?|context|prompt|labels?)\s+
      (?:also\s+|only\s+|clearly\s+|explicitly\s+)?
      (?:mentions?|says?|states?|describes?|tells?|suggests?|indicates?|do(?:es)?\s+not)\b
    | \b(?:is|are|was|were)\s+(?:also\s+|simply\s+|only\s+|all\s+)?
      described\s+(?:as|in|by|to\s+be|with|on)\b
    | \bas\s+described\b
    | \b(?:is|are|was|were)(?:\s+not|n['’]t)\s+
      (?:\w+ly\s+)?(?:specified|mentioned|stated|described)\b
    | \b(?:is|are|was|were)\s+(?:\w+ly\s+)?mentioned\b
    | \bmentioned\s+in\s+the\s+(?:image|picture|photo|scene)\b
    | \bobject\s+(?:detections?|annotations?)\b | \bdetected\s+objects?\b
    """,
    re.IGNORECASE | re.VERBOSE,
)


def check_leaks(sentence: str, captions: tuple[str, ...]) -> tuple[Finding, ...]:
    """Find the first leak of a sentence.

    Words that a caption itself uses ("a cartoon with a caption") are part of the picture.
    """
    said = " ".join(captions).lower()
    for leak in _LEAKS.finditer(sentence):
        words = leak.group().strip()
        if words.lower() not in said:
            detail = f"{words!r} speaks of the source; speak as someone who sees the picture"
            return (Finding(reason="source leak", sentence=sentence, detail=detail),)
    return ()


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
        return (_given_away(question, f"the question tells of {names}, and how they are"),)
    asked = {_stem(word) for word in question.words if word not in _SMALL}
    for caption in evidence.captions:
        words = {_stem(word) for word in words_of(caption) if word not in _SMALL}
        if len(words) >= _LEAST_WORDS and len(words & asked) >= _RETOLD * len(words):
            return (_given_away(question, f"the question retells {caption.strip()!r}"),)
    return ()


def _stem(word: str) -> str:
    return word[:-1] if word.endswith("s") and len(word) > 3 else word


def _given_away(question: Sentence, detail: str) -> Finding:
    return Finding(reason="given away", sentence=question.text, detail=detail)
