"""What a container hands on, and what every form makes of it: rows in, records out, or a reason.

A container (a file of JSON, a Parquet file, a Hugging Face dataset) only cuts a source into
`Chunk`s, which another process can read; a form (`OWN` here, those of `chats`) makes a record
of each row. What holds for records of every form is asked here, in `Reading.of`.
"""

from __future__ import annotations

import binascii
import json
import re
from base64 import b64decode
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from io import BytesIO
from itertools import repeat
from typing import Any

import msgspec

from laterna.records import InstructionRecord, Kind, Provenance, Record, Turn

CHUNK_ROWS = 512
"""Rows that travel together: about 1 MB of LLaVA's."""
IMAGE_DIGITS = 32
"""Hexadecimal digits of SHA-256 that name an embedded image."""
MAX_NAME = 4096
"""Bytes that an image's name may have: Linux's own limit for a path."""
SHOWN = 300
"""Characters of a message that are shown: a row may hold whole images."""

_UNSAYABLE = re.compile("[\0\ud800-\udfff]")
_DATA_URI = re.compile(r"data:[^,]*;base64,", re.IGNORECASE)
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_PACKED = ("/9j/", "iVBORw0KGgo", "R0lGOD", "UklGR", "Qk0", "SUkq", "TU0AK")
"""What base64 begins with of JPEG, PNG, GIF, WebP, BMP and both kinds of TIFF."""
_STRING = r'"(?:[^"\\]++|\\.)*+"'
_COMMENTS = re.compile(rf"({_STRING})|//[^\n]*|#[^\n]*|/\*.*?\*/", re.DOTALL)
_LAST_COMMAS = re.compile(rf"({_STRING})|,(?=\s*[\]}}])", re.DOTALL)

Columns = dict[str, Any]
"""A row of any form, by its keys."""


class Chunk(Record, frozen=True):
    """Some successive rows of a source: JSON texts, or the bytes of an Arrow stream."""

    first: int
    """Number of the first row, counted from 1."""
    json: tuple[bytes, ...] = ()
    arrow: bytes = b""
    lines: tuple[int, ...] = ()
    """The line of the file in which each row begins; empty: not known."""

    def rows(self) -> Iterator[bytes | Columns | UnicodeDecodeError]:
        """Yield each row: its JSON text, or its columns, or why these are no text."""
        yield from self.json
        if self.arrow:
            import pyarrow as pa

            with pa.ipc.open_stream(BytesIO(self.arrow)) as stream:
                for batch in stream:
                    try:
                        yield from batch.to_pylist()
                    except UnicodeDecodeError:  # of one row, and none was given yet
                        for place in range(len(batch)):
                            try:
                                yield from batch.slice(place, 1).to_pylist()
                            except UnicodeDecodeError as error:
                                yield error


class Unreadable(Record, frozen=True):
    """A row that no record can be made of."""

    id: str
    """The row's id where that much can be read, else its place: `row 3`."""
    reason: str
    message: str
    """What is wrong, with the row's name and its line."""


class UnreadableRowError(Exception):
    """A row's content makes no record; `reason` is the same for every row with that fault."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Embedded(Record, frozen=True):
    """An image that stands in the row itself."""

    content: bytes

    @property
    def name(self) -> str:
        """The image's file name: the digest of its bytes."""
        return sha256(self.content).hexdigest()[:IMAGE_DIGITS]


Image = str | Embedded
"""An image's file name, or the image."""


class Reading(Record, frozen=True):
    """A record, and the images that stood in its row, by name."""

    record: InstructionRecord
    embedded: dict[str, bytes] = msgspec.field(default_factory=dict)

    @classmethod
    def of(
        cls,
        name: str,
        turns: Sequence[Turn],
        images: Sequence[Image],
        kind: Kind | None = None,
        provenance: Provenance | None = None,
    ) -> Reading:
        """Return the record of these turns and images.

        Raises UnreadableRowError for what holds in no form: no turns, an answer of no words that
        is to be learned, or characters that are no text.
        """
        if not turns:
            raise UnreadableRowError("no turns", "there are no turns")
        names = tuple([one if isinstance(one, str) else one.name for one in images])
        whole = "\n".join([name, *names, *[turn.text for turn in turns]])
        if found := (not whole.isascii() and _UNSAYABLE.search(whole)) or "\0" in whole:
            char = found.group() if isinstance(found, re.Match) else "\0"
            raise UnreadableRowError(
                "a reserved character in the text",
                f"it holds the character U+{ord(char):04X}, which is not valid text; remove it",
            )
        if any(turn.loss and turn.role == "assistant" and not turn.text.strip() for turn in turns):
            raise UnreadableRowError(
                "an answer is empty", "an answer that is to be learned has no words"
            )
        record = InstructionRecord(
            id=name, images=names, turns=tuple(turns), kind=kind, provenance=provenance
        )
        embedded = {one.name: one.content for one in images if isinstance(one, Embedded)}
        return cls(record=record, embedded=embedded)


class Form(Record, frozen=True):
    """What a row is."""

    columns: tuple[tuple[str, ...], ...]
    """A row is of this form when it has all keys of one of these."""
    read: Callable[[bytes | Columns, str], Reading]
    """Makes a reading of a row; one without an id is named by its place. Raises
    UnreadableRowError, and what `decode_json` and msgspec raise.
    """


