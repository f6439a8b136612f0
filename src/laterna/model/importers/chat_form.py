"""Foreign chat templates in the form that Laterna renders: turns as text with `<image>` marks."""

from __future__ import annotations

from typing import Any

from jinja2 import TemplateError

from laterna.errors import LaternaError
from laterna.model.exporters.template import accepting_text, beginning_with_bos
from laterna.records import PICTURE_MARK

_WORDS = "What is on the table?"


def in_our_form(template: str, tokenizer: Any) -> str:
    """Return a template that takes turns as text; one that does already is returned as it is.

    Whether it does is seen by rendering a turn: its words and its mark must come out. Where the
    tokenizer itself puts a BOS before a text, as llava-hf's do, and the template does not write
    it, the returned one does: Laterna's tokens are those of the text alone. Raises LaternaError for
    a template that takes turns neither as text nor as lists of pieces.
    """
    for candidate in (template, accepting_text(template)):
        if (text := _rendered(candidate, tokenizer)) is None:
            continue
        bos, first = tokenizer.bos_token, tokenizer("").input_ids[:1]
        adds = bool(bos) and first == [tokenizer.bos_token_id] and not text.startswith(bos)
        return beginning_with_bos(candidate) if adds else candidate
    raise LaternaError(
        "the chat template takes turns neither as text nor as lists of pieces; name a shipped "
        "template instead"
    )


def _rendered(template: str, tokenizer: Any) -> str | None:
    """Render a turn; None where its words or its mark are lost."""
    turns = [{"role": "user", "content": f"{PICTURE_MARK}\n{_WORDS}"}]
    try:
        text = tokenizer.apply_chat_template(
            turns, chat_template=template, tokenize=False, picture_mark=PICTURE_MARK
        )
    except (TemplateError, TypeError, ValueError):
        return None
    return text if _WORDS in text and text.count(PICTURE_MARK) == 1 else None
