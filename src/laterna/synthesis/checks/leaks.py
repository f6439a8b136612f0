"""Finds words that tell that the picture was read from captions and boxes, and not seen."""

from __future__ import annotations

import re

from laterna.records import Finding

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
