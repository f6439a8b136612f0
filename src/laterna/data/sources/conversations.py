"""LLaVA's and ShareGPT's rows: `{"id", "image", "conversations": [{"from", "value"}]}`.

LLaVA writes `human` and `gpt`, ids as numbers or texts, no `image` in rows without a picture;
ShareGPT knows more names for the speakers, `images`, a `system` text, and often has no ids.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

from laterna.data.sources.rows import Foreign, Reading, turn_of
from laterna.records import Role, Turn

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


class Conversations(Foreign, frozen=True, kw_only=True):
    """A row of LLaVA's or ShareGPT's form."""

    column: ClassVar[str] = "conversations"

    conversations: list[_Spoken]
    system: str | None = None

    def reading(self, place: str) -> Reading:
        """Return the row's record: the assistant's turns carry loss, marks stay where they are.

        Raises UnreadableRowError for a row without turns, or with an unknown speaker.
        """
        turns = [turn_of(spoken.speaker, spoken.value, SPEAKERS) for spoken in self.conversations]
        if self.system and turns:
            turns.insert(0, Turn(role="system", text=self.system))
        return self.record_of(place, turns, self.listed())
