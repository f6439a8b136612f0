"""Features of a frozen vision encoder, computed once and kept on disk.

    <cache>/<key>/features.npy    of all pictures, one after the other; mapped, not read
    <cache>/<key>/pictures.arrow  every picture's name, its file's stamp and digest, its rows
    <cache>/<key>/manifest.json   signed, with the checksums of both

The key is a digest of the encoder and of the names and place of the pictures. A set whose bytes are
not those that were written is named and made again. Each picture's stamp is compared when its
features are first asked for, so that no start reads a picture to know it.

Shapes: b pictures of one call, or tiles of them · c channels · h, w pixels · n features a picture
· d width.
"""

from __future__ import annotations

import hashlib
import math
import shutil
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, lru_cache
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from laterna.data.fingerprints import (
    FileHash,
    Known,
    Stamp,
    hash_all,
    read_signed,
    what_is_torn,
    write_signed,
)
from laterna.data.pictures.files import PictureFiles
from laterna.data.pictures.fitting import PicturePreparer
from laterna.data.pictures.opening import load_picture, picture_size
from laterna.errors import LaternaError
from laterna.files import Made, flush_tree, sweep, write_atomically
from laterna.model.vision import VisionTower
from laterna.records import Record, Tiling

FORMAT = 3
FEATURES, PICTURES, MANIFEST = "features.npy", "pictures.arrow", "manifest.json"
PICTURES_A_PASS = 64
GB = 10**9
UNKNOWN = Stamp(-1, -1, -1)
"""Of a picture that was too young to be known by its times: it is read again at every use."""
REMEMBERED = 1 << 16
"""Pictures that are not looked up again, nor their stamps compared, while a run goes on."""
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


class Manifest(Record):
    """What says that a set is whole."""

    format: int
    where: str
    """The place of the pictures, as `PictureFiles.where` says it."""
    files: dict[str, FileHash]


class CachedPicture(Record):
    """Where the features of one picture lie."""

    row: int
    """The first; a tiled picture has one more for each further tile."""
    tiling: Tiling | None

    def rows(self) -> range:
        """Return all rows of the picture."""
        return range(self.row, self.row + (1 if self.tiling is None else self.tiling.tiles))


class FeatureStore:
    """The features of a set of pictures, read from a memory-mapped file."""

    def __init__(self, folder: Path, pictures: PictureFiles) -> None:
        """Map a set that is whole."""
        self._folder = folder
        self._pictures = pictures
        self._table = pa.ipc.open_file(pa.memory_map(str(folder / PICTURES))).read_all()
        self._names = self._table.column("name").chunk(0)
        self._find = lru_cache(REMEMBERED)(self._look_up)

    @cached_property
    def _features(self) -> NDArray[np.float32]:
        """Mapped when they are first asked for; never where only pictures are asked about."""
        features: NDArray[np.float32] = np.load(self._folder / FEATURES, mmap_mode="r")
        return features

    def get(self, names: Sequence[str]) -> Tensor:
        """Return the features (b, n, d) of pictures by their names in the records.

        Of tiled pictures b counts the tiles, those of each picture in turn.
        Raises LaternaError for a picture that is not in the set, or is another one by now.
        """
        rows = [row for name in names for row in self._find(name).rows()]
        return torch.from_numpy(self._features[rows])

    def tilings(self, names: Sequence[str]) -> tuple[Tiling, ...]:
        """Return how those pictures are tiled, one tiling a picture; nothing where they are not."""
        found = (self._find(name).tiling for name in names)
        return tuple(tiling for tiling in found if tiling is not None)

    def seen(self) -> Iterator[tuple[str, Known[str]]]:
        """Yield every picture's name, with its file's stamp and the digest of its bytes."""
        for place, name in enumerate(self._names.to_pylist()):
            yield name, self._known(place)

    def _look_up(self, name: str) -> CachedPicture:
        """Return where the features of a picture lie.

        Raises LaternaError for a picture that is not among them, or whose bytes are others now; the
        set is then no longer whole, so that the next start looks at all pictures.
        """
        place = bisect_left(range(len(self._names)), name, key=lambda at: self._names[at].as_py())
        if place == len(self._names) or self._names[place].as_py() != name:
            raise LaternaError(f"{name}: not among the cached features; clear the cache")
        known = self._known(place)
        if _see(self._pictures, name, known).made != known.made:
            (self._folder / MANIFEST).unlink(missing_ok=True)
            raise LaternaError(
                f"{name}: is another picture than the one whose features are cached; run the same "
                "command again, which makes a set with this one in it"
            )
        row, tiling = (self._table.column(kind)[place].as_py() for kind in ("row", "tiling"))
        return CachedPicture(row=row, tiling=msgspec.json.decode(tiling, type=Tiling | None))

    def _known(self, place: int) -> Known[str]:
        *stamp, digest = (column[place].as_py() for column in self._table.columns[1:5])
        return Known(stamp=Stamp(*stamp), made=digest)


