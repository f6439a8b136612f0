"""Reads annotated pictures: COCO's form, LLaVA's context lines, and lines of our own scenes.

The form, gzip included, is told by what the file holds, never by its name. What cannot be used
is left out, counted by reason and named; nothing is mended on the quiet.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import msgspec

from laterna.errors import LaternaError
from laterna.records import Record, Scene
from laterna.synthesis.readers.base import Problem, open_source
from laterna.synthesis.readers.coco import read_coco
from laterna.synthesis.readers.lines import read_contexts, read_scene_lines

__all__ = ["Annotations", "Problem", "read_annotations", "read_scenes", "stream_scenes"]

_LONGEST_FIRST_LINE = 1 << 20
"""In bytes; a longer line is no context, but a file of COCO's without line ends."""


class Annotations(Record):
    """All usable scenes of a source, in its order, and what was left out."""

    scenes: tuple[Scene, ...]
    problems: tuple[Problem, ...]


class _LineReader(Protocol):
    def __call__(
        self, path: Path, problems: list[Problem], *, captionless: bool
    ) -> Iterator[Scene]: ...


LINE_READERS: dict[frozenset[str], _LineReader] = {
    frozenset({"image", "instances"}): read_contexts,
    frozenset({"picture", "boxes"}): read_scene_lines,
}
"""The reader of a file whose first line is an object with these keys; any other is COCO's."""


def read_annotations(
    path: Path, captions: Path | None = None, *, captionless: bool = False
) -> Annotations:
    """Read a COCO folder (instances.json, captions.json), a COCO instances file, or line files.

    `captions` names the captions file; by default the `captions.json` beside the instances.
    `captionless` keeps pictures without a caption, as `stream_scenes` does.
    Raises LaternaError when a file is missing, is in no known form, or holds no usable picture.
    Keeps everything in memory; `stream_scenes` does not.
    """
    problems: list[Problem] = []
    scenes = tuple(stream_scenes(path, captions, problems, captionless=captionless))
    return Annotations(scenes=scenes, problems=tuple(problems))


def read_scenes(path: str | Path) -> Iterator[Scene]:
    """Yield the usable scenes of a file or folder, as `read_annotations` finds them."""
    yield from stream_scenes(Path(path), None, [])


def stream_scenes(
    path: Path,
    captions: Path | None,
    problems: list[Problem],
    *,
    captionless: bool = False,
) -> Iterator[Scene]:
    """Yield the usable scenes one by one; what is left out is added to `problems` on the way.

    Memory is bounded by the boxes' and captions' own bytes, not by the file: one of 150 MB with
    37,500 pictures and their captions took 42 MB. `captionless` keeps pictures that have boxes but
    no caption, and lets the captions file be absent: LVIS and Open Images have none of their own.

    The file is looked into at the call, read as scenes are taken. Raises LaternaError as
    `read_annotations` does; that no picture is usable shows at the end.
    """
    source = _beside(path, "instances.json") if path.is_dir() else path
    reader = LINE_READERS.get(_form(source))
    if reader is not None:
        found = reader(source, problems, captionless=captionless)
    else:
        beside = captions or _beside(source.parent, "captions.json")
        absent = captionless and captions is None and not beside.exists()
        if not absent and not beside.is_file():
            raise LaternaError(
                f"{beside}: no such annotations file; name the pictures' captions with --captions, "
                "or do without with --captionless"
            )
        found = read_coco(source, None if absent else beside, problems, captionless=captionless)
    return _some(found, source, problems)


def _beside(folder: Path, name: str) -> Path:
    """Return the path of a file of that name, or with `.gz` after it where only that is there."""
    packed = folder / f"{name}.gz"
    return packed if packed.is_file() and not (folder / name).exists() else folder / name


def _form(source: Path) -> frozenset[str]:
    """Return the keys of `LINE_READERS` that the first line of a file has, or none."""
    with open_source(source) as file:
        first = b""
        while not first.strip():
            first = file.readline(_LONGEST_FIRST_LINE)
            if not first:
                raise LaternaError(f"{source}: the file is empty")
    try:
        keys = msgspec.json.decode(first, type=dict[str, msgspec.Raw]).keys()
    except (msgspec.DecodeError, msgspec.ValidationError):
        return frozenset()
    return next((form for form in LINE_READERS if form <= keys), frozenset())


def _some(found: Iterator[Scene], source: Path, problems: list[Problem]) -> Iterator[Scene]:
    """Pass the scenes on; raise LaternaError at the end when there was none."""
    empty = True
    for scene in found:
        yield scene
        empty = False
    if empty:
        reasons = ", ".join(sorted({problem.reason for problem in problems})) or "it lists none"
        raise LaternaError(f"{source}: no usable picture in it ({reasons})")
