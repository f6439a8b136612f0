"""Reads COCO's files and what shares their form: instances, captions, keypoints, panoptic, LVIS.

One file may hold boxes, captions or both; a folder is read by the published file names of COCO,
LVIS, VizWiz, nocaps, and of CVAT's and Roboflow's exports. A file below 1 GB is decoded whole, a
larger one mapped; the outline (`segmentation`) is looked at only where there is no box.

LVIS gives `coco_url` instead of a file name, and WordNet names: underscores are spaces there, and
what stands in brackets tells meanings apart ("bus_(vehicle)"), which no reply would say.
Conversions of Open Images may number by text or by floats, and give boxes in 0..1 of the
image's width and height. A file is read so when no value of a box is above 1 and not all are
whole, since no file in pixels has only boxes of less than one. Their `isgroupof` marks one box
around several things, as `iscrowd` does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import msgspec
from msgspec import UNSET

from laterna.errors import LaternaError
from laterna.scenes.readers import base
from laterna.scenes.readers.coco_entries import (
    NO_OUTLINE,
    Annotation,
    Category,
    Image,
    build,
    load_lists,
)
from laterna.scenes.readers.files import peek

_PUBLISHED = (
    "instances.json",
    "instances_*.json",
    "lvis_*.json",
    "_annotations.coco.json",
    "person_keypoints_*.json",
    "panoptic_*.json",
    "stuff_*.json",
)
"""Names of files with boxes, those to be preferred first: COCO's, LVIS's, CVAT's, Roboflow's."""
_CAPTIONS = ("captions.json", "captions_*.json", "nocaps_*.json", "train.json|val.json")
"""Names of files with captions: COCO's, CVAT's, nocaps', VizWiz's."""
_PLACES = (".", "annotations", "train", "valid", "test")
"""Where in a dataset's folder they lie; Roboflow has a folder a part."""

_OTHERS = {"data", "result", "image", "messages", "conversations", "turns"}
"""Keys beside `images` or `annotations` that other forms have: Label Studio's, records'."""


def looks_like(path: Path) -> bool:
    """Tell a file whose outermost object has COCO's lists, or a folder with files named so."""
    if path.is_dir():
        found = (_named(path, _PUBLISHED) or _named(path, _CAPTIONS)).values()
        # VizWiz' own names could be anybody's
        return any(
            file.name not in ("train.json", "val.json") or looks_like(file) for file in found
        )
    head = peek(path)
    outer, item = head.keys.get("", frozenset()), head.keys.get("item", frozenset())
    if item & {"images", "licenses", "categories"}:
        return True  # the object stands in a list
    if "sentences" in head.keys.get("images.item", ()):
        return False  # Karpathy's splits, which number nothing as COCO does
    lists = outer & {"images", "annotations"} and not outer & _OTHERS
    first = bool(outer) and outer <= {"info", "licenses", "categories", "type"}
    return bool(lists) or first


def read(source: base.Source) -> base.Found:
    """Return the scenes of a COCO file or folder, in the order of its images.

    Raises LaternaError when a file is missing or not in COCO's form.
    """
    path, captions = source.path, source.captions
    if path.is_dir():
        boxed, worded = _named(path, _PUBLISHED), _named(path, _CAPTIONS)
        if not boxed and not worded:
            raise LaternaError(
                f"{path}: no file with one of COCO's names, such as instances.json, in it"
            )
        path = base.choose_split(boxed or worded, source)
        source = source._replace(path=path)
    beside = captions or (None if _split(path)[1] else _captions_of(path))
    return _Coco(source, beside).found()


def _named(folder: Path, names: Iterable[str]) -> dict[str, Path]:
    """Return the files of the first of these names that a folder has, by the part they hold."""
    for pattern in names:
        for packed in ("", ".gz"):
            found = [
                file
                for place in _PLACES
                for wanted in pattern.split("|")
                for file in sorted((folder / place).glob(f"{wanted}{packed}"))
                if file.is_file()
            ]
            if found:
                return {_split(file)[0]: file for file in found}
    return {}


def _split(file: Path) -> tuple[str, bool]:
    """Return which part of a dataset a file holds, and whether its name says captions."""
    name = file.name.removesuffix(".gz").removesuffix(".json")
    worded = any(fnmatch(f"{name}.json", one) for all_of in _CAPTIONS for one in all_of.split("|"))
    part = file.parent.name if name == "_annotations.coco" else name.rpartition("_")[2]
    return part, worded


def _captions_of(instances: Path) -> Path | None:
    """Return the file of captions beside one of boxes: of the same part, or the only one."""
    files = _named(instances.parent, _CAPTIONS)
    return files.get(_split(instances)[0]) or (next(iter(files.values())) if files else None)


