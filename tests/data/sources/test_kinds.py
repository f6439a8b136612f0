"""What other trainers read is read, and what changes a row's meaning is honoured or refused."""

from __future__ import annotations

import base64
import io
import json
import os
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from laterna.data.sources import read_rows
from laterna.data.sources.rows import Unreadable
from laterna.errors import LaternaError
from laterna.records import InstructionRecord

Q, MARKED = "What colour?", "<image>\nWhat colour?"
VIDEO, TOOLS, EMPTY = "asks about a video", "uses tools", "an answer is empty"
SOUND, RESERVED = "asks about a sound", "a reserved character in the text"
UNCLEAR = "says in a way that can be read both ways what of a turn is learned"
PREFERENCE = "compares answers, to learn a preference"
BESIDE = "has a part that we do not read beside its text"


def png(colour: str) -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (4, 3), colour).save(sink, "PNG")
    return sink.getvalue()


RED = png("red")
RED_NAME = sha256(RED).hexdigest()[:32]
RED_TEXT = base64.b64encode(RED).decode()


def spoken(*texts: str, **keys: object) -> dict[str, object]:
    """A row of LLaVA's: what the human and the machine say in turn."""
    said = [
        {"from": "gpt" if number % 2 else "human", "value": text}
        for number, text in enumerate(texts)
    ]
    return {"id": "a", "conversations": said} | keys


def chat(*messages: dict[str, object], **keys: object) -> dict[str, object]:
    return {"id": "a", "messages": [*messages, {"role": "assistant", "content": "Red."}]} | keys


def asked(*parts: object) -> dict[str, object]:
    return {"role": "user", "content": list(parts)}


def told(row: InstructionRecord | Unreadable) -> object:
    """Why a row is refused, or its images and turns; an answer not learned in brackets."""
    if isinstance(row, Unreadable):
        return row.reason
    texts = [
        f"({turn.text})" if turn.role == "assistant" and not turn.loss else turn.text
        for turn in row.turns
    ]
    return [*row.images], texts


def one_of(folder: Path, row: object) -> object:
    path = folder / "data.json"
    path.write_text(json.dumps([row]), encoding="utf-8")
    (found,) = read_rows(path)
    return told(found)


