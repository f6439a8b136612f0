"""What a reader gives, and the one place where it is checked: `usable_scenes`.

A reader says what its file holds, faults and all. Here every id, name, size, caption and box is
held to what a `Scene` needs; what cannot be used is counted by reason and named, and the rest
goes on. No fault of one entry ends a run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from laterna.errors import LaternaError
from laterna.records import DEFAULT_IMAGE_TOKEN, Box, Record, Scene
from laterna.scenes.orientation import (
    ON_ITS_SIDE,
    Shape,
    View,
    alike,
    turn_box,
    view_of,
)

if TYPE_CHECKING:
    from laterna.scenes.image_files import ImageFolders

Corners = tuple[float, float, float, float]
"""x1, y1, x2, y2."""

_SLACK = 0.005
"""How far a box may lie outside its image, in its width or height: the files' own rounding."""
_FAR = 1.0
"""How far a box in 0..1 may: what lies further out was written in other units."""
_SPLITS = ("train", "training")
_ACRONYM = 3
"""Longest word that keeps its capitals, as in "TV" and "CD player"."""


class Problem(Record):
    """One annotation or image that was left out, or changed."""

    reason: str
    where: str
    scene: str = ""
    """Id of the scene that lost a box by it; empty where it lost none."""
    category: str = ""
    """What that box holds; empty where it is not known."""
    kept: bool = False
    """Nothing was left out: the reason says how it was changed, or read."""


class RawBox(NamedTuple):
    """One object as a file has it."""

    name: object
    """What stands for it in messages, behind the source's `each`."""
    category: str
    corners: Corners | None
    """In pixels, or in 0..1 where the source's `relative` says so; None: no four numbers."""
    fault: str = ""
    """Why the reader itself cannot use it."""


class RawScene(NamedTuple):
    """One image as a file has it."""

    id: str
    image: str
    where: str
    """What stands for it in messages."""
    width: object = None
    height: object = None
    captions: Sequence[object] = ()
    boxes: Iterable[RawBox] = ()


class Found(NamedTuple):
    """What a reader found in a source."""

    path: Path
    """The file, or folder of files, that was read."""
    scenes: Iterator[RawScene]
    captioned: bool = False
    """Whether the source has captions at all; without any, images need none."""
    relative: bool = False
    """Boxes are in 0..1 of the image's width and height."""
    each: str = ""
    """What a box is called in messages."""
    folders: tuple[Path, ...] = ()
    """Where the images lie, as the format has it."""


class Source(NamedTuple):
    """What a reader reads."""

    path: Path
    captions: Path | None
    """File of captions that goes with it; None: as the format has it."""
    problems: list[Problem]

    def drop(self, reason: str, where: str) -> None:
        """Count something that is left out."""
        self.problems.append(Problem(reason=reason, where=where))

    def note(self, reason: str, where: str) -> None:
        """Count something that was read otherwise than a person may expect."""
        self.problems.append(Problem(reason=reason, where=where, kept=True))


class Reader(NamedTuple):
    """One format of annotations."""

    form: str
    """What it is called, for messages."""
    looks_like: Callable[[Path], bool]
    """Tells a file or folder of this format by what it holds."""
    read: Callable[[Source], Found]
    captions: bool = False
    """Whether captions may come from a second file."""
    view: View = "stored"
    """Which view of an image boxes belong to where its size cannot tell."""


def number(value: object) -> float | None:
    """Return a finite number, also where it is written as text; None for anything else."""
    try:
        found = float(value) if isinstance(value, int | float | str) else math.nan
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def numbers(values: object, many: int = 4) -> tuple[float, ...] | None:
    """Return so many finite numbers; None where it is another number of values, or no numbers."""
    if not isinstance(values, list | tuple) or len(values) != many:
        return None
    if set(map(type, values)) == {float} and all(map(math.isfinite, values)):
        return tuple(values)
    found = [number(value) for value in values]
    return None if None in found else tuple(found)  # type: ignore[arg-type]


