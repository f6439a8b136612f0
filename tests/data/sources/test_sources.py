"""Every form and every container: the records that come out, and what is said of what cannot."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from laterna.data.fingerprints import Fingerprints
from laterna.data.sources import FORMS, open_source, read_records
from laterna.data.sources.rows import Reading, read_chunk
from laterna.errors import LaternaError
from laterna.recipe import SourceSettings
from laterna.records import InstructionRecord, Provenance, Turn
from laterna.synthesis.outputs import write_records

ASK = {"from": "human", "value": "<image>\nWhat is it?"}
ANSWER = {"from": "gpt", "value": "A cup, not an <image>."}
RECORD = InstructionRecord(
    id="7",
    images=("a/b.jpg",),
    turns=(
        Turn(role="user", text="<image>\nWhat is it?"),
        Turn(role="assistant", text="A cup, not an <image>.", loss=True),
    ),
)
WORDS = InstructionRecord(id="8", images=(), turns=(Turn(role="user", text="Hi"), RECORD.turns[1]))


def written(folder: Path, rows: object) -> Path:
    path = folder / "data.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def readings(source: SourceSettings) -> list[Reading]:
    opened = open_source(source)
    found = [row for part in opened.chunks() for row in read_chunk(part, FORMS[opened.form])]
    assert all(isinstance(row, Reading) for row in found), found
    return [row for row in found if isinstance(row, Reading)]


def test_a_row_of_llava_with_keys_that_are_not_ours(tmp_path: Path) -> None:
    row = {"id": 7, "image": "a/b.jpg", "conversations": [ASK, ANSWER], "model": "x"}
    assert list(read_records(written(tmp_path, [row]))) == [RECORD]


def test_mixed_ids_several_images_text_only_rows_and_system_turns(tmp_path: Path) -> None:
    system = {"from": "system", "value": "Be brief."}
    two = {"from": "human", "value": "Is <image> like <image>?"}
    words = {"from": "human", "value": "Hello"}
    rows = [
        {"id": "two", "image": ["a.png", "b.png"], "conversations": [system, two, ANSWER]},
        {"id": 33, "conversations": [words, ANSWER]},
        {"id": "null", "image": None, "conversations": [words, ANSWER]},
        {"id": "empty", "image": "", "images": [""], "conversations": [words, ANSWER]},
    ]
    records = list(read_records(written(tmp_path, rows)))
    assert [record.images for record in records] == [("a.png", "b.png"), (), (), ()]
    assert [record.id for record in records] == ["two", "33", "null", "empty"]
    assert records[0].turns[:2] == (
        Turn(role="system", text="Be brief."),
        Turn(role="user", text="Is <image> like <image>?"),
    )


def test_what_synthesis_adds(tmp_path: Path) -> None:
    made = {"teacher": "scribe", "proxy_digest": "ab"}
    row = {"id": "1", "image": "a.png", "conversations": [ASK, ANSWER], "kind": "detail"}
    (record,) = read_records(written(tmp_path, [row | {"provenance": made}]))
    assert record.kind == "detail"
    assert record.provenance == Provenance(teacher="scribe", proxy_digest="ab")


@pytest.mark.parametrize(
    "foreign",
    [{"kind": "conv"}, {"kind": 7}, {"provenance": {"source": "coco"}}, {"provenance": "web"}],
)
def test_other_programs_keys_of_our_names_end_no_row(
    tmp_path: Path, foreign: dict[str, object]
) -> None:
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "A dog."}]
    (record,) = read_records(written(tmp_path, [{"id": "1", "conversations": turns} | foreign]))
    assert record.turns[1].text == "A dog."
    assert (record.kind, record.provenance) == (None, None)


def test_a_row_of_sharegpt(tmp_path: Path) -> None:
    spoken = [{"from": "user", "value": "<image>Hi"}, {"from": "chatgpt", "value": "Hello."}]
    row = {"conversations": spoken, "images": ["a.png"], "system": "Be brief."}
    (record,) = read_records(written(tmp_path, [row]))
    assert record == InstructionRecord(
        id="row 1",
        images=("a.png",),
        turns=(
            Turn(role="system", text="Be brief."),
            Turn(role="user", text="<image>Hi"),
            Turn(role="assistant", text="Hello.", loss=True),
        ),
    )


@pytest.mark.parametrize("form", ["llava", "jsonl", "parquet", "messages"])
def test_what_synthesis_writes_is_read_back(form: str, tmp_path: Path) -> None:
    path = tmp_path / "data.json"  # the name says nothing
    assert write_records(path, [RECORD, WORDS], form) == 2
    assert list(read_records(path)) == [RECORD, WORDS]


def test_json_lines_of_llavas_rows(tmp_path: Path) -> None:
    row = {"id": 7, "image": "a/b.jpg", "conversations": [ASK, ANSWER]}
    path = tmp_path / "data"
    path.write_text(f"\ufeff\n{json.dumps(row)}\n\n{json.dumps(row)}", encoding="utf-8")
    assert list(read_records(path)) == [RECORD, RECORD]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("Hi <image>", "Hi <image>"),
        ([{"type": "image"}, {"type": "text", "text": "What?"}], "<image>\nWhat?"),
        ([{"type": "text", "text": "What?"}, {"type": "image"}], "What?\n<image>"),
        (
            [{"type": "text", "text": "a "}, {"type": "image"}, {"type": "text", "text": " b"}],
            "a <image> b",
        ),
        ([{"type": "image"}], "<image>"),
        ([{"type": "text", "text": ""}], "<image>\n"),
    ],
)
def test_parts_of_a_message(content: object, text: str, tmp_path: Path) -> None:
    said = [{"role": "user", "content": content}, {"role": "assistant", "content": "No."}]
    (record,) = read_records(written(tmp_path, [{"messages": said, "images": ["a.png"]}]))
    assert record.turns == (
        Turn(role="user", text=text),
        Turn(role="assistant", text="No.", loss=True),
    )


def test_images_that_the_parts_name(tmp_path: Path) -> None:
    parts = [{"type": "image", "image": "a.png"}, {"type": "image", "path": "b.png"}]
    row = {"messages": [{"role": "user", "content": parts}]}
    (record,) = read_records(written(tmp_path, [row]))
    assert record.images == ("a.png", "b.png")
    assert record.turns[0].text == "<image>\n<image>"


def png(colour: str) -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (4, 3), colour).save(sink, "PNG")
    return sink.getvalue()


ROW = {
    "messages": [
        {"role": "user", "content": [{"type": "image", "text": None}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Red."}]},
    ],
}


@pytest.mark.parametrize("saved", ["saved", "split", "folder", "parquet"])
def test_datasets_with_embedded_images(saved: str, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [ROW | {"images": [{"bytes": png(colour), "path": None}]} for colour in ("red", "blue")]
    table = pa.Table.from_pylist(rows)
    where = tmp_path / "set"
    if saved == "parquet":
        parquet.write_table(table, where)
    elif saved == "folder":
        where.mkdir()
        parquet.write_table(table, where / "train.parquet")
    else:
        dataset = datasets.Dataset(table).cast_column("images", [datasets.Image()])
        whole = datasets.DatasetDict(train=dataset) if saved == "split" else dataset
        whole.save_to_disk(where)
    found = readings(SourceSettings(data=str(where)))
    names = [one.record.images[0] for one in found]
    assert [one.record.id for one in found] == ["row 1", "row 2"]
    assert [one.record.turns[0].text for one in found] == ["<image>"] * 2
    assert [one.embedded for one in found] == [{names[0]: png("red")}, {names[1]: png("blue")}]


def test_a_split_that_is_not_there_is_named(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    dataset = datasets.Dataset.from_list([{"messages": [{"role": "user", "content": "Hi"}]}])
    datasets.DatasetDict(test=dataset).save_to_disk(tmp_path / "set")
    with pytest.raises(LaternaError, match=r"has no split 'train'; it has: test"):
        list(read_records(SourceSettings(data=str(tmp_path / "set"))))
    source = SourceSettings(data=str(tmp_path / "set"), split="test")
    assert [record.id for record in read_records(source)] == ["row 1"]


def test_the_hub_is_asked_for_the_id_and_streamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    dataset = datasets.Dataset.from_list([{"messages": [{"role": "user", "content": "Hi"}]}])
    asked = []

    def load_dataset(*args: object, **settings: object) -> object:
        asked.append((args, settings))
        return {"train": dataset.to_iterable_dataset()}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    source = SourceSettings(data="hub:owner/name", subset="easy")
    assert [record.turns[0].text for record in read_records(source)] == ["Hi"]
    assert asked[0] == (("owner/name", "easy"), {"streaming": True})


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"id": 3, "image": "a.png", "conversations": [{"from": "bot", "value": "x"}]},
            "record 3 (line 1): unknown role 'bot'; known roles are: human, gpt, system",
        ),
        ({"id": "k", "conversations": []}, "record k (line 1): there are no turns"),
        (
            {"id": "k", "conversations": [{"from": "gpt", "value": 1}]},
            "record k (line 1): Expected `str`, got `int`: the words of a turn",
        ),
        (
            {"conversations": [ASK], "image": {"bytes": None, "path": None}},
            "row 1 (line 1): an image has neither bytes nor a path",
        ),
        (
            {"conversations": [ASK], "image": {"bytes": None, "path": ""}},
            "row 1 (line 1): an image has neither bytes nor a path",
        ),
        ({"messages": [{"role": "tool", "content": "x"}]}, "row 1 (line 1): unknown role 'tool'"),
        ({"messages": []}, "row 1 (line 1): there are no turns"),
        (
            {"id": 1, "messages": [{"role": "user", "content": [{"type": "film"}]}]},
            "record 1 (line 1): a part of type 'film' has no text and is no image",
        ),
        ({"id": "k", "images": [], "turns": []}, "record k (line 1): there are no turns"),
        (
            {"id": "k", "images": [], "turns": [], "x": 1},
            "record k (line 1): Object contains unknown",
        ),
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
        (b"[]", "holds no records; nothing can be learned from it"),
        (b"{}", "the first row has the columns none"),
        (b'{"id": 1}', "the first row has the columns id; just one of these must be among them"),
        (b'[{"turns": 1, "messages": 2}]', "the first row has the columns turns, messages; just"),
        (b"\xff\xfe", "neither JSON "),
        (b"", "the file is empty"),
        (b'[{"id": 1', "line 1: row 1, which begins here, has no end"),
        (b"[1, 2]", "row 1 is no JSON object"),
        (b'{"caf\xe9": 1}', "row 1 is no JSON object"),
        (b"PAR1", "not a Parquet file that can be read"),
    ],
)
def test_a_bad_file_is_named_at_the_call(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "data.json"
    path.write_bytes(content)
    with pytest.raises(LaternaError, match=f"data.json: {message}"):
        read_records(path)


def test_a_missing_file_and_an_unknown_form_are_named(tmp_path: Path) -> None:
    with pytest.raises(LaternaError, match=r"none\.json: cannot be read: No such file"):
        read_records(tmp_path / "none.json")
    with pytest.raises(
        LaternaError, match="known are: auto, records, conversations, messages, texts, alpaca, vqa"
    ):
        read_records(SourceSettings(data=str(written(tmp_path, [])), form="llava"))


def test_a_form_that_is_said_is_kept_to(tmp_path: Path) -> None:
    row = {"id": "k", "messages": [{"role": "user", "content": "Hi"}], "turns": 3}
    path = written(tmp_path, [row])
    (record,) = read_records(SourceSettings(data=str(path), form="messages"))
    assert record.turns == (Turn(role="user", text="Hi"),)


def test_a_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for path in (one, other):
        path.mkdir()
        written(path, [{"id": 1, "conversations": [ASK, ANSWER]}])

    def digests() -> list[str]:
        now = Fingerprints(tmp_path / "known")
        return [now.of(str(path / "data.json")) for path in (one, other)]

    assert len(set(digests())) == 1
    written(other, [{"id": 2, "conversations": [ASK, ANSWER]}])
    assert len(set(digests())) == 2
