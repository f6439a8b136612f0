"""Which picture's features lie where in a cached set, without reading a picture to know it.

An Arrow file beside the features names every picture of a data set, with the stamp of its file
and the digest of its bytes. It is mapped, so that opening it takes no longer for more pictures,
and each picture's stamp is compared when its features are first asked for.
"""

from __future__ import annotations

import hashlib
import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import msgspec
import pyarrow as pa

from laterna.data.digests import Known, Stamp
from laterna.data.picture_files import PictureFiles
from laterna.errors import LaternaError
from laterna.files import write_atomically
from laterna.records import Record, Tiling

UNKNOWN = Stamp(-1, -1, -1)
"""Of a picture that was too young to be known by its times: it is read again at every use."""
REMEMBERED = 1 << 16
"""Pictures that are not looked up again, nor their stamps compared, while a run goes on."""
WHERE = b"laterna.where"
SCHEMA = pa.schema(
    {
        "name": pa.string(),  # in order
        "size": pa.int64(),
        "written": pa.int64(),
        "changed": pa.int64(),
        "sha256": pa.string(),
        "row": pa.int64(),
        "tiling": pa.string(),  # JSON
    }
)


class CachedPicture(Record):
    """Where the features of one picture lie in `features.npy`."""

    row: int
    """The first; a tiled picture has one more for each further tile."""
    tiling: Tiling | None

    def rows(self) -> range:
        """Return all rows of the picture."""
        return range(self.row, self.row + (1 if self.tiling is None else self.tiling.tiles))


def see(pictures: PictureFiles, name: str, known: Known | None = None) -> Known:
    """Return a picture's stamp and digest; it is read unless it is as it is `known` to be.

    Raises LaternaError, naming it, when it cannot be read.
    """
    try:
        began, stamp = time.time_ns(), pictures.stamp(name)
        if known is not None and known.stamp == stamp:
            return known
        found = pictures.find(name)
        content = found.read_bytes() if isinstance(found, Path) else found
        settled = stamp.settled(began) and pictures.stamp(name) == stamp
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise LaternaError(f"{name}: cannot read the picture: {reason}") from error
    digest = hashlib.sha256(content).hexdigest()
    return Known(stamp=stamp if settled else UNKNOWN, sha256=digest)


class FeatureNames:
    """The pictures of one data set in one cached set of features, by their names."""

    def __init__(self, path: Path, pictures: PictureFiles) -> None:
        """Map a file that `write_names` wrote."""
        self.path = path
        self._pictures = pictures
        self._table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        self._names = self._table.column("name").chunk(0)
        self.find = lru_cache(REMEMBERED)(self._find)

    @property
    def where(self) -> str:
        """The place of the pictures, as `PictureFiles.where` says it."""
        where: bytes = self._table.schema.metadata[WHERE]
        return where.decode()

    def _find(self, name: str) -> CachedPicture:
        """Return where the features of a picture lie.

        Raises LaternaError for a picture that is not among them, or whose bytes are others now; the
        file is then removed, so that the next start looks at all pictures.
        """
        place = bisect_left(range(len(self._names)), name, key=lambda at: self._names[at].as_py())
        if place == len(self._names) or self._names[place].as_py() != name:
            raise LaternaError(f"{name}: not among the cached features; clear the cache")
        row = self._row(place)
        if see(self._pictures, name, row.seen).sha256 != row.seen.sha256:
            self.path.unlink(missing_ok=True)
            raise LaternaError(
                f"{name}: is another picture than the one whose features are cached; run the same "
                "command again, which makes a set with this one in it"
            )
        return row.picture

    def seen(self) -> Iterator[tuple[str, Known]]:
        """Yield all that is known of every picture."""
        for place in range(len(self._names)):
            yield self._names[place].as_py(), self._row(place).seen

    def _row(self, place: int) -> _Row:
        _, *stamp, digest, row, tiling = (column[place].as_py() for column in self._table.columns)
        picture = CachedPicture(row=row, tiling=msgspec.json.decode(tiling, type=Tiling | None))
        return _Row(Known(stamp=Stamp(*stamp), sha256=digest), picture)


class _Row(NamedTuple):
    seen: Known
    picture: CachedPicture


def names_file(encoder: str, names: Sequence[str], pictures: PictureFiles) -> str:
    """Return what the file of these pictures is called, under features of this encoder."""
    text = "\n".join([encoder, pictures.where, *names])
    return f"names-{hashlib.sha256(text.encode()).hexdigest()[:32]}.arrow"


def write_names(
    path: Path, where: str, seen: dict[str, Known], placed: dict[str, CachedPicture]
) -> None:
    """Write down the pictures of a data set; `placed` says by digests where their features lie."""
    schema = SCHEMA.with_metadata({WHERE: where.encode()})
    names = sorted(seen)
    rows = [seen[name] for name in names]
    pictures = [placed[one.sha256] for one in rows]
    columns: list[Iterable[object]] = [
        names,
        *(list(side) for side in zip(*(one.stamp for one in rows), strict=True)),
        [one.sha256 for one in rows],
        [picture.row for picture in pictures],
        [msgspec.json.encode(picture.tiling).decode() for picture in pictures],
    ]
    table = pa.Table.from_arrays(
        [pa.array(column, kind.type) for column, kind in zip(columns, SCHEMA, strict=True)],
        schema=schema,
    )
    with (
        write_atomically(path) as aside,
        pa.OSFile(str(aside), "wb") as sink,
        pa.ipc.new_file(sink, schema) as writer,
    ):
        writer.write_table(table.combine_chunks())
