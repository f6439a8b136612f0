"""Foreign chat templates in the form that Laterna renders: turns as text with `<image>` marks."""

from __future__ import annotations

from typing import Any

from jinja2 import TemplateError

from laterna.errors import LaternaError
from laterna.model.exporters.template import accepting_text
from laterna.records import PICTURE_MARK

_WORDS = "What is on the table?"


def in_our_form(template: str, tokenizer: Any) -> str:
    """Return a template that takes turns as text; one that does already is returned as it is.

    Whether it does is seen by rendering a turn: its words and its mark must come out. Raises
    LaternaError for a template that takes turns neither as text nor as lists of pieces.
    """
    for candidate in (template, accepting_text(template)):
        if _takes_text(candidate, tokenizer):
            return candidate
    raise LaternaError(
        "the chat template takes turns neither as text nor as lists of pieces; name a shipped "
        "template instead"
    )


def _takes_text(template: str, tokenizer: Any) -> bool:
    turns = [{"role": "user", "content": f"{PICTURE_MARK}\n{_WORDS}"}]
    try:
        text = tokenizer.apply_chat_template(turns, chat_template=template, tokenize=False)
    except (TemplateError, TypeError, ValueError):
        return False
    return _WORDS in text and text.count(PICTURE_MARK) == 1
