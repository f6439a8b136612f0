"""Our own rows: an `InstructionRecord` as it is."""

from __future__ import annotations

from typing import ClassVar

from laterna.data.sources.rows import Form, Reading, UnreadableRowError
from laterna.records import InstructionRecord, Kind, Provenance, Turn


class Own(Form, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A row with the fields of `InstructionRecord`, as `synthesize --form jsonl` writes it."""

    column: ClassVar[str] = "turns"

    id: str
    pictures: tuple[str, ...]
    turns: tuple[Turn, ...]
    kind: Kind | None = None
    provenance: Provenance | None = None

    def reading(self, place: str) -> Reading:
        """Return the row's record. Raises UnreadableRowError for a row without turns."""
        del place  # the form requires an id
        if not self.turns:
            raise UnreadableRowError("no turns", "`turns` is empty")
        record = InstructionRecord(
            id=self.id,
            pictures=self.pictures,
            turns=self.turns,
            kind=self.kind,
            provenance=self.provenance,
        )
        return Reading(record=record)
