"""The form of a teacher's reply: written by prompts' examples and scribe, read by everyone.

Conversation and reasoning: `Question:`, text, `===`, `Answer:`, text, repeated with `===`
between. Detail: the bare answer.

What is written is exactly that. What is read is wider, since teachers write the same in many
ways: a line opens a question or an answer when it begins with a label, in whatever dress (bold,
a heading, a number, brackets, a colon of any kind), and what follows up to the next label is its
text. Rules of three or more signs between them say nothing, but for `===`, behind which an answer
may lack its label, and so may a question that ends in a question mark. Where no line has a label,
numbered and bold lines that end in a question mark open the questions. What does not pair is
refused.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Literal, NamedTuple

from laterna.errors import LaternaError
from laterna.scenes.vocabulary import read_patterns

_RULE = "\n===\n"
_Part = Literal["question", "answer"]
_LABELS: dict[str, _Part] = {
    "question": "question", "q": "question", "user": "question", "human": "question",
    "person": "question", "curious person": "question", "viewer": "question",
    "request": "question", "questioner": "question", "asker": "question",
    "interviewer": "question",
    "answer": "answer", "a": "answer", "assistant": "answer", "ai": "answer", "bot": "answer",
    "gpt": "answer", "response": "answer", "reply": "answer", "you": "answer",
    "ans": "answer", "respondent": "answer",
}  # fmt: skip
_COLONS = ":：﹕︰"
_LABEL_WORDS = "|".join(sorted(_LABELS, key=len, reverse=True)).replace(" ", r"\ ")
_SAYS = read_patterns(__package__, "parsing", labels=_LABEL_WORDS, colons=_COLONS)


class Exchange(NamedTuple):
    """One question and its answer."""

    question: str
    answer: str


class ReplyError(LaternaError):
    """A reply that is not in the form it was asked for."""


def write_reply(exchanges: Sequence[Exchange]) -> str:
    """Return exchanges in the reply form."""
    return _RULE.join(f"Question:\n{q}{_RULE}Answer:\n{a}" for q, a in exchanges)


def parse_reply(text: str) -> tuple[Exchange, ...]:
    """Return the exchanges of a reply; raise ReplyError where it strays from every form."""
    parts = _parts_of_json(text) or _parts(text)
    if not parts or len(parts) % 2:
        raise ReplyError(f"questions and answers do not pair: {len(parts)} parts")
    exchanges = []
    for (first, question), (second, answer) in zip(parts[::2], parts[1::2], strict=True):
        if (first, second) != ("question", "answer"):
            raise ReplyError(f"expected a question, then its answer, at {question[:40]!r}")
        if not question or not answer:
            raise ReplyError("an empty question or answer")
        exchanges.append(Exchange(question, answer))
    return tuple(exchanges)


def label_of(line: str) -> tuple[_Part, str] | None:
    """Return what a line opens and the text behind its label; None where it opens nothing."""
    match = _SAYS["label"].match(line)
    if match is None:
        return None
    word, sign, rest = match["word"].lower(), match["sign"], match["rest"]
    dressed = bool(match["number"] or match["before"].strip(" \t-•>") or match["after"].strip())
    if sign not in _COLONS or not sign:
        # "A", "You" or "A - dog" are words of a text; "Q1. …", "Q. …" and "**Answer**" are not.
        spelt = word in ("question", "answer") or (word in ("q", "a") and sign in (".", ")"))
        if not (spelt or match["number"] or (dressed and not sign)):
            return None
    if any(mark in match["before"] for mark in "*_(["):
        rest = _SAYS["closers"].sub("", rest)  # of the label alone: "**Question:** …"
    return _LABELS[word], rest.strip()


def _parts(text: str) -> list[tuple[_Part, str]]:
    """Return the labeled parts of a text in their order."""
    lines = _SAYS["inline"].sub("\n", _SAYS["flat"].sub(_RULE, text.strip())).splitlines()
    labels = [label_of(line) for line in lines]
    numbered = not any(labels)
    if numbered:
        labels = [bare_question(line) for line in lines]
    parts: list[tuple[_Part, list[str]]] = []
    rule = "==="  # what stood before the line: as if a rule stood before the first
    for line, label in zip(lines, labels, strict=True):
        if label is not None:
            part, rest = label
            parts.append((part, [rest]))
            if numbered:
                parts.append(("answer", []))
        elif _SAYS["signs"].match(line):
            if parts and "".join(parts[-1][1]).strip():
                rule = "===" if _SAYS["rule_line"].match(line) else "another"
            continue
        elif not line.strip():
            if parts:
                parts[-1][1].append("")
            continue
        elif rule:
            parts.append((_unlabeled(line, parts, rule), [line]))
        else:
            parts[-1][1].append(line)
        rule = ""
    return [(part, _undressed(said)) for part, said in parts]


def _unlabeled(line: str, parts: list[tuple[_Part, list[str]]], rule: str) -> _Part:
    """Return what a line behind a rule opens that has no label; raise ReplyError where nothing."""
    if rule == "===" and parts and parts[-1][0] == "question":
        return "answer"
    if rule == "===" and line.rstrip().endswith(("?", "？")):
        return "question"
    raise ReplyError(f"expected a question, found {line[:40]!r}")


def bare_question(line: str) -> tuple[_Part, str] | None:
    """Return the question that a numbered or a bold line is, where no line has a label."""
    match = _SAYS["numbered"].match(line)
    return ("question", match["rest"]) if match else None


def _undressed(lines: list[str]) -> str:
    """Return a part's text without the dress of its label and of the whole."""
    text = "\n".join(_SAYS["closing_tag"].sub("", line) for line in lines).strip()
    for mark in ("**", "__"):  # one half of it dressed the label: "**Question:** …"
        if text.count(mark) % 2:
            text = text.removeprefix(mark) if text.startswith(mark) else text.removesuffix(mark)
            text = text.strip()
    for mark in ("**", "__", "*", "_"):
        inner = text[len(mark) : -len(mark)]
        if len(text) > 2 * len(mark) and text == f"{mark}{inner}{mark}" and mark not in inner:
            text = inner.strip()
    return text


def _parts_of_json(text: str) -> list[tuple[_Part, str]]:
    """Return the parts of a reply written as JSON: objects of a question and an answer."""
    if not text.lstrip().startswith(("{", "[")):
        return []
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return []
    if isinstance(found, dict) and len(found) == 1 and isinstance(next(iter(found.values())), list):
        (found,) = found.values()
    parts: list[tuple[_Part, str]] = []
    for item in found if isinstance(found, list) else [found]:
        if not isinstance(item, dict):
            return []
        role, said = item.get("role", item.get("from")), item.get("content", item.get("value"))
        for name, value in [(role, said)] if isinstance(role, str) else item.items():
            part = _LABELS.get(str(name).lower())
            if part is None or not isinstance(value, str):
                return []
            parts.append((part, value.strip()))
    return parts
