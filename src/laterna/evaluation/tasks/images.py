"""Where a question's image is: in the folder, or in a zip that was never unpacked."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from laterna.errors import LaternaError


def find_image(dataset: Path, folder: str, name: str) -> Path | bytes:
    """Return the file of an image, or its bytes where they lie in a zip.

    It is looked for in `folder` of the dataset, then in the dataset itself, with ever fewer of the
    folders that its name begins with; then in zips that have the name of a folder on the way
    (`val2014.zip` for `val2014/1.jpg`). Where it is nowhere, the place that its name says is
    returned, though no file is there.

    Raises LaternaError for a zip that cannot be read.
    """
    parts = name.split("/")
    ends = ["/".join(parts[first:]) for first in range(len(parts))]
    places = [above / end for end in ends for above in (dataset / folder, dataset)]
    for place in places:
        if place.is_file():
            return place
    for place in places:
        for archive, member in _zips(dataset, place):
            return _member(archive, member)
    return places[0] if (dataset / folder).is_dir() else places[1]


def _zips(dataset: Path, place: Path) -> Iterator[tuple[Path, str]]:
    """Yield the zips that stand for a folder on the way, and the member of each that is meant."""
    for above in place.parents:
        if not above.is_relative_to(dataset):
            return
        archive = above.parent / f"{above.name}.zip"
        if archive.is_file():
            rest = place.relative_to(above).as_posix()
            inside = f"{above.name}/{rest}"
            names = _members(archive, archive.stat().st_mtime_ns)
            yield from ((archive, member) for member in (inside, rest) if member in names)


@lru_cache(maxsize=32)
def _members(archive: Path, changed: int) -> frozenset[str]:
    del changed  # a part of the key: another zip of the same name is read anew
    with _opened(archive) as file:
        return frozenset(file.namelist())


def _member(archive: Path, member: str) -> bytes:
    try:
        with _opened(archive) as file:
            return file.read(member)
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError, EOFError) as error:
        raise LaternaError(f"{archive}: {member} cannot be unpacked: {error}") from error


def _opened(archive: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(archive)
    except (zipfile.BadZipFile, OSError) as error:
        raise LaternaError(f"{archive}: cannot be read as a zip: {error}") from error
