"""Where images lie: in a folder, in a zip file, or in tar files (WebDataset's shards)."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import posixpath
import shutil
import stat
import struct
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Callable
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from laterna.data.fingerprints import Stamp, remembered, stamp_of
from laterna.data.images.opening import MAX_PIXELS, MissingImageError
from laterna.errors import LaternaError
from laterna.files import write_atomically

MAX_BYTES = 8 * MAX_PIXELS
"""Of an image in a zip file, unpacked: the most pixels that are opened, of four 16-bit channels.
Small files unpack to more than fills the memory (zip bombs)."""

_PACKED: dict[bytes, Callable[[Path], gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile]] = {
    b"\x1f\x8b": gzip.GzipFile,
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ": lzma.LZMAFile,
}
"""What opens a compressed tar file, by its first bytes."""

# What zipfile raises on damaged files; a seek to where nothing can be is an OSError without a name.
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    OSError,
    EOFError,
    ValueError,
    struct.error,
    RuntimeError,
    NotImplementedError,
)


class OutsideImageError(LaternaError):
    """An image's name leads out of the folder of the images."""


class ImageFiles(Protocol):
    """Finds images by name."""

    @property
    def where(self) -> str:
        """What tells these images from others of the same names: their place."""

    def find(self, name: str) -> Path | bytes:
        """Return an image's file, or its bytes; what `load_image` takes.

        Raises MissingImageError where there is none of that name, OutsideImageError where it
        may not be looked at, and LaternaError.
        """

    def stamp(self, name: str) -> Stamp:
        """Return the stamp of the file that holds an image, which changes when the image does.

        Raises OSError where the file cannot be looked at, and MissingImageError as `find` does.
        """

    def identity(self, name: str) -> str:
        """Return what is equal for two names, of these or of other images, where they are known
        to be one: where it lies, links followed, or what is in it.
        """


class ImageFolder:
    """Images that are files of their own.

    Those that lie outside the folder, by a whole path, `..` or a link, are not given unless that
    is allowed: the names come from data, which anyone may have written.
    """

    def __init__(self, folder: Path, allow_outside: bool = False) -> None:
        self.folder = folder
        self._allowed = allow_outside
        self._root = os.path.join(os.path.realpath(folder), "")  # noqa: PTH118
        self._resolve = lru_cache(maxsize=None)(os.path.realpath)

    @property
    def where(self) -> str:
        """The folder."""
        return str(self.folder.resolve())

    def find(self, name: str) -> Path:
        """Return the path of an image, whether or not it is there.

        Raises OutsideImageError for one that lies outside.
        """
        if not self._allowed and not f"{self.identity(name)}{os.sep}".startswith(self._root):
            raise OutsideImageError(
                f"{name}: lies outside the images' folder {self.folder}; if you trust the data, "
                "set `allow_outside = true` beside `images`"
            )
        return self.folder / name

    def stamp(self, name: str) -> Stamp:
        """Return an image's own stamp. Raises OSError where there is no such file."""
        return stamp_of(self.folder / name)

    def identity(self, name: str) -> str:
        """Return the path of an image without links, whether or not it is there."""
        # Folders are resolved once each, and a file only if it is a link: there may be many.
        head, tail = os.path.split(os.path.join(self.folder, name))  # noqa: PTH118
        path = f"{self._resolve(head)}{os.sep}{tail}"
        try:
            if tail not in ("", ".", ".."):
                os.readlink(path)  # noqa: PTH115
        except OSError:
            return path
        return os.path.realpath(path)


class SeveralImages:
    """Images of several places: each name is a name in one of them."""

    def place_of(self, name: str) -> tuple[ImageFiles, str]:
        """Return the place of an image, and its name there."""
        raise NotImplementedError

    def find(self, name: str) -> Path | bytes:
        """Return an image's file or bytes. Raises as its place does."""
        place, own = self.place_of(name)
        return place.find(own)

    def stamp(self, name: str) -> Stamp:
        """Return the stamp of the file that holds an image. Raises as its place does."""
        place, own = self.place_of(name)
        return place.stamp(own)

    def identity(self, name: str) -> str:
        """Return what is equal for names of one image."""
        place, own = self.place_of(name)
        return place.identity(own)


class ImageZip:
    """Images that are members of a zip file."""

    def __init__(self, path: Path) -> None:
        """Raise LaternaError for a file that is damaged."""
        self.path = path
        self._stamp = stamp_of(path)
        try:
            self._archive = zipfile.ZipFile(path)
        except _DAMAGED as error:
            raise LaternaError(f"{path}: not a zip file that can be read: {error}") from error
        self._names = {member_name(name): name for name in self._archive.namelist()}

    @property
    def where(self) -> str:
        """The file."""
        return str(self.path.resolve())

    def find(self, name: str) -> bytes:
        """Return a member's bytes. Raises MissingImageError where there is none, and LaternaError
        for one that is damaged, or would unpack to more than any image that is opened.
        """
        name = self._names.get(member_name(name), name)
        try:
            size = self._archive.getinfo(name).file_size
            if size > MAX_BYTES:
                raise LaternaError(
                    f"{self.path}: {name}: unpacks to {size:,} bytes, too large for an image (at "
                    f"most {MAX_BYTES:,})"
                )
            return self._archive.read(name)
        except KeyError as error:
            raise MissingImageError(f"{self.path}: {name}: no such image") from error
        except _DAMAGED as error:
            raise LaternaError(f"{self.path}: {name}: cannot be unpacked: {error}") from error

    def stamp(self, name: str) -> Stamp:
        """Return the zip file's stamp, whatever the name."""
        del name  # which member it is changes nothing
        return self._stamp

    def identity(self, name: str) -> str:
        """Return the zip file and the member's name."""
        return f"{self.where}\n{member_name(name)}"


