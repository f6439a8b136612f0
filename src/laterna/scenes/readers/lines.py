"""Reads contexts and scenes: records one image each, as JSON lines or in a JSON list.

Contexts are what LLaVA publishes beside its replies (`captions`, `instances`); scenes are our
own `Scene`. The boxes of both are in 0..1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from laterna.errors import LaternaError
from laterna.scenes.readers import base
from laterna.scenes.readers.files import Head, decode_json, open_source, peek, read_json

Row = dict[str, object]


def looks_like_contexts(path: Path) -> bool:
    """Tell a file whose first record has the keys of LLaVA's contexts."""
    return _has(peek(path), {"image", "instances"})


def looks_like_scenes(path: Path) -> bool:
    """Tell a file whose first record has the keys of our `Scene`."""
    return _has(peek(path), {"image", "boxes"})


def _has(head: Head, keys: set[str]) -> bool:
    return any(keys <= head.keys.get(place, frozenset()) for place in ("", "item"))


def read_contexts(source: base.Source) -> base.Found:
    """Return the scenes of LLaVA's contexts."""
    return _found(source, "image", "instances", lambda box: box.get("bbox"))


def read_scene_lines(source: base.Source) -> base.Found:
    """Return our own scenes; they are checked like any other."""
    return _found(
        source, "image", "boxes", lambda box: [box.get(name) for name in ("x1", "y1", "x2", "y2")]
    )


def _found(
    source: base.Source, image: str, boxes: str, numbers_of: Callable[[Row], object]
) -> base.Found:
    if not source.path.is_file():
        raise LaternaError(f"{source.path}: no such file of records")
    return base.Found(
        source.path,
        scenes=(
            base.RawScene(
                id=base.text_of(row.get("id")),
                image=base.text_of(row.get(image)),
                where=f"record {base.text_of(row.get('id'))}",
                width=row.get("width"),
                height=row.get("height"),
                captions=_list(row.get("captions")),
                boxes=_boxes(row, boxes, numbers_of),
            )
            for row in _rows(source)
        ),
        captioned=True,
        relative=True,
        folders=(source.path.parent, source.path.parent / "images"),
    )


def _list(value: object) -> list[object]:
    if isinstance(value, str):
        return [value]
    return value if isinstance(value, list) else []


def _boxes(row: Row, key: str, numbers_of: Callable[[Row], object]) -> Iterator[base.RawBox]:
    for place, box in enumerate(_list(row.get(key)), start=1):
        name = f"record {base.text_of(row.get('id'))}, box {place}"
        if isinstance(box, dict):
            yield base.RawBox(
                name, base.category_name(box.get("category")), base.corners(numbers_of(box))
            )
        else:
            yield base.RawBox(name, "", None, "entry that is no object")


def _rows(source: base.Source) -> Iterator[Row]:
    """Yield the records of JSON lines, of a JSON list, or one that runs over several lines."""
    start = peek(source.path).content.strip()
    # a first line that is cut, or a list's, begins something that runs on
    if start[:1] == b"[" or start.partition(b"\n")[0].strip() == b"{":
        content = read_json(source.path)
        rows = content if isinstance(content, list) else [content]
        for _, row in base.objects_in(rows, f"{source.path}: record", source.problems):
            yield row
        return
    with open_source(source.path) as file:
        for number, line in enumerate(file, start=1):
            found = _row(line, f"{source.path} line {number}", source) if line.strip() else None
            if found:
                yield found


def _row(line: bytes, where: str, source: base.Source) -> Row | None:
    """Return a line's record; None, counted, where it is none."""
    try:
        row: object = msgspec.json.decode(line)
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        try:
            line.decode()
            row = decode_json(line, where)
        except (LaternaError, UnicodeDecodeError) as error:
            form = "JSON" if isinstance(error, LaternaError) else "UTF-8"
            source.drop(f"line that is no {form}", where)
            return None
    if isinstance(row, dict):
        return row
    source.drop("entry that is no object", where)
    return None