TEXT = {"type": "text", "text": Q}
ANSWER = {"role": "assistant", "content": "Red."}
READ: dict[str, tuple[object, object]] = {
    "LLaVA": (spoken(MARKED, "Red.", image="p.jpg"), (["p.jpg"], [MARKED, "Red."])),
    "image_path": (spoken(MARKED, "Red.", image_path="p.jpg"), (["p.jpg"], [MARKED, "Red."])),
    "img": (spoken(MARKED, "Red.", img="p.jpg"), (["p.jpg"], [MARKED, "Red."])),
    "Qwen-VL": (
        spoken(f"A: <img>p.jpg</img> {Q}", "Red."),
        (["p.jpg"], [f"A: <image> {Q}", "Red."]),
    ),
    "MiniCPM-V": (
        spoken("<image_01> <image_00>?", "Red.", image={"<image_00>": "a", "<image_01>": "b"}),
        (["b", "a"], ["<image> <image>?", "Red."]),
    ),
    "role and content": (
        {"conversations": [{"role": "user", "content": Q}, ANSWER]},
        ([], [Q, "Red."]),
    ),
    "capitals": (
        {"conversations": [{"from": "Human", "value": Q}, {"from": "GPT", "value": "Red."}]},
        ([], [Q, "Red."]),
    ),
    "image_url": (
        chat(asked({"type": "image_url", "image_url": {"url": "p.jpg"}}, TEXT)),
        (["p.jpg"], [MARKED, "Red."]),
    ),
    "image_url, a text": (
        chat(asked({"type": "image_url", "image_url": "p.jpg"}, TEXT)),
        (["p.jpg"], [MARKED, "Red."]),
    ),
    "a data URI": (
        chat(asked({"type": "image", "image": f"data:image/png;base64,{RED_TEXT}"}, TEXT)),
        ([RED_NAME], [MARKED, "Red."]),
    ),
    "base64": (spoken(MARKED, "Red.", image=RED_TEXT), ([RED_NAME], [MARKED, "Red."])),
    "parts without a type": (
        chat(asked({"image": "p.jpg"}, {"text": Q})),
        (["p.jpg"], [MARKED, "Red."]),
    ),
    "parts of the Responses API": (
        chat(
            asked({"type": "input_image", "image_url": "p.jpg"}, {"type": "input_text", "text": Q})
        ),
        (["p.jpg"], [MARKED, "Red."]),
    ),
    "TRL: images that no word marks": (
        chat({"role": "user", "content": Q}, images=["a", "b"]),
        (["a", "b"], [f"<image>\n{MARKED}", "Red."]),
    ),
    "an image of a message": (
        chat({"role": "user", "content": MARKED, "images": ["p.jpg"]}),
        (["p.jpg"], [MARKED, "Red."]),
    ),
    "OpenAI's weight": (
        chat(
            {"role": "user", "content": Q}, ANSWER | {"weight": 0}, {"role": "user", "content": "?"}
        ),
        ([], [Q, "(Red.)", "?", "Red."]),
    ),
    "axolotl's train": (
        chat({"role": "user", "content": Q}, ANSWER | {"train": False}, asked(TEXT)),
        ([], [Q, "(Red.)", Q, "Red."]),
    ),
    "ms-swift's loss": (
        chat({"role": "user", "content": Q}, ANSWER | {"loss": False}, asked(TEXT)),
        ([], [Q, "(Red.)", Q, "Red."]),
    ),
    **{
        f"{key} {value}": (
            chat({"role": "user", "content": Q}, ANSWER | {key: value}, asked(TEXT)),
            ([], [Q, "(Red.)", Q, "Red."]),
        )
        for key, value in [
            ("label", 0),
            ("loss_weight", 0.0),
            ("trainable", False),
            ("ignore", True),
            ("masked", True),
            ("no_loss", 1),
        ]
    },
    **{
        f"{key} {value}": (chat(asked(TEXT), ANSWER | {key: value}), ([], [Q, "Red.", "Red."]))
        for key, value in [("label", 1), ("ignore", False), ("trainable", True), ("no_loss", 0)]
    },
    "a weight of an exchange": (
        {"texts": [{"user": Q, "assistant": "Red.", "loss": False}, {"user": "?", "bot": "Red."}]},
        ([], [Q, "(Red.)", "?", "Red."]),
    ),
    "an image of an exchange": (
        {"texts": [{"user": MARKED, "assistant": "Red.", "image": "p.jpg"}]},
        (["p.jpg"], [MARKED, "Red."]),
    ),
    **{
        key: (spoken(MARKED, "Red.", **{key: "p.JPG"}), (["p.JPG"], [MARKED, "Red."]))
        for key in ("file_name", "filename", "image_file", "img_path", "image_name", "picture")
    },
    "image before file_name": (
        spoken(MARKED, "Red.", file_name="q.jpg", image="p.jpg", image_id=7),
        (["p.jpg"], [MARKED, "Red."]),
    ),
    "a file that is no image": (spoken(Q, "Red.", filename="a.json"), ([], [Q, "Red."])),
    "weights that say nothing": (
        {"messages": [{"role": "user", "content": Q, "weight": None}, ANSWER | {"loss": True}]},
        ([], [Q, "Red."]),
    ),
    "system": (spoken(Q, "Red.", system="Brief."), ([], ["Brief.", Q, "Red."])),
    "system_prompt": (spoken(Q, "Red.", system_prompt="Brief."), ([], ["Brief.", Q, "Red."])),
    "history": (
        spoken(Q, "Red.", history=[["Hi.", "Hello."]]),
        ([], ["Hi.", "Hello.", Q, "Red."]),
    ),
    "Alpaca": (
        {"instruction": "Add.", "input": "1, 2", "output": "3", "history": [["a", "b"]]},
        ([], ["a", "b", "Add.\n1, 2", "3"]),
    ),
    "Alpaca, with an image": (
        {"instruction": Q, "input": "", "output": "Red.", "images": ["p.jpg"]},
        (["p.jpg"], [MARKED, "Red."]),
    ),
    "ms-swift's query": (
        {"query": Q, "response": "Red.", "system": "Brief.", "images": ["p.jpg"]},
        (["p.jpg"], ["Brief.", MARKED, "Red."]),
    ),
    "VQA": ({"image": "p.jpg", "question": Q, "answer": "Red."}, (["p.jpg"], [MARKED, "Red."])),
    "VQA, answers": (
        {"image": "p.jpg", "question": Q, "answers": ["pink", "red", "red"]},
        (["p.jpg"], [MARKED, "red"]),
    ),
    "VQA v2": (
        {"image": "p.jpg", "question": Q, "answers": [{"answer": "red"}, {"answer": "pink"}]},
        (["p.jpg"], [MARKED, "red"]),
    ),
    "VQA, a number": ({"question": "How many?", "answer": 3}, ([], ["How many?", "3"])),
    "the Cauldron": (
        {"images": ["p.jpg"], "texts": [{"user": Q, "assistant": "Red.", "source": "x"}]},
        (["p.jpg"], [MARKED, "Red."]),
    ),
    "keys that are empty": (
        spoken(Q, "Red.", video=None, videos=[], tools="", image=""),
        ([], [Q, "Red."]),
    ),
    "keys of another program": (spoken(Q, "Red.", score=3, model="x"), ([], [Q, "Red."])),
    "JSON text": (
        {"conversations": json.dumps(spoken(Q, "Red.")["conversations"]), "images": '["p.jpg"]'},
        (["p.jpg"], [Q, "Red."]),
    ),
}
REFUSED: dict[str, tuple[object, str]] = {
    "video": (spoken(MARKED, "Red.", video="a.mp4"), VIDEO),
    "videos": (spoken(Q, "Red.", videos=["a.mp4"]), VIDEO),
    "a mark of a video": (spoken(f"<video>\n{Q}", "Red."), VIDEO),
    "a part that is a video": (chat(asked({"type": "video", "video": "a.mp4"}, TEXT)), VIDEO),
    "audio": (spoken(Q, "Red.", audio="a.wav"), SOUND),
    "audios": (chat(asked(TEXT), audios=["a.wav"]), SOUND),
    "a mark of a sound": (spoken(f"<audio>{Q}", "Red."), SOUND),
    "tools": (spoken(Q, "Red.", tools="[{}]"), TOOLS),
    "a call": (
        chat(asked(TEXT), {"role": "assistant", "content": None, "tool_calls": [{}]}),
        TOOLS,
    ),
    "a call's role": (chat({"role": "tool", "content": "3"}), "unknown role"),
    "a preference": (spoken(Q, "Red.", rejected="Blue."), PREFERENCE),
    "KTO": (chat(asked(TEXT), kto_tag=False), PREFERENCE),
    "boxes": (chat({"role": "user", "content": "Where is <bbox>?"}), BESIDE),
    "choices": ({"question": Q, "answer": 1, "choices": ["blue", "red"]}, BESIDE),
    "half a weight": (chat(ANSWER | {"weight": 0.5}), "a weight of a turn that is neither 0 nor 1"),
    "a user's turn to be learned": (
        chat({"role": "user", "content": Q, "train": True}),
        "a turn that is to be learned and is not the assistant's",
    ),
    "a mask": (chat(ANSWER | {"mask": True}), UNCLEAR),
    "labels": (chat(ANSWER | {"labels": [1, 0]}), UNCLEAR),
    **{
        f"a row of {key} {value}": (spoken(Q, "Red.", **{key: value}), "is not to be learned")
        for key, value in [("train", False), ("loss_weight", 0), ("ignore", True)]
    },
    "an image's id": (spoken(MARKED, "Red.", image_id=391895), "an image named by an id"),
    "an image's id, VQA": (
        {"image_id": 391895, "question": Q, "answer": "Red."},
        "an image named by an id",
    ),
    "a mark without an image": (
        spoken(MARKED, "Red.", shot="p.jpg"),
        "image marks do not match the images",
    ),
    "a mark of a video in a question": ({"question": f"<video>{Q}", "answer": "Red."}, VIDEO),
    "a mark of a video in an exchange": (
        {"texts": [{"user": f"<video>{Q}", "assistant": "Red."}]},
        VIDEO,
    ),
    "parts of a turn": (chat(ANSWER | {"train_detail": [{}]}), "learns parts of a turn"),
    "a thought": (chat(ANSWER | {"reasoning_content": "Hm."}), "has a thought beside its answer"),
    "two systems": (
        chat({"role": "system", "content": "Brief."}, system="Long."),
        "two system prompts",
    ),
    "images twice": (
        chat(asked({"type": "image", "image": "a"}), images=["b"]),
        "images named twice",
    ),
    "an empty answer": (spoken(Q, ""), EMPTY),
    "an answer of blanks": (spoken(Q, " \n"), EMPTY),
    "no words": (spoken(Q, None), "not a row of the form conversations"),  # type: ignore[arg-type]
    "no list": ({"conversations": {"from": "human"}}, "not a row of the form conversations"),
    "an address": (spoken(MARKED, "Red.", image="https://a.org/p.jpg"), "image on the web"),
    "a name too long": (spoken(MARKED, "Red.", image="p" * 5000), "image name too long"),
    "a number for an image": (
        spoken(MARKED, "Red.", image=3),
        "an image that is neither a name nor an image",
    ),
    "damaged base64": (
        spoken(MARKED, "Red.", image="data:image/png;base64,%"),
        "image cannot be read",
    ),
    "NUL in a name": (spoken(MARKED, "Red.", image="p\0.jpg"), RESERVED),
    "half a character": (spoken(Q, "\ud83d"), RESERVED),
    "half a character in the id": (spoken(Q, "Red.", id="\ud83d"), RESERVED),
    "an id that is none": (spoken(Q, "Red.", id=[1]), "not a row of the form conversations"),
    "no object": (3, "not a row of the form conversations"),
}


