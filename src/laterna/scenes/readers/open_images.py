"""Reads Open Images: its table of boxes, with the table of its classes' names beside it.

A row is one box in 0..1; `IsGroupOf` marks one box around several things, as COCO's crowds do.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from laterna.errors import LaternaError
from laterna.scenes.readers import base
from laterna.scenes.readers.files import open_table, peek

_CORNERS = ("XMin", "YMin", "XMax", "YMax")
_COLUMNS = ("ImageID", "LabelName", *_CORNERS)


def looks_like(path: Path) -> bool:
    """Tell a table with the columns of Open Images' boxes, or a folder with one."""
    return any(set(_COLUMNS) <= set(peek(file).line.split(",")) for file in _files(path).values())


def read(source: base.Source) -> base.Found:
    """Return the scenes in the order in which the table names them.

    Raises LaternaError when the classes' names are not beside it: codes as /m/01g317 say nothing.
    """
    files = _files(source.path)
    if not files:
        raise LaternaError(f"{source.path}: no table like *-annotations-bbox.csv in it")
    path = base.choose_split(files, source)
    names = _class_names(path.parent)
    boxes: dict[str, list[base.RawBox]] = {}
    for image, box in _rows(path, names):
        boxes.setdefault(image, []).append(box)
    return base.Found(
        path,
        scenes=(
            base.RawScene(id=image, image=f"{image}.jpg", where=f"image {image}", boxes=found)
            for image, found in boxes.items()
        ),
        relative=True,
        folders=(path.parent, path.parent / "images", path.parent / _part(path)),
    )


def _files(path: Path) -> dict[str, Path]:
    if path.is_dir():
        return {_part(file): file for file in sorted(path.glob("*annotations-bbox*.csv"))}
    return {_part(path): path}


def _part(path: Path) -> str:
    """Return `train` of `oidv6-train-annotations-bbox.csv`."""
    before = path.name.partition("-annotations-bbox")[0]
    return before.rpartition("-")[2]


def _class_names(folder: Path) -> dict[str, str]:
    files = sorted(folder.glob("*class-descriptions*.csv"))
    if not files:
        raise LaternaError(
            f"{folder}: no names of the classes; put Open Images' class-descriptions-boxable.csv "
            "beside its table of boxes"
        )
    with open_table(files[0]) as rows:
        return {row[0].strip(): base.category_name(row[1]) for row in rows if len(row) > 1}


def _rows(path: Path, names: dict[str, str]) -> Iterator[tuple[str, base.RawBox]]:
    with open_table(path) as rows:
        head = [name.strip() for name in next(rows, [])]
        if missing := [name for name in _COLUMNS if name not in head]:
            raise LaternaError(f"{path}: a table without the columns {', '.join(missing)}")
        places = {name: head.index(name) for name in head}
        for line, row in enumerate(rows, start=2):
            if not row:
                continue
            cells = {name: row[place] if place < len(row) else "" for name, place in places.items()}
            label = base.text_of(cells["LabelName"])
            fault = "" if label in names else "unknown category"
            if (base.number(cells.get("IsGroupOf", 0)) or 0) > 0:
                fault = "crowd region"
            found = base.corners([cells[name] for name in _CORNERS])
            box = base.RawBox(f"line {line}", names.get(label, ""), found, fault)
            yield base.text_of(cells["ImageID"]), box
