"""Instruction records from files, folders and the hub: what holds the rows, and what a row is.

What holds the rows is seen from the first bytes: JSON (`json_files`), a Parquet file, or a Hugging
Face dataset in a folder; `hub:OWNER/NAME` streams one from the hub. What a row is, its form, is
said by the settings, or with `auto` by the columns that only this form has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from laterna.data.sources.chats import CONVERSATIONS, MESSAGES, TEXTS
from laterna.data.sources.json_files import json_chunks, open_text, wrapped_chunks
from laterna.data.sources.other_rows import ALPACA, DOCUMENTS, VQA
from laterna.data.sources.rows import (
    OWN,
    Chunk,
    Form,
    Unreadable,
    decode_json,
    read_chunk,
    shortened,
)
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

FORMS: dict[str, Form] = {
    "records": OWN,
    "conversations": CONVERSATIONS,
    "messages": MESSAGES,
    "texts": TEXTS,
    "alpaca": ALPACA,
    "vqa": VQA,
    "documents": DOCUMENTS,
}
"""The forms of a row, by the names that settings give them."""
CHATS = ("records", "conversations", "messages", "texts")
"""Forms that hold a whole chat: a row that has one's column is never taken for one question."""
HUB = "hub:"
"""What a hub id begins with in the settings, so that no folder is taken for one."""
_HEAD = 4096
_POINTER = b"version https://git-lfs"
_OPENINGS = (b"{", b"[", b"/", b"#")


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
    """Read a source as `read_rows` does, and raise LaternaError for a row that is no record too."""
    return _records(read_rows(source), _settings(source).data)


def _records(
    rows: Iterator[InstructionRecord | Unreadable], name: str
) -> Iterator[InstructionRecord]:
    for row in rows:
        if isinstance(row, Unreadable):
            raise LaternaError(f"{name}: {row.message}")
        yield row


def read_rows(source: SourceSettings | Path) -> Iterator[InstructionRecord | Unreadable]:
    """Read a source row by row, in its order, in memory that its size does not change: a record, or
    why there is none, as training reads it.

    Ids become strings, the assistant's turns carry loss unless the row says otherwise, and image
    marks stay where they stand. Raises LaternaError, naming the source, as `open_source` does at
    the call; and, when they are reached, for what cannot be cut, and a source without rows.
    """
    return _rows(open_source(_settings(source)))


def _settings(source: SourceSettings | Path) -> SourceSettings:
    return SourceSettings(data=str(source)) if isinstance(source, Path) else source


def _rows(source: Source) -> Iterator[InstructionRecord | Unreadable]:
    empty = True
    for chunk in source.chunks():
        for row in read_chunk(chunk, FORMS[source.form]):
            empty = False
            yield row if isinstance(row, Unreadable) else row.record
    if empty:
        raise _holds_nothing(source.name)


def _holds_nothing(name: str) -> LaternaError:
    return LaternaError(f"{name}: holds no records; nothing can be learned from it")


def _open_file(path: Path) -> tuple[Iterable[str], Callable[[], Iterator[Chunk]]]:
    """Return a file's columns, and what reads it."""
    try:
        if not path.is_file():
            path.stat()
            raise LaternaError(f"{path}: not a regular file or folder, so it is not opened")
        with path.open("rb") as raw:
            head = raw.read(_HEAD)
        if not head:
            raise LaternaError(f"{path}: the file is empty; nothing can be learned from it")
        if head.startswith(b"PAR1"):
            return parquet_columns(path), partial(parquet_chunks, path)
        if head.startswith(_POINTER):
            raise LaternaError(
                f"{path}: a pointer of Git LFS, not the data: fetch it with `git lfs pull`"
            )
        with open_text(path) as file:
            if not file.read(_HEAD).lstrip().startswith(_OPENINGS):
                raise LaternaError(
                    f"{path}: neither JSON (a list, or objects), nor a Parquet file, nor the "
                    "folder of a Hugging Face dataset"
                )
        return _json_columns(path)
    except OSError as error:
        raise LaternaError(f"{path}: cannot be read: {error.strerror or error}") from error


def _json_columns(path: Path) -> tuple[Iterable[str], Callable[[], Iterator[Chunk]]]:
    """Return the columns of the first row that has a form's, else of the first that has any."""
    chunk = next(json_chunks(path), None)
    if chunk is None:
        raise _holds_nothing(str(path))
    first: dict[str, object] | None = None
    wrong = ""
    for number, text in enumerate(chunk.json, start=1):
        try:
            row = decode_json(text)
        except (ValueError, RecursionError) as error:
            row, wrong = None, wrong or f"row {number} is no JSON object: {error}"
        if isinstance(row, dict):
            first = row if first is None else first
            if _fitting(row):
                return row, partial(json_chunks, path)
        else:
            wrong = wrong or f"row {number} is no JSON object"
    if first is None:
        raise LaternaError(f"{path}: {wrong}")
    inside = [key for key, value in first.items() if _is_rows(value)]
    if len(chunk.json) == 1 and len(inside) == 1:
        return first[inside[0]][0], partial(wrapped_chunks, path, inside[0])  # type: ignore[index]
    return first, partial(json_chunks, path)


def _is_rows(value: object) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _fitting(columns: Iterable[str]) -> list[str]:
    """Return the forms whose columns are all there; questions only where there is no chat."""
    names = set(columns)
    found = [
        name for name, form in FORMS.items() if any(names.issuperset(one) for one in form.columns)
    ]
    return [name for name in found if name in CHATS] or found


def _form_of(columns: Iterable[str], where: str) -> str:
    names = list(columns)
    found = _fitting(names)
    if len(found) == 1:
        return found[0]
    wanted = ", ".join(
        f"`{'` and `'.join(form.columns[0])}` ({name})" for name, form in FORMS.items()
    )
    raise LaternaError(
        f"{where}: the first row has the columns {shortened(', '.join(names) or 'none')}; just one "
        f"of these must be among them, or else `form` must say what a row is: {wanted}"
    )
