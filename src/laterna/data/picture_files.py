"""Where pictures lie: in a folder, in a zip file, or in tar files (WebDataset's shards)."""

from __future__ import annotations

import tarfile
import threading
import zipfile
from pathlib import Path
from typing import Protocol

from laterna.data.pictures import MissingPictureError
from laterna.errors import LaternaError


class PictureFiles(Protocol):
    """Finds pictures by name."""

    def find(self, name: str) -> Path | bytes:
        """Return a picture's file, or its bytes; what `load_picture` takes.

        Raises MissingPictureError where there is none of that name.
        """


class PictureFolder:
    """Pictures that are files of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, name: str) -> Path:
        """Return the path of a picture, whether or not it is there."""
        return self.folder / name


class PictureZip:
    """Pictures that are members of a zip file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._archive = zipfile.ZipFile(path)

    def find(self, name: str) -> bytes:
        """Return a member's bytes. Raises MissingPictureError where there is none."""
        try:
            return self._archive.read(name)
        except KeyError as error:
            raise MissingPictureError(f"{self.path}: {name}: no such picture") from error
        except (zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
            raise LaternaError(f"{self.path}: {name}: cannot be unpacked: {error}") from error


class PictureTars:
    """Pictures that are members of uncompressed tar files, each name in one of them.

    The files are walked through once, from head to head, and read by place from then on.
    """

    def __init__(self, paths: list[Path]) -> None:
        """Raise LaternaError for a file that is damaged, or holds a name that another holds."""
        self.paths = paths
        self._places: dict[str, tuple[int, int, int]] = {}
        for number, path in enumerate(paths):
            try:
                self._index(number, path)
            except tarfile.TarError as error:
                raise LaternaError(f"{path}: not a tar file that can be read: {error}") from error
        self._files = [path.open("rb") for path in paths]
        self._lock = threading.Lock()

    def _index(self, number: int, path: Path) -> None:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                name = member.name.removeprefix("./")
                if name in self._places:
                    other = self.paths[self._places[name][0]]
                    raise LaternaError(f"{path}: {name} is in {other} too; which is meant?")
                self._places[name] = (number, member.offset_data, member.size)

    def find(self, name: str) -> bytes:
        """Return a member's bytes. Raises MissingPictureError where there is none."""
        if name not in self._places:
            where = ", ".join(map(str, self.paths))
            raise MissingPictureError(f"{where}: {name}: no such picture")
        number, start, size = self._places[name]
        with self._lock:
            self._files[number].seek(start)
            return self._files[number].read(size)


def open_pictures(where: str) -> PictureFiles:
    """Open what a `pictures` setting names: a folder, a zip file, a tar file, or tar files.

    Several tar files are named by a pattern with `*` in the last part: `shards/train-*.tar`. What
    a file is, its first bytes say. Raises LaternaError for anything else, and for what is missing.
    """
    path = Path(where)
    if path.is_dir():
        return PictureFolder(path)
    paths = sorted(path.parent.glob(path.name)) if "*" in path.name else [path]
    if not paths:
        raise LaternaError(f"{where}: no file has such a name")
    try:
        if len(paths) == 1 and zipfile.is_zipfile(path):
            return PictureZip(path)
        if all(tarfile.is_tarfile(one) for one in paths):
            return PictureTars(paths)
    except OSError as error:
        raise LaternaError(f"{where}: cannot be read: {error.strerror}") from error
    raise LaternaError(f"{where}: neither a folder, nor a zip file, nor tar files")
