"""The field's files: found in a folder as people unpack them, and read row by row.

A row that is not of its form is a `SkippedRow`, with the same reason for every row with that fault;
byte order marks, UTF-16, gzip, comments, NaN and JSON lines pass as they do for training data. Only
a file that cannot be read at all ends a run, and says where it is to be had.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from laterna.data.sources.json_files import json_rows, open_text
from laterna.data.sources.rows import decode_json
from laterna.errors import LaternaError
from laterna.evaluation.tasks.base import SkippedRow, is_broken
from laterna.records import Question

SHORT = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."
"""LLaVA-1.5's prompts, behind a question."""
DEPTH = 3
"""Folders down to which a file is looked for."""


class Row(msgspec.Struct, frozen=True):
    """Base of a row's form: the keys that a task needs, whatever else stands beside them."""


class LlavaRow(Row, frozen=True):
    """A row of LLaVA's own question files; its text is the whole prompt."""

    question_id: int | str
    image: str
    text: str


R = TypeVar("R", bound=Row)
K = TypeVar("K", bound=Hashable)
Rows = Iterator[Question | SkippedRow]
Id = int | str
Item = tuple[str, object]
"""Where a row stands, and its JSON text (bytes) or what it holds."""
_WORDS = re.compile(r"\[\d+\]")


def look_for(folder: Path, *names: str) -> list[Path]:
    """Return the files of these names (or patterns) in the folder, or as few folders down as can
    be; of several names the first that is found.

    Raises LaternaError when the folder is missing.
    """
    if not folder.is_dir():
        raise LaternaError(f"{folder}: no such folder; --data names the folder of a task's files")
    for name in names:
        for depth in range(DEPTH):
            found = sorted(one for one in folder.glob("*/" * depth + name) if one.is_file())
            if found:
                return found
    return []


def need(folder: Path, needs: Mapping[str, str], *names: str) -> Path:
    """Return the one file of these names; raises LaternaError that says where it is to be had."""
    found = look_for(folder, *names)
    if not found:
        where = next((needs[name] for name in names if name in needs), "")
        raise LaternaError(f"{folder}: there is no {' or '.join(names)} in it; {where}")
    if len(found) > 1:
        some = ", ".join(str(one.relative_to(folder)) for one in found[:4])
        raise LaternaError(f"{folder}: holds several of {names[0]}: {some}; name one's folder")
    return found[0]


def below(path: Path, folder: Path) -> str:
    """Return what stands before an image's name that is told from where its file lies."""
    inside = path.parent.relative_to(folder).as_posix()
    return "" if inside == "." else f"{inside}/"


def read_rows(items: Iterable[Item], form: type[R]) -> Iterator[tuple[str, R] | SkippedRow]:
    """Yield each row in its form with where it stands, or why it is not of it."""
    for where, item in items:
        try:
            if isinstance(item, bytes):
                yield where, _decoded(item, form)
            else:
                yield where, msgspec.convert(item, form)
        except msgspec.ValidationError as error:
            yield SkippedRow(reason=f"row: {_WORDS.sub('[]', str(error))}", where=where)
        except (ValueError, RecursionError):
            yield SkippedRow(reason="row that is not JSON", where=where)


def make_questions(
    items: Iterable[Item], form: type[R], make: Callable[[R], Question | str]
) -> Rows:
    """Yield what `make` makes of each row in its form: a question, or the reason why there is none,
    and the rows that are not of the form.
    """
    for row in read_rows(items, form):
        if isinstance(row, SkippedRow):
            yield row
            continue
        made = make(row[1])
        yield SkippedRow(reason=made, where=row[0]) if isinstance(made, str) else made


def index_rows(
    items: Iterable[Item], form: type[R], key: Callable[[R], K]
) -> tuple[dict[K, R], list[SkippedRow]]:
    """Return rows by what is asked for them, the first of each key, and the rows that are none."""
    known: dict[K, R] = {}
    lost = []
    for row in read_rows(items, form):
        if isinstance(row, SkippedRow):
            lost.append(row)
        else:
            known.setdefault(key(row[1]), row[1])
    return known, lost


def _decoded(text: bytes, form: type[R]) -> R:
    try:
        return msgspec.json.decode(text, type=form)
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, UnicodeDecodeError):
        return msgspec.convert(decode_json(text), form)


