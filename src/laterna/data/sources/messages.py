"""Hugging Face's rows: `{"messages": [{"role", "content"}], "images": […]}`.

`content` is a text, in which `<image>` marks a picture, or a list of parts, of which a part of
type `image` is a picture. A picture part at the beginning or the end of a turn is set apart by a
line's end, as LLaVA writes it; one amid the words stands as it is.
"""

from __future__ import annotations

from itertools import takewhile
from typing import ClassVar

import msgspec

from laterna.data.sources.rows import Embedded, Foreign, Reading, UnreadableRowError, turn_of
from laterna.records import PICTURE_MARK, Role

ROLES: dict[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}


class _Part(msgspec.Struct, frozen=True):
    kind: str = msgspec.field(name="type")
    text: str | None = None
    image: str | Embedded | None = None
    path: str | None = None
    url: str | None = None

    @property
    def picture(self) -> str | Embedded | None:
        """The picture that the part names itself, where it does."""
        return self.image or self.path or self.url


class _Message(msgspec.Struct, frozen=True):
    role: str
    content: str | list[_Part]


class Messages(Foreign, frozen=True, kw_only=True):
    """A row of Hugging Face's form."""

    column: ClassVar[str] = "messages"

    messages: list[_Message]

    def reading(self, place: str) -> Reading:
        """Return the row's record: the assistant's turns carry loss.

        Raises UnreadableRowError for a row without turns, an unknown role, or a part that is
        neither text nor picture.
        """
        own = [picture for message in self.messages for picture in _own_pictures(message)]
        turns = [turn_of(said.role, _text(said.content), ROLES) for said in self.messages]
        return self.record_of(place, turns, self.listed() or own)


def _own_pictures(message: _Message) -> list[str | Embedded]:
    if isinstance(message.content, str):
        return []
    return [part.picture for part in message.content if part.picture]


def _text(content: str | list[_Part]) -> str:
    """Return a message's text; parts are written as one, picture parts as marks."""
    if isinstance(content, str):
        return content
    parts = content
    for part in parts:
        if part.kind not in ("text", "image") or (part.kind == "text" and part.text is None):
            raise UnreadableRowError(
                "a part that is neither text nor picture",
                f"a part of type {part.kind!r} has no text and is no picture",
            )
    first = sum(1 for _ in takewhile(_is_picture, parts))
    if first == len(parts):
        return "\n".join([PICTURE_MARK] * first)
    last = sum(1 for _ in takewhile(_is_picture, reversed(parts)))
    middle = parts[first : len(parts) - last]
    words = "".join(PICTURE_MARK if _is_picture(part) else part.text or "" for part in middle)
    return f"{PICTURE_MARK}\n" * first + words + f"\n{PICTURE_MARK}" * last


def _is_picture(part: _Part) -> bool:
    return part.kind == "image"
