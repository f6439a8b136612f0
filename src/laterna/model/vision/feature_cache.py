"""Features of a frozen vision encoder, computed once and kept on disk.

    <cache>/<key>/features.npy    of all images, one after the other; mapped, not read
    <cache>/<key>/rows.sha256     the checksum of each row of the features, 32 bytes each
    <cache>/<key>/images.arrow    every image's name, its file's stamp and digest, its rows
    <cache>/<key>/manifest.json   signed, with the checksums of all

The key is a digest of the encoder and of the names and folder of the images. A set whose bytes have
changed is reported and made again. Each image's stamp, and each row's checksum, is compared when
its features are first used, so that no start reads the images or the features.

Shapes: b images of one call, or tiles of them · c channels · h, w pixels · n features an image
· d width.
"""

from __future__ import annotations

import hashlib
import math
import os
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
from laterna.data.images.files import ImageFiles
from laterna.data.images.fitting import ImagePreparer
from laterna.data.images.opening import image_size, load_image
from laterna.errors import LaternaError
from laterna.files import Made, sweep, write_atomically
from laterna.model.vision import VisionTower
from laterna.records import Record, Tiling

FORMAT = 4
FEATURES, ROWS = "features.npy", "rows.sha256"
IMAGES, MANIFEST = "images.arrow", "manifest.json"
DIGEST = 32
"""Bytes of a SHA-256."""
IMAGES_A_PASS = 64
GB = 10**9
UNKNOWN = Stamp(-1, -1, -1)
"""Of an image that was too new to be known by its times: it is read again at every use."""
REMEMBERED = 1 << 16
"""Images that are looked up, and their stamps compared, only once in a process."""
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
    """The record of a whole set."""

    format: int
    where: str
    """Where the images are (`ImageFiles.where`)."""
    files: dict[str, FileHash]


class CachedImage(Record):
    """Where the features of one image are."""

    row: int
    """The first one; a tiled image has one more for each further tile."""
    tiling: Tiling | None

    def rows(self) -> range:
        """Return all rows of the image."""
        return range(self.row, self.row + (1 if self.tiling is None else self.tiling.tiles))


class FeatureStore:
    """The features of a set of images, read from a memory-mapped file."""

    def __init__(self, folder: Path, images: ImageFiles) -> None:
        """Open a set that is whole."""
        self._folder = folder
        self._images = images
        self._table = pa.ipc.open_file(pa.memory_map(str(folder / IMAGES))).read_all()
        self._names = self._table.column("name").chunk(0)
        self._find = lru_cache(REMEMBERED)(self._look_up)
        self._whole = set[int]()

    @cached_property
    def _features(self) -> NDArray[np.float32]:
        """The features, mapped when they are first used."""
        try:
            features: NDArray[np.float32] = np.load(self._folder / FEATURES, mmap_mode="r")
        except ValueError as error:  # its head is damaged
            raise self._damaged() from error
        return features

    @cached_property
    def _checksums(self) -> bytes:
        return (self._folder / ROWS).read_bytes()

    def _damaged(self) -> LaternaError:
        (self._folder / MANIFEST).unlink(missing_ok=True)
        return LaternaError(
            f"{self._folder / FEATURES}: its checksum differs; run the same command again, which "
            "computes the features anew"
        )

    def get(self, names: Sequence[str]) -> Tensor:
        """Return the features (b, n, d) of images by their names in the records.

        Of tiled images b counts the tiles, those of each image in turn.
        Raises LaternaError for an image that is not in the set or has changed, and for features
        that are not as they were written; the next start then makes them again.
        """
        rows = [row for name in names for row in self._find(name).rows()]
        found = self._features[rows]
        for row, one in zip(rows, found, strict=True):
            if row not in self._whole:
                checksum = self._checksums[row * DIGEST : (row + 1) * DIGEST]
                if hashlib.sha256(one.data).digest() != checksum:
                    raise self._damaged()
                self._whole.add(row)
        return torch.from_numpy(found)

    def tilings(self, names: Sequence[str]) -> tuple[Tiling, ...]:
        """Return how those images are tiled, one tiling an image; empty where they are not."""
        found = (self._find(name).tiling for name in names)
        return tuple(tiling for tiling in found if tiling is not None)

    def seen(self) -> Iterator[tuple[str, Known[str]]]:
        """Yield every image's name, with its file's stamp and the digest of its bytes."""
        for place, name in enumerate(self._names.to_pylist()):
            yield name, self._known(place)

    def _look_up(self, name: str) -> CachedImage:
        """Return where the features of an image are.

        Raises LaternaError for an image that is not among them, or whose bytes have changed; the
        set then counts as torn, so that the next start checks all images.
        """
        place = bisect_left(range(len(self._names)), name, key=lambda at: self._names[at].as_py())
        if place == len(self._names) or self._names[place].as_py() != name:
            raise LaternaError(f"{name}: not among the cached features; clear the cache")
        known = self._known(place)
        if _see(self._images, name, known).made != known.made:
            (self._folder / MANIFEST).unlink(missing_ok=True)
            raise LaternaError(
                f"{name}: is another image than the one whose features are cached; run the same "
                "command again, which makes a set with this one in it"
            )
        row, tiling = (self._table.column(kind)[place].as_py() for kind in ("row", "tiling"))
        return CachedImage(row=row, tiling=msgspec.json.decode(tiling, type=Tiling | None))

    def _known(self, place: int) -> Known[str]:
        *stamp, digest = (column[place].as_py() for column in self._table.columns[1:5])
        return Known(stamp=Stamp(*stamp), made=digest)


