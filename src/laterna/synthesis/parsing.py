"""The form of a teacher's reply: written by prompts' examples and scribe, read by everyone.

Conversation and reasoning: `Question:`, text, `===`, `Answer:`, text, repeated with `===`
between. Detail: the bare answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from laterna.errors import LaternaError

_RULE = "\n===\n"
_QUESTION, _ANSWER = "Question:\n", "Answer:\n"


class Exchange(NamedTuple):
    """One question and its answer."""

    question: str
    answer: str


class ReplyError(LaternaError):
    """A reply that is not in the form it was asked for."""


def write_reply(exchanges: Sequence[Exchange]) -> str:
    """Return exchanges in the reply form."""
    return _RULE.join(f"{_QUESTION}{q}{_RULE}{_ANSWER}{a}" for q, a in exchanges)


def parse_reply(text: str) -> tuple[Exchange, ...]:
    """Return the exchanges of a reply; raise ReplyError where it strays from the form."""
    parts = text.strip().split(_RULE)
    if len(parts) % 2:
        raise ReplyError(f"questions and answers do not pair: {len(parts)} parts between rules")
    exchanges = []
    for question, answer in zip(parts[::2], parts[1::2], strict=True):
        if not question.startswith(_QUESTION) or not answer.startswith(_ANSWER):
            raise ReplyError(f"expected 'Question:' then 'Answer:', found {question[:40]!r}")
        pair = Exchange(question[len(_QUESTION) :].strip(), answer[len(_ANSWER) :].strip())
        if not pair.question or not pair.answer:
            raise ReplyError("an empty question or answer")
        if any(line.strip() == _RULE.strip() for part in pair for line in part.splitlines()):
            raise ReplyError(f"a stray rule after {pair.question[:40]!r}")
        exchanges.append(pair)
    return tuple(exchanges)
