"""Opens and decodes annotation files whatever their bytes are: gzip, BOM, UTF-16, NaN, XML."""

from __future__ import annotations

import csv
import gzip
import io
import json
import mmap
import re
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn, cast
from xml.etree import ElementTree
from xml.parsers import expat

import msgspec

from laterna.errors import LaternaError

WHOLE = 1_000_000_000
"""Bytes of a file that is held in memory as a whole; a larger one is mapped, or refused."""
_LARGEST = 20 * WHOLE
"""Bytes that a packed file may unpack to: COCO's largest has half of `WHOLE`."""
_HEAD = 1 << 16
"""Bytes that are looked at to tell what a file holds."""
_DEEP = 5
"""Brackets around the innermost keys that tell a format, as in Label Studio's results."""
_TOKEN = re.compile(rb'"((?:[^"\\]|\\.)*)"\s*(:)?|[{}\[\]]', re.DOTALL)
_GZIP = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"
_UTF_16 = {
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
    b"{\x00": "utf-16-le",
    b"[\x00": "utf-16-le",
    b"\x00{": "utf-16-be",
    b"\x00[": "utf-16-be",
}
"""How text in UTF-16 begins, with its byte order mark or as JSON without one."""


@contextmanager
def open_source(path: Path, *, text: bool = True) -> Iterator[IO[bytes]]:
    """Open an annotations file for reading; one that begins as gzip does is unpacked on the way.

    `text`: a byte order mark is passed over, and UTF-16 becomes UTF-8.
    Raises LaternaError when it is missing, cannot be read, or is broken gzip or UTF-16.
    """
    if not path.is_file():
        raise LaternaError(f"{path}: no such annotations file")
    try:
        with path.open("rb") as file:
            if file.peek(2)[:2] != _GZIP:
                yield _in_utf_8(file) if text else file
                return
            with gzip.open(file) as packed:
                plain = io.BufferedReader(cast(Any, packed))
                yield _in_utf_8(plain) if text else plain
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise LaternaError(f"{path}: broken gzip ({error}); fetch the file again") from error
    except UnicodeError as error:
        not_text(path, error)
    except OSError as error:
        raise LaternaError(f"{path}: cannot be read: {error.strerror or error}") from error


def _in_utf_8(file: io.BufferedReader) -> IO[bytes]:
    start = file.peek(3)[:3]
    if start == _BOM:
        file.read(3)
    elif start[:2] in _UTF_16:
        return io.BytesIO(_to_utf_8(file.read(WHOLE + 1)))
    return file


def _to_utf_8(content: bytes) -> bytes:
    if (encoding := _UTF_16.get(content[:2])) is None:
        return content.removeprefix(_BOM)
    if len(content) > WHOLE:
        raise UnicodeError(f"UTF-16 of more than {WHOLE:,} bytes")
    return content.decode(encoding).encode("utf-8", "surrogatepass").removeprefix(_BOM)


def not_text(path: Path, error: object) -> NoReturn:
    """Raise the LaternaError of a file whose bytes are no UTF-8 or UTF-16."""
    raise LaternaError(f"{path}: its text is neither UTF-8 nor UTF-16 ({error}); save it as UTF-8")


def read_whole(path: Path, *, text: bool = True) -> bytes:
    """Return all bytes of a file, unpacked; raises LaternaError for more than `WHOLE` of them."""
    with open_source(path, text=text) as file:
        content = file.read(WHOLE + 1)
    if len(content) > WHOLE:
        raise LaternaError(f"{path}: larger than {WHOLE:,} bytes; split it into several files")
    return content


def read_large(path: Path) -> bytes | memoryview:
    """Return all bytes of a file, unpacked and as UTF-8: beyond `WHOLE` mapped, as the disk has it.

    What is mapped takes no memory of its own. Raises LaternaError when it unpacks to more than
    `_LARGEST`.
    """
    with open_source(path, text=False) as file:
        if path.stat().st_size > WHOLE and isinstance(getattr(file, "raw", None), io.FileIO):
            return _mapped(file)
        start = file.read(WHOLE + 1)
        if len(start) <= WHOLE or start[:2] in _UTF_16:
            return _to_utf_8(start)
        with tempfile.TemporaryFile() as unpacked:
            size = unpacked.write(start)
            while piece := file.read(1 << 20):
                size += unpacked.write(piece)
                if size > _LARGEST:
                    raise LaternaError(f"{path}: unpacks to more than {_LARGEST:,} bytes")
            unpacked.flush()
            return _mapped(unpacked)


