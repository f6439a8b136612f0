from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from pyarrow import parquet as pq

from laterna.records import InstructionRecord, Provenance, Turn
from laterna.synthesis.outputs import parquet, write_records


def test_round_trip(tmp_path: Path, records: list[InstructionRecord]) -> None:
    write_records(tmp_path / "records.parquet", records, "parquet")
    rows = pq.read_table(tmp_path / "records.parquet").to_pylist()
    assert [msgspec.convert(row, InstructionRecord) for row in rows] == records


def test_every_field_has_its_column(tmp_path: Path) -> None:
    assert write_records(tmp_path / "records.parquet", [], "parquet") == 0
    schema = pq.read_schema(tmp_path / "records.parquet")
    assert tuple(schema.names) == InstructionRecord.__struct_fields__
    turn, provenance = schema.field("turns").type.value_type, schema.field("provenance").type
    assert tuple(field.name for field in turn) == Turn.__struct_fields__
    assert tuple(field.name for field in provenance) == Provenance.__struct_fields__


def test_rows_are_grouped(
    tmp_path: Path, records: list[InstructionRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "ROW_GROUP", 3)
    assert write_records(tmp_path / "records.parquet", records, "parquet") == 4
    found = pq.read_metadata(tmp_path / "records.parquet")
    assert [found.row_group(group).num_rows for group in range(found.num_row_groups)] == [3, 1]