class _Coco:
    """The lists of an instances file and of a captions file, joined by image."""

    def __init__(self, source: base.Source, captions: Path | None) -> None:
        self._source = source
        self._path, self._problems = source.path, source.problems
        lists = load_lists(self._path, self._problems)
        if not lists.has_images:
            raise LaternaError(
                f"{self._path}: COCO's form without a list `images`, so that no file name is "
                "known; name the file that has it"
            )
        self._images: list[Image] = []
        self._index: dict[object, int] = {}
        self._add_images(lists.images)
        self._categories = self._named_categories(lists.categories)
        self._boxes: list[list[Annotation]] = [[] for _ in self._images]
        self._captions: list[list[str]] = [[] for _ in self._images]
        self._captioned = captions is not None
        self._relative = _are_relative(lists.annotations)
        self._add(lists.annotations, self._path)
        if captions is not None:
            worded = load_lists(captions, self._problems)
            self._complete(worded.images)
            self._add(worded.annotations, captions)

    def found(self) -> base.Found:
        """Return the scenes, and where the images lie: in the folder's own name, or `images`."""
        if not self._captioned:
            self._source.note("no captions found: read without", str(self._path))
        here, part = self._path.parent, _split(self._path)[0]
        root = here.parent if here.name == "annotations" else here
        inside = [
            base / name for base in (root, here) for name in ("images", part, f"images/{part}")
        ]
        return base.Found(
            self._path,
            self._scenes(),
            captioned=self._captioned,
            relative=self._relative,
            each="annotation ",
            folders=(*inside, root, here, root.parent),
        )

    def _scenes(self) -> Iterator[base.RawScene]:
        for index, image in enumerate(self._images):
            name = _file_name(image)
            yield base.RawScene(
                id=base.text_of(image.id),
                image=name,
                where=f"image {base.text_of(image.id)} ({name})",
                width=image.width,
                height=image.height,
                captions=self._captions[index],
                boxes=(box for one in self._boxes[index] for box in self._parts(one)),
            )

    def _add_images(self, images: Sequence[Image]) -> None:
        for image in images:
            key = _key(image.id)
            if key is not None and key not in self._index and _file_name(image):
                self._index[key] = len(self._images)
                self._images.append(image)
                continue
            reason = "image id given twice" if key in self._index else "image without a file name"
            where = f"{self._path}: image {base.text_of(image.id)} ({_file_name(image)})"
            reason = "image without an id" if key is None else reason
            self._problems.append(base.Problem(reason=reason, where=where))

    def _complete(self, images: Sequence[Image]) -> None:
        """Take sizes from the captions file where the instances file has none."""
        for other in images:
            index = self._index.get(_key(other.id))
            if index is None:
                continue
            image = self._images[index]
            if not ((base.number(image.width) or 0) > 0 and (base.number(image.height) or 0) > 0):
                image.width, image.height = other.width, other.height

    def _named_categories(self, categories: Sequence[Category]) -> dict[object, tuple[str, str]]:
        """Return a category's name by its id, and why its boxes cannot be used."""
        named: dict[object, tuple[str, str]] = {}
        for category in categories:
            name, key = _plain_name(category), _key(category.id)
            where = f"{self._path}: category {base.text_of(category.id)}"
            if not name:
                self._problems.append(base.Problem(reason="category without a name", where=where))
            if key in named and name != named[key][0]:
                self._problems.append(base.Problem(reason="category id given twice", where=where))
                continue
            if key is not None:
                named[key] = (name, "stuff region" if category.isthing == 0 else "")
        return named

    def _add(self, annotations: Sequence[Annotation], path: Path) -> None:
        """Sort annotations by their image, and by whether they are boxes or captions."""
        seen: dict[object, Annotation] = {}
        for one in annotations:
            worded = one.caption is not UNSET or (one.bbox is UNSET and one.category_id is UNSET)
            worded = worded and one.segments_info is None
            if type(one.bbox) is list and len(one.bbox) == 4 and None not in one.bbox:
                one.segmentation = NO_OUTLINE  # so that the file's bytes can go
            index = self._index.get(_key(one.image_id))
            kind = "caption" if worded else "annotation"
            if index is None:
                reason = f"{kind} of an unknown image"
                reason = reason if worded else "annotation without an image entry"
                self._problem(reason, path, kind, one)
                continue
            key = _key(one.id)
            first = seen.setdefault(key, one) if key is not None else one
            if first is not one and self._repeats(first, one, path, kind):
                continue
            if worded:
                self._captioned = True
                where = f"{path}: caption {base.text_of(one.id)}"
                if one.is_rejected is True or one.is_precanned is True:
                    self._problem("caption that its dataset rejects", path, kind, one)
                    continue
                self._captions[index] += base.usable_captions([one.caption], where, self._problems)
            if not worded or one.bbox is not UNSET:
                self._boxes[index].append(one)

    def _repeats(self, first: Annotation, one: Annotation, path: Path, kind: str) -> bool:
        """Tell whether an annotation of an earlier one's id is that one again, and count it."""
        said = [
            (a.image_id, a.category_id, a.bbox, a.caption, a.segments_info) for a in (first, one)
        ]
        again = said[0] == said[1]
        self._problem(f"{kind} id given twice", path, kind, one, kept=not again)
        return again

    def _problem(
        self, reason: str, path: Path, kind: str, one: Annotation, *, kept: bool = False
    ) -> None:
        where = f"{path}: {kind} {base.text_of(one.id)}"
        self._problems.append(base.Problem(reason=reason, where=where, kept=kept))

    def _parts(self, one: Annotation) -> Iterator[base.RawBox]:
        """Yield the box of an annotation, or the boxes of a panoptic image's segments."""
        if one.segments_info is None:
            yield self._box(one)
        for part in base.entries(one.segments_info):
            yield self._box(build(Annotation, part))

    def _box(self, one: Annotation) -> base.RawBox:
        name, fault = self._categories.get(_key(one.category_id), ("", "unknown category"))
        fault, corners = fault or _crowd(one), None
        if not fault:
            corners, fault = self._corners(one)
        return base.RawBox(one.id, name, corners, fault)

    def _where(self, one: Annotation) -> str:
        return f"{self._path}: annotation {base.text_of(one.id)}"

    def _corners(self, one: Annotation) -> tuple[base.Corners | None, str]:
        found = base.corners_of_size(one.bbox)
        if found is not None:
            if str in set(map(type, one.bbox)):
                self._source.note("box whose numbers are text", self._where(one))
            return found, ""
        outline = _outline(one.segmentation)
        if outline is not None:
            self._source.note("box taken from its outline", self._where(one))
            return outline, ""
        missing = one.bbox is UNSET or one.bbox is None or one.bbox == []
        return None, "annotation without a box" if missing else "box that is no four numbers"


