"""One file for each form that annotated images come in, and the dictionary of them.

A reader is a file with `looks_like` and `read`, and a line in `READERS`. The first whose
`looks_like` holds reads a source; it looks at what a file holds, and in folders at the format's
own published names.
"""

from __future__ import annotations

from pathlib import Path

from laterna.errors import LaternaError
from laterna.scenes.readers import (
    captions,
    coco,
    cvat,
    label_studio,
    lines,
    open_images,
    visual_genome,
    voc,
    yolo,
)
from laterna.scenes.readers.base import Reader
from laterna.scenes.readers.files import open_source
from laterna.scenes.readers.foreign import refuse

__all__ = ["READERS", "find_reader"]

# COCO's boxes are relative to the stored pixels, as pycocotools has them, and so are VOC's and
# Open Images'. CVAT and Label Studio draw on the turned image, as browsers show it; trainers of
# YOLO open images with cv2, which turns them.
READERS: dict[str, Reader] = {
    "contexts": Reader("LLaVA's contexts", lines.looks_like_contexts, lines.read_contexts),
    "scenes": Reader(
        "lines of scenes", lines.looks_like_scenes, lines.read_scene_lines, view="turned"
    ),
    "label-studio": Reader(
        "Label Studio JSON", label_studio.looks_like, label_studio.read, view="turned"
    ),
    "coco": Reader("COCO (LVIS, VizWiz, nocaps)", coco.looks_like, coco.read, captions=True),
    "visual-genome": Reader("Visual Genome", visual_genome.looks_like, visual_genome.read),
    "cvat": Reader("CVAT XML", cvat.looks_like, cvat.read, view="turned"),
    "voc": Reader("Pascal VOC", voc.looks_like, voc.read),
    "yolo": Reader("YOLO", yolo.looks_like, yolo.read, view="turned"),
    "open-images": Reader("Open Images CSV", open_images.looks_like, open_images.read),
    "captions": Reader("Flickr captions", captions.looks_like, captions.read),
}
"""Name of a format, as `--format` has it, to its reader, in the order in which they are asked."""

_LOOKED_AT = 100
"""Files of a folder without published names that are looked into."""


def find_reader(path: Path, name: str = "auto") -> tuple[Path, Reader]:
    """Return the reader of a file or folder, and the file where a folder has only one that is read.

    Raises LaternaError for an unknown name, for what cannot be read, and for a file in no known
    form: it says what that looks like.
    """
    if name != "auto" and name not in READERS:
        names = ", ".join(("auto", *READERS))
        raise LaternaError(f"unknown format {name!r}; known are: {names}")
    try:
        return _find(path, name)
    except OSError as error:
        raise LaternaError(f"{path}: cannot be read: {error.strerror}") from error


def _find(path: Path, name: str) -> tuple[Path, Reader]:
    if not (path.is_file() or path.is_dir()):  # a pipe or a device is neither
        raise LaternaError(f"{path}: no such annotations file")
    if path.is_file():
        with open_source(path) as file:  # says what is wrong with broken gzip
            file.read(1)
    readers = READERS.values() if name == "auto" else [READERS[name]]
    for reader in readers:
        if reader.looks_like(path):
            return path, reader
    if path.is_dir():
        files = [file for file in sorted(path.iterdir()) if file.is_file()][:_LOOKED_AT]
        alone = {file: reader for reader in readers for file in files if reader.looks_like(file)}
        if len(alone) > 1:
            names = ", ".join(file.name for file in alone)
            raise LaternaError(f"{path}: holds several files of annotations; name one: {names}")
        if alone:
            return next(iter(alone.items()))
    if name != "auto":
        return path, READERS[name]  # which says what is missing
    raise refuse(path, ", ".join(reader.form for reader in READERS.values()))
