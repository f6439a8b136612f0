"""Parquet files and Hugging Face datasets, cut into Arrow tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyarrow import parquet

from laterna.data.sources.rows import CHUNK_ROWS, Chunk
from laterna.errors import LaternaError, one_line, package

if TYPE_CHECKING:
    import datasets

SAVED = ("state.json", "dataset_dict.json")
"""Files that `datasets` writes into a folder it saves to."""


def parquet_columns(path: Path) -> list[str]:
    """Return the names of a Parquet file's columns."""
    with _opened(path) as file:
        names: list[str] = file.schema_arrow.names
        return names


def parquet_chunks(path: Path) -> Iterator[Chunk]:
    """Cut a Parquet file, one row group in memory at a time."""
    first = 1
    with _opened(path) as file:
        for batch in file.iter_batches(batch_size=CHUNK_ROWS):
            yield _chunk(first, pa.Table.from_batches([batch]))
            first += batch.num_rows


def _opened(path: Path) -> Any:
    try:
        return parquet.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise LaternaError(f"{path}: not a Parquet file that can be read: {error}") from error


def open_dataset(where: str, *, subset: str, split: str, hub: bool) -> datasets.IterableDataset:
    """Open one split of a Hugging Face dataset to be read once from its beginning.

    `where` is a folder that `datasets` saved, a folder of data files, or with `hub` an id of the
    hub, which is streamed. Raises LaternaError where `datasets` is missing, or cannot open it.
    """
    datasets = package("datasets", "data", f"{where}: a Hugging Face dataset")
    saved = not hub and any((Path(where) / name).is_file() for name in SAVED)
    try:
        if saved:
            opened = datasets.load_from_disk(where)
            if isinstance(opened, datasets.DatasetDict):
                opened = _split_of(opened, split, where)
            return opened.to_iterable_dataset()
        opened = datasets.load_dataset(where, subset or None, streaming=True)
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RuntimeError,
        datasets.exceptions.DatasetsError,
    ) as error:  # fmt: skip  (it guesses at whatever is there)
        raise LaternaError(
            f"{where or 'an empty name'}: cannot be opened as a dataset: {error}"
        ) from error
    return _split_of(opened, split, where)


def _split_of(splits: dict[str, Any], split: str, where: str) -> Any:
    if split not in splits:
        known = ", ".join(splits)
        raise LaternaError(f"{where}: has no split {split!r}; it has: {known}")
    return splits[split]


def dataset_chunks(dataset: datasets.IterableDataset) -> Iterator[Chunk]:
    """Cut a dataset as it streams by; images stay the bytes that they are stored as."""
    first = 1
    for table in dataset.with_format("arrow").iter(batch_size=CHUNK_ROWS):
        yield _chunk(first, table)
        first += table.num_rows


def _chunk(first: int, table: pa.Table) -> Chunk:
    sink = BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return Chunk(first=first, arrow=sink.getvalue())


def hub_revision(name: str) -> str:
    """Ask the hub for the commit that a dataset's id stands for today.

    Raises LaternaError where the hub cannot be reached, or does not have it.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    # The hub's own error is one of its HTTP library's, whose others tell that it cannot be reached.
    unreachable = HfHubHTTPError.__bases__
    try:
        return str(HfApi().dataset_info(name).sha)
    except (*unreachable, OSError, ValueError) as error:
        reason = one_line(error)
        raise LaternaError(f"hub:{name}: the hub does not tell its revision: {reason}") from error


def dataset_columns(dataset: datasets.IterableDataset) -> Sequence[str]:
    """Return the names of a dataset's columns; those of its first row where it does not say."""
    return dataset.column_names or list(next(iter(dataset), {}))
