from __future__ import annotations

import json
from pathlib import Path

import pytest

from laterna.records import InstructionRecord, Provenance, Turn
from laterna.synthesis.output import write_llava_json

TURNS = (
    Turn(role="system", text="Be brief."),
    Turn(role="user", text="<image>\nWhat is it?"),
    Turn(role="assistant", text="Ein Hörnchen.", loss=True),
)


def test_llavas_own_form(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "records.json"
    record = InstructionRecord(
        id="5-detail",
        pictures=("5.jpg",),
        turns=TURNS,
        kind="detail",
        provenance=Provenance(teacher="scribe", proxy_digest="ab"),
    )
    text_only = InstructionRecord(id="6", pictures=(), turns=TURNS[1:])
    several = InstructionRecord(id="7", pictures=("a.jpg", "b.jpg"), turns=TURNS[1:])
    write_llava_json(out, [record, text_only, several])
    chat = [
        {"from": "human", "value": "<image>\nWhat is it?"},
        {"from": "gpt", "value": "Ein Hörnchen."},
    ]
    assert json.loads(out.read_text(encoding="utf-8")) == [
        {
            "id": "5-detail",
            "image": "5.jpg",
            "conversations": [{"from": "system", "value": "Be brief."}, *chat],
            "kind": "detail",
            "provenance": {"teacher": "scribe", "proxy_digest": "ab"},
        },
        {"id": "6", "conversations": chat},
        {"id": "7", "image": ["a.jpg", "b.jpg"], "conversations": chat},
    ]
    assert [path.name for path in out.parent.iterdir()] == ["records.json"]


def test_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    out = tmp_path / "records.json"
    out.write_text("old")

    def failing() -> object:
        yield InstructionRecord(id="1", pictures=(), turns=TURNS)
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError):
        write_llava_json(out, failing())  # type: ignore[arg-type]
    assert out.read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]
