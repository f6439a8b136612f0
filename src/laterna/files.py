"""Files that are either whole or not there: everything is written aside and renamed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write a file or folder to; rename it when the block succeeds.

    An existing file or folder of the final name is replaced only then. On an error the aside copy
    is removed and the final name is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    _remove(aside)
    try:
        yield aside
        if path.is_dir():
            _remove(path)
        aside.replace(path)
    finally:
        _remove(aside)


def write_lines(path: Path, rows: Iterable[object]) -> int:
    """Write each row as one line of JSON, and return how many there were."""
    number = 0
    with path.open("wb") as file:
        for row in rows:
            file.write(msgspec.json.encode(row) + b"\n")
            number += 1
    return number


def flush(path: Path) -> None:
    """Return when the disk holds a file's bytes, or the names in a folder (not what is in them)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_tree(folder: Path) -> None:
    """Return when the disk holds a folder with all that is in it, and its own name."""
    for path in folder.rglob("*"):
        flush(path)
    flush(folder)
    flush(folder.parent)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
