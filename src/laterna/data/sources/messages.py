"""Hugging Face's rows: `{"messages": [{"role", "content"}], "images": […]}`.

`content` is a text, in which `<image>` marks a picture, or a list of parts, of which a part of
type `image` is a picture. A picture part at the beginning or the end of a turn is set apart by a
line's end, as LLaVA writes it; one amid the words stands as it is.
"""

from __future__ import annotations

from itertools import takewhile
from typing import ClassVar

import msgspec

from laterna.data.sources.rows import (
    Embedded,
    Form,
    Pictures,
    Reading,
    UnreadableRowError,
    named,
    picture_list,
)
from laterna.records import PICTURE_MARK, InstructionRecord, Kind, Provenance, Role, Turn

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


class Messages(Form, frozen=True, kw_only=True):
    """A row of Hugging Face's form."""

    column: ClassVar[str] = "messages"

    messages: list[_Message]
    id: str | int | None = None
    image: Pictures = None
    images: Pictures = None
    kind: Kind | None = None
    provenance: Provenance | None = None

    def reading(self, place: str) -> Reading:
        """Return the row's record: the assistant's turns carry loss.

        Raises UnreadableRowError for a row without turns, an unknown role, or a part that is
        neither text nor picture.
        """
        if not self.messages:
            raise UnreadableRowError("no turns", "`messages` is empty")
        given = picture_list(self.image) + picture_list(self.images)
        if not given:
            given = [picture for message in self.messages for picture in _own_pictures(message)]
        pictures, embedded = named(given)
        record = InstructionRecord(
            id=place if self.id is None else str(self.id),
            pictures=pictures,
            turns=tuple(_turn(message) for message in self.messages),
            kind=self.kind,
            provenance=self.provenance,
        )
        return Reading(record=record, embedded=embedded)


def _own_pictures(message: _Message) -> list[str | Embedded]:
    if isinstance(message.content, str):
        return []
    return [part.picture for part in message.content if part.picture]


def _turn(message: _Message) -> Turn:
    role = ROLES.get(message.role)
    if role is None:
        known = ", ".join(ROLES)
        raise UnreadableRowError(
            "unknown role", f"unknown role {message.role!r}; known roles are: {known}"
        )
    content = message.content
    text = content if isinstance(content, str) else _text(content)
    return Turn(role=role, text=text, loss=role == "assistant")


def _text(parts: list[_Part]) -> str:
    """Write parts as one text, picture parts as marks."""
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
