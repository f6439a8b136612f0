"""Files and folders that are either whole or not there, and that never overwrite a user's.

Everything is written to a folder `.NAME.part` beside its place (`new`, and while it is swapped
`old`), and renamed. That folder is locked until its process ends, so what a killed process left is
known and removed. A folder records what it is and of what it was made (`MADE`); only the same made
again replaces it, or what `overwrite` asks for.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from fnmatch import fnmatch
from itertools import count
from pathlib import Path

import msgspec

from laterna.errors import LaternaError, disk_fault
from laterna.locks import locked

MADE = ".laterna-made.json"
NAMED = 5  # files or differences that a message names
LOCK_WAIT = 10.0  # seconds that a run waits for one that is ending
BOX = re.compile(r"\.(?P<name>.+)\.part\d*", re.DOTALL)
_STREAMS = ("/dev/std", "/dev/fd/", "/proc/")


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """What a folder is and of what it was made, which decides what it may replace."""

    kind: str
    """Such as `checkpoint`."""
    of: Mapping[str, str] = {}
    """All that it was made of, by name; equal: the same again; empty: never the same."""
    later: tuple[str, ...] = ()
    """Patterns of the names of files that Laterna adds later."""
    files: tuple[str, ...] = ()
    """The files that were written with it; others are a user's."""


@contextmanager
def write_atomically(
    path: Path, made: Made | None = None, *, overwrite: bool = False
) -> Iterator[Path]:
    """Yield a temporary path to write a file to, or with `made` a folder; rename it at the end.

    What is at `path` is replaced only then, and at every moment the old or the new is on the disk.
    On an error nothing has changed. Raises LaternaError where `require_replaceable` does, before
    and after the work, and for a disk that is full.
    """
    place = resolved(path)
    require_replaceable(path, made)
    if made is not None:
        require_same_or_asked(path, made, overwrite=overwrite)
    place.parent.mkdir(parents=True, exist_ok=True)
    with _spoken(path), _aside(place) as box:
        new, old = box / "new", box / "old"
        yield new
        if made is not None:
            _say_made(new, made)
            require_replaceable(path, made)
        flush_tree(new)
        if box.parent == place:
            _move_in(new, place)
        elif made is not None and place.is_dir() and any(place.iterdir()):
            place.rename(old)
            new.rename(place)
        else:
            new.replace(place)
        flush(place.parent)


