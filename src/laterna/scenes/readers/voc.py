"""Reads Pascal VOC: one XML file an image, in the folder `Annotations` beside `JPEGImages`.

VOC numbers pixels from 1, and its corners are inside the box: 1 to WIDTH is the whole image
(PASCAL VOC 2012 development kit, section "Bounding box").
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from xml.etree.ElementTree import Element

from laterna.errors import LaternaError
from laterna.scenes.readers import base
from laterna.scenes.readers.files import peek, read_xml

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def looks_like(path: Path) -> bool:
    """Tell an XML file about one image, or a folder of such files."""
    return any(b"<annotation>" in peek(file).content for file in _files(path)[:1])


def read(source: base.Source) -> base.Found:
    """Return one scene a file, in the order of the files' names."""
    files = _files(source.path, source)
    if not files:
        raise LaternaError(f"{source.path}: no .xml files in it, as Pascal VOC has them")
    folder = files[0].parent
    return base.Found(
        source.path,
        scenes=_scenes(files, source),
        folders=(folder.parent / "JPEGImages", folder.parent / "images", folder, folder.parent),
    )


def _files(path: Path, source: base.Source | None = None) -> list[Path]:
    """Return the XML files of a folder, or of the part of it to read, as Roboflow has them."""
    if not path.is_dir():
        return [path]
    inside = path / "Annotations"
    found = sorted((inside if inside.is_dir() else path).glob("*.xml"))
    if found:
        return found
    parts = {one.name: one for one in sorted(path.iterdir()) if one.is_dir()}
    parts = {name: one for name, one in parts.items() if any(one.glob("*.xml"))}
    if source is None or not parts:
        return [file for one in parts.values() for file in sorted(one.glob("*.xml"))[:1]]
    return sorted(base.choose_split(parts, source).glob("*.xml"))


def _scenes(files: list[Path], source: base.Source) -> Iterator[base.RawScene]:
    for file in files:
        try:
            root = read_xml(file)
        except LaternaError as error:
            if len(files) == 1:
                raise
            source.drop("file that is no XML", str(error))
            continue
        name = base.text_of(root.findtext("filename") or f"{file.stem}.jpg").replace("\\", "/")
        yield base.RawScene(
            id=file.stem,
            image=PurePosixPath(name).name,
            where=file.name,
            width=root.findtext("size/width"),
            height=root.findtext("size/height"),
            boxes=(
                _box(thing, f"{file.name}, object {place}")
                for place, thing in enumerate(root.iterfind("object"), start=1)
            ),
        )


def _box(thing: Element, where: str) -> base.RawBox:
    category = base.category_name(thing.findtext("name"))
    if category.isdecimal():  # as Flickr30k Entities numbers its phrases
        return base.RawBox(where, category, None, "category that is only a number")
    values = base.numbers([thing.findtext(f"bndbox/{name}") for name in _CORNERS])
    if values is None:
        missing = thing.find("bndbox") is None
        fault = "annotation without a box" if missing else "box that is no four numbers"
        return base.RawBox(where, category, None, fault)
    x1, y1, x2, y2 = values
    return base.RawBox(where, category, (max(0.0, x1 - 1), max(0.0, y1 - 1), x2, y2))
