"""Whether a reply is whole, in the form of its kind, and an answer at all."""

from __future__ import annotations

import re

from laterna.records import Finding, Kind, Reply
from laterna.synthesis.parsing import Exchange, ReplyError, label_of, parse_reply
from laterna.synthesis.refusal_detection import declines
from laterna.synthesis.tidying import faults, finding, tidy

BARE_KINDS: frozenset[Kind] = frozenset(("caption", "detail"))
"""Kinds whose reply is the bare answer; the others are questions with answers."""
_MAY_BE_SORRY: frozenset[Kind] = frozenset(("negative", "refusal"))
_FINISHED = frozenset((
    "stop", "stop_sequence", "stop_token", "eos", "eos_token", "end", "end_turn", "end_of_turn",
    "complete", "completed", "finish", "finished", "done", "normal", "finish_reason_stop",
))  # fmt: skip
"""Finish reasons of endpoints that mean that the reply is whole, in small letters; nothing else
does. None at all is taken for whole where the text ends as a sentence does."""
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
    if reason in _FINISHED or (not reason and (not text or _ENDING.search(text))):
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