@contextmanager
def _spoken(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if why := disk_fault(error):
            raise LaternaError(
                f"{path}: cannot be written: {why}; make room on its disk, or see that it may be "
                "written to, and run the same command again"
            ) from error
        raise


def resolved(path: Path) -> Path:
    """Follow links and dots to where a path leads; raises LaternaError where that is nowhere."""
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise LaternaError(f"{path}: not a valid path: {error}") from error


def require_replaceable(path: Path, made: Made | None = None) -> None:
    """Raise LaternaError unless a file, or with `made` a folder, can be written at `path`.

    A file may replace a file; a folder may replace an empty one, or Laterna's own of the same kind.
    """
    place = resolved(path)
    if str(path.absolute()).startswith(_STREAMS):  # it may lead to a file, such as a log
        raise LaternaError(f"{path} is not a regular file; name another file to write")
    _require_writable(path, place)
    _require_no_part(path, place)
    if not os.path.lexists(place):
        return
    if made is None:
        if place.is_dir():
            raise LaternaError(f"{path} is a folder; name the file to write")
        if not place.is_file():
            raise LaternaError(f"{path} is not a regular file; name another file to write")
    elif not place.is_dir():
        raise LaternaError(f"{path} is a file; name a folder for the {made.kind}")
    elif inside := _inside(place):
        _require_ours(path, place, inside, made)


def require_growing(path: Path) -> None:
    """Raise LaternaError unless a folder that keeps what is in it can be at `path`."""
    place = resolved(path)
    if place.exists() and not place.is_dir():
        raise LaternaError(f"{path} is a file; give a folder")
    _require_writable(path, place)
    _require_no_part(path / "in it", place / "in it")


def require_same_or_asked(path: Path, made: Made, *, overwrite: bool = False) -> None:
    """Raise LaternaError, naming what differs, where another folder of its kind would be replaced
    without `overwrite`.
    """
    place = resolved(path)
    before = read_made(place)
    if before is None or overwrite or (made.of and before.of == made.of):
        return
    pairs = [(name, before.of.get(name, "–"), made.of.get(name, "–"))
             for name in sorted({*before.of, *made.of})]  # fmt: skip
    changes = [f"{name} {had or '–'}, now {has or '–'}" for name, had, has in pairs if had != has]
    differs = f" made differently ({some(changes)})" if made.of and changes else ""
    what = f"{'an' if before.kind[:1] in tuple('aeiou') else 'a'} {before.kind}{differs}"
    raise LaternaError(f"{path}: holds {what}; name a new folder, or replace it by --overwrite")


def read_made(folder: Path) -> Made | None:
    """Return a folder's record of itself; None where there is none that can be read."""
    try:
        return msgspec.json.decode((folder / MADE).read_bytes(), type=Made)
    except (OSError, msgspec.MsgspecError):
        return None


def recover(path: Path) -> None:
    """Restore what a killed process had moved away from `path`, and remove what it left."""
    place = resolved(path)
    for base in (place.parent, place):
        for box in _boxes(base):
            if _place_of(box).name == place.name:
                _clean(box, place)


def sweep(folder: Path) -> None:
    """Do as `recover` for everything in a folder that killed processes were writing."""
    for box in _boxes(folder):
        _clean(box, _place_of(box))


@contextmanager
def held(path: Path, what: str) -> Iterator[None]:
    """Lock a path for one run of this machine or, where its disk has locks, of all.

    The lock ends with the process, however that ends. A process that is just ending is waited for.
    Raises LaternaError, naming the process that has the lock.
    """
    place = resolved(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    lock = place.with_name(f".{place.name}.lock")
    deadline = time.monotonic() + LOCK_WAIT
    while (descriptor := locked(lock, os.O_RDWR | os.O_CREAT)) is None:
        if time.monotonic() > deadline:
            with suppress(OSError):
                what += f" ({lock.read_text(encoding='utf-8').strip()})"
            raise LaternaError(
                f"{path}: in use by another run: {what}; wait until it has ended, or name "
                "another folder"
            )
        time.sleep(0.1)
    try:
        now = datetime.now(UTC).astimezone().isoformat(" ", "seconds")
        os.truncate(descriptor, 0)
        os.write(
            descriptor, f"process {os.getpid()} on {socket.gethostname()} since {now}\n".encode()
        )
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(descriptor)


def write_lines(path: Path, rows: Iterable[object]) -> int:
    """Write each row as one line of JSON, and return how many there were."""
    number = 0
    with path.open("wb") as file:
        for row in rows:
            file.write(msgspec.json.encode(row) + b"\n")
            number += 1
    return number


def write_json(path: Path, content: object) -> None:
    """Write a file of JSON that people can read."""
    with write_atomically(path) as aside:
        aside.write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n")


def flush(path: Path) -> None:
    """Return when the disk has a file's bytes, or the names in a folder (not the files)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_tree(path: Path) -> None:
    """Return when the disk has a file, or a folder with all its files, and its own name."""
    for one in path.rglob("*") if path.is_dir() else ():
        if not one.is_symlink():
            flush(one)
    flush(path)
    flush(path.parent)


def some(names: Iterable[str]) -> str:
    """Return the first names with commas, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - NAMED} more" if len(listed) > NAMED else ""
    return ", ".join(listed[:NAMED]) + more


def _require_writable(path: Path, place: Path) -> None:
    above = place if _stays(place) else next(one for one in place.parents if os.path.lexists(one))
    if not above.is_dir():
        raise LaternaError(f"{path}: {above} is a file, so nothing can be written inside it")
    if not os.access(above, os.W_OK | os.X_OK):
        raise LaternaError(f"{path}: no permission to write to {above}; name another place")


def _require_no_part(path: Path, place: Path) -> None:
    """Raise LaternaError for a path in a folder with a record, unless it is one of `Made.later`."""
    for folder in place.parents:
        made = read_made(folder)
        if made is None:
            continue
        name = str(place.relative_to(folder))
        if name in (MADE, *made.files):
            raise LaternaError(f"{path}: belongs to the {made.kind} {folder}; name another file")
        if not any(fnmatch(name, pattern) for pattern in made.later):
            raise LaternaError(
                f"{path}: lies inside the {made.kind} {folder}; give a path outside it"
            )


def _require_ours(path: Path, place: Path, inside: list[str], made: Made) -> None:
    before = read_made(place)
    if before is None:
        raise LaternaError(
            f"{path}: is not empty, and not Laterna's {made.kind}: it holds {some(inside)}; name a "
            "new folder"
        )
    if before.kind != made.kind:
        raise LaternaError(
            f"{path}: holds Laterna's {before.kind}, no {made.kind}; name another, or remove it"
        )
    known = {MADE, *before.files}
    later = (*before.later, *made.later)
    foreign = [
        name
        for name in files_in(place)
        if name not in known and not any(fnmatch(name, pattern) for pattern in later)
    ]
    if foreign:
        raise LaternaError(
            f"{path}: holds other files than its {made.kind} ({some(foreign)}), which would be "
            "lost; move them away, or name a new folder"
        )
    if _stays(place):
        raise LaternaError(
            f"{path}: is the current folder or a mount point, and cannot be replaced as a whole; "
            "name a folder inside it"
        )


def files_in(folder: Path, inside: str = "") -> Iterator[str]:
    """Yield the names of all files in a folder and the folders in it, in the order of their paths,
    as pathlib compares them. A link counts as a file, also to a folder.
    """
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda one: one.name):
            if entry.is_dir(follow_symlinks=False):
                yield from files_in(Path(entry.path), f"{inside}{entry.name}/")
            else:
                yield f"{inside}{entry.name}"


