"""Prepared samples on disk: Arrow files, mapped and not read until a sample is asked for.

    <cache>/<key>/00000.arrow …   a part: record batches, and what was dropped, in the metadata
    <cache>/<key>/pictures/       pictures that stood in the rows
    <cache>/<key>/manifest.json   written last: the preparation is whole

The key is a digest of everything that decides what the parts hold, but for the files of pictures:
what was dropped for one is looked at again when that file has changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pyarrow as pa

from laterna.data.preparation.checking import Checked, Dropped
from laterna.data.preparation.tokens import Ids
from laterna.files import write_atomically
from laterna.records import Record

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FORMAT = 6
"""Version of the parts' layout and of how rows become samples: raise it when either changes."""
DROPPED = b"laterna.dropped"
MANIFEST = "manifest.json"
IDS = pa.list_(pa.int32())
SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "input_ids": IDS,
        "targets": IDS,  # where runs of learned tokens begin and end, in turn
        "pictures": pa.list_(pa.string()),
        "sizes": IDS,  # width and height of each picture, in turn
    }
)


class Manifest(Record):
    """What a finished preparation holds."""

    format: int
    rows: int
    """Rows of the source, dropped ones included."""
    parts: int


def cache_key(*parts: str) -> str:
    """Digest the texts that decide what a preparation makes."""
    return sha256(msgspec.json.encode([str(FORMAT), *parts])).hexdigest()[:32]


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Digest all of a tokenizer that decides a sample: its model, and its special tokens."""
    special = msgspec.json.encode(tokenizer.special_tokens_map, order="sorted")
    return sha256(tokenizer.backend_tokenizer.to_str().encode() + special).hexdigest()


def encode_batch(checked: Sequence[Checked]) -> bytes:
    """Return samples as the bytes of an Arrow stream of one record batch."""
    samples = [one.tokens for one in checked]
    columns = [
        pa.array([sample.id for sample in samples], pa.string()),
        _lists([sample.input_ids for sample in samples]),
        _lists([sample.runs for sample in samples]),
        pa.array([sample.pictures for sample in samples], pa.list_(pa.string())),
        _lists([[side for size in one.sizes for side in size] for one in checked]),
    ]
    batch = pa.RecordBatch.from_arrays(columns, schema=SCHEMA)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, SCHEMA) as writer:
        writer.write_batch(batch)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _lists(rows: Sequence[Ids]) -> pa.ListArray:
    """Make a column of lists; from one flat array, for that is several times faster."""
    ends = np.cumsum([0, *map(len, rows)], dtype=np.int32)
    flat = np.concatenate([np.empty(0, np.int32), *(np.asarray(row, np.int32) for row in rows)])
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(flat))


def part_path(folder: Path, number: int) -> Path:
    """Return the file of a part."""
    return folder / f"{number:05}.arrow"


def write_part(path: Path, batches: Sequence[bytes], dropped: Sequence[Dropped]) -> None:
    """Write the batches of successive chunks, and what was dropped from them, as one file."""
    schema = SCHEMA.with_metadata({DROPPED: msgspec.json.encode(dropped)})
    with (
        write_atomically(path) as aside,
        pa.OSFile(str(aside), "wb") as sink,
        pa.ipc.new_file(sink, schema) as writer,
    ):
        for content in batches:
            with pa.ipc.open_stream(content) as stream:
                for batch in stream:
                    writer.write_batch(batch.replace_schema_metadata(schema.metadata))


class Part:
    """One file of samples, mapped."""

    def __init__(self, path: Path) -> None:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        self.batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        content = reader.schema.metadata[DROPPED]
        self.dropped = msgspec.json.decode(content, type=list[Dropped])
        self.rows = sum(batch.num_rows for batch in self.batches) + len(self.dropped)
        """Rows of the source that the part has done."""


def write_manifest(folder: Path, *, rows: int, parts: int) -> None:
    """Say that a preparation is whole."""
    with write_atomically(folder / MANIFEST) as aside:
        manifest = Manifest(format=FORMAT, rows=rows, parts=parts)
        aside.write_bytes(msgspec.json.encode(manifest))


def remove_unfinished(folder: Path) -> None:
    """Remove what a process that was killed was writing, when no other can be writing there."""
    for path in folder.glob(".*.part"):
        path.unlink()


def forget_from(folder: Path, number: int) -> None:
    """Remove the parts from a number on, so that they are done again."""
    manifest = read_manifest(folder)
    (folder / MANIFEST).unlink(missing_ok=True)  # first: what is left is not whole
    for later in range(number, manifest.parts if manifest else 0):
        part_path(folder, later).unlink(missing_ok=True)


def read_manifest(folder: Path) -> Manifest | None:
    """Return the manifest of a preparation; None while it is not whole."""
    path = folder / MANIFEST
    return msgspec.json.decode(path.read_bytes(), type=Manifest) if path.is_file() else None
