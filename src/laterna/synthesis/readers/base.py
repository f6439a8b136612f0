"""What every reader shares: problems, files that may be gzipped, and the check of a box."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NoReturn, TypeVar, cast

import msgspec

from laterna.errors import LaternaError
from laterna.records import Box, Record

_T = TypeVar("_T")
_SLACK = 0.005
"""How far a box may lie outside its picture, in its width or height: COCO's own rounding."""
_GZIP = b"\x1f\x8b"


class Problem(Record):
    """One annotation or picture that was left out."""

    reason: str
    where: str
    scene: str = ""
    """Id of the scene that lost a box by it; empty where it lost none."""
    category: str = ""
    """What that box holds; empty where it is not known."""


@contextmanager
def open_source(path: Path) -> Iterator[IO[bytes]]:
    """Open an annotations file for reading; one that begins as gzip does is unpacked on the way.

    Raises LaternaError when it is missing, cannot be read, or is broken gzip.
    """
    if not path.is_file():
        raise LaternaError(f"{path}: no such annotations file")
    try:
        with path.open("rb") as file:
            packed = file.read(len(_GZIP)) == _GZIP
            file.seek(0)
            if not packed:
                yield file
                return
            with gzip.open(file) as unpacked:
                yield cast(IO[bytes], unpacked)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise LaternaError(f"{path}: broken gzip ({error}); fetch the file again") from error
    except OSError as error:
        raise LaternaError(f"{path}: cannot be read: {error.strerror}") from error


def unreadable(path: Path, place: str, error: object) -> NoReturn:
    """Raise the LaternaError of a file that is in none of the known forms."""
    raise LaternaError(
        f"{path}{place}: neither COCO annotations nor LLaVA context lines nor lines of scenes: "
        f"{error}"
    )


def decode_line(line: bytes, kind: type[_T], path: Path, number: int) -> _T:
    """Decode one line as a record of `kind`; raise LaternaError with file and line number."""
    try:
        return msgspec.json.decode(line, type=kind)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        unreadable(path, f" line {number}", error)


def checked_box(category: str, corners: tuple[float, float, float, float]) -> Box | str:
    """Return the box with these relative corners, or the reason why it cannot be used.

    What lies outside by no more than a rounding error is cut off at the picture's edge.
    """
    if any(not -_SLACK <= corner <= 1 + _SLACK for corner in corners):
        return "box outside the picture"
    x1, y1, x2, y2 = (min(1.0, max(0.0, corner)) for corner in corners)
    if x2 <= x1 or y2 <= y1:
        return "box of zero area"
    return Box(category=category, x1=x1, y1=y1, x2=x2, y2=y2)


def sort_out_boxes(found: Iterable[Box | Problem], problems: list[Problem]) -> tuple[Box, ...]:
    """Return the boxes of one picture in their order; the problems among them join the others."""
    boxes = []
    for one in found:
        if isinstance(one, Box):
            boxes.append(one)
        else:
            problems.append(one)
    return tuple(boxes)
