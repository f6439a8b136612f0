"""Rows that are no chat: VQA's and Alpaca's questions (see `chats`), and MMC4's documents.

    {"text_list": ["A cup.", "It is red."],
     "image_info": [{"image_name": "a.jpg", "matched_text_index": 1}]}

Of a document, what stands from an image to the next is what is learned after it, and the sentences
before the first are shown: `A cup.<image>` and `It is red.`, as in OpenFlamingo's train/data.py.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import msgspec

from laterna.data.sources import keys
from laterna.data.sources.chats import Said, columns_of, is_said, record_of, words_turn
from laterna.data.sources.rows import Columns, Form, Image, Reading, UnreadableRowError, images_in
from laterna.records import DEFAULT_IMAGE_TOKEN

_PLACE = "matched_text_index"
"""Number of the sentence that an image of a document stands before, from 0."""
_INSIDE = "image_base64"
_NAMED = ("image_name", "file_name")


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


def _read_document(row: bytes | Columns, place: str) -> Reading:
    content = columns_of(row)
    sentences = _listed(content, "text_list")
    if not all(isinstance(one, str) for one in sentences):
        raise msgspec.ValidationError("Expected `list` of `str`: `text_list`")
    shown: dict[int, list[Image]] = {}
    for one in _listed(content, "image_info"):
        shown.setdefault(_place_of(one, len(sentences)), []).extend(_image_of(one))
    if not shown:
        raise UnreadableRowError("a document without images", "its `image_info` names no image")
    borders = [*sorted(shown), len(sentences)]
    lead = " ".join(sentences[: borders[0]])
    said: list[Said] = []
    for start, end in pairwise(borders):
        marks = DEFAULT_IMAGE_TOKEN * len(shown[start])
        said.append((words_turn("user", ("" if said else lead) + marks), shown[start]))
        said.append((words_turn("assistant", " ".join(sentences[start:end])), []))
    return record_of(content, place, said, keys.ROW_KEYS, marked=True)


def _listed(row: Columns, key: str) -> list[Any]:
    found = row.get(key)
    if isinstance(found, list):
        return found
    raise msgspec.ValidationError(f"Expected `list`, got `{type(found).__name__}`: `{key}`")


def _place_of(info: Any, sentences: int) -> int:
    if not isinstance(info, dict):
        raise msgspec.ValidationError("Expected `object`: an image of `image_info`")
    place = info.get(_PLACE)
    whole = type(place) is int or (isinstance(place, float) and place.is_integer())
    if isinstance(place, int | float) and whole and 0 <= place < sentences:
        return int(place)
    raise UnreadableRowError(
        "an image at no sentence",
        f"an image's `{_PLACE}` is {place!r}; the document's {sentences} sentences are counted "
        "from 0",
    )


def _image_of(info: Columns) -> list[Image]:
    if is_said(info.get(_INSIDE)):
        return images_in({"bytes": info[_INSIDE]})
    found = next((images_in(info[key]) for key in _NAMED if is_said(info.get(key))), [])
    if len(found) == 1:
        return found
    raise UnreadableRowError(
        "image missing",
        f"an image of `image_info` has neither `{_INSIDE}` nor `{_NAMED[0]}`; images on the web "
        "are not fetched",
    )


VQA = Form(
    columns=(("question", "answer"), ("question", "answers"), ("query", "response")),
    read=_read_vqa,
)
ALPACA = Form(columns=(("instruction", "output"),), read=_read_alpaca)
DOCUMENTS = Form(columns=(("text_list", "image_info"),), read=_read_document)
