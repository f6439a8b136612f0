"""Reads COCO's instances and captions, and what shares their form: LVIS, Open Images converted.

A file of several hundred MB is read as a stream, one annotation at a time, of which the outline
(`segmentation`) is never kept; boxes and captions wait in columns until their picture's turn.

LVIS gives `coco_url` instead of a file name, and WordNet names: underscores are spaces there, and
what stands in brackets tells meanings apart ("bus_(vehicle)"), which no reply would say.
Conversions of Open Images may number by text or by floats, and give boxes in 0..1 of the
picture's width and height. A file is read so when no value of a box is above 1 and not all are
whole, since no file in pixels has only boxes of less than one. Their `isgroupof` marks one box
around several things, as `iscrowd` does.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TypeVar
from urllib.parse import urlsplit

import ijson
import msgspec

from laterna.records import Box, Scene
from laterna.synthesis.readers.base import (
    Problem,
    checked_box,
    open_source,
    sort_out_boxes,
    unreadable,
)
from laterna.synthesis.readers.columns import Groups, Texts

_T = TypeVar("_T")
_Id = int | float | str


class _Image(msgspec.Struct):
    id: _Id
    file_name: str | None = None
    coco_url: str | None = None
    width: int | float | None = None
    height: int | float | None = None


class _Instance(msgspec.Struct):
    id: _Id
    image_id: _Id
    category_id: _Id
    bbox: tuple[float, float, float, float]
    iscrowd: bool | int | float = 0
    isgroupof: bool | int | float = 0


class _Caption(msgspec.Struct):
    id: _Id
    image_id: _Id
    caption: str


class _Category(msgspec.Struct):
    id: _Id
    name: str
    synset: str | None = None
    """A WordNet name; only LVIS has it."""


def read_coco(
    source: Path, captions_file: Path | None, problems: list[Problem], *, captionless: bool
) -> Iterator[Scene]:
    """Yield the scenes of an instances file, with the captions of another, in the images' order.

    Without a captions file no picture has captions. Raises LaternaError when a file is missing
    or not in COCO's form.
    """
    images = _Images(source, problems)
    captions = _Captions(captions_file, images, problems)
    instances = _Instances(source, images, problems)
    for index, (number, name) in enumerate(zip(images.index, images.names, strict=True)):
        width, height = images.widths[index], images.heights[index]
        boxes = instances.boxes(index, number, width, height)
        words = captions.of(index)
        if not words and not (captionless and boxes):
            where = f"{source}: image {number} ({name})"
            problems.append(Problem(reason="picture without captions", where=where))
            continue
        yield Scene(
            id=number,
            picture=name,
            width=int(width) if width > 0 else None,
            height=int(height) if height > 0 else None,
            captions=words,
            boxes=boxes,
        )


class _Images:
    """The images of a file: name and size by index, index by id."""

    def __init__(self, source: Path, problems: list[Problem]) -> None:
        self.index: dict[str, int] = {}
        self.names = Texts()
        self.widths = array("d")
        self.heights = array("d")
        for image in _items(source, "images", _Image):
            number = _text(image.id)
            name = image.file_name or _name_in(image.coco_url)
            if number in self.index:
                reason = "image id given twice"
            elif not name:
                reason = "image without a file name"
            else:
                self.index[number] = len(self.names)
                self.names.append(name)
                self.widths.append(image.width or 0)
                self.heights.append(image.height or 0)
                continue
            problems.append(Problem(reason=reason, where=f"{source}: image {number} ({name})"))


class _Captions:
    """The captions of every image."""

    def __init__(self, file: Path | None, images: _Images, problems: list[Problem]) -> None:
        self._texts = Texts()
        image_of = array("q")
        ids = Texts()
        for caption in _items(file, "annotations", _Caption) if file else ():
            number = _text(caption.id)
            image = images.index.get(_text(caption.image_id))
            if image is None:
                reason = "caption of an unknown image"
            elif not caption.caption.strip():
                reason = "caption without words"
            else:
                ids.append(number)
                image_of.append(image)
                self._texts.append(caption.caption)
                continue
            problems.append(Problem(reason=reason, where=f"{file}: caption {number}"))
        self._repeated = set(ids.repeats())
        for row in sorted(self._repeated):
            where = f"{file}: caption {ids[row]}"
            problems.append(Problem(reason="caption id given twice", where=where))
        self._rows = Groups(image_of, len(images.index))

    def of(self, image: int) -> tuple[str, ...]:
        """Return the captions of one image, in the file's order."""
        return tuple(self._texts[row] for row in self._rows[image] if row not in self._repeated)