def _inside(place: Path) -> list[str]:
    """Return what is in a folder, without the temporary folders of running processes."""
    return sorted(
        one.name for one in place.iterdir() if not (BOX.fullmatch(one.name) and one.is_dir())
    )


def _stays(place: Path) -> bool:
    """Say whether a folder cannot be renamed: it is a mount point or the current folder."""
    return place.is_dir() and (os.path.ismount(place) or place == Path.cwd())


def _say_made(folder: Path, made: Made) -> None:
    files = tuple(files_in(folder))
    said = msgspec.structs.replace(made, of=dict(made.of), files=files)
    (folder / MADE).write_bytes(msgspec.json.encode(said) + b"\n")


def _move_in(new: Path, place: Path) -> None:
    """Move what is in a folder into another, its record first, by which it is known as ours."""
    for path in sorted(new.iterdir(), key=lambda one: (one.name != MADE, one.name)):
        path.rename(place / path.name)


@contextmanager
def _aside(place: Path) -> Iterator[Path]:
    """Yield a locked temporary folder on the disk of `place`."""
    base = place if _stays(place) else place.parent
    for number in count():
        box = base / f".{place.name}.part{number or ''}"
        descriptor = locked(box, os.O_RDONLY | os.O_DIRECTORY, folder=True)
        if descriptor is None:
            continue  # another process is writing the same
        try:
            if not _settle(box, place):
                continue
            try:
                yield box
            finally:
                if _settle(box, place):
                    box.rmdir()
            return
        finally:
            os.close(descriptor)


def _clean(box: Path, place: Path) -> None:
    descriptor = locked(box, os.O_RDONLY | os.O_DIRECTORY)
    if descriptor is not None:
        try:
            if _settle(box, place):
                box.rmdir()
        finally:
            os.close(descriptor)


def _settle(box: Path, place: Path) -> bool:
    """Finish what a process began in a temporary folder; return whether it is now empty.

    `old` exists only once `new` is whole: where there is nothing at `place`, the process was killed
    while it swapped them.
    """
    new, old = box / "new", box / "old"
    if os.path.lexists(old):
        if not os.path.lexists(place):
            (new if os.path.lexists(new) else old).rename(place)
        elif os.path.lexists(new):
            return False  # another process has written the place since: keep both
    if box.parent == place and new.is_dir() and not (new / MADE).exists() and read_made(place):
        _move_in(new, place)
    _remove(new)
    _remove(old)
    return not any(box.iterdir())


def _boxes(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [one for one in folder.iterdir() if BOX.fullmatch(one.name) and one.is_dir()]


def _place_of(box: Path) -> Path:
    found = BOX.fullmatch(box.name)
    return box.with_name(found["name"] if found else box.name)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