@pytest.mark.parametrize("name", READ)
def test_what_other_trainers_read_is_read(name: str, tmp_path: Path) -> None:
    row, expected = READ[name]
    assert one_of(tmp_path, row) == expected


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_honoured_is_refused_by_reason(name: str, tmp_path: Path) -> None:
    row, reason = REFUSED[name]
    path = tmp_path / "data.json"
    rows = [spoken(Q, "Red."), row] if row == 3 else [row]  # the first row says the form
    path.write_text(json.dumps(rows), encoding="utf-8")
    *_, found = read_rows(path)
    assert isinstance(found, Unreadable) and found.reason == reason
    assert len(found.message) < 340, "a row's own content is cut"


def test_a_key_that_names_no_image_is_told_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    rows = [spoken(MARKED, "Red.", image_id=3), spoken(MARKED, "Red.", shot="p.jpg")]
    path.write_text(json.dumps(rows))
    messages = [row.message for row in read_rows(path) if isinstance(row, Unreadable)]
    assert messages == [
        "record a (line 1): the key `image_id` is no file name; write the image's file as the "
        "key `image`",
        "record a (line 1): its words mark an image, and none of its keys (id, conversations, "
        "shot) names one; write the image's file as the key `image`",
    ]


@pytest.mark.parametrize("depth", [500, 5_000])
def test_brackets_without_end_cost_one_row(depth: int, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    good = json.dumps(spoken(Q, "Red."))
    deep = f'{{"id": "deep", "conversations": {"[" * depth}{"]" * depth}}}'
    path.write_text(f"{good}\n{deep}\n{good}\n")
    assert [isinstance(row, Unreadable) for row in read_rows(path)] == [False, True, False]
    path.write_text(f"[{good},\n{deep},\n{good}]")
    found = [told(row) for row in read_rows(path)]
    assert found[1] == (
        "nested too deeply" if depth > 1000 else "not a row of the form conversations"
    )


def test_bytes_that_are_no_text_cost_one_row_of_a_table(tmp_path: Path) -> None:
    texts = pa.array([b'[{"from": "human", "value": "Hi"}]', b"caf\xe9", b"[]"], pa.binary())
    table = pa.table({"conversations": texts.view(pa.string())})
    parquet.write_table(table, tmp_path / "table")
    assert [told(row) for row in read_rows(tmp_path / "table")] == [
        ([], ["Hi"]),
        "not UTF-8",
        "no turns",
    ]


def test_images_in_tables(tmp_path: Path) -> None:
    said = json.dumps(spoken(MARKED, "Red.")["conversations"])
    stored = {"bytes": RED, "path": None}
    for column, value in [("image", RED), ("images", [RED]), ("image", stored), ("img", [stored])]:
        table = pa.Table.from_pylist([{"id": 1.0, "conversations": said, column: value}])
        parquet.write_table(table, tmp_path / "table")
        (row,) = read_rows(tmp_path / "table")
        assert isinstance(row, InstructionRecord) and row.id == "1"
        assert told(row) == ([RED_NAME], [MARKED, "Red."])


def test_a_pipe_and_a_pointer_are_never_read_as_rows(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(LaternaError, match="pipe: not a regular file or folder"):
        read_rows(tmp_path / "pipe")
    (tmp_path / "lfs.json").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(LaternaError, match="a pointer of Git LFS, not the data"):
        read_rows(tmp_path / "lfs.json")
