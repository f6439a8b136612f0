"""Whether a reply is whole, in the form of its kind, and an answer at all."""

from __future__ import annotations

import re

from laterna.records import Finding, Kind, Reply
from laterna.synthesis.declining import declines
from laterna.synthesis.parsing import Exchange, ReplyError, parse_reply

BARE_KINDS: frozenset[Kind] = frozenset(("caption", "detail"))
"""Kinds whose reply is the bare answer; the others are questions with answers."""
_MAY_BE_SORRY: frozenset[Kind] = frozenset(("negative", "refusal"))
_CUT_SHORT = {
    "length": "it met the limit of tokens",
    "max_tokens": "it met the limit of tokens",
    "max_output_tokens": "it met the limit of tokens",
    "content_filter": "a filter of the endpoint cut it off",
}
"""Finish reasons of endpoints that mean that text is missing."""

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

    The bare answer of `caption` and `detail` becomes one exchange with an empty question.
    """
    if not reply.text.strip():
        return Finding(reason="no answer", sentence="", detail="the reply is empty")
    if kind in BARE_KINDS:
        answer = reply.text.strip()
        if re.search(r"^(?:Question:|Answer:|===)\s*$", answer, re.MULTILINE):
            return _unparsable(answer, "a description must hold no 'Question:', 'Answer:', '==='")
        return (Exchange("", answer),)
    try:
        return parse_reply(reply.text)
    except ReplyError as error:
        return _unparsable(reply.text, str(error))


def check_finish(reply: Reply) -> tuple[Finding, ...]:
    """Find a reply that was cut off, with its last words."""
    why = _CUT_SHORT.get(reply.finish_reason)
    if why is None:
        return ()
    return (Finding(reason="truncated", sentence=reply.text.strip()[-160:], detail=why),)


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


def _unparsable(text: str, detail: str) -> Finding:
    return Finding(reason="unparsable", sentence=text.strip()[:300], detail=detail)
