"""Our own rows: an `InstructionRecord` as it is."""

from __future__ import annotations

import msgspec

from laterna.data.sources.rows import Columns, Form, Reading, decode_json, pictures_in
from laterna.records import InstructionRecord


def _read(row: bytes | Columns, place: str) -> Reading:
    """Read a row with the fields of `InstructionRecord`, as `synthesize --form jsonl` writes it."""
    del place  # the form requires an id
    try:
        if isinstance(row, bytes):
            record = msgspec.json.decode(row, type=InstructionRecord)
        else:
            record = msgspec.convert(row, InstructionRecord)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        assert isinstance(row, bytes)
        record = msgspec.convert(decode_json(row), InstructionRecord)
    pictures = pictures_in(list(record.pictures))
    return Reading.of(record.id, record.turns, pictures, record.kind, record.provenance)


OWN = Form(columns=(("turns",),), read=_read)
