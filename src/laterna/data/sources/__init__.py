"""Instruction records from files, folders and the hub: what holds the rows, and what a row is.

What holds the rows is seen from the first bytes: a JSON list, JSON lines, a Parquet file, or a
Hugging Face dataset in a folder; `hub:OWNER/NAME` streams one from the hub. What a row is, its
form, is said by the settings, or with `auto` by the one column that only this form has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import msgspec

from laterna.data.sources.conversations import Conversations
from laterna.data.sources.json_files import BLANK, json_lines, json_list
from laterna.data.sources.messages import Messages
from laterna.data.sources.own import Own
from laterna.data.sources.rows import Chunk, Form, Unreadable, read_chunk
from laterna.data.sources.tables import (
    dataset_chunks,
    dataset_columns,
    open_dataset,
    parquet_chunks,
    parquet_columns,
)
from laterna.errors import LaternaError
from laterna.recipe import SourceSettings
from laterna.records import InstructionRecord, Record

FORMS: dict[str, type[Form]] = {
    "records": Own,
    "conversations": Conversations,
    "messages": Messages,
}
"""The forms of a row, by the names that settings give them."""
HUB = "hub:"
"""What a hub id begins with in the settings, so that no folder is taken for one."""
_HEAD = 1 << 16


class Source(Record, frozen=True):
    """Rows that can be read any number of times, from the first on."""

    name: str
    form: str
    """A key of `FORMS`."""
    chunks: Callable[[], Iterator[Chunk]]


def open_source(settings: SourceSettings) -> Source:
    """Look at a source's first bytes and columns, and return it ready to be read.

    Raises LaternaError for one that is missing, is nothing that can be read, or has no form's
    column, and for an unknown form.
    """
    where = settings.data
    if settings.form != "auto" and settings.form not in FORMS:
        raise LaternaError(f"unknown form {settings.form!r}; known are: auto, {', '.join(FORMS)}")
    path = Path(where)
    if where.startswith(HUB) or path.is_dir():
        hub = where.startswith(HUB)
        name = where.removeprefix(HUB)
        opened = partial(open_dataset, name, subset=settings.subset, split=settings.split, hub=hub)
        columns: Iterable[str] = dataset_columns(opened())
        chunks: Callable[[], Iterator[Chunk]] = lambda: dataset_chunks(opened())  # noqa: E731
    else:
        columns, chunks = _open_file(path)
    form = settings.form if settings.form != "auto" else _form_of(columns, where)
    return Source(name=where, form=form, chunks=chunks)


def read_records(source: SourceSettings | Path) -> Iterator[InstructionRecord]:
    """Read a source record by record, in its order, in memory that its size does not change.

    Ids become strings, the assistant's turns carry loss, and picture marks stay where they stand.
    Raises LaternaError, naming the source, as `open_source` does at the call; and, when they are
    reached, for a row that is no record, naming it, and for a source without rows.
    """
    settings = SourceSettings(data=str(source)) if isinstance(source, Path) else source
    return _records(open_source(settings))


def _records(source: Source) -> Iterator[InstructionRecord]:
    empty = True
    for chunk in source.chunks():
        for row in read_chunk(chunk, FORMS[source.form]):
            empty = False
            if isinstance(row, Unreadable):
                raise LaternaError(f"{source.name}: {row.id}: {row.message}")
            yield row.record
    if empty:
        raise _holds_nothing(source.name)


def _holds_nothing(name: str) -> LaternaError:
    return LaternaError(f"{name}: holds no records; nothing can be learned from it")


def _open_file(path: Path) -> tuple[Iterable[str], Callable[[], Iterator[Chunk]]]:
    """Return a file's columns, and what reads it."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD).lstrip(BLANK)
    except OSError as error:
        raise LaternaError(f"{path}: cannot be read: {error.strerror}") from error
    if head.startswith(b"PAR1"):
        return parquet_columns(path), partial(parquet_chunks, path)
    kinds = {b"[": json_list, b"{": json_lines}
    if head[:1] not in kinds:
        raise LaternaError(
            f"{path}: neither a JSON list, nor JSON lines, nor a Parquet file, nor the folder of a "
            "Hugging Face dataset"
        )
    read = partial(kinds[head[:1]], path)
    first = next((chunk.json[0] for chunk in read()), None)
    if first is None:
        raise _holds_nothing(str(path))
    try:
        return msgspec.json.decode(first, type=dict[str, msgspec.Raw]), read
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise LaternaError(f"{path}: row 1 is no JSON object: {error}") from error


def _form_of(columns: Iterable[str], where: str) -> str:
    names = list(columns)
    found = [name for name, form in FORMS.items() if form.column in names]
    if len(found) == 1:
        return found[0]
    wanted = ", ".join(f"`{form.column}` ({name})" for name, form in FORMS.items())
    raise LaternaError(
        f"{where}: the first row has the columns {', '.join(names) or 'none'}; just one of these "
        f"must be among them, or else `form` must say what a row is: {wanted}"
    )
