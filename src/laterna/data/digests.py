"""Digests of files, remembered, so that a file that is as it was is not read again.

A file is as it was when its size, the time it was last written to and the time its inode was last
changed are the same; the last no program can set back. Not noticed is what changes neither: bytes
changed under a mounted file system, or on one that keeps no such times.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from hashlib import file_digest, sha256
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from laterna.files import write_atomically
from laterna.records import Record

RACY_NS = 2_000_000_000
"""A file written to less than this ago, in nanoseconds, could be written to again within the same
tick of its file system's clock (FAT's: 2 s), so its digest is not remembered yet."""

Kept = TypeVar("Kept")


class Stamp(NamedTuple):
    """What changes when a file does."""

    size: int
    """Bytes."""
    written: int
    """When its bytes were last written, in nanoseconds."""
    changed: int
    """When anything of it was: bytes, name or rights."""

    def settled(self, now: int) -> bool:
        """Return whether the file can no longer change at time `now` without its stamp."""
        return now - max(self.written, self.changed) > RACY_NS


def stamp_of(path: Path) -> Stamp:
    """Return a file's stamp; raises OSError."""
    return _stamp(os.stat(path))  # noqa: PTH116  (pathlib's is slower, and there may be many)


class Known(Record):
    """A file whose digest is remembered."""

    stamp: Stamp
    sha256: str


class KnownFolder(Record):
    """A folder whose digest is remembered: as long as its list is the same, nothing is compared."""

    listed: str
    """SHA-256 of the names and stamps of all its files."""
    sha256: str


class FileDigests:
    """The SHA-256 of files and folders, remembered in a folder: one JSON file each, of folders one
    more, so that a large one is listed at a start and no more.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def of_file(self, path: Path) -> str:
        """Return the SHA-256 of a file's bytes; raises OSError."""
        return self._of([path], path)[0]

    def of_folder(self, folder: Path) -> str:
        """Return a SHA-256 of the names and bytes of all files in a folder; raises OSError."""
        began = time.time_ns()
        seen = dict(_files_in(str(folder)))
        listed = sha256(msgspec.json.encode(seen)).hexdigest()
        place = self._place(folder, "whole.json")
        known = _read(place, KnownFolder)
        if known is not None and known.listed == listed:
            return known.sha256
        found = self._of([folder / name for name in seen], folder)
        lines = [f"{name} {digest}" for name, digest in zip(seen, found, strict=True)]
        whole = KnownFolder(listed=listed, sha256=sha256("\n".join(lines).encode()).hexdigest())
        if all(stamp.settled(began) for stamp in seen.values()):
            # What changed since the list was made has another stamp at the next start.
            _write(place, whole)
        return whole.sha256

    def _of(self, files: list[Path], root: Path) -> list[str]:
        place = self._place(root, "json")
        before = _read(place, dict[str, Known]) or {}
        now: dict[str, Known] = {}
        found = []
        for path in files:
            name = str(path.relative_to(root.parent))
            began, stamp = time.time_ns(), stamp_of(path)
            known = before.get(name)
            if known is None or known.stamp != stamp:
                known = Known(stamp=stamp, sha256=_digest(path))
            found.append(known.sha256)
            if stamp.settled(began) and stamp_of(path) == stamp:  # still, now that it was read
                now[name] = known
        if now != before:
            _write(place, now)
        return found

    def _place(self, root: Path, ending: str) -> Path:
        return self.folder / f"{sha256(str(root.resolve()).encode()).hexdigest()[:32]}.{ending}"


def _stamp(found: os.stat_result) -> Stamp:
    return Stamp(found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _files_in(folder: str, inside: str = "") -> Iterator[tuple[str, Stamp]]:
    """Yield the files of a folder and of those in it, by their names in it, with their stamps.

    In the order of their paths, as pathlib compares them. Linked files are there, linked folders
    are not.
    """
    with os.scandir(folder) as entries:
        ordered = sorted(entries, key=lambda entry: entry.name)
    for entry in ordered:
        if entry.is_dir(follow_symlinks=False):
            yield from _files_in(entry.path, f"{inside}{entry.name}/")
            continue
        try:
            found = entry.stat()
        except FileNotFoundError:  # a link to nothing
            continue
        if stat.S_ISREG(found.st_mode):
            yield f"{inside}{entry.name}", _stamp(found)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _read(place: Path, kind: type[Kept]) -> Kept | None:
    """Return what is remembered; nothing where that is damaged: it is then found again."""
    try:
        return msgspec.json.decode(place.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError):
        return None


def _write(place: Path, known: object) -> None:
    with write_atomically(place) as aside:
        aside.write_bytes(msgspec.json.encode(known))
