"""What is in a tar file and where: walking from head to head takes a while, so it is remembered.

A tar file has no table of contents, so all its members' heads are read, 118,000 of them in some
seconds.
"""

from __future__ import annotations

import posixpath
import tarfile
from pathlib import Path

from laterna.data.fingerprints import remembered
from laterna.errors import LaternaError

Members = dict[str, tuple[int, int]]
"""Where the bytes of each file inside begin, and how many they are, by its name."""


def list_tar(path: Path, memory: Path | None = None) -> Members:
    """List the files in an uncompressed tar file; in the folder `memory` the list is kept.

    Raises LaternaError for a file that is damaged, or holds a name twice; OSError.
    """
    return remembered(path, memory, _walk, Members)[""]


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
