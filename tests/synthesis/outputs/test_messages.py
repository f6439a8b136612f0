from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from laterna.errors import LaternaError
from laterna.records import InstructionRecord, Turn
from laterna.synthesis.outputs import write_records


def write(path: Path, *records: InstructionRecord) -> list[dict[str, Any]]:
    write_records(path, records, "messages")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def text_of(content: list[dict[str, str]]) -> str:
    """The turn as `Turn.text` has it: marks set apart by line ends."""
    return "\n".join("<image>" if part["type"] == "image" else part["text"] for part in content)


def test_the_form_of_hugging_face(tmp_path: Path, records: list[InstructionRecord]) -> None:
    rows = write(tmp_path / "out.jsonl", *records)
    answer = {"role": "assistant", "content": [{"type": "text", "text": "Ein Hörnchen.\nBraun."}]}
    image = {"type": "image"}
    assert rows[1] == {
        "id": "6",
        "messages": [
            {"role": "user", "content": [image, {"type": "text", "text": 'Was ist "das"?'}]},
            answer,
        ],
        "images": ["train2017/6.jpg"],
        "kind": None,
        "provenance": None,
    }
    assert rows[3]["messages"][0]["content"] == [
        {"type": "text", "text": "Which is older?"},
        image,
        image,
    ]
    assert rows[0]["provenance"]["ledger_key"] == "cd34"
    assert rows[0]["messages"][0] == {
        "role": "system",
        "content": [{"type": "text", "text": "Be brief."}],
    }


def test_the_turns_can_be_had_back(tmp_path: Path, records: list[InstructionRecord]) -> None:
    rows = write(tmp_path / "out.jsonl", *records)
    found = [
        InstructionRecord(
            id=row["id"],
            images=tuple(row["images"]),
            turns=tuple(
                Turn(
                    role=message["role"],
                    text=text_of(message["content"]),
                    loss=message["role"] == "assistant",
                )
                for message in row["messages"]
            ),
        )
        for row in rows
    ]
    wanted = [InstructionRecord(id=r.id, images=r.images, turns=r.turns) for r in records]
    assert found == wanted


def test_only_a_user_shows_images(tmp_path: Path) -> None:
    said = "I cannot see an <image>."
    turns = (
        Turn(role="user", text="Between <image> and?"),
        Turn(role="assistant", text=said, loss=True),
    )
    row = write(tmp_path / "out", InstructionRecord(id="1", images=("a.jpg",), turns=turns))[0]
    assert [message["content"] for message in row["messages"]] == [
        [
            {"type": "text", "text": "Between "},
            {"type": "image"},
            {"type": "text", "text": " and?"},
        ],
        [{"type": "text", "text": said}],
    ]


def test_marks_without_images_are_refused(tmp_path: Path) -> None:
    turns = (Turn(role="user", text="<image> and <image>"),)
    record = InstructionRecord(id="1", images=("a.jpg",), turns=turns)
    with pytest.raises(LaternaError, match=r"record 1: 2 <image> marks .* but 1 images"):
        write(tmp_path / "out", record)
