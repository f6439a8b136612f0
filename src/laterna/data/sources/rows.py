"""What a container hands on: rows as they lie in the file, in pieces that another process can read.

A container (a JSON list, JSON lines, a Parquet file, a Hugging Face dataset) only cuts a source
into `Chunk`s; a form (our own records, LLaVA's and ShareGPT's conversations, Hugging Face's
messages) makes a record of each row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from io import BytesIO
from typing import Any, ClassVar

import msgspec

from laterna.records import InstructionRecord, Kind, Provenance, Record, Role, Turn

CHUNK_ROWS = 512
"""Rows that travel together: about 1 MB of LLaVA's."""
PICTURE_DIGITS = 32
"""Hexadecimal digits of SHA-256 that name an embedded picture."""


class Chunk(Record, frozen=True):
    """Some successive rows of a source: JSON texts, or the bytes of an Arrow stream."""

    first: int
    """Number of the first row, counted from 1."""
    json: tuple[bytes, ...] = ()
    arrow: bytes = b""

    def rows(self) -> Iterator[bytes | dict[str, Any]]:
        """Yield each row: its JSON text, or its columns."""
        yield from self.json
        if self.arrow:
            import pyarrow as pa

            with pa.ipc.open_stream(BytesIO(self.arrow)) as stream:
                for batch in stream:
                    yield from batch.to_pylist()


class Unreadable(Record, frozen=True):
    """A row that no record can be made of."""

    id: str
    """The row's id where that much can be read, else its place: `row 3`."""
    reason: str
    message: str


class Embedded(msgspec.Struct, frozen=True, kw_only=True):
    """A picture that stands in the row itself, as Hugging Face's datasets store it."""

    content: bytes | None = msgspec.field(name="bytes", default=None)
    path: str | None = None

    @property
    def name(self) -> str | None:
        """The picture's file name: the digest of its bytes, or, where there are none, its path."""
        if self.content is None:
            return self.path
        return sha256(self.content).hexdigest()[:PICTURE_DIGITS]


Pictures = str | Embedded | list[str | Embedded] | None
"""What the picture column of a row may hold."""


class Reading(Record, frozen=True):
    """A record, and the pictures that stood in its row, by name."""

    record: InstructionRecord
    embedded: dict[str, bytes] = msgspec.field(default_factory=dict)


class UnreadableRowError(Exception):
    """A row's content makes no record; `reason` is the same for every row with that fault."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Form(msgspec.Struct, frozen=True, kw_only=True):
    """A row of one form. What is not ours may have further keys, which pass."""

    column: ClassVar[str]
    """The key that no other form has."""

    def reading(self, place: str) -> Reading:
        """Return the row's record; one without an id is named by its `place`.

        Raises UnreadableRowError.
        """
        raise NotImplementedError


class Foreign(Form, frozen=True, kw_only=True):
    """What LLaVA's, ShareGPT's and Hugging Face's rows have in common."""

    id: str | int | None = None
    image: Pictures = None
    images: Pictures = None
    kind: Kind | None = None
    provenance: Provenance | None = None

    def listed(self) -> list[str | Embedded]:
        """Return the row's pictures in order."""
        return picture_list(self.image) + picture_list(self.images)

    def record_of(
        self, place: str, turns: Sequence[Turn], pictures: list[str | Embedded]
    ) -> Reading:
        """Return the record of these turns and pictures, named by the row's id or its place.

        Raises UnreadableRowError for no turns, or a picture that is nothing.
        """
        if not turns:
            raise UnreadableRowError("no turns", f"`{self.column}` is empty")
        names, embedded = named(pictures)
        record = InstructionRecord(
            id=place if self.id is None else str(self.id),
            pictures=names,
            turns=tuple(turns),
            kind=self.kind,
            provenance=self.provenance,
        )
        return Reading(record=record, embedded=embedded)


def turn_of(speaker: str, text: str, roles: Mapping[str, Role]) -> Turn:
    """Return a turn, the assistant's with loss; raises UnreadableRowError for an unknown role."""
    role = roles.get(speaker)
    if role is None:
        known = ", ".join(roles)
        raise UnreadableRowError(
            "unknown role", f"unknown role {speaker!r}; known roles are: {known}"
        )
    return Turn(role=role, text=text, loss=role == "assistant")


def picture_list(pictures: Pictures) -> list[str | Embedded]:
    """Return a picture column's content as a list. An empty name says that there is no picture."""
    listed = pictures if isinstance(pictures, list) else [pictures]
    return [picture for picture in listed if picture]


def named(pictures: list[str | Embedded]) -> tuple[tuple[str, ...], dict[str, bytes]]:
    """Return the pictures' file names in order, and the bytes of those that were embedded.

    Raises UnreadableRowError for a picture that is nothing: neither bytes nor a path.
    """
    names = [one if isinstance(one, str) else one.name for one in pictures]
    if not all(names):
        raise UnreadableRowError("picture missing", "a picture has neither bytes nor a path")
    embedded = {
        name: one.content
        for name, one in zip(names, pictures, strict=True)
        if isinstance(one, Embedded) and one.content is not None and name is not None
    }
    return tuple(name for name in names if name is not None), embedded


def read_chunk(chunk: Chunk, form: type[Form]) -> Iterator[Reading | Unreadable]:
    """Yield a reading, or what is wrong, for every row of a chunk, in order."""
    for number, row in enumerate(chunk.rows(), start=chunk.first):
        place = f"row {number}"
        try:
            content = (
                msgspec.json.decode(row, type=form)
                if isinstance(row, bytes)
                else msgspec.convert(row, form)
            )
            yield content.reading(place)
        except msgspec.MsgspecError as error:
            # DecodeError: the text is no JSON; ValidationError: it is no row of this form.
            wrong = isinstance(error, msgspec.ValidationError)
            reason = f"not a row of the form {form.column}" if wrong else "not JSON"
            yield Unreadable(id=_name(row, place), reason=reason, message=str(error))
        except UnicodeDecodeError as error:
            yield Unreadable(id=place, reason="not UTF-8", message=f"not UTF-8: {error.reason}")
        except UnreadableRowError as error:
            yield Unreadable(id=_name(row, place), reason=error.reason, message=str(error))


class _RowName(msgspec.Struct, frozen=True):
    id: str | int


def _name(row: bytes | Mapping[str, Any], place: str) -> str:
    try:
        if isinstance(row, bytes):
            return f"record {msgspec.json.decode(row, type=_RowName).id}"
        return f"record {msgspec.convert(row, _RowName).id}"
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return place
