"""JSON in all its usual files, cut into rows in memory that the file's size does not change.

A list; one object a line; objects one behind another, however they are laid out; or one object
around a list. Byte order marks, UTF-16 and gzip are seen from the first bytes, and commas too many
and comments pass, since what is meant is plain.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import BinaryIO, cast

from laterna.data.sources.rows import CHUNK_ROWS, Chunk, decode_json
from laterna.errors import LaternaError

WINDOW = 4 << 20
"""Bytes that are looked at together; a longer row widens it."""
MAX_ROW = 64 << 20
"""Bytes that one row may have: beyond them the file is taken for broken."""

LONGEST_COMMENT = 1 << 16
"""Bytes behind which a comment that has not ended is taken for none."""

_PIECES = rb'[^"\[\]{}/#]++|"(?:[^"\\]++|\\.)*+"'
# Two levels of brackets are passed in one step: all that is inside a row of LLaVA's.
for _ in range(2):
    _PIECES = rb'[^"\[\]{}/#]++|"(?:[^"\\]++|\\.)*+"|[\[{](?:' + _PIECES + rb")*+[\]}]"
_STEP = re.compile(rb"(?:" + _PIECES + rb")*+([\[\]{}/#])", re.DOTALL)
_COMMENT = re.compile(rb"(?://|#)[^\n]*+\n|/\*.*?\*/", re.DOTALL)
_LAST_COMMENT = re.compile(rb"(?://|#)[^\n]*+(?:\n|\Z)|/\*.*?\*/", re.DOTALL)
"""What may be a comment where no more text follows."""
_BLANK = re.compile(rb"\s*+")
_SCALAR = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[^,"\[\]{}\n]++')
_LINE_IS_NO_ROW = re.compile(rb"(?://|#).*|,*", re.DOTALL)

Row = tuple[int, bytes]
"""The line in which a row begins, and its text."""


def json_chunks(path: Path) -> Iterator[Chunk]:
    """Cut a file of JSON into chunks of rows.

    Raises LaternaError, when it is reached, for what cannot be cut, with the line; and OSError.
    """
    return _chunks(json_rows(path))


def _chunks(rows: Iterator[Row]) -> Iterator[Chunk]:
    for first in count(1, CHUNK_ROWS):
        group = tuple(islice(rows, CHUNK_ROWS))
        if not group:
            return
        lines, texts = zip(*group, strict=True)
        yield Chunk(first=first, json=texts, lines=lines)


def json_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a file of JSON, each with its line. Raises as `json_chunks` does."""
    with open_text(path) as file:
        cutter = _Cutter(file, path)
        if cutter.next() == b"[":
            yield from cutter.lists()
            return
        by_line = _one_a_line(path)
        if not by_line:
            yield from cutter.objects()
            return
    with open_text(path) as file:
        yield from _lines(file, path)


def wrapped_chunks(path: Path, key: str) -> Iterator[Chunk]:
    """Cut the list that a file's one object, which begins in its first row, holds under a key."""
    line, text = next(json_rows(path))
    return _chunks((line, json.dumps(item).encode()) for item in decode_json(text)[key])


@contextmanager
def open_text(path: Path) -> Iterator[BinaryIO]:
    """Open a file as UTF-8, unpacked and recoded where its first bytes say that it is not."""
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        file = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if packed else raw
        try:
            head = file.read(4)
            file.seek(3 if head.startswith(b"\xef\xbb\xbf") else 0)
            coding = _coding(head)
            yield file if coding is None else io.BufferedReader(_AsUtf8(file, coding, path))
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise LaternaError(f"{path}: broken gzip: {error}") from error


def _coding(head: bytes) -> str | None:
    if head in (b"\xff\xfe\0\0", b"\0\0\xfe\xff"):
        return "utf-32"
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    zeros = [byte == 0 for byte in head]
    wide = {"utf-16-le": [False, True, False, True], "utf-16-be": [True, False, True, False]}
    return next((coding for coding, where in wide.items() if zeros == where), None)


