"""Prepared sets that are not as they were written: named, and made again from there on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from laterna.data import preparation
from laterna.data.sources import rows
from laterna.records import InstructionRecord, Turn


@pytest.mark.parametrize("how", ["flip", "cut", "gone"])
@pytest.mark.parametrize(
    ("name", "again"),
    [
        ("00000.arrow", [1, 3, 5]),
        ("00001.arrow", [3, 5]),
        ("00002.arrow", [5]),
        ("parts.json", [1, 3, 5]),
        ("manifest.json", []),
    ],
)
def test_what_is_damaged_is_named_and_prepared_again(
    maker: Any,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[Path, str], None],
    name: str,
    again: list[int],
    how: str,
) -> None:
    monkeypatch.setattr(preparation, "PART_CHUNKS", 1)
    monkeypatch.setattr("laterna.data.sources.json_files.CHUNK_ROWS", 2)
    turns = (Turn(role="user", text="Hi"), Turn(role="assistant", text="Yes.", loss=True))
    records = [InstructionRecord(id=f"r{n}", images=(), turns=turns) for n in range(6)]
    source = maker.source(records)
    first = maker.prepare(source)
    assert first.remarks == ()
    wanted = list(first.samples)
    (path,) = (maker.folder / "prepared").rglob(name)
    bytes_before = {one.name: one.read_bytes() for one in path.parent.glob("*.*")}
    damage(path, how)
    if name.endswith("json") and how == "cut":  # of a line break that no reader needs
        damage(path, how)
    seen: list[int] = []
    do_chunk = preparation.workers.do_chunk

    def noted(checker: Any, chunk: rows.Chunk) -> Any:
        seen.append(chunk.first)
        return do_chunk(checker, chunk)

    monkeypatch.setattr(preparation.workers, "do_chunk", noted)
    mended = maker.prepare(source)
    assert list(mended.samples) == wanted
    assert seen == again
    if (name, how) == ("manifest.json", "gone"):  # as where it was killed before its end
        assert mended.remarks == ()
    else:
        (remark,) = mended.remarks
        assert remark.startswith(f"{path}: ") and remark.endswith("; it is prepared again")
    assert {one.name: one.read_bytes() for one in path.parent.glob("*.*")} == bytes_before
    assert maker.prepare(source).remarks == ()
