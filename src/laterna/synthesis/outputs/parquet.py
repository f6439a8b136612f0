"""Parquet, in row groups: what `datasets`, Spark or DuckDB read without a conversion."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import msgspec
import pyarrow as pa
from pyarrow import parquet

from laterna.records import InstructionRecord

ROW_GROUP = 4096
"""Records that are held in memory and written together: a few MB of text."""


def write_parquet(path: Path, records: Iterable[InstructionRecord]) -> int:
    """Write the records as rows with the fields of `InstructionRecord`, turns as structs.

    `msgspec.convert(row, InstructionRecord)` of each row of `read_table(path).to_pylist()` gives
    the records back.
    """
    texts = pa.list_(pa.string())
    turn = {"role": pa.string(), "text": pa.string(), "loss": pa.bool_()}
    provenance = {
        "teacher": pa.string(),
        "proxy_digest": pa.string(),
        "channels": texts,
        "ledger_key": pa.string(),
    }
    schema = pa.schema(
        {
            "id": pa.string(),
            "images": texts,
            "turns": pa.list_(pa.struct(turn)),
            "kind": pa.string(),
            "provenance": pa.struct(provenance),
        }
    )
    number = 0
    source = iter(records)
    with parquet.ParquetWriter(path, schema) as writer:
        while rows := [msgspec.to_builtins(record) for record in islice(source, ROW_GROUP)]:
            writer.write_table(pa.Table.from_pylist(rows, schema), row_group_size=ROW_GROUP)
            number += len(rows)
    return number
