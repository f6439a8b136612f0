"""Where a question's image is: in the folder, or in a zip that was never unpacked."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from laterna.errors import LaternaError


def find_image(dataset: Path, folder: str, name: str) -> Path | bytes:
    """Return the file of an image, or its bytes where they lie in a zip.

    It is looked for in `folder` of the dataset and where its name says, then without some of the
    folders that the name begins with: benchmarks are unpacked with their annotations in a folder of
    their own, or not. Then in zips that have the name of a folder on the way (`val2014.zip` for
    `val2014/1.jpg`). Where it is nowhere, the first place is returned, though no file is there.

    Raises LaternaError for a zip that cannot be read.
    """
    parts = name.split("/")
    places = [dataset / folder / name] if (dataset / folder).is_dir() else []
    for cut in range(len(parts)):
        end = "/".join(parts[cut:])
        places += [dataset.joinpath(*parts[:kept], end) for kept in range(cut, -1, -1)]
        places.append(dataset / folder / end)
    for place in places:
        if place.is_file():
            return place
    for place in places:
        for archive, member in _zips(dataset, place):
            return _member(archive, member)
    return places[0]


def _zips(dataset: Path, place: Path) -> Iterator[tuple[Path, str]]:
    """Yield the zips that stand for a folder on the way, and the member of each that is meant."""
    for above in place.parents:
        if not above.is_relative_to(dataset):
            return
        archive = above.parent / f"{above.name}.zip"
        if archive.is_file():
            rest = place.relative_to(above).as_posix()
            names = _archive(archive, archive.stat().st_mtime_ns)[1]
            found = [one for one in (f"{above.name}/{rest}", rest) if one in names]
            yield from ((archive, member) for member in found)


def _member(archive: Path, member: str) -> bytes:
    try:
        return _archive(archive, archive.stat().st_mtime_ns)[0].read(member)
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError, EOFError) as error:
        raise LaternaError(f"{archive}: {member} cannot be unpacked: {error}") from error


@lru_cache(maxsize=8)
def _archive(archive: Path, changed: int) -> tuple[zipfile.ZipFile, frozenset[str]]:
    """Return a zip that stays open, since its list of members may be long, and their names."""
    del changed  # a part of the key: another zip of the same name is read anew
    try:
        opened = zipfile.ZipFile(archive)
    except (zipfile.BadZipFile, OSError) as error:
        raise LaternaError(f"{archive}: cannot be read as a zip: {error}") from error
    return opened, frozenset(opened.namelist())