class ImageTars:
    """Images that are members of uncompressed tar files, each name in one of them.

    The files are walked through once, from head to head, and read by place from then on; where
    a folder `memory` is given, that is done once for all processes.
    """

    def __init__(self, paths: list[Path], memory: Path | None = None) -> None:
        """Raise LaternaError for a file that is damaged, or holds a name that another holds."""
        self.paths = paths
        self._places: dict[str, tuple[int, int, int]] = {}
        for number, path in enumerate(paths):
            for name, place in list_tar(path, memory).items():
                if name in self._places:
                    other = self.paths[self._places[name][0]]
                    raise LaternaError(f"{path}: {name} is in {other} too; which is meant?")
                self._places[name] = (number, *place)
        self._files = [path.open("rb") for path in paths]
        self._stamps = [stamp_of(path) for path in paths]
        self._lock = threading.Lock()

    @property
    def where(self) -> str:
        """The files."""
        return "\n".join(str(path.resolve()) for path in self.paths)

    def find(self, name: str) -> bytes:
        """Return a member's bytes. Raises MissingImageError where there is none."""
        number, start, size = self._place(name)
        with self._lock:
            self._files[number].seek(start)
            return self._files[number].read(size)

    def stamp(self, name: str) -> Stamp:
        """Return the stamp of the tar file that holds an image."""
        return self._stamps[self._place(name)[0]]

    def identity(self, name: str) -> str:
        """Return the tar file and the member's name."""
        name = member_name(name)
        number, _, _ = self._places.get(name, (0, 0, 0))
        return f"{self.paths[number].resolve()}\n{name}"

    def _place(self, name: str) -> tuple[int, int, int]:
        name = member_name(name)
        if name not in self._places:
            where = ", ".join(map(str, self.paths))
            raise MissingImageError(f"{where}: {name}: no such image")
        return self._places[name]


def member_name(name: str) -> str:
    """Return a name inside an archive without the `./` and `//` that say nothing."""
    return posixpath.normpath(name) if "./" in name or "//" in name else name


def open_images(where: str, memory: Path | None = None, allow_outside: bool = False) -> ImageFiles:
    """Open what a `images` setting names: a folder, a zip file, a tar file, or tar files.

    Several tar files are named by a pattern with `*` in the last part: `shards/train-*.tar`. What
    a file is, its first bytes say. What tar files hold is remembered in the folder `memory`, and
    compressed ones are unpacked there: their images could not be found by place. `allow_outside`
    is as in `ImageFolder`. Raises LaternaError for anything else, and for what is missing.
    """
    path = Path(where)
    if path.is_dir():
        return ImageFolder(path, allow_outside)
    paths = sorted(path.parent.glob(path.name)) if "*" in path.name else [path]
    if not paths:
        raise LaternaError(f"{where}: no file has such a name")
    try:
        for one in paths:
            if not stat.S_ISREG(one.stat().st_mode):
                raise LaternaError(f"{one}: not a regular file or folder, so it is not opened")
        if len(paths) == 1 and zipfile.is_zipfile(path):
            return ImageZip(path)
        if all(tarfile.is_tarfile(one) for one in paths):
            return ImageTars([_unpacked(one, memory) for one in paths], memory)
    except OSError as error:
        raise LaternaError(f"{where}: cannot be read: {error.strerror or error}") from error
    raise LaternaError(f"{where}: neither a folder, nor a zip file, nor tar files")


def _unpacked(path: Path, memory: Path | None) -> Path:
    """Return a tar file that is not compressed: this one, or the one that it unpacks to.

    Raises LaternaError for a compressed one that is damaged, or for which there is no `memory`.
    """
    with path.open("rb") as file:
        head = file.read(6)
    unpack = next((unpack for magic, unpack in _PACKED.items() if head.startswith(magic)), None)
    if unpack is None:
        return path
    if memory is None:
        raise LaternaError(f"{path}: unpack the compressed tar file first (`gzip -dk`, `xz -dk`)")
    known = f"{path.resolve()}\n{tuple(stamp_of(path))}".encode()
    place = memory / f"{sha256(known).hexdigest()[:32]}.tar"
    if not place.is_file():
        try:
            with write_atomically(place) as aside, unpack(path) as packed, aside.open("wb") as out:
                shutil.copyfileobj(packed, out, 1 << 20)
        except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
            raise LaternaError(f"{path}: cannot be unpacked: {error}") from error
    return place


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