def _mapped(file: IO[bytes]) -> memoryview:
    whole = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    if bytes(whole[:2]) in _UTF_16:
        raise UnicodeError(f"UTF-16 of more than {WHOLE:,} bytes")
    return whole[len(_BOM) :] if whole[: len(_BOM)] == _BOM else whole


def decode_json(content: bytes, where: str) -> Any:
    """Return JSON as Python has it, NaN and Infinity included, which Python's own module writes.

    Raises LaternaError, which begins with `where`, for what is not JSON.
    """
    if not content.strip():
        raise LaternaError(f"{where}: the file is empty")
    try:
        return json.loads(content)
    except UnicodeDecodeError as error:
        not_text(Path(where), error)
    except RecursionError as error:
        raise LaternaError(f"{where}: JSON that is nested too deeply") from error
    except ValueError as error:
        raise LaternaError(f"{where}: broken or cut JSON: {error}") from error


def read_json(path: Path) -> Any:
    """Return what a JSON file holds; raises LaternaError when it is too large or is not JSON."""
    content = read_whole(path)
    try:
        return msgspec.json.decode(content)
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        return decode_json(content, str(path))  # slower, takes more, and says where it is broken


def read_xml(path: Path) -> ElementTree.Element:
    """Return the root of an XML file, in whatever encoding it declares.

    Raises LaternaError when it is not XML, and when it defines a document type: annotations need
    none, and entities that expand to gigabytes are defined there.
    """

    def refuse(*_: object) -> None:
        raise LaternaError(f"{path}: defines a document type, which is not accepted; remove it")

    content = read_whole(path, text=False)
    builder = ElementTree.TreeBuilder()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(content, True)
        return builder.close()
    except (expat.ExpatError, LookupError, ValueError, AssertionError) as error:
        raise LaternaError(f"{path}: broken or cut XML: {error}") from error


@contextmanager
def open_table(path: Path, delimiter: str = ",") -> Iterator[Iterator[list[str]]]:
    """Give the rows of a CSV file; raises LaternaError for what is none, or is not UTF-8."""
    with open_source(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        try:
            if delimiter == ",":
                yield csv.reader(text)
            else:  # quotation marks mean nothing there
                yield csv.reader(text, delimiter=delimiter, quoting=csv.QUOTE_NONE)
        except csv.Error as error:
            raise LaternaError(f"{path}: not a table: {error}") from error


class Head(NamedTuple):
    """The beginning of a file, and of its structure where it is JSON."""

    content: bytes
    keys: dict[str, frozenset[str]]
    """Keys of the objects at a place: "" the outermost, "item" those of an outermost list,
    "annotations.item" those of a list; as far as the beginning shows them."""

    @property
    def line(self) -> str:
        """The first line, as text."""
        return self.content.lstrip().partition(b"\n")[0].decode("utf-8", "replace").strip()


def peek(path: Path) -> Head:
    """Return the beginning of a file, nothing of one that cannot be read."""
    try:
        status = path.stat()
        return _peek(path, status.st_mtime_ns, status.st_size)
    except (OSError, ValueError, LaternaError):
        return Head(b"", {})


@lru_cache(maxsize=64)
def _peek(path: Path, _changed: int, _size: int) -> Head:
    with open_source(path) as file:
        content = file.read(_HEAD)
    return Head(content, _keys(content) if content.lstrip()[:1] in (b"{", b"[") else {})


def _keys(content: bytes) -> dict[str, frozenset[str]]:
    """Return the keys of the objects that stand in the beginning of some JSON, cut anywhere.

    No parser does that: they stop at a stray byte or at NaN, and ijson's dies of a long number.
    """
    keys: dict[str, set[str]] = {}
    opened: list[tuple[bytes, str]] = []  # brackets, with the place of what they hold
    place = ""
    for token in _TOKEN.finditer(content):
        sign = token[0][:1]
        inside, around = opened[-1] if opened else (b"", "")
        if sign in (b"{", b"["):
            place = (
                place if inside == b"{" else ".".join(filter(None, (around, "item" * bool(inside))))
            )
            opened.append((sign, place))
        elif sign in (b"}", b"]"):
            if opened:
                opened.pop()
        elif token[2] and inside == b"{" and len(opened) <= _DEEP:
            key = token[1].decode("utf-8", "replace")
            keys.setdefault(around, set()).add(key)
            place = f"{around}.{key}" if around else key
    return {where: frozenset(names) for where, names in keys.items()}