class _AsUtf8(io.RawIOBase):
    """A file of another coding, as UTF-8."""

    def __init__(self, file: BinaryIO, coding: str, path: Path) -> None:
        self._text = io.TextIOWrapper(file, coding, newline="")
        self._path = path

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        try:
            piece = self._text.read(len(buffer) // 4).encode()
        except UnicodeError as error:
            raise LaternaError(f"{self._path}: not valid text: {error}") from error
        buffer[: len(piece)] = piece
        return len(piece)


def _one_a_line(path: Path) -> bool:
    """Say whether rows are lines: the first is whole, or broken in a way that lines do not mend."""
    with open_text(path) as file:
        line = next((text for _, text in _lines(file, path)), b"")
    if _is_whole(line):
        return True
    with open_text(path) as file:
        try:
            first = next(_Cutter(file, path).objects(), None)
        except LaternaError:
            return True
    return first is None or not _is_whole(first[1])


def _is_whole(text: bytes) -> bool:
    try:
        decode_json(text)
    except (ValueError, RecursionError):
        return False
    return True


def _lines(file: BinaryIO, path: Path) -> Iterator[Row]:
    """Yield the lines that are not blank, nor comments, without a comma at their ends."""
    for number, line in enumerate(iter(partial(file.readline, MAX_ROW + 1), b""), start=1):
        if len(line) > MAX_ROW:
            raise LaternaError(f"{path}: line {number} is longer than {MAX_ROW:,} bytes")
        text = line.strip()
        if not _LINE_IS_NO_ROW.fullmatch(text):
            yield number, text.removesuffix(b",")


class _Cutter:
    """Walks through JSON and cuts rows out of it, by its brackets and strings alone."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file = file
        self._path = path
        self._text = b""
        self._at = 0
        self._ended = False
        self._line = 1
        self._rows = 0

    def next(self) -> bytes:
        """Pass over white space and comments, and return the byte that follows; none: the end."""
        while True:
            self._pass(_BLANK.match(self._text, self._at))
            char = self._text[self._at : self._at + 1]
            comment = self._comment(self._at) if char in (b"/", b"#") else None
            if comment is not None:
                self._pass(comment)
            elif char or not self._more():
                return char

    def lists(self) -> Iterator[Row]:
        """Yield the items of the list that begins here, and of those behind it."""
        while (char := self.next()) == b"[":
            self._at += 1
            while (char := self.next()) != b"]":
                if char:
                    yield self._row()
                    char = self.next()
                if char == b",":
                    self._at += 1
                elif char != b"]":
                    what = "a comma is missing" if char else "the list has no end"
                    raise self._wrong(f"{what} behind row {self._rows}")
            self._at += 1
        if char:
            raise self._wrong(f"something stands behind the list's end: {char!r}")

    def objects(self) -> Iterator[Row]:
        """Yield values that stand one behind another, with or without commas between them."""
        while char := self.next():
            if char == b",":
                self._at += 1
            else:
                yield self._row()

    def _row(self) -> Row:
        """Cut the value that begins here. Raises LaternaError where none does, or has no end."""
        line = self._line
        self._rows += 1
        opens = self._text[self._at : self._at + 1] in (b"[", b"{")
        end = self._bracketed() if opens else self._scalar()
        if end is None:
            char = self._text[self._at : self._at + 1]
            said = "has no end" if opens or char == b'"' else f"cannot begin with {char!r}"
            raise self._wrong(f"row {self._rows}, which begins here, {said}")
        text = self._text[self._at : end]
        self._line += text.count(b"\n")
        self._at = end
        return line, text

    def _scalar(self) -> int | None:
        while True:
            found = _SCALAR.match(self._text, self._at)
            if found is not None and (found.end() < len(self._text) or self._ended):
                return found.end()
            if not self._more():
                return None

    def _bracketed(self) -> int | None:
        depth, length = 1, 1
        while True:
            step = _STEP.match(self._text, self._at + length)
            if step is None:
                if len(self._text) - self._at > MAX_ROW or not self._more():
                    return None
                continue
            length = step.end() - self._at
            if step[1] in b"[{":
                depth += 1
            elif step[1] in b"]}":
                depth -= 1
            elif (comment := self._comment(step.end() - 1)) is not None:
                length = comment.end() - self._at
            if not depth:
                return self._at + length

    def _comment(self, place: int) -> re.Match[bytes] | None:
        """Return the comment at a place, for which more may be read."""
        behind = place - self._at
        while True:
            pattern = _LAST_COMMENT if self._ended else _COMMENT
            found = pattern.match(self._text, self._at + behind)
            far = len(self._text) - self._at - behind > LONGEST_COMMENT
            if found is not None or far or not self._more():
                return found

    def _pass(self, found: re.Match[bytes] | None) -> None:
        if found is not None:
            self._line += found.group().count(b"\n")
            self._at = found.end()

    def _more(self) -> bool:
        """Read on, and forget what was passed; False: the file had ended before."""
        if self._ended:
            return False
        rest = self._text[self._at :]
        read = self._file.read(max(WINDOW, len(rest)))
        self._ended = not read
        self._text, self._at = rest + read, 0
        return True

    def _wrong(self, what: str) -> LaternaError:
        return LaternaError(f"{self._path}: line {self._line}: {what}")
