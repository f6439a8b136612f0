"""Whether a reply is whole, in the form of its kind, an answer at all, and lets nothing out.

Two things get out: that the image was read and not seen, and, in a question of reasoning, what
is to be seen, which it retells instead of asking for a look.
"""

from __future__ import annotations

import re

from laterna.records import Finding, Kind, Reply
from laterna.scenes.vocabulary import COLOURS, WordSets, read_patterns, words_of
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
_SAYS = read_patterns(__package__, "form")


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
    sorry = None if kind in _MAY_BE_SORRY else _SAYS["apology"].search(text)
    blind = None if kind == "refusal" else _SAYS["no_sight"].search(text)
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


def check_leaks(sentence: str, captions: tuple[str, ...]) -> tuple[Finding, ...]:
    """Find the first leak of a sentence.

    Words that a caption itself uses ("a cartoon with a caption") are part of the image.
    """
    said = " ".join(captions).lower()
    for leak in _SAYS["leaks"].finditer(sentence):
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
    """Find a question that names three details of the image or retells a caption."""
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
