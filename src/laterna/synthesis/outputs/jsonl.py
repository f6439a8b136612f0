"""Our own `InstructionRecord`, one a line: everything is kept as it is."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from laterna.files import write_lines
from laterna.records import InstructionRecord


def write_jsonl(path: Path, records: Iterable[InstructionRecord]) -> int:
    """Write one record a line; `msgspec.json.decode(line, type=InstructionRecord)` reads it."""
    return write_lines(path, records)
