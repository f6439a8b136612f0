"""Reads files of captions alone: Flickr8k's and Flickr30k's `.token` and CSV files.

`NAME.jpg#0<tab>CAPTION` a line, or a table with the columns `image` and `caption` (also
`image_name | comment_number | comment`, as Flickr30k is handed on).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from laterna.scenes.readers.base import Found, RawScene, Source, text_of
from laterna.scenes.readers.files import not_text, open_source, open_table, peek

_TOKEN = re.compile(r"(?P<name>[^\t]+)#\d+\t(?P<caption>.*)")
_COLUMNS = {"image": "caption", "image_name": "comment", "file_name": "caption"}
"""Column of the image's name to that of the caption."""


def looks_like(path: Path) -> bool:
    """Tell a file whose first line is a Flickr token or the head of such a table."""
    line = peek(path).line if path.is_file() else ""
    return bool(_TOKEN.fullmatch(line)) or _table(line) is not None


def read(source: Source) -> Found:
    """Return the images with their captions, in the order in which the file names them."""
    table = _table(peek(source.path).line)
    rows = _tokens(source) if table is None else _rows(source, *table)
    captions: dict[str, list[object]] = {}
    for name, caption in rows:
        captions.setdefault(name, []).append(caption)
    folder = source.path.parent
    return Found(
        source.path,
        scenes=(
            RawScene(id=Path(name).stem, image=name, where=f"image {name}", captions=said)
            for name, said in captions.items()
        ),
        captioned=True,
        folders=(folder, folder / "images", folder / "Images"),
    )


def _table(line: str) -> tuple[str, int, int] | None:
    """Return the delimiter and the columns of name and caption of a table's first line."""
    for delimiter in (",", "|", "\t"):
        head = [name.strip().strip('"').lower() for name in line.split(delimiter)]
        for name, caption in _COLUMNS.items():
            if name in head and caption in head:
                return delimiter, head.index(name), head.index(caption)
    return None


def _tokens(source: Source) -> Iterator[tuple[str, str]]:
    with open_source(source.path) as file:
        for number, line in enumerate(file, start=1):
            try:
                found = _TOKEN.fullmatch(line.decode().rstrip("\r\n"))
            except UnicodeDecodeError as error:
                not_text(source.path, error)
            if found:
                yield found["name"].strip(), found["caption"]
            elif line.strip():
                source.drop("line that is no caption", f"{source.path} line {number}")


def _rows(source: Source, delimiter: str, name: int, caption: int) -> Iterator[tuple[str, str]]:
    with open_table(source.path, delimiter) as rows:
        next(rows, None)
        for number, row in enumerate(rows, start=2):
            if len(row) > max(name, caption) and text_of(row[name]):
                yield text_of(row[name]), row[caption]
            elif row:
                source.drop("line that is no caption", f"{source.path} line {number}")
