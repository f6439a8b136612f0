"""LLaVA's training JSON, as it is found in the wild and as synthesis writes it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from laterna.data.sources import read_records, stream_records
from laterna.errors import LaternaError
from laterna.records import InstructionRecord, Provenance, Turn

ASK = {"from": "human", "value": "<image>\nWhat is it?"}
ANSWER = {"from": "gpt", "value": "A cup, not an <image>."}


def written(folder: Path, rows: object) -> Path:
    path = folder / "data.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def test_reads_a_row_of_llava_with_keys_that_are_not_ours(tmp_path: Path) -> None:
    row = {"id": 7, "image": "a/b.jpg", "conversations": [ASK, ANSWER], "model": "x"}
    assert list(read_records(written(tmp_path, [row]))) == [
        InstructionRecord(
            id="7",
            pictures=("a/b.jpg",),
            turns=(
                Turn(role="user", text="<image>\nWhat is it?"),
                Turn(role="assistant", text="A cup, not an <image>.", loss=True),
            ),
        )
    ]


def test_reads_several_pictures_text_only_rows_and_system_turns(tmp_path: Path) -> None:
    system = {"from": "system", "value": "Be brief."}
    two = {"from": "human", "value": "<image> or <image>?"}
    words = {"from": "human", "value": "Hello"}
    rows = [
        {"id": "two", "image": ["a.png", "b.png"], "conversations": [system, two, ANSWER]},
        {"id": "none", "conversations": [words, ANSWER]},
        {"id": "null", "image": None, "conversations": [words, ANSWER]},
    ]
    records = list(read_records(written(tmp_path, rows)))
    assert [record.pictures for record in records] == [("a.png", "b.png"), (), ()]
    assert records[0].turns[0] == Turn(role="system", text="Be brief.")


def test_reads_what_synthesis_adds(tmp_path: Path) -> None:
    made = {"teacher": "scribe", "proxy_digest": "ab"}
    row = {"id": "1", "image": "a.png", "conversations": [ASK, ANSWER], "kind": "detail"}
    (record,) = read_records(written(tmp_path, [row | {"provenance": made}]))
    assert record.kind == "detail"
    assert record.provenance == Provenance(teacher="scribe", proxy_digest="ab")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"id": 3, "image": "a.png", "conversations": [{"from": "bot", "value": "x"}]},
            "record 3: unknown role 'bot'; known roles are: human, gpt, system",
        ),
        (
            {"id": "k", "conversations": [ASK, ANSWER]},
            "record k: 1 <image> marks in the human turns, but 0 pictures",
        ),
        (
            {"id": "k", "image": ["a", "b"], "conversations": [ASK, ANSWER]},
            "record k: 1 <image> marks in the human turns, but 2 pictures",
        ),
        ({"id": "k", "conversations": []}, "record k: `conversations` is empty"),
        ({"id": "k"}, "record k: Object missing required field `conversations`"),
        ({"id": "k", "conversations": [{"from": "gpt", "value": 1}]}, "record k: Expected `str`"),
        ({"conversations": []}, "row 1: Object missing required field `id`"),
        ({"id": "k", "conversations": [ANSWER], "kind": "joke"}, "record k: Invalid enum value"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: object, message: str) -> None:
    path = written(tmp_path, [row])
    with pytest.raises(LaternaError) as error:
        list(read_records(path))
    assert str(error.value).startswith(f"{path}: {message}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[]", "holds no records"),
        (b'{"id": 1}', "not a JSON list of records"),
        (b"\xff\xfe", "not a JSON list of records"),
        (b'[{"id": 1', "not a JSON list of records"),
    ],
)
def test_a_bad_file_is_named_at_the_call(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "data.json"
    path.write_bytes(content)
    with pytest.raises(LaternaError, match=f"data.json: {message}"):
        read_records(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(LaternaError, match=r"none\.json: cannot be read: No such file"):
        read_records(tmp_path / "none.json")


def test_a_stream_reads_the_same_records(tmp_path: Path) -> None:
    rows = [{"id": number, "image": "a.png", "conversations": [ASK, ANSWER]} for number in range(3)]
    path = written(tmp_path, rows)
    assert list(stream_records(path)) == list(read_records(path))


def test_a_stream_names_what_is_bad_where_it_is_reached(tmp_path: Path) -> None:
    good = {"id": "k", "conversations": [ASK | {"value": "Hi"}, ANSWER]}
    stream = stream_records(written(tmp_path, [good, {"id": "m"}]))
    assert next(stream).id == "k"
    with pytest.raises(LaternaError, match="record m: Object missing required field"):
        next(stream)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[]", "holds no list of records"),
        (b'{"id": 1}', "holds no list of records"),
        (b"", "not a JSON list of records after row 0"),
        (b"\xff\xfe", "not a JSON list of records after row 0"),
        (b'[{"id": 1', "not a JSON list of records after row 0"),
    ],
)
def test_a_stream_of_a_bad_file_is_an_error(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "data.json"
    path.write_bytes(content)
    with pytest.raises(LaternaError, match=f"data.json: {message}"):
        list(stream_records(path))
    with pytest.raises(LaternaError, match=r"none\.json: cannot be read"):
        list(stream_records(tmp_path / "none.json"))
