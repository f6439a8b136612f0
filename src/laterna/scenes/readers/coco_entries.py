"""The lists of a COCO file as entries: decoded whole below 1 GB, streamed beyond.

Fields may hold anything: what is wrong with an entry is for `coco` to say, and never ends a run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import ijson
import msgspec
from msgspec import UNSET

from laterna.errors import LaternaError
from laterna.scenes.readers.base import Problem, numbers
from laterna.scenes.readers.files import decode_json, open_source, read_whole
from laterna.scenes.readers.foreign import refuse

_T = TypeVar("_T", bound=msgspec.Struct)


class Image(msgspec.Struct, gc=False):
    """A picture: what it is called, and how large it is."""

    id: Any = None
    file_name: Any = None
    coco_url: Any = None
    width: Any = None
    height: Any = None


class Annotation(msgspec.Struct, gc=False):
    """A box, a caption, both, or the parts of a panoptic picture."""

    id: Any = None
    image_id: Any = None
    category_id: Any = UNSET
    bbox: Any = UNSET
    iscrowd: Any = 0
    isgroupof: Any = 0
    caption: Any = UNSET
    segments_info: Any = None
    segmentation: msgspec.Raw = msgspec.Raw()


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
    content = read_whole(path)
    if content is None:
        return _streamed(path, problems)
    raw: Any
    try:
        raw = msgspec.json.decode(content, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
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
        raise LaternaError(f"{where}: no list, as COCO's form has it")
    return list(_built(raw, kind, where, problems))


def _built(
    raw: Iterable[object], kind: type[_T], where: str, problems: list[Problem]
) -> Iterator[_T]:
    for place, one in enumerate(raw, start=1):
        if isinstance(one, dict):
            yield build(kind, one)
        else:
            reason = "entry that is no object"
            problems.append(Problem(reason=reason, where=f"{where}, entry {place}"))


def _streamed(path: Path, problems: list[Problem]) -> Lists:
    """Read the lists of a file that is too large to be decoded whole, one after the other."""
    images: list[Image] = list(_items(path, "images", Image, problems))
    return Lists(
        images,
        list(_items(path, "annotations", Annotation, problems)),
        list(_items(path, "categories", Category, problems)),
        has_images=bool(images),
    )


def _items(path: Path, part: str, kind: type[_T], problems: list[Problem]) -> Iterator[_T]:
    try:
        with open_source(path) as file:
            # floats instead of decimals: COCO's own precision, and five times as fast
            items = ijson.items(file, f"{part}.item", use_float=True)
            yield from _built(map(_without_outline, items), kind, f"{path}: {part}", problems)
    except (ijson.JSONError, UnicodeError, ValueError) as error:
        raise LaternaError(f"{path}: broken or cut JSON: {error}") from error


def _without_outline(one: Any) -> Any:
    """Drop the outline of an object that has a box: it takes ten times the room of the rest."""
    if isinstance(one, dict) and numbers(one.get("bbox")):
        one.pop("segmentation", None)
    return one
