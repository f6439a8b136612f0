"""Whether a reply is whole, in the form of its kind, an answer at all, and lets nothing out.

Two things get out: that the picture was read and not seen, and, in a question of reasoning, what
is to be seen, which it retells instead of asking for a look.
"""

from __future__ import annotations

import re

from laterna.records import Finding, Kind, Reply
from laterna.scenes.vocabulary import COLOURS, WordSets, words_of
from laterna.synthesis.checks.evidence import Evidence
from laterna.synthesis.checks.sentences import Sentence, count_of
from laterna.synthesis.parsing import Exchange, ReplyError, label_of, parse_reply
from laterna.synthesis.refusal_detection import declines
from laterna.synthesis.tidying import faults, finding, tidy

_W = WordSets(__package__, "form")

BARE_KINDS: frozenset[Kind] = frozenset(("caption", "detail"))
"""Kinds whose reply is the bare answer; the others are questions with answers."""
_MAY_BE_SORRY: frozenset[Kind] = frozenset(("negative", "refusal"))
_LIMIT = re.compile(r"length|max.*tokens|token.*limit")
_ENDING = re.compile(r"[.!?…。！？:)\]\"'”’*|`]\s*$")

_APOLOGY = re.compile(
    r"""^\W*(?:i['’]?m\s+(?:very\s+|really\s+)?sorry | i\s+am\s+(?:very\s+|really\s+)?sorry
        | sorry\b | my\s+apologies | i\s+apologi[sz]e | unfortunately,?\s+i\b)""",
    re.IGNORECASE | re.VERBOSE,
)
_NO_SIGHT = re.compile(
    r"""\b(?: as\s+an?\s+(?:ai|artificial\s+intelligence|(?:large\s+)?language\s+model|text)\b
        | i\s+(?:cannot|can['’]t|can\s+not|am\s+unable\s+to|am\s+not\s+able\s+to|do\s+not|don['’]t)
          \s+(?:actually\s+|directly\s+)?
          (?:see|view|process|access|analy[sz]e|display|have\s+access\s+to)
          \s+(?:the\s+|an\s+|any\s+|this\s+|that\s+|your\s+)?(?:image|picture|photo|visual)
        | (?:your|the)\s+message\s+(?:is|was|appears\s+to\s+be|seems\s+to\s+be)\s+empty
        | no\s+(?:image|picture|photo)\s+(?:was|is|has\s+been)\s+
          (?:provided|attached|uploaded|given)
        | (?:please|could\s+you|can\s+you)\s+(?:provide|upload|share|attach|send)\s+
          (?:the\s+|an\s+|a\s+|me\s+|more\s+|your\s+|some\s+)*
          (?:image|picture|photo|context|information|details|description))""",
    re.IGNORECASE | re.VERBOSE,
)


def read_exchanges(reply: Reply, kind: Kind) -> tuple[Exchange, ...] | Finding:
    """Return the reply's exchanges, or the finding that it has none in the form of its kind.

    The bare answer of `caption` and `detail` becomes one exchange with an empty question. What
    stands around the answer is taken off first (`tidying.tidy`).
    """
    text = tidy(reply.text).text
    if not text:
        return Finding(reason="no answer", sentence="", detail="the reply is empty")
    for found in faults(text):
        return found
    if kind in BARE_KINDS:
        return _bare(text)
    try:
        return parse_reply(text)
    except ReplyError as error:
        return finding("unparsable", text, str(error))


def _bare(text: str) -> tuple[Exchange, ...] | Finding:
    first, *others = text.splitlines()
    label = label_of(first)
    answer = "\n".join((label[1], *others)) if label and label[0] == "answer" else text
    if any(label_of(line) or line.strip() == "===" for line in answer.splitlines()):
        return finding(
            "unparsable", text, "a description must hold no 'Question:', 'Answer:', '==='"
        )
    return (Exchange("", answer.strip()),)


def check_finish(reply: Reply) -> tuple[Finding, ...]:
    """Find a reply that is not finished, with its last words."""
    reason, text = reply.finish_reason.strip().lower(), reply.text.strip()
    if reason in _W.finished or (not reason and (not text or _ENDING.search(text))):
        return ()
    last = text[-160:]
    if not reason:
        detail = "the endpoint gives no reason why it ended, and it ends in mid-sentence"
        return (Finding(reason="truncated", sentence=last, detail=detail),)
    if _LIMIT.search(reason):
        return (Finding(reason="truncated", sentence=last, detail="it met the limit of tokens"),)
    detail = f"the endpoint ended it: {reply.finish_reason[:300]!r}"
    return (Finding(reason="not finished", sentence=last, detail=detail),)


def check_answered(text: str, kind: Kind) -> tuple[Finding, ...]:
    """Find an apology or a remark about not seeing in the place of an answer."""
    sorry = None if kind in _MAY_BE_SORRY else _APOLOGY.search(text)
    blind = None if kind == "refusal" else _NO_SIGHT.search(text)
    found = sorry or blind
    if found is None:
        return ()
    detail = f"{found.group().strip()!r} is no answer"
    return (Finding(reason="no answer", sentence=text.strip()[:300], detail=detail),)


def check_declined(answer: str, kind: Kind) -> tuple[Finding, ...]:
    """Find an answer that grants the request which it was to decline."""
    if kind != "refusal" or declines(answer):
        return ()
    detail = "the answer must decline: say first that you cannot do it, then why"
    return (Finding(reason="not declined", sentence=answer.strip()[:300], detail=detail),)


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
    asked = {_stem(word) for word in question.words if word not in _W.small}
    for caption in evidence.captions:
        words = {_stem(word) for word in words_of(caption) if word not in _W.small}
        if len(words) >= _LEAST_WORDS and len(words & asked) >= _RETOLD * len(words):
            return (_given_away(question, f"the question retells {caption.strip()!r}"),)
    return ()


def _stem(word: str) -> str:
    return word[:-1] if word.endswith("s") and len(word) > 3 else word


def _given_away(question: Sentence, detail: str) -> Finding:
    return Finding(reason="given away", sentence=question.text, detail=detail)
