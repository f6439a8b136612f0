"""What is in a tar file and where, remembered: walking from head to head takes a while.

A tar file has no table of contents, so all its members' heads are read, 118,000 of them in some
seconds. The list is kept as JSON, known by the file's place and stamp (`digests`).
"""

from __future__ import annotations

import posixpath
import tarfile
import time
from hashlib import sha256
from pathlib import Path

import msgspec

from laterna.data.digests import Stamp, stamp_of
from laterna.errors import LaternaError
from laterna.files import write_atomically
from laterna.records import Record

Members = dict[str, tuple[int, int]]
"""Where the bytes of each file inside begin, and how many they are, by its name."""


class Listing(Record):
    """A tar file's members, and the stamp that it had when they were listed."""

    stamp: Stamp
    members: Members


def list_tar(path: Path, memory: Path | None = None) -> Members:
    """List the files in an uncompressed tar file; in the folder `memory` the list is kept.

    Raises LaternaError for a file that is damaged, or holds a name twice; OSError.
    """
    place = memory and memory / f"{sha256(str(path.resolve()).encode()).hexdigest()[:32]}.json"
    began, stamp = time.time_ns(), stamp_of(path)
    known = _read(place) if place else None
    if known is not None and known.stamp == stamp:
        return known.members
    members = _walk(path)
    if place and stamp.settled(began) and stamp_of(path) == stamp:
        with write_atomically(place) as aside:
            aside.write_bytes(msgspec.json.encode(Listing(stamp=stamp, members=members)))
    return members


def _walk(path: Path) -> Members:
    members: Members = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                name = posixpath.normpath(member.name)
                if name in members:
                    raise LaternaError(f"{path}: {name} is in it twice; which is meant?")
                members[name] = (member.offset_data, member.size)
    except tarfile.TarError as error:
        raise LaternaError(f"{path}: not a tar file that can be read: {error}") from error
    return members


def _read(place: Path) -> Listing | None:
    """Return what is remembered; nothing where that is damaged: it is then found again."""
    try:
        return msgspec.json.decode(place.read_bytes(), type=Listing)
    except (OSError, msgspec.MsgspecError):
        return None
