"""Where a question's image is: in the folder, or in a zip that was never unpacked."""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from laterna.data.images.files import ImageZip
from laterna.data.images.opening import MissingImageError


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
        if (content := _from_zip(dataset, place)) is not None:
            return content
    return places[0]


def _from_zip(dataset: Path, place: Path) -> bytes | None:
    """Return an image's bytes from a zip that stands for a folder on the way, or None."""
    for above in place.parents:
        if not above.is_relative_to(dataset):
            break
        archive = above.parent / f"{above.name}.zip"
        if archive.is_file():
            rest = place.relative_to(above).as_posix()
            for member in (f"{above.name}/{rest}", rest):
                with suppress(MissingImageError):
                    return _zip(archive, archive.stat().st_mtime_ns).find(member)
    return None


@lru_cache(maxsize=8)
def _zip(archive: Path, changed: int) -> ImageZip:
    del changed  # a part of the key: another zip of the same name is read anew
    return ImageZip(archive)
