"""Files that lie beside a checkout of the whole project; skipped where they do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from laterna.data.sources import read_rows
from laterna.data.sources.rows import Unreadable
from laterna.errors import LaternaError
from laterna.records import InstructionRecord

CASES = Path(__file__).parents[4] / "shared" / "cases" / "records"
VIDEO, EMPTY = "asks about a video", "an answer is empty"
RESERVED = "a reserved character in the text"
RED3 = [1] * 3
FILES: dict[str, list[object] | str] = {
    "bom_crlf.json": RED3,
    "cauldron.parquet": [1],
    "comments.json": RED3,
    "conv_as_text.parquet": [1, 1],
    "dict_image.json": [2],
    "float_id.parquet": [1, 1],
    "image_url.jsonl": [1, 1],
    "imagepath.json": [1, 1],
    "img_tag.json": [1],
    "jsonl_commas.jsonl": RED3,
    "lfs.json": "lfs.json: a pointer of Git LFS, not the data: fetch it with `git lfs pull`",
    "long.json": [1, 1],
    "missing_comma.json": "missing_comma.json: line 3: a comma is missing behind row 1",
    "nan.json": [1, 0, 1],
    "nan.jsonl": [1, 0, 1],
    "null_image.parquet": [1, 0],
    "part_none.jsonl": [1],
    "plain.json": [1, 0, 1, 1, 2, 1],
    "pretty_concat.jsonl": RED3,
    "raw_binary.parquet": [1, 1],
    "raw_binary_list.parquet": [1, 1],
    "rolecontent.json": [1],
    "surr.jsonl": [1, RESERVED],
    "sys_prompt.json": [1],
    "trailing_comma.json": RED3,
    "utf16.json": RED3,
    "video.json": [VIDEO, 1],
    "videos_messages.json": [VIDEO],
    "vqa_columns.parquet": [1],
    "weights.jsonl": [0, 0],
    "wrapped_oneline.json": RED3,
}
FORM = "not a row of the form conversations"
TURNS: dict[str, object] = {
    **dict.fromkeys(("gptfirst", "twohumans", "lasthuman", "nogpt", "imageinanswer"), 1),
    **dict.fromkeys(("nomark", "twomarks", "strconv", "1", "caps", "rolecontent", "ok"), 1),
    **dict.fromkeys(("123456789012345678901234567890", "win", "dir"), 1),
    **dict.fromkeys(("emptyanswer", "spaceanswer"), EMPTY),
    **dict.fromkeys(("nullvalue", "numvalue", "nested"), FORM),
    **dict.fromkeys(("surrogate", "nul"), RESERVED),
    "tool": "unknown role",
    "url": "image on the web",
}
"""What becomes of the rows of turns.json and its shorter sisters, by their ids."""
beside = pytest.mark.skipif(not CASES.is_dir(), reason="../shared/cases is not there")


def shown(row: InstructionRecord | Unreadable) -> object:
    return row.reason if isinstance(row, Unreadable) else len(row.images)


@beside
@pytest.mark.parametrize("name", FILES)
def test_files_beside_the_checkout(name: str) -> None:
    expected = FILES[name]
    if isinstance(expected, str):
        with pytest.raises(LaternaError) as error:
            list(read_rows(CASES / name))
        assert str(error.value).endswith(expected)
        return
    assert [shown(row) for row in read_rows(CASES / name)] == expected


@beside
@pytest.mark.parametrize(("name", "rows"), [("turns", 24), ("turns2", 23), ("turns3", 22)])
def test_turns_beside_the_checkout(name: str, rows: int) -> None:
    found = list(read_rows(CASES / f"{name}.json"))
    assert len(found) == rows
    for row in found:
        assert shown(row) == TURNS[row.id.removeprefix("record ")]
