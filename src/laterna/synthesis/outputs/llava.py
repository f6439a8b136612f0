"""LLaVA's training JSON: one list of chats."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from laterna.records import InstructionRecord, Role
from laterna.synthesis.outputs.base import require_usual_loss

SPEAKERS: dict[Role, str] = {"system": "system", "user": "human", "assistant": "gpt"}
"""Our roles in LLaVA's words."""


def write_llava(path: Path, records: Iterable[InstructionRecord]) -> int:
    """Write the records as one JSON list; kind and provenance stand beside LLaVA's own keys."""
    number = 0
    with path.open("wb") as file:
        file.write(b"[")
        for number, record in enumerate(records, start=1):
            if number > 1:
                file.write(b",")
            file.write(msgspec.json.encode(llava_row(record)))
        file.write(b"]")
    return number


def llava_row(record: InstructionRecord) -> dict[str, object]:
    """Return a record as LLaVA writes it; `image` is a list only for several images."""
    require_usual_loss(record, "llava")
    row: dict[str, object] = {"id": record.id}
    if record.images:
        row["image"] = record.images[0] if len(record.images) == 1 else record.images
    row["conversations"] = [
        {"from": SPEAKERS[turn.role], "value": turn.text} for turn in record.turns
    ]
    if record.kind:
        row["kind"] = record.kind
    if record.provenance:
        row["provenance"] = record.provenance
    return row
