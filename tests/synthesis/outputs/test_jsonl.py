from __future__ import annotations

from pathlib import Path

import msgspec

from laterna.records import InstructionRecord
from laterna.synthesis.outputs import write_records


def test_round_trip(tmp_path: Path, records: list[InstructionRecord]) -> None:
    out = tmp_path / "records.jsonl"
    write_records(out, records, "jsonl")
    lines = out.read_bytes().splitlines()
    assert [msgspec.json.decode(line, type=InstructionRecord) for line in lines] == records