class _Instances:
    """The annotated objects of every image, as columns."""

    def __init__(self, source: Path, images: _Images, problems: list[Problem]) -> None:
        self._source = source
        self._problems = problems
        self._categories = Texts()
        categories: dict[str, int] = {}
        for category in _items(source, "categories", _Category):
            categories[_text(category.id)] = len(self._categories)
            self._categories.append(_plain_name(category))
        self._ids = Texts()
        self._category_of = array("i")
        self._crowd = array("b")
        self._corners = tuple(array("d") for _ in range(4))
        image_of = array("q")
        for instance in _items(source, "annotations", _Instance):
            number = _text(instance.id)
            image = images.index.get(_text(instance.image_id))
            if image is None:
                where = f"{source}: annotation {number}"
                problems.append(Problem(reason="annotation without an image entry", where=where))
                continue
            self._ids.append(number)
            image_of.append(image)
            self._category_of.append(categories.get(_text(instance.category_id), -1))
            self._crowd.append(instance.iscrowd > 0 or instance.isgroupof > 0)
            for column, value in zip(self._corners, instance.bbox, strict=True):
                column.append(value)
        self._repeated = set(self._ids.repeats())
        self._rows = Groups(image_of, len(images.index))
        self._relative = _are_relative(self._corners)

    def boxes(self, image: int, scene: str, width: float, height: float) -> tuple[Box, ...]:
        """Return the usable boxes of one image in the file's order; the others become problems."""
        if self._relative:
            width = height = 1.0
        found = (self._checked(row, scene, width, height) for row in self._rows[image])
        return sort_out_boxes(found, self._problems)

    def _checked(self, row: int, scene: str, width: float, height: float) -> Box | Problem:
        found = self._box(row, width, height)
        if isinstance(found, Box):
            return found
        of = self._category_of[row]
        return Problem(
            reason=found,
            where=f"{self._source}: annotation {self._ids[row]}",
            scene=scene,
            category=self._categories[of] if of >= 0 else "",
        )

    def _box(self, row: int, width: float, height: float) -> Box | str:
        if row in self._repeated:
            return "annotation id given twice"
        if self._category_of[row] < 0:
            return "unknown category"
        if self._crowd[row]:
            return "crowd region"
        if width <= 0 or height <= 0:
            return "picture without a size"
        x, y, across, down = (column[row] for column in self._corners)
        corners = (x / width, y / height, (x + across) / width, (y + down) / height)
        return checked_box(self._categories[self._category_of[row]], corners)


def _plain_name(category: _Category) -> str:
    """Return a category's name as one says it: "bus" of LVIS's "bus_(vehicle)"."""
    if not category.synset:
        return category.name
    return category.name.partition("_(")[0].replace("_", " ")


def _items(path: Path, part: str, kind: type[_T]) -> Iterator[_T]:
    """Yield the entries of one of a file's lists, reading no more than one at a time."""
    number = 0
    try:
        with open_source(path) as file:
            # floats instead of decimals: COCO's own precision, and five times as fast
            for item in ijson.items(file, f"{part}.item", use_float=True):
                number += 1
                yield msgspec.convert(item, kind)
        if not number and not _holds(path, part):
            unreadable(path, "", f"it has no list `{part}`")
    except ijson.JSONError as error:
        reason = error.args[0]
        reason = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        unreadable(path, "", reason.strip().partition("\n")[0])
    except UnicodeDecodeError as error:
        unreadable(path, "", error)
    except msgspec.ValidationError as error:
        unreadable(path, f" {part}, entry {number}", error)


def _are_relative(columns: tuple[array[float], ...]) -> bool:
    """Tell boxes in 0..1 from boxes in pixels, by all of a file's boxes together."""
    highest = max(max(column, default=0) for column in columns)
    return highest <= 1 and any(not value.is_integer() for column in columns for value in column)


def _holds(path: Path, part: str) -> bool:
    with open_source(path) as file:
        return any(
            prefix == part and event == "start_array" for prefix, event, _ in ijson.parse(file)
        )


def _text(number: _Id) -> str:
    """Return an id as text; 7, 7.0 and "7" are one id."""
    if isinstance(number, float) and number.is_integer():
        number = int(number)
    return str(number)


def _name_in(coco_url: str | None) -> str:
    """Return `train2017/000000391895.jpg` of LVIS's address, as COCO's folders lie.

    LVIS splits COCO's pictures anew, so that its validation set lies in two of COCO's folders.
    """
    if not coco_url:
        return ""
    path = PurePosixPath(urlsplit(coco_url).path)
    return str(PurePosixPath(*path.parts[-2:])) if path.name else ""
