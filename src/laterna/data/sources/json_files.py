"""JSON lists and JSON lines, cut into rows in memory that the file's size does not change."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import BinaryIO

import msgspec

from laterna.data.sources.rows import CHUNK_ROWS, Chunk
from laterna.errors import LaternaError

WINDOW = 4 << 20
"""Bytes of a JSON list that are looked at together; a longer row widens it."""
MAX_ROW = 64 << 20
"""Bytes that one row may have: beyond them the file is taken for broken."""
BLANK = b"\xef\xbb\xbf \t\r\n"
"""What may stand before the first value: a byte order mark and white space."""
_ITEM_END = re.compile(rb"\s*,")


def json_lines(path: Path) -> Iterator[Chunk]:
    """Cut a file of one JSON value a line; empty lines are no rows."""
    with path.open("rb") as file:
        yield from _chunks(row for line in file if (row := line.strip(BLANK)))


def json_list(path: Path) -> Iterator[Chunk]:
    """Cut a file that holds one JSON list. Raises LaternaError, after its good rows, if not."""
    with path.open("rb") as file:
        yield from _chunks(_items(file, path))


def _chunks(rows: Iterator[bytes]) -> Iterator[Chunk]:
    for first in count(1, CHUNK_ROWS):
        group = tuple(islice(rows, CHUNK_ROWS))
        if not group:
            return
        yield Chunk(first=first, json=group)


def _items(file: BinaryIO, path: Path) -> Iterator[bytes]:
    """Yield the items of a JSON list, window by window."""
    while not (text := file.read(WINDOW).lstrip(BLANK)):
        pass  # a window of nothing but blanks before the list, which `open_source` has seen
    text = text[1:]
    rows = 0
    while more := file.read(max(WINDOW, len(text))):
        items, text = _whole_items(text)
        yield from items
        rows += len(items)
        if len(text) > MAX_ROW:
            break
        text += more
    items, end = _whole_items(text)
    last = _list(b"[" + end)
    yield from items
    yield from last or ()
    if more or last is None:
        raise LaternaError(f"{path}: not a JSON list of records after row {rows + len(items)}")


def _whole_items(text: bytes) -> tuple[list[bytes], bytes]:
    """Cut items off the front of what follows a list's `[`, and return them and what is left.

    The last comma behind which `[`, the text before it and `]` are a valid list ends an item:
    JSON is read from left to right, so what is whole there is whole in the file.
    """
    cut = len(text)
    while (cut := max(text.rfind(b"}", 0, cut), text.rfind(b"]", 0, cut))) >= 0:
        comma = _ITEM_END.match(text, cut + 1)
        items = _list(b"[" + text[: cut + 1] + b"]") if comma else None
        if comma and items is not None:
            return items, text[comma.end() :]
    return [], text


def _list(text: bytes) -> list[bytes] | None:
    try:
        return [bytes(item) for item in msgspec.json.decode(text, type=list[msgspec.Raw])]
    except msgspec.DecodeError:
        return None
