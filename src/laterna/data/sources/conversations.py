"""LLaVA's and ShareGPT's rows: `{"id", "image", "conversations": [{"from", "value"}]}`.

LLaVA writes `human` and `gpt`, ids as numbers or texts, no `image` in rows without a picture;
ShareGPT knows more names for the speakers, `images`, a `system` text, and often has no ids.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

from laterna.data.sources.rows import (
    Form,
    Pictures,
    Reading,
    UnreadableRowError,
    named,
    picture_list,
)
from laterna.records import InstructionRecord, Kind, Provenance, Role, Turn

SPEAKERS: dict[str, Role] = {
    "human": "user",
    "gpt": "assistant",
    "system": "system",
    "user": "user",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
}


class _Spoken(msgspec.Struct, frozen=True):
    speaker: str = msgspec.field(name="from")
    value: str


class Conversations(Form, frozen=True, kw_only=True):
    """A row of LLaVA's or ShareGPT's form."""

    column: ClassVar[str] = "conversations"

    conversations: list[_Spoken]
    id: str | int | None = None
    image: Pictures = None
    images: Pictures = None
    system: str | None = None
    kind: Kind | None = None
    provenance: Provenance | None = None

    def reading(self, place: str) -> Reading:
        """Return the row's record: the assistant's turns carry loss, marks stay where they are.

        Raises UnreadableRowError for a row without turns, or with an unknown speaker.
        """
        if not self.conversations:
            raise UnreadableRowError("no turns", "`conversations` is empty")
        turns = [_turn(spoken) for spoken in self.conversations]
        if self.system:
            turns.insert(0, Turn(role="system", text=self.system))
        pictures, embedded = named(picture_list(self.image) + picture_list(self.images))
        record = InstructionRecord(
            id=place if self.id is None else str(self.id),
            pictures=pictures,
            turns=tuple(turns),
            kind=self.kind,
            provenance=self.provenance,
        )
        return Reading(record=record, embedded=embedded)


def _turn(spoken: _Spoken) -> Turn:
    role = SPEAKERS.get(spoken.speaker)
    if role is None:
        known = ", ".join(SPEAKERS)
        raise UnreadableRowError(
            "unknown role", f"unknown role {spoken.speaker!r}; known roles are: {known}"
        )
    return Turn(role=role, text=spoken.value, loss=role == "assistant")