def list_items(path: Path) -> Iterator[Item]:
    """Yield the rows of a list, or of JSON lines. Raises LaternaError for what cannot be cut."""
    try:
        yield from ((f"{path.name}, line {line}", text) for line, text in json_rows(path))
    except OSError as error:
        raise LaternaError(f"{path}: cannot be read: {error.strerror or error}") from error


def keyed_lists(path: Path, *keys: str) -> list[Iterator[Item]]:
    """Return the rows of the lists that a file's one object holds under these keys.

    Raises LaternaError for a file that is no object with these lists.
    """
    text = file_text(path)
    try:
        whole = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        lists = [msgspec.json.decode(whole[key], type=list[msgspec.Raw]) for key in keys]
        return [_numbered(path, key, map(bytes, one)) for key, one in zip(keys, lists, strict=True)]
    except (msgspec.MsgspecError, UnicodeDecodeError, KeyError):
        found = dict(_pairs(path))  # what is not quite JSON, such as NaN, and what is missing
    for key in keys:
        if not isinstance(found.get(key), list):
            raise LaternaError(f"{path}: there is no list {key!r} in it; it is not the file meant")
    return [_numbered(path, key, found[key]) for key in keys]


def _numbered(path: Path, key: str, rows: Iterable[object]) -> Iterator[Item]:
    return ((f"{path.name}, {key} {number}", row) for number, row in enumerate(rows, start=1))


def keyed_items(path: Path) -> Iterator[tuple[str, str, object]]:
    """Yield the keys of a file's one object, all of them where one stands twice: key, where, value.

    Raises LaternaError for a file that is no object.
    """
    for key, value in _pairs(path):
        yield key, f"{path.name}, {key}", value


def _pairs(path: Path) -> list[tuple[str, Any]]:
    last: list[tuple[str, Any]] = []

    def kept(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal last
        last = pairs  # the outermost object is the last to be closed
        return dict(pairs)

    try:
        text = file_text(path).decode()
        found = json.loads(
            text, object_pairs_hook=kept, parse_constant=lambda _: None, strict=False
        )
    except (ValueError, RecursionError) as error:
        raise LaternaError(f"{path}: is not JSON: {error}; fetch it anew") from error
    if not isinstance(found, dict):
        raise LaternaError(f"{path}: holds no JSON object; it is not the file meant")
    return last


def file_text(path: Path) -> bytes:
    """Return a file's text as UTF-8; raises LaternaError where it cannot be read."""
    try:
        with open_text(path) as file:
            return file.read()
    except OSError as error:
        raise LaternaError(f"{path}: cannot be read: {error.strerror or error}") from error


def table_items(path: Path, delimiter: str) -> Iterator[tuple[str, int, dict[str, str] | None]]:
    """Yield the rows of a table with a heading: where, the byte where it begins, cells by column.

    A row that is cut wrong, or is no UTF-8, is None. Raises LaternaError for a file without rows.
    """
    csv.field_size_limit(sys.maxsize)
    try:
        with open_text(path) as file:
            offset = 0

            def lines() -> Iterator[str]:
                nonlocal offset
                for line in file:
                    offset += len(line)
                    yield line.decode("utf-8", errors="surrogateescape")

            reader = csv.reader(lines(), delimiter=delimiter)
            names = [name.strip() for name in _heading(path, reader)]
            while True:
                began = offset
                try:
                    cells = next(reader, None)
                except csv.Error:
                    cells = []
                if cells is None:
                    return
                where = f"{path.name}, line {reader.line_num}"
                yield where, began, _row(names, cells)
    except OSError as error:
        raise LaternaError(f"{path}: cannot be read: {error.strerror or error}") from error


def _heading(path: Path, reader: Iterator[list[str]]) -> list[str]:
    try:
        return next(reader, [])
    except csv.Error as error:
        raise LaternaError(f"{path}: its first line is no heading: {error}") from error


def _row(names: Sequence[str], cells: Sequence[str]) -> dict[str, str] | None:
    whole = len(names) == len(cells) and not any(map(is_broken, cells))
    return dict(zip(names, cells, strict=True)) if whole else None
