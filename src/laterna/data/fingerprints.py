"""What files hold, by their SHA-256: remembered while a file is as it was, and sealed in manifests.

A file is as it was when its size, the time it was last written to and the time its inode was last
changed are the same; the last no program can set back. A sealed folder holds a signed manifest,
which lists the checksum of every other file in it: any byte that is another is noticed.
"""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from laterna.data.sources import HUB
from laterna.data.sources.tables import hub_revision
from laterna.errors import LaternaError
from laterna.files import files_in, write_atomically
from laterna.records import Record

RACY_NS = 2_000_000_000
"""A file written to less than this ago, in nanoseconds, could be written to again within the same
tick of its file system's clock (FAT's: 2 s), so what it holds is not remembered yet."""
SIGNATURE = "checksum"
"""Key of a signed manifest's own checksum."""

T = TypeVar("T")


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


class Known(Record, Generic[T]):
    """What was once made of a file, and the file's stamp then."""

    stamp: Stamp
    made: T


class FileHash(Record):
    """How a file is known to be whole."""

    size: int
    """In bytes."""
    sha256: str


def stamp_of(path: Path) -> Stamp:
    """Return a file's stamp; raises OSError."""
    return _stamp(os.stat(path))  # noqa: PTH116  (pathlib's is slower, and there may be many)