def cached_features(
    tower: VisionTower,
    preparer: PicturePreparer,
    names: Sequence[str],
    pictures: PictureFiles,
    cache: Path,
    progress: Callable[[int, int], None],
    *,
    max_gb: float,
    announce: Callable[[str], None],
) -> FeatureStore:
    """Return the features of the pictures of these names, computed where they are not cached.

    A set is known by the encoder's weights and settings and by every picture's bytes, so a changed
    picture or encoder is computed anew; equal pictures are computed once. `progress` is called
    with the pictures done and their total, `announce` with what is wrong with a set that is made
    again, and with how large one will be before it is made. Raises LaternaError for an unreadable
    picture, and for a set that would be larger than `max_gb` (10⁹ bytes) or than the disk has room
    for.
    """
    names = sorted(set(names))
    text = "\n".join([encoder_digest(tower, preparer), pictures.where, *names])
    target = cache / hashlib.sha256(text.encode()).hexdigest()[:32]
    if target.is_dir():
        wrong = _what_is_wrong(target)
        if not wrong:
            return FeatureStore(target, pictures)
        announce(f"{wrong}; the features are computed again")
    sweep(cache)
    known = _known(cache, pictures)
    seen = {name: _see(pictures, name, known.get(name)) for name in names}
    chosen: dict[str, str] = {}
    for name, one in seen.items():
        chosen.setdefault(one.made, name)
    placed = dict(zip(chosen, _placed(preparer, chosen.values(), pictures), strict=True))
    rows = max((picture.rows().stop for picture in placed.values()), default=0)
    shape = (rows, tower.patches, tower.width)
    announce(_insist_on_room(len(placed), shape, cache, max_gb))
    shutil.rmtree(target, ignore_errors=True)
    with write_atomically(target, Made(kind="set of features")) as aside:
        aside.mkdir()
        _compute(
            tower, preparer, list(chosen.values()), pictures, aside / FEATURES, shape, progress
        )
        _write_pictures(aside / PICTURES, seen, placed)
        manifest = Manifest(format=FORMAT, where=pictures.where, files=hash_all(aside))
        write_signed(aside / MANIFEST, manifest)
        flush_tree(aside)
    return FeatureStore(target, pictures)


def _what_is_wrong(folder: Path, *names: str) -> str:
    """Return why a set, or these of its files, cannot be used, the path first; empty for whole."""
    if not (folder / MANIFEST).is_file():
        return f"{folder}: not whole, or a picture of it has changed"
    try:
        files = read_signed(folder / MANIFEST, Manifest).files
        return what_is_torn(folder, {name: files[name] for name in names or files})
    except LaternaError as error:
        return str(error)


def _known(cache: Path, pictures: PictureFiles) -> dict[str, Known[str]]:
    """Return what sets of other names, or of other encoders, know of these pictures."""
    found: dict[str, Known[str]] = {}
    for path in sorted(cache.glob(f"*/{MANIFEST}"), key=lambda path: path.stat().st_mtime_ns):
        folder = path.parent
        if _what_is_wrong(folder, PICTURES) or read_signed(path, Manifest).where != pictures.where:
            continue
        found.update(FeatureStore(folder, pictures).seen())
    return found