def cached_features(
    tower: VisionTower,
    preparer: ImagePreparer,
    names: Sequence[str],
    images: ImageFiles,
    cache: Path,
    progress: Callable[[int, int], None],
    *,
    max_gb: float,
    announce: Callable[[str], None],
) -> FeatureStore:
    """Return the features of the images of these names, computed where they are not cached.

    A set is known by the encoder's weights and settings and by every image's bytes, so a changed
    image or encoder is computed again; equal images are computed once. `progress` is called with
    the images done and their total, `announce` with what is wrong with a set that is made again,
    and with the size of a new one before it is made. Raises LaternaError for an unreadable image,
    and for a set larger than `max_gb` (10⁹ bytes) or than the disk has room for.
    """
    names = sorted(set(names))
    text = "\n".join([encoder_digest(tower, preparer), images.where, *names])
    target = cache / hashlib.sha256(text.encode()).hexdigest()[:32]
    if target.is_dir():
        wrong = _what_is_wrong(target, IMAGES, ROWS)
        if not wrong:
            return FeatureStore(target, images)
        announce(f"{wrong}; the features are computed again")
    sweep(cache)
    known = _known(cache, images)
    seen = {name: _see(images, name, known.get(name)) for name in names}
    chosen: dict[str, str] = {}
    for name, one in seen.items():
        chosen.setdefault(one.made, name)
    placed = dict(zip(chosen, _placed(preparer, chosen.values(), images), strict=True))
    rows = max((image.rows().stop for image in placed.values()), default=0)
    shape = (rows, tower.patches, tower.width)
    announce(_require_room(len(placed), shape, cache, max_gb))
    shutil.rmtree(target, ignore_errors=True)
    with write_atomically(target, Made(kind="set of features")) as aside:
        aside.mkdir()
        _compute(tower, preparer, list(chosen.values()), images, aside / FEATURES, shape, progress)
        _write_images(aside / IMAGES, seen, placed)
        manifest = Manifest(format=FORMAT, where=images.where, files=hash_all(aside))
        write_signed(aside / MANIFEST, manifest)
    return FeatureStore(target, images)


def _what_is_wrong(folder: Path, *names: str) -> str:
    """Return why a set cannot be used, with its path; empty where these of its files are whole and
    its features have the right size.
    """
    if not (folder / MANIFEST).is_file():
        return f"{folder}: not whole, or an image of it has changed"
    try:
        files = read_signed(folder / MANIFEST, Manifest).files
        path = folder / FEATURES
        if not path.is_file() or path.stat().st_size != files[FEATURES].size:
            return f"{path}: missing, or its size differs from what was written"
        return what_is_torn(folder, {name: files[name] for name in names})
    except LaternaError as error:
        return str(error)


def _known(cache: Path, images: ImageFiles) -> dict[str, Known[str]]:
    """Return the stamps and digests of these images in sets of other names or encoders."""
    found: dict[str, Known[str]] = {}
    for path in sorted(cache.glob(f"*/{MANIFEST}"), key=lambda path: path.stat().st_mtime_ns):
        folder = path.parent
        if _what_is_wrong(folder, IMAGES) or read_signed(path, Manifest).where != images.where:
            continue
        found.update(FeatureStore(folder, images).seen())
    return found