class Fingerprints:
    """What sources of data and of weights hold, for one start: each is looked at once, and a file
    that is as it was at an earlier start is not read again. Of data that is remembered in a folder,
    of weights, and without a folder, in the user's (`user_folder`).
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._seen: dict[tuple[str, tuple[str, ...]], str] = {}

    def of(self, where: str, endings: tuple[str, ...] = ()) -> str:
        """Return the SHA-256 of a file's bytes, or of the names and bytes of a folder's files, the
        place of either aside; or the revision of a hub's dataset.

        With `endings`, as for weights, only files that end so count, and none of folders inside.
        Raises OSError for what cannot be read, and LaternaError where the hub does not answer.
        """
        key = (where, endings)
        if key not in self._seen:
            self._seen[key] = self._look(where, endings)
        return self._seen[key]

    def _look(self, where: str, endings: tuple[str, ...]) -> str:
        if where.startswith(HUB):
            return hub_revision(where.removeprefix(HUB))
        path = Path(where)
        memory = self.folder if self.folder and not endings else user_folder()
        found = remembered(path, memory, sha256_of, str, endings)
        if not path.is_dir():
            return found[""]
        lines = [f"{name} {digest}" for name, digest in found.items()]
        return sha256("\n".join(lines).encode()).hexdigest()


def user_folder(what: str = "fingerprints") -> Path:
    """Return where is kept what more than one run asks for: in the folder that the environment's
    LATERNA_CACHE names, or in ~/.cache/laterna.
    """
    cache = os.environ.get("LATERNA_CACHE") or "~/.cache/laterna"
    return Path(cache).expanduser() / what


def remembered(
    root: Path,
    memory: Path | None,
    make: Callable[[Path], T],
    kind: type[T],
    endings: tuple[str, ...] = (),
) -> dict[str, T]:
    """Return what `make` makes of a file (its key is empty), or of each file in a folder by name.

    It is not made again for a file that is as it was when the folder `memory` was written to. What
    is remembered there and damaged is made again. Raises OSError, and what `make` raises.
    """
    name = sha256("\n".join([str(root.resolve()), *endings]).encode()).hexdigest()
    place = memory and memory / f"{name[:32]}.json"
    before = _read(place, kind) if place else {}
    now: dict[str, Known[T]] = {}
    found: dict[str, T] = {}
    began = time.time_ns()
    for name, stamp in _files_of(root):
        if endings and name and ("/" in name or not name.endswith(endings)):
            continue
        path = root / name
        known = before.get(name)
        fresh = known is None or known.stamp != stamp
        if known is None or fresh:
            known = Known(stamp=stamp, made=make(path))
        found[name] = known.made
        if stamp.settled(began) and (not fresh or stamp_of(path) == stamp):  # now that it was read
            now[name] = known
    if place and now != before:
        # What cannot be written down, in a folder that may only be read, is made again.
        with suppress(OSError), write_atomically(place) as aside:
            aside.write_bytes(msgspec.json.encode(now))
    return found


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes; raises OSError."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def hash_of(path: Path) -> FileHash:
    """Return how a file will be known to be whole; raises OSError."""
    return FileHash(size=path.stat().st_size, sha256=sha256_of(path))


def hash_all(folder: Path) -> dict[str, FileHash]:
    """Return the same of every file in a folder and in those in it, by name, several at a time."""
    names = [name for name, _ in _files_of(folder)]
    with ThreadPoolExecutor() as pool:
        return dict(zip(names, pool.map(hash_of, (folder / name for name in names)), strict=True))


def what_is_torn(folder: Path, files: Mapping[str, FileHash]) -> str:
    """Return what is wrong with the first of a folder's files that is not as it was written, its
    path first; empty where all are whole. Every byte is read, several files at a time.
    """

    def look(name: str) -> str:
        path = folder / name
        try:
            if path.stat().st_size != files[name].size:
                return f"{path}: its size differs from what was written"
            return "" if hash_of(path) == files[name] else f"{path}: its checksum differs"
        except OSError as error:
            gone = isinstance(error, FileNotFoundError)
            return f"{path}: {'missing' if gone else error.strerror}"

    with ThreadPoolExecutor() as pool:
        return next(filter(None, pool.map(look, files)), "")


def write_signed(path: Path, manifest: object) -> None:
    """Write a manifest as JSON with its own checksum in it."""
    content = msgspec.to_builtins(manifest)
    whole = content | {SIGNATURE: _signature(content)}
    with write_atomically(path) as aside:
        aside.write_text(json.dumps(whole, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_signed(path: Path, kind: type[T]) -> T:
    """Read a manifest of a type that `write_signed` wrote.

    Raises LaternaError, naming the file, for one that is missing, of another type, or not as it was
    written.
    """
    found = read_json(path)
    check_signature(found, path)
    try:
        return msgspec.convert(found, kind)
    except msgspec.ValidationError as error:
        raise LaternaError(f"{path}: not a readable manifest: {error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises LaternaError, naming the file."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise LaternaError(f"{path}: not a readable manifest: {error}") from error
    if not isinstance(found, dict):
        raise LaternaError(f"{path}: not a readable manifest: it holds no JSON object")
    return found


def check_signature(found: dict[str, Any], path: Path, *, wanted: bool = True) -> None:
    """Take a manifest's checksum out of it. Raises LaternaError where it is not as it was written,
    or has no checksum though one is `wanted`.
    """
    signature = found.pop(SIGNATURE, None)
    if signature != _signature(found) and (wanted or signature is not None):
        raise LaternaError(f"{path}: its checksum differs")


def _signature(content: dict[str, Any]) -> str:
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _stamp(found: os.stat_result) -> Stamp:
    return Stamp(found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _files_of(root: Path) -> Iterator[tuple[str, Stamp]]:
    """Yield the file, or the files of a folder and of those in it, by name, with their stamps.

    Linked files are there, linked folders are not.
    """
    for name in files_in(root) if root.is_dir() else [""]:
        try:
            found = os.stat(os.path.join(root, name) if name else root)  # noqa: PTH116, PTH118
        except FileNotFoundError:
            if not name:
                raise
            continue  # a link to nothing
        if stat.S_ISREG(found.st_mode) or not name:
            yield name, _stamp(found)


def _read(place: Path, kind: type[T]) -> dict[str, Known[T]]:
    try:
        return msgspec.json.decode(place.read_bytes(), type=dict[str, Known[kind]])  # type: ignore[valid-type]
    except (OSError, msgspec.MsgspecError):
        return {}