def corners(values: object) -> Corners | None:
    """Return four finite numbers as the corners of a box; None for anything else."""
    return numbers(values)  # type: ignore[return-value]


def corners_of_size(values: object) -> Corners | None:
    """Return the corners of a box that is given as x, y, width and height."""
    found = corners(values)
    return found and (found[0], found[1], found[0] + found[2], found[1] + found[3])


def bounds(points: Sequence[float]) -> Corners | None:
    """Return the box around points x, y, x, y, …; None where there are fewer than two."""
    across, down = points[0::2], points[1::2]
    if len(down) < 2:
        return None
    return min(across), min(down), max(across), max(down)


def text_of(value: object) -> str:
    """Return an id or a name as text, "" where it is none; 7, 7.0 and "7" are one id."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    try:
        text = str(value) if isinstance(value, int | float | str) else ""
        text.encode()
    except ValueError:  # half a surrogate pair, or a number of thousands of digits
        return ""
    return text.strip()


def entries(value: object) -> list[Mapping[str, object]]:
    """Return the objects of a list of JSON, passing over anything else."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def objects_in(
    values: Iterable[object], where: str, problems: list[Problem]
) -> Iterator[tuple[int, dict[str, object]]]:
    """Yield the objects among values with their places, from 1; count what is none."""
    for place, one in enumerate(values, start=1):
        if isinstance(one, dict):
            yield place, one
        else:
            problems.append(Problem(reason="entry that is no object", where=f"{where} {place}"))


def category_name(value: object) -> str:
    """Return a category's name as one says it, in one line; "" where it is none.

    Capitals are folded but in short words that are all capitals, and what the proxy text writes
    boxes with (colons, brackets) is taken out.
    """
    if not isinstance(value, str):
        return ""
    words = "".join(" " if sign in ":[]" else sign for sign in text_of(value)).split()
    return " ".join(
        word if word.isupper() and 1 < len(word) <= _ACRONYM else word.lower() for word in words
    )


def choose_split(splits: Mapping[str, Path], source: Source) -> Path:
    """Return the part of a dataset to read: its only one, or of several the training part.

    What is left is noted. Raises LaternaError where that does not decide.
    """
    train = [name for name in splits if name.lower().startswith(_SPLITS)]
    names = list(splits) if len(splits) == 1 else train
    if len(names) != 1:
        several = ", ".join(str(path) for path in splits.values())
        raise LaternaError(f"{source.path}: holds several parts; name one of {several}")
    others = ", ".join(name for name in splits if name != names[0])
    if others:
        source.note(f"read the part {names[0]} alone", f"{source.path}: not {others}")
    return splits[names[0]]


class Upright(NamedTuple):
    """How images and boxes are brought into one view; see `orientation`."""

    folders: ImageFolders
    asked: View
    default: View

    def assumed(self, shape: Shape) -> tuple[int, int]:
        """Return the size that an image without an annotated one is taken to be boxed at."""
        view = self.default if self.asked == "auto" else self.asked
        return shape.turned if view == "turned" else shape[:2]


def usable_scenes(
    found: Found, source: Source, upright: Upright, *, captionless: bool
) -> Iterator[Scene]:
    """Yield the scenes that can be used; what cannot be is added to the problems on the way."""
    seen: set[str] = set()
    for raw in found.scenes:
        where = f"{found.path}: {raw.where}"
        reason = ""
        if not raw.id or not raw.image:
            reason = "image without a file name" if raw.id else "image without an id"
        elif raw.id in seen:
            reason = "image id given twice"
        if reason:
            source.drop(reason, where)
            continue
        seen.add(raw.id)
        captions = tuple(usable_captions(raw.captions, where, source.problems))
        size, boxes = _located(raw, found, source, upright)
        if captions or (boxes and (captionless or not found.captioned)):
            width, height = size or (None, None)
            yield Scene(
                id=raw.id,
                image=raw.image,
                width=width,
                height=height,
                captions=captions,
                boxes=boxes,
            )
            continue
        reason = "image without captions" if found.captioned else "image without usable boxes"
        source.drop(reason, where)


