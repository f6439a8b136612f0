"""Instruction records from LLaVA's training JSON."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import ijson
import msgspec

from laterna.errors import LaternaError
from laterna.records import PICTURE_MARK, InstructionRecord, Kind, Provenance, Role, Turn

ROLES: dict[str, Role] = {"human": "user", "gpt": "assistant", "system": "system"}


class _ForeignTurn(msgspec.Struct, frozen=True):
    speaker: str = msgspec.field(name="from")
    value: str


class _ForeignRow(msgspec.Struct, frozen=True):
    """A row as LLaVA writes it; the format is not ours, so keys that we do not know pass."""

    id: str | int
    conversations: list[_ForeignTurn]
    image: str | list[str] | None = None
    kind: Kind | None = None
    provenance: Provenance | None = None


class _RowName(msgspec.Struct, frozen=True):
    id: str | int


def read_records(path: Path) -> Iterator[InstructionRecord]:
    """Read a LLaVA-form JSON file, record by record, in the file's order.

    Ids become strings, the assistant's turns carry loss, and picture marks stay where they stand.
    The file itself is read at the call; rows are checked as they are reached.

    Raises LaternaError, naming the file and the record, for a missing file, one that is not a
    JSON list, an empty one, an unknown role, or picture marks that do not match the pictures.
    """
    try:
        rows = msgspec.json.decode(path.read_bytes(), type=list[msgspec.Raw])
    except OSError as error:
        raise LaternaError(f"{path}: cannot be read: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise LaternaError(f"{path}: not a JSON list of records: {error}") from error
    if not rows:
        raise LaternaError(f"{path}: holds no records; nothing can be learned from it")
    return (_decoded(row, path, number) for number, row in enumerate(rows, start=1))


def stream_records(path: Path) -> Iterator[InstructionRecord]:
    """Read a LLaVA-form JSON file as `read_records` does, in memory that its size does not change.

    Nothing is looked at before it is reached, so an error of the file's form, raised as
    LaternaError too, may come after any number of records.
    """
    number = 0
    try:
        with path.open("rb") as file:
            for number, item in enumerate(ijson.items(file, "item"), start=1):
                try:
                    row = msgspec.convert(item, _ForeignRow)
                except msgspec.ValidationError as error:
                    name = _name(msgspec.json.encode(item), number)
                    raise LaternaError(f"{path}: {name}: {error}") from error
                yield _record(row, path)
    except OSError as error:
        raise LaternaError(f"{path}: cannot be read: {error.strerror}") from error
    except (ijson.JSONError, UnicodeDecodeError) as error:
        raise LaternaError(f"{path}: not a JSON list of records after row {number}") from error
    if not number:
        raise LaternaError(f"{path}: holds no list of records")


def _decoded(raw: msgspec.Raw, path: Path, number: int) -> InstructionRecord:
    try:
        row = msgspec.json.decode(raw, type=_ForeignRow)
    except msgspec.MsgspecError as error:
        raise LaternaError(f"{path}: {_name(raw, number)}: {error}") from error
    return _record(row, path)


def _record(row: _ForeignRow, path: Path) -> InstructionRecord:
    where = f"{path}: record {row.id}"
    if not row.conversations:
        raise LaternaError(f"{where}: `conversations` is empty")
    pictures = (row.image,) if isinstance(row.image, str) else tuple(row.image or ())
    turns = tuple(_turn(turn, where) for turn in row.conversations)
    marks = sum(turn.text.count(PICTURE_MARK) for turn in turns if turn.role == "user")
    if marks != len(pictures):
        raise LaternaError(
            f"{where}: {marks} {PICTURE_MARK} marks in the human turns, but {len(pictures)} "
            "pictures in `image`; they must be as many"
        )
    return InstructionRecord(
        id=str(row.id),
        pictures=pictures,
        turns=turns,
        kind=row.kind,
        provenance=row.provenance,
    )


def _turn(turn: _ForeignTurn, where: str) -> Turn:
    if turn.speaker not in ROLES:
        known = ", ".join(ROLES)
        raise LaternaError(f"{where}: unknown role {turn.speaker!r}; known roles are: {known}")
    role = ROLES[turn.speaker]
    return Turn(role=role, text=turn.value, loss=role == "assistant")


def _name(raw: msgspec.Raw | bytes, number: int) -> str:
    """Name a row that cannot be read: by its id where that much can be read, else by its place."""
    try:
        return f"record {msgspec.json.decode(raw, type=_RowName).id}"
    except msgspec.MsgspecError:
        return f"row {number}"