def read_chunk(chunk: Chunk, form: Form) -> Iterator[Reading | Unreadable]:
    """Yield a reading, or what is wrong, for every row of a chunk, in order."""
    rows = zip(chunk.rows(), chunk.lines or repeat(0), strict=False)
    for number, (row, line) in enumerate(rows, start=chunk.first):
        place = f"row {number}"
        try:
            if isinstance(row, UnicodeDecodeError):
                raise row
            reading = form.read(row, place)
        except UnreadableRowError as error:
            reason, said = error.reason, str(error)
        except RecursionError:
            reason, said = "nested too deeply", "its brackets are nested too deeply to be read"
        except UnicodeDecodeError as error:
            reason, said = "not UTF-8", f"not UTF-8: {error.reason}"
        except msgspec.ValidationError as error:
            reason, said = f"not a row of the form {form.columns[0][0]}", str(error)
        except ValueError as error:  # msgspec's and json's errors are of this kind
            reason, said = "not JSON", f"not JSON: {error}"
        else:
            yield reading
            continue
        name = _name(row, place)
        where = f"{name} (line {line})" if line else name
        yield Unreadable(id=name, reason=reason, message=shortened(f"{where}: {said}"))


def _name(row: bytes | Columns | Exception, place: str) -> str:
    try:
        content = decode_json(row) if isinstance(row, bytes) else row
        name = name_of(content, "") if isinstance(content, dict) else ""
    except (ValueError, RecursionError):
        return place
    return f"record {shortened(name)}" if name and not _UNSAYABLE.search(name) else place


def name_of(row: Columns, place: str) -> str:
    """Return a row's id as a text; a whole number of floating point loses its point.

    Raises msgspec.ValidationError for an id that is neither text nor number.
    """
    found = row.get("id")
    if isinstance(found, str):
        return found
    if isinstance(found, float) and found.is_integer():
        return str(int(found))
    if found is None or found != found:
        return place
    return str(msgspec.convert(found, int | float))


def shortened(text: str) -> str:
    """Return a text that fits into a message."""
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}… ({len(text):,} characters)"


def decode_json(text: bytes) -> Any:
    """Decode a JSON text; comments, commas too many, NaN (as null) and line ends in texts pass.

    Raises ValueError for anything else that is not JSON, and RecursionError.
    """
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        words = text.decode()
        for clutter in (_COMMENTS, _LAST_COMMAS):
            words = clutter.sub(lambda found: found[1] or " ", words)
        try:
            return json.loads(words, parse_constant=lambda _: None, strict=False)
        except ValueError:  # a number of thousands of digits too
            raise ValueError(str(error)) from error


def images_in(value: object) -> list[Image]:
    """Return the images that a key holds: none, one, or a list, as names or as images.

    Nothing, an empty name and a null of floating point say that there is no image.
    Raises UnreadableRowError for what is no image.
    """
    if value is None or value == "" or value != value:
        return []
    if isinstance(value, list | tuple):
        return [image for one in value for image in images_in(one)]
    if isinstance(value, dict) and "url" in value:
        return images_in(value["url"])
    if isinstance(value, dict) and {"bytes", "path"} & value.keys():
        content = value.get("bytes") or value.get("path")
        if not content:
            raise UnreadableRowError("image missing", "an image has neither bytes nor a path")
        return [_unpacked(content) if isinstance(value.get("bytes"), str) else _image(content)]
    return [_image(value)]


def _image(value: object) -> Image:
    if isinstance(value, bytes):
        return Embedded(content=value)
    if not isinstance(value, str):
        raise UnreadableRowError(
            "an image that is neither a name nor an image",
            f"an image is given as `{type(value).__name__}`",
        )
    if found := _DATA_URI.match(value):
        return _unpacked(value[found.end() :])
    if value.startswith(_PACKED) and len(value) > 60 and "." not in value:
        return _unpacked(value)
    value = value.removeprefix("file://")
    if _ADDRESS.match(value) or value.startswith("data:"):
        raise UnreadableRowError(
            "image on the web", f"{value}: images are not fetched; save them to files first"
        )
    if len(value.encode(errors="replace")) > MAX_NAME:
        raise UnreadableRowError("image name too long", f"the image's name is {value}")
    return value


def _unpacked(text: str) -> Embedded:
    try:
        return Embedded(content=b64decode(re.sub(r"\s", "", text), validate=True))
    except (binascii.Error, ValueError) as error:
        raise UnreadableRowError(
            "image cannot be read", f"an image's base64 is damaged: {error}"
        ) from error


def _read(row: bytes | Columns, place: str) -> Reading:
    """Read a row with the fields of `InstructionRecord`, as `synthesize --form jsonl` writes it."""
    del place  # the form requires an id
    try:
        if isinstance(row, bytes):
            record = msgspec.json.decode(row, type=InstructionRecord)
        else:
            record = msgspec.convert(row, InstructionRecord)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        assert isinstance(row, bytes)
        record = msgspec.convert(decode_json(row), InstructionRecord)
    images = images_in(list(record.images))
    return Reading.of(record.id, record.turns, images, record.kind, record.provenance)


OWN = Form(columns=(("turns",),), read=_read)
