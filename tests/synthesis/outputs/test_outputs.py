from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from laterna.errors import LaternaError
from laterna.records import InstructionRecord, Turn
from laterna.synthesis.outputs import OUTPUTS, write_records

FORMS = sorted(OUTPUTS)


def test_the_forms() -> None:
    assert FORMS == ["jsonl", "llava", "messages", "parquet"]


@pytest.mark.parametrize("form", FORMS)
def test_the_same_records_give_the_same_bytes(
    tmp_path: Path, records: list[InstructionRecord], form: str
) -> None:
    first, second = tmp_path / "deep" / "first", tmp_path / "second"
    assert write_records(first, records, form) == 4
    assert write_records(second, iter(records), form) == 4
    assert first.read_bytes() == second.read_bytes()
    assert [path.name for path in first.parent.iterdir()] == ["first"]


@pytest.mark.parametrize("form", FORMS)
def test_a_failure_leaves_the_old_file(
    tmp_path: Path, records: list[InstructionRecord], form: str
) -> None:
    out = tmp_path / "records"
    out.write_text("old")

    def failing() -> Iterator[InstructionRecord]:
        yield records[0]
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError):
        write_records(out, failing(), form)
    assert out.read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("form", FORMS)
def test_memory_does_not_grow_with_the_records(tmp_path: Path, form: str) -> None:
    def many(count: int) -> Iterator[InstructionRecord]:
        for number in range(count):
            text = f"{number} " * 100
            turns = (Turn(role="user", text=text), Turn(role="assistant", text=text, loss=True))
            yield InstructionRecord(id=str(number), images=(), turns=turns)

    def peak(count: int) -> int:
        tracemalloc.start()
        write_records(tmp_path / "records", many(count), form)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    # two row groups of Parquet in both; 8,000 records more would hold 10 MB
    assert peak(16_000) < peak(8_000) + 2e6


def test_an_unknown_form_is_named(tmp_path: Path) -> None:
    with pytest.raises(LaternaError, match="unknown form of output 'csv'; known are: llava, jsonl"):
        write_records(tmp_path / "records.csv", [], "csv")


@pytest.mark.parametrize("form", ["llava", "messages"])
def test_a_loss_that_the_form_cannot_say_is_refused(tmp_path: Path, form: str) -> None:
    turns = (Turn(role="user", text="Hello"), Turn(role="assistant", text="Hm.", loss=False))
    record = InstructionRecord(id="9", images=(), turns=turns)
    with pytest.raises(LaternaError, match=rf"record 9: turn 2 \(assistant\).*form {form} cannot"):
        write_records(tmp_path / "out", [record], form)
    assert write_records(tmp_path / "out", [record], "jsonl") == 1