def _see(pictures: PictureFiles, name: str, known: Known[str] | None = None) -> Known[str]:
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
    return Known(stamp=stamp if settled else UNKNOWN, made=digest)


def _write_pictures(
    path: Path, seen: dict[str, Known[str]], placed: dict[str, CachedPicture]
) -> None:
    """Write down the pictures in the order of their names; `placed` says by digests where their
    features lie.
    """
    pictures = [placed[one.made] for one in seen.values()]
    columns: list[Iterable[object]] = [
        list(seen),
        *([one.stamp[side] for one in seen.values()] for side in range(3)),
        [one.made for one in seen.values()],
        [picture.row for picture in pictures],
        [msgspec.json.encode(picture.tiling).decode() for picture in pictures],
    ]
    arrays = [pa.array(column, kind.type) for column, kind in zip(columns, SCHEMA, strict=True)]
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        writer.write_table(pa.Table.from_arrays(arrays, schema=SCHEMA))


def encoder_digest(tower: VisionTower, preparer: PicturePreparer) -> str:
    """Digest all that decides a picture's features: weights, layer, and how it is prepared."""
    digest = hashlib.sha256()
    runs = (tower.layer, tower.class_token, tower.final_norm)
    settings = (FORMAT, *runs, preparer.fit, preparer.grids)
    digest.update(repr(settings).encode())
    digest.update(tower.model.config.to_json_string().encode())
    digest.update(tower.processor.to_json_string().encode())
    for name, weight in sorted(tower.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def _placed(
    preparer: PicturePreparer, names: Iterable[str], pictures: PictureFiles
) -> Iterator[CachedPicture]:
    """Give every picture its rows; sizes are read only where tiles depend on them."""
    row = 0
    for name in names:
        tiling = None
        if preparer.grids:
            (tiling,) = preparer.tilings([picture_size(pictures.find(name), name)])
        picture = CachedPicture(row=row, tiling=tiling)
        row = picture.rows().stop
        yield picture


def _insist_on_room(pictures: int, shape: tuple[int, int, int], cache: Path, max_gb: float) -> str:
    """Return in words how large a set will be. Raises LaternaError for one that is too large."""
    size = math.prod(shape) * np.dtype(np.float32).itemsize
    said = f"{cache}: the features of {pictures:,} pictures take {size:,} bytes"
    said = f"{said} ({size / GB:,.3f} GB)"
    instead = 'or set feature_cache = "" to compute them at every step'
    if size > max_gb * GB:
        raise LaternaError(
            f"{said}, more than run.max_feature_gb = {max_gb:g} allows; set that higher, {instead}"
        )
    cache.mkdir(parents=True, exist_ok=True)
    # The file is laid out whole at first, so a disk that fills up later would end the process.
    free = shutil.disk_usage(cache).free
    if size > free:
        raise LaternaError(
            f"{said}, but its disk has {free / GB:,.3f} GB free; make room, name a folder on "
            f"another disk as feature_cache, {instead}"
        )
    return said


@torch.no_grad()
def _compute(
    tower: VisionTower,
    preparer: PicturePreparer,
    names: Sequence[str],
    pictures: PictureFiles,
    target: Path,
    shape: tuple[int, int, int],
    progress: Callable[[int, int], None],
) -> None:
    """Write the features of all pictures to `target`, an array of that shape."""
    device = next(tower.parameters()).device
    features = np.lib.format.open_memmap(target, mode="w+", dtype=np.float32, shape=shape)
    row = 0
    for start in range(0, len(names), PICTURES_A_PASS):
        chunk = names[start : start + PICTURES_A_PASS]
        pixels_bchw = preparer([load_picture(pictures.find(name), name) for name in chunk])
        end = row + len(pixels_bchw)
        features[row:end] = tower(pixels_bchw.to(device)).cpu().numpy()
        row = end
        progress(start + len(chunk), len(names))
    features.flush()
