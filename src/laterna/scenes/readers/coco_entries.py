"""The lists of a COCO file as entries: held in memory below 1 GB, mapped from disk beyond.

Fields may hold anything: what is wrong with an entry is for `coco` to say, and never ends a run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
from msgspec import UNSET

from laterna.errors import LaternaError
from laterna.scenes.readers.base import Problem, objects_in
from laterna.scenes.readers.files import decode_json, read_large
from laterna.scenes.readers.foreign import refuse

_T = TypeVar("_T", bound=msgspec.Struct)


NO_OUTLINE = msgspec.Raw()


class Image(msgspec.Struct, gc=False):
    """An image: what it is called, and how large it is."""

    id: Any = None
    file_name: Any = None
    coco_url: Any = None
    width: Any = None
    height: Any = None


class Annotation(msgspec.Struct, gc=False):
    """A box, a caption, both, or the parts of a panoptic image."""

    id: Any = None
    image_id: Any = None
    category_id: Any = UNSET
    bbox: Any = UNSET
    iscrowd: Any = 0
    isgroupof: Any = 0
    caption: Any = UNSET
    is_rejected: Any = False
    is_precanned: Any = False
    """VizWiz has captions that say no more than that nothing can be seen."""
    segments_info: Any = None
    segmentation: msgspec.Raw = NO_OUTLINE


class Category(msgspec.Struct, gc=False):
    """What boxes may hold."""

    id: Any = None
    name: Any = None
    synset: Any = None
    """A WordNet name; only LVIS has it."""
    isthing: Any = 1
    """0 for what panoptic files call stuff: sky, grass."""


def build(kind: type[_T], fields: Any) -> _T:
    """Return an entry made of a decoded object, whatever else is in that."""
    known = {name: fields[name] for name in kind.__struct_fields__ if name in fields}
    return kind(**known)


class Lists(NamedTuple):
    """What a file lists."""

    images: list[Image]
    annotations: list[Annotation]
    categories: list[Category]
    has_images: bool
    """Whether there is a list of images at all, be it empty."""


def load_lists(path: Path, problems: list[Problem]) -> Lists:
    """Return the entries of a file's three lists; those that are no objects become problems.

    Raises LaternaError when the file is missing, is not JSON, or holds no such object.
    """
    content = read_large(path)
    raw: Any
    try:
        raw = msgspec.json.decode(content, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        if not isinstance(content, bytes):  # too large for what takes a multiple of it
            raise LaternaError(f"{path}: broken or cut JSON, or NaN in it: {error}") from error
        raw = decode_json(content, str(path))  # NaN, a list around it, or broken
        if isinstance(raw, list) and len(raw) == 1:
            raw = raw[0]
    if not isinstance(raw, dict) or not raw.keys() & {"images", "annotations", "categories"}:
        raise refuse(path, "an object with COCO's lists")
    return Lists(
        _entries(raw.get("images"), Image, f"{path}: images", problems),
        _entries(raw.get("annotations"), Annotation, f"{path}: annotations", problems),
        _entries(raw.get("categories"), Category, f"{path}: categories", problems),
        has_images="images" in raw,
    )


def _entries(raw: object, kind: type[_T], where: str, problems: list[Problem]) -> list[_T]:
    """Return the entries of one list; those that are no objects become problems."""
    if isinstance(raw, msgspec.Raw):
        try:
            return msgspec.json.decode(raw, type=list[kind])  # type: ignore[valid-type]
        except (msgspec.MsgspecError, RecursionError, UnicodeError):
            raw = decode_json(bytes(raw), where)
    if raw is None:
        return []
    if not isinstance(raw, list):
        raise LaternaError(f"{where}: not a list, unlike in COCO's format")
    return [build(kind, one) for _, one in objects_in(raw, f"{where}, entry", problems)]
