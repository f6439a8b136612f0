"""Features of a frozen vision encoder, computed once and kept on disk.

Shapes: b pictures of one call, or tiles of them · c channels · h, w pixels · n features a picture
· d width.
"""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from laterna.data.digests import Known
from laterna.data.picture_files import PictureFiles
from laterna.data.pictures import PicturePreparer, load_picture, picture_size
from laterna.errors import LaternaError
from laterna.files import write_atomically
from laterna.model.feature_names import (
    CachedPicture,
    FeatureNames,
    names_file,
    see,
    write_names,
)
from laterna.model.vision import VisionTower
from laterna.records import Tiling

FORMAT = 2
PICTURES_A_PASS = 64
GB = 10**9


class FeatureIndex(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a cached set holds (`index.json` beside `features.npy`)."""

    format: int
    encoder: str
    """Digest of the encoder's weights and settings."""
    pictures: dict[str, CachedPicture]
    """By the SHA-256 of a picture's bytes."""


class FeatureStore:
    """The features of a set of pictures, read from a memory-mapped file."""

    def __init__(self, names: FeatureNames, features: NDArray[np.float32]) -> None:
        self._names = names
        self._features = features

    def get(self, names: Sequence[str]) -> Tensor:
        """Return the features (b, n, d) of pictures by their names in the records.

        Of tiled pictures b counts the tiles, those of each picture in turn.
        Raises LaternaError for a picture that is not in the set, or is another one by now.
        """
        rows = [row for name in names for row in self._names.find(name).rows()]
        return torch.from_numpy(self._features[rows])

    def tilings(self, names: Sequence[str]) -> tuple[Tiling, ...]:
        """Return how those pictures are tiled, one tiling a picture; nothing where they are not."""
        found = (self._names.find(name).tiling for name in names)
        return tuple(tiling for tiling in found if tiling is not None)


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
    with the pictures done and their total, `announce` with how large a set will be before it is
    made. Raises LaternaError for an unreadable picture, and for a set that would be larger than
    `max_gb` (10⁹ bytes) or than the disk has room for.
    """
    encoder = encoder_digest(tower, preparer)
    file = names_file(encoder, names, pictures)
    there = next(cache.glob(f"*/{file}"), None)
    if there is not None:
        return _store(there, pictures)
    known = _known(cache, pictures)
    seen = {name: see(pictures, name, known.get(name)) for name in dict.fromkeys(names)}
    first_names: dict[str, str] = {}
    for name, one in seen.items():
        first_names.setdefault(one.sha256, name)
    key = hashlib.sha256("\n".join([encoder, *sorted(first_names)]).encode()).hexdigest()[:32]
    target = cache / key
    if not (target / "index.json").is_file():
        chosen = list(first_names.values())
        placed = list(_placed(preparer, chosen, pictures))
        index = FeatureIndex(
            format=FORMAT, encoder=encoder, pictures=dict(zip(first_names, placed, strict=True))
        )
        rows = placed[-1].rows().stop if placed else 0
        shape = (rows, tower.patches, tower.width)
        announce(_insist_on_room(len(placed), shape, cache, max_gb))
        with write_atomically(target) as aside:
            aside.mkdir()
            _compute(tower, preparer, chosen, pictures, aside / "features.npy", shape, progress)
            (aside / "index.json").write_bytes(msgspec.json.encode(index))
    write_names(target / file, pictures.where, seen, _read_index(target).pictures)
    return _store(target / file, pictures)


def _store(names: Path, pictures: PictureFiles) -> FeatureStore:
    features = np.load(names.with_name("features.npy"), mmap_mode="r")
    return FeatureStore(FeatureNames(names, pictures), features)


def _known(cache: Path, pictures: PictureFiles) -> dict[str, Known]:
    """Return what sets of other data, or of other encoders, know of these pictures."""
    files = sorted(cache.glob("*/names-*.arrow"), key=lambda path: path.stat().st_mtime_ns)
    sets = [FeatureNames(path, pictures) for path in files]
    return dict(chain.from_iterable(one.seen() for one in sets if one.where == pictures.where))


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
    preparer: PicturePreparer, names: Sequence[str], pictures: PictureFiles
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


def _read_index(folder: Path) -> FeatureIndex:
    path = folder / "index.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=FeatureIndex)
    except (OSError, msgspec.DecodeError) as error:
        raise LaternaError(f"{path}: not readable ({error}); delete the folder") from error
