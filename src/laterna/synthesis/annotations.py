"""Reads annotated pictures: COCO's instances and captions, and LLaVA's context lines.

The form is told by what the file holds, never by its name. What cannot be used is left out,
counted by reason and named; nothing is mended on the quiet.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from laterna.errors import LaternaError
from laterna.records import Box, Record, Scene

_T = TypeVar("_T")
_SLACK = 0.005
"""How far a box may lie outside its picture, in its width or height: COCO's own rounding."""


class Problem(Record):
    """One annotation or picture that was left out."""

    reason: str
    where: str


class Annotations(Record):
    """All usable scenes of a source, in its order, and what was left out."""

    scenes: tuple[Scene, ...]
    problems: tuple[Problem, ...]


class _CocoImage(msgspec.Struct):
    id: int
    file_name: str
    width: int
    height: int


class _CocoInstance(msgspec.Struct):
    id: int
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    iscrowd: int = 0


class _CocoCaption(msgspec.Struct):
    id: int
    image_id: int
    caption: str


class _CocoCategory(msgspec.Struct):
    id: int
    name: str


class _CocoInstances(msgspec.Struct):
    images: list[_CocoImage]
    annotations: list[_CocoInstance]
    categories: list[_CocoCategory]


class _CocoCaptions(msgspec.Struct):
    images: list[_CocoImage]
    annotations: list[_CocoCaption]


class _ContextBox(msgspec.Struct):
    category: str
    bbox: tuple[float, float, float, float]


class _Context(msgspec.Struct):
    id: str | int
    image: str
    captions: tuple[str, ...]
    instances: tuple[_ContextBox, ...]


def read_annotations(path: Path, captions: Path | None = None) -> Annotations:
    """Read a COCO folder (instances.json, captions.json), a COCO instances file, or context lines.

    `captions` names the captions file; by default the `captions.json` beside the instances.
    Raises LaternaError when a file is missing, is in neither form, or holds no usable picture.
    """
    source = path / "instances.json" if path.is_dir() else path
    content = _read(source)
    first_line = content.lstrip().partition(b"\n")[0]
    try:
        msgspec.json.decode(first_line, type=_Context)
    except (msgspec.DecodeError, msgspec.ValidationError):
        captions_file = captions or source.with_name("captions.json")
        found = _read_coco(content, source, captions_file)
    else:
        found = _read_contexts(content, source)
    if not found.scenes:
        raise LaternaError(f"{source}: no usable picture in it ({_reasons(found.problems)})")
    return found


def read_scenes(path: str | Path) -> Iterator[Scene]:
    """Yield the usable scenes of a file or folder, as `read_annotations` finds them."""
    yield from read_annotations(Path(path)).scenes


def _read_coco(content: bytes, source: Path, captions_file: Path) -> Annotations:
    instances = _decode(content, _CocoInstances, source)
    described = _decode(_read(captions_file), _CocoCaptions, captions_file)
    problems: list[Problem] = []
    images = _images_by_number(instances.images, source, problems)
    names = {category.id: category.name for category in instances.categories}
    captions: dict[int, list[str]] = {number: [] for number in images}
    for caption in described.annotations:
        where = f"{captions_file}: caption {caption.id}"
        if caption.image_id not in captions:
            problems.append(Problem(reason="caption of an unknown image", where=where))
        elif not caption.caption.strip():
            problems.append(Problem(reason="caption without words", where=where))
        else:
            captions[caption.image_id].append(caption.caption)
    boxes: dict[int, list[Box]] = {number: [] for number in images}
    for instance in instances.annotations:
        image = images.get(instance.image_id)
        found = _coco_box(instance, image, names)
        if isinstance(found, Box):
            boxes[instance.image_id].append(found)
        else:
            problems.append(Problem(reason=found, where=f"{source}: annotation {instance.id}"))
    scenes = []
    for number, image in images.items():
        if not captions[number]:
            where = f"{source}: image {number} ({image.file_name})"
            problems.append(Problem(reason="picture without captions", where=where))
            continue
        scenes.append(
            Scene(
                id=str(number),
                picture=image.file_name,
                width=image.width,
                height=image.height,
                captions=tuple(captions[number]),
                boxes=tuple(boxes[number]),
            )
        )
    return Annotations(scenes=tuple(scenes), problems=tuple(problems))


def _images_by_number(
    images: list[_CocoImage], source: Path, problems: list[Problem]
) -> dict[int, _CocoImage]:
    """Return the images by id, the first of each; further ones are noted in `problems`."""
    found: dict[int, _CocoImage] = {}
    for image in images:
        if image.id in found:
            where = f"{source}: image {image.id} ({image.file_name})"
            problems.append(Problem(reason="image id given twice", where=where))
        else:
            found[image.id] = image
    return found


def _coco_box(
    instance: _CocoInstance, image: _CocoImage | None, names: dict[int, str]
) -> Box | str:
    """Return the relative box of an instance, or the reason why there is none."""
    if image is None:
        return "annotation without an image entry"
    if instance.category_id not in names:
        return "unknown category"
    if instance.iscrowd:
        return "crowd region"
    if image.width <= 0 or image.height <= 0:
        return "picture without a size"
    x, y, width, height = instance.bbox
    corners = (
        x / image.width,
        y / image.height,
        (x + width) / image.width,
        (y + height) / image.height,
    )
    return _checked_box(names[instance.category_id], corners)


def _checked_box(category: str, corners: tuple[float, float, float, float]) -> Box | str:
    if any(not -_SLACK <= corner <= 1 + _SLACK for corner in corners):
        return "box outside the picture"
    x1, y1, x2, y2 = (min(1.0, max(0.0, corner)) for corner in corners)
    if x2 <= x1 or y2 <= y1:
        return "box of zero area"
    return Box(category=category, x1=x1, y1=y1, x2=x2, y2=y2)


def _read_contexts(content: bytes, source: Path) -> Annotations:
    scenes: list[Scene] = []
    problems: list[Problem] = []
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        context = _decode(line, _Context, source, f" line {number}")
        where = f"{source}: record {context.id}"
        found = [_checked_box(box.category, box.bbox) for box in context.instances]
        captions = tuple(caption for caption in context.captions if caption.strip())
        reasons = [box for box in found if isinstance(box, str)]
        reasons += ["caption without words"] * (len(context.captions) - len(captions))
        reasons += [] if captions else ["picture without captions"]
        problems += [Problem(reason=reason, where=where) for reason in reasons]
        if not captions:
            continue
        scenes.append(
            Scene(
                id=str(context.id),
                picture=context.image,
                width=None,
                height=None,
                captions=captions,
                boxes=tuple(box for box in found if isinstance(box, Box)),
            )
        )
    return Annotations(scenes=tuple(scenes), problems=tuple(problems))


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise LaternaError(f"{path}: no such annotations file")
    content = path.read_bytes()
    if not content.strip():
        raise LaternaError(f"{path}: the file is empty")
    return content


def _decode(content: bytes, kind: type[_T], path: Path, place: str = "") -> _T:
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise LaternaError(
            f"{path}{place}: neither COCO annotations nor LLaVA context lines: {error}"
        ) from error


def _reasons(problems: tuple[Problem, ...]) -> str:
    reasons = sorted({problem.reason for problem in problems})
    return ", ".join(reasons) if reasons else "it lists none"
