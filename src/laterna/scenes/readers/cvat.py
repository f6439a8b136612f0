"""Reads CVAT's own XML ("CVAT for images 1.1"): boxes, and other shapes by the box around them."""

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
                if shape.tag not in ("tag", "attribute")
            ),
        )


def _box(shape: Element, where: str, path: Path, source: base.Source) -> base.RawBox:
    category, found, fault = base.category_name(shape.get("label")), None, ""
    if base.number(shape.get("rotation") or 0) != 0:
        fault = "box that is turned"
    elif shape.tag == "box":
        found = base.corners([shape.get(name) for name in _CORNERS])
    else:
        found = _outline(shape)
        fault = "" if found else f"{shape.tag} that has no outline in numbers"
        if found:
            source.note("box taken from its outline", f"{path}: {where}")
    return base.RawBox(where, category, found, fault)


def _outline(shape: Element) -> base.Corners | None:
    """Return the box around a polygon, an ellipse or a mask; None for what has no inside."""
    if shape.tag == "polygon":
        return _around(shape.get("points", ""))
    if shape.tag == "ellipse":
        middle = base.numbers([shape.get(name) for name in ("cx", "cy", "rx", "ry")])
        if middle is None:
            return None
        x, y, across, down = middle
        return x - across, y - down, x + across, y + down
    if shape.tag == "mask":
        return base.corners_of_size(
            [shape.get(name) for name in ("left", "top", "width", "height")]
        )
    return None


def _around(points: str) -> base.Corners | None:
    values = points.replace(";", ",").split(",")
    return base.bounds(base.numbers(values, len(values)) or ())