def _crowd(one: Annotation) -> str:
    """Return why an annotation marks more than one thing, or cannot be told to; "" where not."""
    for flag in (one.iscrowd, one.isgroupof):
        if isinstance(flag, str) and flag.strip().lower() in ("true", "false"):
            flag = flag.strip().lower() == "true"
        value = 0.0 if flag is None else base.number(flag)
        if value is None:
            return "crowd flag that is no number"
        if value > 0:
            return "crowd region"
    return ""


def _outline(segmentation: object) -> base.Corners | None:
    """Return the box around polygons; None for anything else, as run lengths are."""
    if isinstance(segmentation, msgspec.Raw):
        try:
            segmentation = msgspec.json.decode(segmentation) if bytes(segmentation) else None
        except (msgspec.MsgspecError, RecursionError):
            return None
    polygons = segmentation if isinstance(segmentation, list) else []
    found = [base.numbers(one, len(one)) for one in polygons if isinstance(one, list)]
    return base.bounds([value for polygon in found if polygon for value in polygon])


def _key(value: object) -> object:
    """Return what ids are compared by; 7, 7.0, "7" and "007" are one id. None: no id."""
    if type(value) is int:
        return value
    if isinstance(value, str):
        value = value.strip()
        return int(value) if value.isdecimal() and len(value) < 19 else value or None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _plain_name(category: Category) -> str:
    """Return a category's name as one says it: "bus" of LVIS's "bus_(vehicle)"."""
    name = category.name
    if category.synset and isinstance(name, str):
        name = name.partition("_(")[0].replace("_", " ")
    return base.category_name(name)


def _file_name(image: Image) -> str:
    """Return an image's name, or `train2017/000000391895.jpg` of LVIS's address.

    LVIS splits COCO's images anew, so that its validation set lies in two of COCO's folders.
    """
    name = base.text_of(image.file_name)
    if name or not isinstance(image.coco_url, str):
        return name
    try:
        path = PurePosixPath(urlsplit(base.text_of(image.coco_url)).path)
    except ValueError:
        return ""
    return str(PurePosixPath(*path.parts[-2:])) if path.name else ""


def _are_relative(annotations: Iterable[Annotation]) -> bool:
    """Tell boxes in 0..1 from boxes in pixels, by all of a file's boxes together."""
    broken = False
    for one in annotations:
        for value in base.numbers(one.bbox) or ():
            if value > 1:
                return False
            broken = broken or not value.is_integer()
    return broken
