"""Reads annotated images in every form that `readers` has; what `laterna.read_scenes` calls.

The form, gzip included, is told by what the file holds. What cannot be used is left out, counted
by reason and named; what is read otherwise than it is written is counted too.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from laterna.errors import LaternaError
from laterna.records import Record, Scene
from laterna.scenes.image_files import ImageFolders
from laterna.scenes.orientation import View
from laterna.scenes.readers import find_reader
from laterna.scenes.readers.base import Problem, Source, Upright, usable_scenes

__all__ = ["Annotations", "Problem", "read_annotations", "read_scenes", "stream_scenes"]


class Annotations(Record):
    """All usable scenes of a source, in its order, and what was left out or changed."""

    scenes: tuple[Scene, ...]
    problems: tuple[Problem, ...]


def read_annotations(path: Path, captions: Path | None = None, **options: Any) -> Annotations:
    """Read all scenes of a file or folder into memory; the options are those of `stream_scenes`."""
    problems: list[Problem] = []
    scenes = tuple(stream_scenes(path, captions, problems, **options))
    return Annotations(scenes=scenes, problems=tuple(problems))


def read_scenes(path: str | Path, *, format: str = "auto") -> Iterator[Scene]:
    """Yield the usable scenes of a file or folder, as `stream_scenes` finds them."""
    yield from stream_scenes(Path(path), None, [], format=format)


def stream_scenes(
    path: Path,
    captions: Path | None,
    problems: list[Problem],
    *,
    captionless: bool = False,
    format: str = "auto",
    images: Path | None = None,
    view: View = "auto",
) -> Iterator[Scene]:
    """Yield the usable scenes one by one; what is left out is added to `problems` on the way.

    `captions` names the captions file; by default the one that the format has beside the boxes.
    A source without any captions is read without; where it has some, `captionless` keeps the
    images that have boxes and none. `format` is `auto` or a key of `READERS`. Boxes come out as
    they lie on the image that a person sees: where `images`, or the folders that the format has
    beside its annotations, hold an image that EXIF turns, `view` says on which view its boxes
    were measured (see `orientation`).

    A file of COCO's is read at the call and its boxes and captions held in memory, in pieces what
    other formats allow. Raises LaternaError when a file is missing, is in no known form, or is
    broken; that no image is usable shows at the end.
    """
    path, reader = find_reader(path, format)
    if captions is not None and not captions.is_file():
        raise LaternaError(f"{captions}: no such annotations file")
    if captions is not None and not reader.captions:
        raise LaternaError(
            f"{captions}: a file of captions goes with COCO's form; {path} is {reader.form}"
        )
    source = Source(path, captions, problems)
    found = reader.read(source)
    folders = found.folders if images is None else (images,)
    upright = Upright(ImageFolders(folders), view, reader.view)
    scenes = usable_scenes(found, source, upright, captionless=captionless)
    return _some(scenes, found.path, problems)


def _some(found: Iterator[Scene], path: Path, problems: list[Problem]) -> Iterator[Scene]:
    """Pass the scenes on; raise LaternaError at the end when there was none."""
    empty = True
    for scene in found:
        yield scene
        empty = False
    if empty:
        reasons = ", ".join(sorted({problem.reason for problem in problems})) or "it lists none"
        no_words = "image without captions" in reasons
        hint = "; --captionless keeps images that have boxes alone" if no_words else ""
        raise LaternaError(f"{path}: no usable image in it ({reasons}){hint}")