def usable_captions(
    captions: Iterable[object], where: str, problems: list[Problem]
) -> Iterator[str]:
    """Yield the captions that say something."""
    for caption in captions:
        if not isinstance(caption, str) or (caption and not text_of(caption) and caption.strip()):
            problems.append(Problem(reason="caption that is no text", where=where))
        elif not caption.strip():
            problems.append(Problem(reason="caption without words", where=where))
        elif DEFAULT_IMAGE_TOKEN in caption:
            problems.append(Problem(reason="caption that holds a mark of an image", where=where))
        else:
            yield caption


def _size(raw: RawScene) -> tuple[int, int] | None:
    width, height = number(raw.width), number(raw.height)
    if width is None or height is None or width < 1 or height < 1:
        return None
    return int(width), int(height)


def _located(
    raw: RawScene, found: Found, source: Source, upright: Upright
) -> tuple[tuple[int, int] | None, tuple[Box, ...]]:
    """Return an image's size and its usable boxes, both as a person sees it."""
    size, listed = _size(raw), tuple(raw.boxes)
    shape = upright.folders.shape(raw.image) if listed else None
    if shape is None:
        view: View | None = "turned"  # nothing is known that would be turned
    else:
        view = view_of(shape, size, upright.asked, upright.default)
        if size is None and not found.relative:
            size = upright.assumed(shape)
    boxes = []
    for raw_box in listed:
        scale = (1, 1) if found.relative else size
        box, cut = _placed(raw_box, scale, found.relative)
        if view is None and isinstance(box, Box):
            box = "image of another shape than its annotation says"
        if isinstance(box, str):
            where = f"{found.path}: {found.each}{text_of(raw_box.name)}"
            problem = Problem(reason=box, where=where, scene=raw.id, category=raw_box.category)
            source.problems.append(problem)
            continue
        if cut:
            where = f"{found.path}: {found.each}{text_of(raw_box.name)}"
            source.note("box cut at the image's edge", where)
        boxes.append(turn_box(box, shape.orientation) if shape and view == "stored" else box)
    lying = shape is not None and shape.orientation in ON_ITS_SIDE
    # the stored image's size, or given as the turned one's by a tool that mistakes them
    if lying and size and shape and (view == "stored" or not alike(size, shape.turned)):
        size = size[::-1]
    return size, tuple(boxes)


def _placed(box: RawBox, scale: tuple[int, int] | None, relative: bool) -> tuple[Box | str, bool]:
    """Return a box in 0..1 or why there is none, and whether much of it was cut off."""
    if box.fault or not box.category:
        return box.fault or "category without a name", False
    if box.corners is None:
        return "box that is no four numbers", False
    if scale is None:
        return "image without a size", False
    width, height = scale
    x1, y1, x2, y2 = box.corners
    exact = (x1 / width, y1 / height, x2 / width, y2 / height)
    return place_box(box.category, exact, relative=relative)


def place_box(category: str, corners: Corners, *, relative: bool = False) -> tuple[Box | str, bool]:
    """Return the box with these corners in 0..1 or why there is none, and whether it was cut.

    What lies outside is cut off at the image's edge; up to a rounding error nothing is said of
    it. `relative`: they were written so, and what lies far outside was meant in pixels.
    """
    x1, y1, x2, y2 = corners
    if 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1:
        return Box(category=category, x1=x1, y1=y1, x2=x2, y2=y2), False
    if relative and not all(-_FAR <= corner <= 1 + _FAR for corner in corners):
        return "box not in 0..1", False
    if x2 <= x1 or y2 <= y1:
        return "box of zero area", False
    inside = [min(1.0, max(0.0, corner)) for corner in corners]
    if inside[2] <= inside[0] or inside[3] <= inside[1]:
        return "box outside the image", False
    cut = not all(-_SLACK <= corner <= 1 + _SLACK for corner in corners)
    x1, y1, x2, y2 = inside
    return Box(category=category, x1=x1, y1=y1, x2=x2, y2=y2), cut
