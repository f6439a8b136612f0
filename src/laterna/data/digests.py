"""Digests of files, remembered, so that a file that is as it was is not read again.

A file is as it was when its size, the time it was last written to and the time its inode was last
changed are the same; the last no program can set back. Not noticed is what changes neither: bytes
changed under a mounted file system, or on one that keeps no such times.
"""

from __future__ import annotations

import os
import time
from hashlib import file_digest, sha256
from pathlib import Path
from typing import NamedTuple

import msgspec

from laterna.files import write_atomically
from laterna.records import Record

RACY_NS = 2_000_000_000
"""A file written to less than this ago, in nanoseconds, could be written to again within the same
tick of its file system's clock (FAT's: 2 s), so its digest is not remembered yet."""


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
    found = os.stat(path)  # noqa: PTH116  (pathlib's is slower, and there may be many)
    return Stamp(found.st_size, found.st_mtime_ns, found.st_ctime_ns)


class Known(Record):
    """A file whose digest is remembered."""

    stamp: Stamp
    sha256: str


class FileDigests:
    """The SHA-256 of files and folders, remembered in a folder: one JSON file each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def of_file(self, path: Path) -> str:
        """Return the SHA-256 of a file's bytes; raises OSError."""
        return self._of([path], path)[0]

    def of_folder(self, folder: Path) -> str:
        """Return a SHA-256 of the names and bytes of all files in a folder; raises OSError."""
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        lines = [
            f"{path.relative_to(folder)} {digest}"
            for path, digest in zip(files, self._of(files, folder), strict=True)
        ]
        return sha256("\n".join(lines).encode()).hexdigest()

    def _of(self, files: list[Path], root: Path) -> list[str]:
        place = self.folder / f"{sha256(str(root.resolve()).encode()).hexdigest()[:32]}.json"
        before = _read(place)
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
            with write_atomically(place) as aside:
                aside.write_bytes(msgspec.json.encode(now))
        return found


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _read(place: Path) -> dict[str, Known]:
    """Return what is remembered; nothing where that is damaged: it is then found again."""
    try:
        return msgspec.json.decode(place.read_bytes(), type=dict[str, Known])
    except (OSError, msgspec.MsgspecError):
        return {}
