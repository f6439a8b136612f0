"""Reads CVAT's own XML ("CVAT for images 1.1"): boxes, and polygons by the box around them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element

from laterna.errors import LaternaError
from laterna.scenes.readers import base
from laterna.scenes.readers.files import peek, read_xml

_CORNERS = ("xtl", "ytl", "xbr", "ybr")


def looks_like(path: Path) -> bool:
    """Tell an XML file of CVAT's, or a folder with its `annotations.xml`."""
    return b"<annotations>" in peek(_file(path)).content


def read(source: base.Source) -> base.Found:
    """Return the scenes of all images; raises LaternaError for tracks, which a video has."""
    path = _file(source.path)
    root = read_xml(path)
    if root.find("track") is not None:
        raise LaternaError(
            f"{path}: tracks through a video; export the task as 'CVAT for images 1.1' or COCO"
        )
    folders = (path.parent / "images", path.parent)
    return base.Found(path, _scenes(root, source, path), folders=folders)


def _file(path: Path) -> Path:
    return path / "annotations.xml" if path.is_dir() else path


def _scenes(root: Element, source: base.Source, path: Path) -> Iterator[base.RawScene]:
    for image in root.iterfind("image"):
        name = base.text_of(image.get("name"))
        yield base.RawScene(
            id=base.text_of(image.get("id")) or name,
            image=name,
            where=f"image {name}",
            width=image.get("width"),
            height=image.get("height"),
            boxes=(
                _box(shape, f"image {name}, {shape.tag} {place}", path, source)
                for place, shape in enumerate(image, start=1)
                if shape.tag in ("box", "polygon")
            ),
        )


def _box(shape: Element, where: str, path: Path, source: base.Source) -> base.RawBox:
    category, found, fault = base.category_name(shape.get("label")), None, ""
    if shape.tag == "polygon":
        found = _around(shape.get("points", ""))
        fault = "" if found else "outline that is no numbers"
        if found:
            source.note("box taken from its outline", f"{path}: {where}")
    elif base.number(shape.get("rotation") or 0) != 0:
        fault = "box that is turned"
    else:
        found = base.corners([shape.get(name) for name in _CORNERS])
    return base.RawBox(where, category, found, fault)


def _around(points: str) -> base.Corners | None:
    values = points.replace(";", ",").split(",")
    return base.bounds(base.numbers(values, len(values)) or ())
