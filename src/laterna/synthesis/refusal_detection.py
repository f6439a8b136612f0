"""Whether an answer declines: a request refused, or a question that it says cannot be told.

To decline is neither to know nor to guess, so whether a proxy held the answer is not asked of
it. That a thing is not there ("A dog cannot be seen") is an answer, and declines nothing; nor
does a caution that is followed by an answer ("It is hard to tell, but it looks like noon").
"""

from __future__ import annotations

import re

from laterna.scenes.vocabulary import read_patterns

_SAYS = read_patterns(__package__, "refusal")
_SENTENCE = re.compile(r"(?<=[.!?])\s+")


def declines(answer: str) -> bool:
    """Say whether an answer declines to tell what was asked, by its first sentence."""
    text = " ".join(answer.replace("\u2019", "'").lower().split())
    text = _SAYS["apology"].sub("", text)
    first, *others = _SENTENCE.split(text, maxsplit=1)
    found = _SAYS["declines"].search(first)
    if found is None or _SAYS["concedes"].match(first):
        return False
    rest = " ".join((first[found.end() :], *others))
    return _SAYS["answers_after_all"].search(rest) is None