def _see(images: ImageFiles, name: str, known: Known[str] | None = None) -> Known[str]:
    """Return an image's stamp and digest; it is read unless its stamp is the `known` one.

    Raises LaternaError, naming it, when it cannot be read.
    """
    try:
        began, stamp = time.time_ns(), images.stamp(name)
        if known is not None and known.stamp == stamp:
            return known
        found = images.find(name)
        content = found.read_bytes() if isinstance(found, Path) else found
        settled = stamp.settled(began) and images.stamp(name) == stamp
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise LaternaError(f"{name}: cannot read the image: {reason}") from error
    digest = hashlib.sha256(content).hexdigest()
    return Known(stamp=stamp if settled else UNKNOWN, made=digest)


def _write_images(path: Path, seen: dict[str, Known[str]], placed: dict[str, CachedImage]) -> None:
    """Write the table of images, in the order of their names; `placed` has by digest where their
    features are.
    """
    images = [placed[one.made] for one in seen.values()]
    columns: list[Iterable[object]] = [
        list(seen),
        *([one.stamp[side] for one in seen.values()] for side in range(3)),
        [one.made for one in seen.values()],
        [image.row for image in images],
        [msgspec.json.encode(image.tiling).decode() for image in images],
    ]
    arrays = [pa.array(column, kind.type) for column, kind in zip(columns, SCHEMA, strict=True)]
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        writer.write_table(pa.Table.from_arrays(arrays, schema=SCHEMA))


def encoder_digest(tower: VisionTower, preparer: ImagePreparer) -> str:
    """Return a digest of all that decides an image's features: weights, layer, and preparation."""
    digest = hashlib.sha256()
    runs: tuple[object, ...] = (tower.layer, tower.class_token, tower.final_norm)
    if tower.mixing is not None:
        runs += (tower.mixing.strength,)
    settings = (FORMAT, *runs, preparer.fit, preparer.grids)
    digest.update(repr(settings).encode())
    digest.update(tower.model.config.to_json_string().encode())
    digest.update(tower.processor.to_json_string().encode())
    for name, weight in sorted(tower.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def _placed(
    preparer: ImagePreparer, names: Iterable[str], images: ImageFiles
) -> Iterator[CachedImage]:
    """Yield every image's rows; images' sizes are read only where tiles depend on them."""
    row = 0
    for name in names:
        tiling = None
        if preparer.grids:
            (tiling,) = preparer.tilings([image_size(images.find(name), name)])
        image = CachedImage(row=row, tiling=tiling)
        row = image.rows().stop
        yield image


def _require_room(images: int, shape: tuple[int, int, int], cache: Path, max_gb: float) -> str:
    """Return a line with the size of a set. Raises LaternaError for one that is too large."""
    size = math.prod(shape) * np.dtype(np.float32).itemsize
    line = f"{cache}: the features of {images:,} images take {size:,} bytes ({size / GB:,.3f} GB)"
    instead = 'or set feature_cache = "" to compute them at every step'
    if size > max_gb * GB:
        raise LaternaError(
            f"{line}, more than run.max_feature_gb = {max_gb:g} allows; set that higher, {instead}"
        )
    cache.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(cache).free
    if size > free:
        raise LaternaError(
            f"{line}, but its disk has {free / GB:,.3f} GB free; make room, name a folder on "
            f"another disk as feature_cache, {instead}"
        )
    return line


@torch.no_grad()
def _compute(
    tower: VisionTower,
    preparer: ImagePreparer,
    names: Sequence[str],
    images: ImageFiles,
    target: Path,
    shape: tuple[int, int, int],
    progress: Callable[[int, int], None],
) -> None:
    """Write the features of all images to `target`, an array of that shape, and next to it the
    checksums of its rows.
    """
    device = next(tower.parameters()).device
    features = np.lib.format.open_memmap(target, mode="w+", dtype=np.float32, shape=shape)
    with target.open("r+b") as whole:  # else a disk that fills up later would kill the process
        os.posix_fallocate(whole.fileno(), 0, target.stat().st_size)
    row, digests = 0, bytearray()
    for start in range(0, len(names), IMAGES_A_PASS):
        chunk = names[start : start + IMAGES_A_PASS]
        pixels_bchw = preparer([load_image(images.find(name), name) for name in chunk])
        end = row + len(pixels_bchw)
        features[row:end] = tower(pixels_bchw.to(device)).cpu().numpy()
        digests += b"".join(hashlib.sha256(one.data).digest() for one in features[row:end])
        row = end
        progress(start + len(chunk), len(names))
    features.flush()
    target.with_name(ROWS).write_bytes(digests)
