"""Reads line files: LLaVA's context lines and lines of our own `Scene`, one picture a line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from laterna.records import Box, Scene
from laterna.synthesis.readers.base import (
    Problem,
    checked_box,
    decode_line,
    open_source,
    sort_out_boxes,
)


class _ContextBox(msgspec.Struct):
    category: str
    bbox: tuple[float, float, float, float]


class _Context(msgspec.Struct):
    """A line as LLaVA writes it; the format is not ours, so keys that we do not know pass."""

    id: str | int
    image: str
    captions: tuple[str, ...]
    instances: tuple[_ContextBox, ...]


def read_contexts(path: Path, problems: list[Problem], *, captionless: bool) -> Iterator[Scene]:
    """Yield the scenes of LLaVA's context lines, whose boxes are relative already."""
    tidy = _Tidy(path, problems, captionless)
    for number, line in _lines(path):
        context = decode_line(line, _Context, path, number)
        boxes = [checked_box(box.category, box.bbox) for box in context.instances]
        bare = Scene(
            id=str(context.id),
            picture=context.image,
            width=None,
            height=None,
            captions=context.captions,
            boxes=(),
        )
        yield from tidy(bare, boxes)


def read_scene_lines(path: Path, problems: list[Problem], *, captionless: bool) -> Iterator[Scene]:
    """Yield the scenes of lines that hold our own `Scene`; they are checked like any other."""
    tidy = _Tidy(path, problems, captionless)
    for number, line in _lines(path):
        scene = decode_line(line, Scene, path, number)
        boxes = [checked_box(box.category, (box.x1, box.y1, box.x2, box.y2)) for box in scene.boxes]
        yield from tidy(scene, boxes)


class _Tidy:
    """Passes on what is usable of picture after picture, and notes the rest."""

    def __init__(self, path: Path, problems: list[Problem], captionless: bool) -> None:
        self.path = path
        self.problems = problems
        self.captionless = captionless
        self.seen: set[str] = set()

    def __call__(self, scene: Scene, found: list[Box | str]) -> Iterator[Scene]:
        """Yield the scene with its usable captions and boxes, unless nothing can be made of it."""
        where = f"{self.path}: record {scene.id}"
        if scene.id in self.seen:
            self.problems.append(Problem(reason="image id given twice", where=where))
            return
        self.seen.add(scene.id)
        boxes = sort_out_boxes(
            (Problem(reason=one, where=where) if isinstance(one, str) else one for one in found),
            self.problems,
        )
        captions = tuple(caption for caption in scene.captions if caption.strip())
        wordless = len(scene.captions) - len(captions)
        self.problems += [Problem(reason="caption without words", where=where)] * wordless
        if captions or (self.captionless and boxes):
            yield msgspec.structs.replace(scene, captions=captions, boxes=boxes)
        else:
            self.problems.append(Problem(reason="picture without captions", where=where))


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that hold something, with their numbers from 1."""
    with open_source(path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, line
