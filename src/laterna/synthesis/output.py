"""Writes instruction records as LLaVA's training JSON."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from laterna.files import write_atomically
from laterna.records import InstructionRecord, Role

SPEAKERS: dict[Role, str] = {"system": "system", "user": "human", "assistant": "gpt"}
"""Our roles in LLaVA's words."""


def write_llava_json(path: Path, records: Iterable[InstructionRecord]) -> None:
    """Write records whole or not at all; kind and provenance stand beside LLaVA's own keys."""
    rows = []
    for record in records:
        row: dict[str, object] = {"id": record.id}
        if record.pictures:
            row["image"] = record.pictures[0] if len(record.pictures) == 1 else record.pictures
        row["conversations"] = [
            {"from": SPEAKERS[turn.role], "value": turn.text} for turn in record.turns
        ]
        if record.kind:
            row["kind"] = record.kind
        if record.provenance:
            row["provenance"] = record.provenance
        rows.append(row)
    with write_atomically(path) as aside:
        aside.write_bytes(msgspec.json.encode(rows))
