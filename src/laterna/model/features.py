"""Features of a frozen vision encoder, computed once and kept on disk.

Shapes: b pictures of one call · c channels · h, w pixels · n features a picture · d width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from laterna.data.picture_files import PictureFiles
from laterna.data.pictures import PicturePreparer, load_picture
from laterna.errors import LaternaError
from laterna.files import write_atomically
from laterna.model.vision import VisionTower

FORMAT = 1
PICTURES_A_PASS = 64


class FeatureIndex(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a cached set holds (`index.json` beside `features.npy`)."""

    format: int
    encoder: str
    """Digest of the encoder's weights and settings."""
    rows: dict[str, int]
    """Row in `features.npy` by the SHA-256 of a picture's bytes."""


class FeatureStore:
    """The features of a set of pictures, read from a memory-mapped file."""

    def __init__(self, rows: dict[str, int], features: NDArray[np.float32]) -> None:
        self._rows = rows
        self._features = features

    def get(self, names: Sequence[str]) -> Tensor:
        """Return the features (b, n, d) of pictures by their names in the records.

        Raises LaternaError for a picture that is not in the set.
        """
        missing = [name for name in names if name not in self._rows]
        if missing:
            raise LaternaError(f"{missing[0]}: not among the cached features; clear the cache")
        return torch.from_numpy(self._features[[self._rows[name] for name in names]])


def cached_features(
    tower: VisionTower,
    preparer: PicturePreparer,
    names: Sequence[str],
    pictures: PictureFiles,
    cache: Path,
    progress: Callable[[int, int], None],
) -> FeatureStore:
    """Return the features of the pictures of these names, computed where they are not cached.

    A set is known by the encoder's weights and settings and by every picture's bytes, so a changed
    picture or encoder is computed anew; equal pictures are computed once. `progress` is called
    with the pictures done and their total. Raises LaternaError for an unreadable picture.
    """
    digests = {name: _digest(pictures.find(name), name) for name in dict.fromkeys(names)}
    first_names: dict[str, str] = {}
    for name, digest in digests.items():
        first_names.setdefault(digest, name)
    encoder = encoder_digest(tower, preparer)
    key = hashlib.sha256("\n".join([encoder, *sorted(first_names)]).encode()).hexdigest()[:32]
    target = cache / key
    if not (target / "index.json").is_file():
        index = FeatureIndex(
            format=FORMAT, encoder=encoder, rows={d: row for row, d in enumerate(first_names)}
        )
        with write_atomically(target) as aside:
            aside.mkdir()
            chosen = list(first_names.values())
            _compute(tower, preparer, chosen, pictures, aside / "features.npy", progress)
            (aside / "index.json").write_bytes(msgspec.json.encode(index))
    index = _read_index(target)
    features = np.load(target / "features.npy", mmap_mode="r")
    return FeatureStore({name: index.rows[digest] for name, digest in digests.items()}, features)


def encoder_digest(tower: VisionTower, preparer: PicturePreparer) -> str:
    """Digest all that decides a picture's features: weights, layer, and how it is prepared."""
    digest = hashlib.sha256()
    settings = (FORMAT, tower.layer, tower.class_token, tower.final_norm, preparer.fit)
    digest.update(repr(settings).encode())
    digest.update(tower.model.config.to_json_string().encode())
    digest.update(tower.processor.to_json_string().encode())
    for name, weight in sorted(tower.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


@torch.no_grad()
def _compute(
    tower: VisionTower,
    preparer: PicturePreparer,
    names: Sequence[str],
    pictures: PictureFiles,
    target: Path,
    progress: Callable[[int, int], None],
) -> None:
    device = next(tower.parameters()).device
    features = np.lib.format.open_memmap(
        target, mode="w+", dtype=np.float32, shape=(len(names), tower.patches, tower.width)
    )
    for start in range(0, len(names), PICTURES_A_PASS):
        chunk = names[start : start + PICTURES_A_PASS]
        pixels_bchw = preparer([load_picture(pictures.find(name), name) for name in chunk])
        features[start : start + len(chunk)] = tower(pixels_bchw.to(device)).cpu().numpy()
        progress(start + len(chunk), len(names))
    features.flush()


def _read_index(folder: Path) -> FeatureIndex:
    path = folder / "index.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=FeatureIndex)
    except (OSError, msgspec.DecodeError) as error:
        raise LaternaError(f"{path}: not readable ({error}); delete the folder") from error


def _digest(picture: Path | bytes, name: str) -> str:
    try:
        content = picture.read_bytes() if isinstance(picture, Path) else picture
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise LaternaError(f"{name}: cannot read the picture: {reason}") from error
    return hashlib.sha256(content).hexdigest()
