from __future__ import annotations

import json
from pathlib import Path

import msgspec

from laterna.data.sources import read_records
from laterna.records import InstructionRecord
from laterna.synthesis.outputs import write_records
from laterna.synthesis.outputs.llava import llava_row


def test_llavas_own_form(tmp_path: Path, records: list[InstructionRecord]) -> None:
    out = tmp_path / "records.json"
    write_records(out, records, "llava")
    chat = [
        {"from": "human", "value": '<image>\nWas ist "das"?'},
        {"from": "gpt", "value": "Ein Hörnchen.\nBraun."},
    ]
    rows = json.loads(out.read_text(encoding="utf-8"))
    assert rows[0] == {
        "id": "5-detail",
        "image": "5.jpg",
        "conversations": [
            {"from": "system", "value": "Be brief."},
            *chat,
            {"from": "human", "value": "Sure?"},
            {"from": "gpt", "value": "Yes."},
        ],
        "kind": "detail",
        "provenance": {
            "teacher": "gpt-4",
            "proxy_digest": "ab12",
            "channels": ["caption", "", "box"],
            "ledger_key": "cd34",
        },
    }
    assert rows[1] == {"id": "6", "image": "train2017/6.jpg", "conversations": chat}
    assert "image" not in rows[2]
    assert rows[3]["image"] == ["a.jpg", "b.jpg"]


def test_the_stream_is_the_encoding_of_the_list(
    tmp_path: Path, records: list[InstructionRecord]
) -> None:
    out = tmp_path / "records.json"
    for part in (records, records[:1], []):
        assert write_records(out, part, "llava") == len(part)
        assert out.read_bytes() == msgspec.json.encode([llava_row(record) for record in part])


def test_what_is_written_is_what_training_reads(
    tmp_path: Path, records: list[InstructionRecord]
) -> None:
    write_records(tmp_path / "records.json", records, "llava")
    assert list(read_records(tmp_path / "records.json")) == records
