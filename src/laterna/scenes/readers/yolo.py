"""Reads YOLO's folders: `labels/*.txt` beside `images/`, class names in data.yaml or classes.txt.

A line is `CLASS X Y WIDTH HEIGHT` in 0..1 of the image, X and Y the box's middle. Behind these,
key points may stand, three numbers each; with other numbers it is an outline, which is read as the
box around it. Darknet, and CVAT's export for it, have labels and images in `obj_train_data/`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from laterna.errors import LaternaError
from laterna.scenes.readers import base
from laterna.scenes.readers.files import peek, read_whole

_NAMES = ("data.yaml", "dataset.yaml", "data.yml", "classes.txt", "obj.names")
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".JPG", ".JPEG", ".PNG")
_LINE = re.compile(rb"\s*\d+(\.0*)?([ \t]+[-+.\deE]+){4,}\s*")
_DARKNET = "obj_*_data"
_SEEN = frozenset((0.0, 1.0, 2.0))
"""What the third number of a key point may be: not labelled, hidden, seen."""


def looks_like(path: Path) -> bool:
    """Tell a folder with files of labels and one of class names, or such a data.yaml."""
    root = path if path.is_dir() else path.parent
    folders = _labels(root) if path.is_dir() or path.name in _NAMES else {}
    if _names_file(path) is None:  # what it lacks, reading it says
        folders = {part: one for part, one in folders.items() if one.name == "labels"}
    files = (next(iter(_label_files(folder)), None) for folder in folders.values())
    lines = (peek(file).line.encode() for file in files if file)
    return any(not line or _LINE.fullmatch(line) for line in lines)


def read(source: base.Source) -> base.Found:
    """Return one scene a file of labels, in the order of their names.

    Raises LaternaError when there are no labels or no class names.
    """
    root = source.path if source.path.is_dir() else source.path.parent
    named, labels = _names_file(source.path), _labels(root)
    if not labels or named is None:
        raise LaternaError(
            f"{root}: no labels/*.txt with a data.yaml or classes.txt beside them; without the "
            "names of the classes their numbers say nothing: write one a line into classes.txt"
        )
    folder = base.choose_split(labels, source)
    names = _class_names(named)
    images = _images(folder)
    scenes = _scenes(folder, images, names, source)
    return base.Found(folder, scenes, relative=True, folders=(images,))


def _names_file(path: Path) -> Path | None:
    if path.is_file():
        return path
    places = (path, path / "labels", path.parent)
    found = (place / name for name in _NAMES for place in places)
    return next((file for file in found if file.is_file()), None)


def _labels(root: Path) -> dict[str, Path]:
    """Return the folders of label files, by the part of the dataset they hold."""
    patterns = ("labels", "labels/*", "*/labels", _DARKNET)
    folders = [root, *(folder for pattern in patterns for folder in sorted(root.glob(pattern)))]
    found = {}
    for folder in folders:
        if folder.is_dir() and any(True for _ in _label_files(folder)):
            part = folder.parent if folder.name == "labels" else folder
            found[part.name] = folder
    if len(found) > 1:  # a text file beside the folders is no label
        found = {name: folder for name, folder in found.items() if folder != root}
    return found


def _label_files(folder: Path) -> Iterator[Path]:
    return (file for file in sorted(folder.glob("*.txt")) if file.name not in _NAMES)


def _images(labels: Path) -> Path:
    """Return the folder of images that goes with one of labels."""
    if labels.name == "labels":
        return labels.with_name("images")
    if labels.parent.name == "labels":
        return labels.parent.with_name("images") / labels.name
    return labels


def _class_names(path: Path) -> dict[int, str]:
    content = read_whole(path).decode("utf-8", "replace")
    if path.suffix not in (".yaml", ".yml"):
        return dict(enumerate(map(base.category_name, content.splitlines())))
    try:
        data = yaml.safe_load(content)
    except (yaml.YAMLError, RecursionError, ValueError, TypeError) as error:
        raise LaternaError(f"{path}: not YAML: {str(error).splitlines()[0]}") from error
    names = data.get("names") if isinstance(data, dict) else None
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        raise LaternaError(f"{path}: no `names` of the classes in it")
    keyed = ((base.number(key), name) for key, name in names.items())
    return {int(key): base.category_name(name) for key, name in keyed if key is not None}


def _scenes(
    folder: Path, images: Path, names: dict[int, str], source: base.Source
) -> Iterator[base.RawScene]:
    for file in _label_files(folder):
        suffixes = (suffix for suffix in _SUFFIXES if (images / f"{file.stem}{suffix}").is_file())
        suffix = next(suffixes, "")
        if not suffix:
            source.note("image not found, taken to be a .jpg", str(file))
        yield base.RawScene(
            id=file.stem,
            image=f"{file.stem}{suffix or '.jpg'}",
            where=file.name,
            boxes=list(_boxes(file, names, source)),
        )


def _boxes(file: Path, names: dict[int, str], source: base.Source) -> Iterator[base.RawBox]:
    try:
        lines = read_whole(file).decode("utf-8", "replace").splitlines()
    except LaternaError as error:
        source.drop("file that cannot be read", str(error))
        return
    for place, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        kind, *rest = line.split()
        known = base.number(kind)
        category = names.get(int(known)) if known is not None else None
        values = base.numbers(rest, len(rest)) or ()
        fault = "unknown category" if category is None else ""
        yield base.RawBox(f"{file.name}, line {place}", category or "", _corners(values), fault)


def _corners(values: tuple[float, ...]) -> base.Corners | None:
    """Return the corners of a box, with its confidence, its key points or neither, or of an
    outline.
    """
    points = len(values) > 5 and len(values) % 3 == 1 and _SEEN.issuperset(values[6::3])
    if len(values) in (4, 5) or points:
        x, y, across, down = values[:4]
        return x - across / 2, y - down / 2, x + across / 2, y + down / 2
    return base.bounds(values) if len(values) >= 6 and len(values) % 2 == 0 else None
