"""Rows that are one question and its answer: VQA's and Alpaca's (see `chats`)."""

from __future__ import annotations

from collections import Counter

import msgspec

from laterna.data.sources import keys
from laterna.data.sources.chats import Said, columns_of, is_said, record_of, words_turn
from laterna.data.sources.rows import Columns, Form, Reading


def _read_vqa(row: bytes | Columns, place: str) -> Reading:
    content = columns_of(row)
    asked = content.get("question") or content.get("query")
    said = next(
        (content[key] for key in ("answer", "response", "answers") if is_said(content.get(key))),
        None,
    )
    found: list[Said] = [
        (words_turn("user", asked), []),
        (words_turn("assistant", _answer(said)), []),
    ]
    return record_of(content, place, found, keys.QUESTION_KEYS, marked=False)


def _answer(said: object) -> object:
    """Return the answer that is learned: of several, the most frequent, and of those the first."""
    if isinstance(said, list):
        texts = [one.get("answer") if isinstance(one, dict) else one for one in said]
        if not all(isinstance(text, str) for text in texts):
            raise msgspec.ValidationError("Expected `list` of `str`: `answers`")
        (said, _), *_ = Counter(texts).most_common(1)
    whole = isinstance(said, int) and not isinstance(said, bool)
    return "" if said is None else str(said) if whole else said


def _read_alpaca(row: bytes | Columns, place: str) -> Reading:
    content = columns_of(row)
    asked = words_turn("user", content.get("instruction"))
    if is_said(content.get("input")):
        asked = words_turn("user", f"{asked.text}\n{words_turn('user', content['input']).text}")
    said = words_turn("assistant", content.get("output"))
    return record_of(content, place, [(asked, []), (said, [])], keys.ROW_KEYS, marked=False)


VQA = Form(
    columns=(("question", "answer"), ("question", "answers"), ("query", "response")),
    read=_read_vqa,
)
ALPACA = Form(columns=(("instruction", "output"),), read=_read_alpaca)
