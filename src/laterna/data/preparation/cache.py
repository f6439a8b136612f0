"""Prepared samples on disk: Arrow files, mapped and not read until a sample is asked for.

    <cache>/<key>/00000.arrow …   a part: record batches, and what was dropped, in the metadata
    <cache>/<key>/images/       images that stood in the rows
    <cache>/<key>/parts.json      signed: each part's checksum, there before the part is
    <cache>/<key>/manifest.json   signed, written last: the preparation is whole

A part is used only if its bytes are those that were written; else it is made again. The key is a
digest of everything that decides what the parts hold, but for the files of images: what was
dropped for one is looked at again when that file has changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pyarrow as pa

from laterna.data.fingerprints import FileHash, hash_of, read_signed, what_is_torn, write_signed
from laterna.data.preparation.checking import Checked, Dropped
from laterna.data.preparation.tokens import Ids
from laterna.errors import LaternaError
from laterna.files import sweep, write_atomically
from laterna.records import Record

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FORMAT = 8
"""Version of the parts' layout and of how rows become samples: raise it when either changes."""
DROPPED = b"laterna.dropped"
MANIFEST = "manifest.json"
PARTS = "parts.json"
IDS = pa.list_(pa.int32())
SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "input_ids": IDS,
        "targets": IDS,  # where runs of learned tokens begin and end, in turn
        "images": pa.list_(pa.string()),
        "sizes": IDS,  # width and height of each image, in turn
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
        pa.array([sample.images for sample in samples], pa.list_(pa.string())),
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
    """Write the batches of successive chunks, and what was dropped from them, as one file, which
    the disk holds when this returns.
    """
    schema = SCHEMA.with_metadata({DROPPED: msgspec.json.encode(dropped)})
    with write_atomically(path) as aside:
        with pa.OSFile(str(aside), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for content in batches:
                with pa.ipc.open_stream(content) as stream:
                    for batch in stream:
                        writer.write_batch(batch.replace_schema_metadata(schema.metadata))
        hashes = _hashes(path.parent)[0] | {path.name: hash_of(aside)}
        write_signed(path.parent / PARTS, dict(sorted(hashes.items())))


def _hashes(folder: Path) -> tuple[dict[str, FileHash], str]:
    """Return what is known of parts, whether or not they are there, and what is wrong with that."""
    try:
        return read_signed(folder / PARTS, dict[str, FileHash]), ""
    except LaternaError as error:
        return {}, str(error)


def whole_parts(folder: Path) -> tuple[int, str]:
    """Return how many parts are as they were written, from the first on, and what is wrong with the
    one after them; nothing where there is none.
    """
    hashes, wrong = _hashes(folder)
    number = 0
    while (path := part_path(folder, number)).exists():
        if path.name not in hashes:
            return number, wrong or f"{path}: its checksum is not known"
        torn = what_is_torn(folder, {path.name: hashes[path.name]})
        if torn:
            return number, torn
        number += 1
    return number, ""


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
    write_signed(folder / MANIFEST, Manifest(format=FORMAT, rows=rows, parts=parts))


def remove_unfinished(folder: Path) -> None:
    """Remove what a process that was killed was writing, when no other can be writing there."""
    sweep(folder)
    sweep(folder / "images")


def forget_from(folder: Path, number: int) -> None:
    """Remove the parts from a number on, so that they are done again."""
    (folder / MANIFEST).unlink(missing_ok=True)  # first: what is left is not whole
    while (path := part_path(folder, number)).exists():
        path.unlink()
        number += 1


def read_manifest(folder: Path) -> Manifest | None:
    """Return the manifest of a preparation; None while it is not whole.

    Raises LaternaError for one that is damaged.
    """
    path = folder / MANIFEST
    return read_signed(path, Manifest) if path.exists() else None
